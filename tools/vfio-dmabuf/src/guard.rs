// SPDX-License-Identifier: GPL-2.0
//! Accesses to device memory that return an error instead of raising SIGBUS.
//!
//! After a buffer is revoked, the next access to a mapping of it makes the kernel send SIGBUS to
//! the thread; the default action kills the process. [`Mapping`](crate::Mapping) makes all its
//! accesses through this module, so that they return
//! [`AccessError::Lost`](crate::AccessError::Lost) instead.
//!
//! # How it works
//!
//! A few small assembly functions make the accesses. The address of each accessing instruction has
//! a name. One SIGBUS handler for the whole process compares the faulting address with these
//! names. On a match with the code `BUS_ADRERR` (nothing at the address), it resumes the thread at
//! the end of the function, which returns the number of elements left.
//!
//! Every other SIGBUS goes to the previous handler, as if this one did not exist: one from other
//! code, from `kill`, or for broken memory. If there was no previous handler, the process dies of
//! the signal with its original `siginfo_t`, so that a core dump shows the real place.
//!
//! Threads share only the address of the previous handler, which is written once. The handler
//! takes no lock, does not allocate, makes no system call for a lost access and does not change
//! `errno`. An access saves no jump buffer and changes no signal mask.
//!
//! # What it costs
//!
//! A successful access costs the checks, a call and a return in addition to the access itself, and
//! no system call. A lost access costs a page fault and a signal.
//! `cargo run --release --example guard_cost` measures both on your machine.
//!
//! # Limits
//!
//! - The first mapping of this crate, or [`install`], installs the handler for the life of the
//!   process. **A SIGBUS handler that is installed later must call the one that it replaces** for
//!   signals that it does not recognise; otherwise it receives the lost accesses. [`is_first`]
//!   checks for that.
//! - A lost access kills a thread that blocks SIGBUS, because the kernel forces a signal that it
//!   cannot deliver. It also kills a process that ignores SIGBUS or has reset it to the default.
//! - Raw pointers ([`Mapping::as_ptr`](crate::Mapping::as_ptr)) are not guarded. System calls on
//!   the memory return `EFAULT`.
//! - x86-64 and arm64 only.
//! - A debugger stops at each SIGBUS first (gdb: `handle SIGBUS nostop noprint pass`).

use std::arch::global_asm;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::Once;

use crate::arch;
use crate::mapping::Word;
use crate::sys::Area;

/// Declares the two functions of one width, which are in [`arch`]: `$load(device, memory, count)`
/// and `$store(device, memory, count)` copy `count` elements in order, with one access to the
/// device each. They return the number of elements left: 0, or those from the lost one on.
macro_rules! functions {
    ($($load:ident $load_at:ident $store:ident $store_at:ident)*) => {
        extern "C" {$(
            fn $load(device: *const u8, memory: *mut u8, count: usize) -> usize;
            fn $load_at();
            fn $store(device: *mut u8, memory: *const u8, count: usize) -> usize;
            fn $store_at();
        )*}
    };
}

functions!(
    vfio_dmabuf_load8 vfio_dmabuf_load8_at vfio_dmabuf_store8 vfio_dmabuf_store8_at
    vfio_dmabuf_load16 vfio_dmabuf_load16_at vfio_dmabuf_store16 vfio_dmabuf_store16_at
    vfio_dmabuf_load32 vfio_dmabuf_load32_at vfio_dmabuf_store32 vfio_dmabuf_store32_at
    vfio_dmabuf_load64 vfio_dmabuf_load64_at vfio_dmabuf_store64 vfio_dmabuf_store64_at
);

global_asm!(
    ".pushsection .text.vfio_dmabuf_lost,\"ax\",%progbits",
    ".globl vfio_dmabuf_lost",
    ".hidden vfio_dmabuf_lost",
    ".type vfio_dmabuf_lost, %function",
    "vfio_dmabuf_lost:",
    ".cfi_startproc",
    "ret",
    ".cfi_endproc",
    ".size vfio_dmabuf_lost, . - vfio_dmabuf_lost",
    ".popsection",
);

extern "C" {
    /// The resume address after a lost access: a lone return.
    fn vfio_dmabuf_lost();
}

/// Whether the instruction at `address` accesses device memory.
fn is_access(address: usize) -> bool {
    let sites: [unsafe extern "C" fn(); 8] = [
        vfio_dmabuf_load8_at,
        vfio_dmabuf_load16_at,
        vfio_dmabuf_load32_at,
        vfio_dmabuf_load64_at,
        vfio_dmabuf_store8_at,
        vfio_dmabuf_store16_at,
        vfio_dmabuf_store32_at,
        vfio_dmabuf_store64_at,
    ];
    sites.iter().any(|&site| site as usize == address)
}

/// Reads elements from a device, one access each, in ascending order. Returns the number of
/// elements that were not read because the first of them was lost.
///
/// # Panics
///
/// If they reach past the end of the area, which the caller must check.
pub(crate) fn load<T: Word>(area: &Area, offset: usize, memory: &mut [T]) -> usize {
    let device = place(area, offset, size_of_val(memory)).cast_const();
    let (to, count) = (memory.as_mut_ptr().cast(), memory.len());
    // SAFETY: place() has checked that the elements are in the area, which stays borrowed; no Rust
    // object lives there. `memory` has room for `count` elements of the width. A lost access
    // leaves the rest of it unchanged.
    unsafe {
        match size_of::<T>() {
            1 => vfio_dmabuf_load8(device, to, count),
            2 => vfio_dmabuf_load16(device, to, count),
            4 => vfio_dmabuf_load32(device, to, count),
            _ => vfio_dmabuf_load64(device, to, count),
        }
    }
}

/// Writes elements to a device, as [`load`] reads them. A read-only area makes that SIGSEGV, which
/// the caller must exclude, too.
///
/// # Panics
///
/// As [`load`].
pub(crate) fn store<T: Word>(area: &Area, offset: usize, memory: &[T]) -> usize {
    let device = place(area, offset, size_of_val(memory));
    let (from, count) = (memory.as_ptr().cast(), memory.len());
    // SAFETY: As in load(), and `memory` has `count` elements of the width.
    unsafe {
        match size_of::<T>() {
            1 => vfio_dmabuf_store8(device, from, count),
            2 => vfio_dmabuf_store16(device, from, count),
            4 => vfio_dmabuf_store32(device, from, count),
            _ => vfio_dmabuf_store64(device, from, count),
        }
    }
}

/// The address of `length` bytes in an area.
fn place(area: &Area, offset: usize, length: usize) -> *mut u8 {
    let fits = offset <= area.length() && length <= area.length() - offset;
    assert!(fits, "{length} bytes at {offset:#x} are not in the mapping");
    area.start().as_ptr().wrapping_add(offset)
}

/// The previous action for SIGBUS; never freed, because a handler may read it at any time.
static EARLIER: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whether a previous handler with `SA_RESETHAND` has already run once.
static SPENT: AtomicBool = AtomicBool::new(false);

/// Installs the handler once; later calls do nothing.
///
/// Mappings call it. A program that sets SIGBUS handlers of its own calls it before or after it
/// sets them. Called before, those handlers must call this one; called after, this one calls them.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The previous handler must be stored before the first signal arrives.
        let earlier = current();
        EARLIER.store(Box::into_raw(Box::new(earlier)), Ordering::Release);
        let mut ours = earlier;
        ours.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
        // The previous handler runs with the stack and the mask that it asked for.
        ours.sa_flags = match earlier.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => libc::SA_ONSTACK | libc::SA_RESTART,
            _ => earlier.sa_flags & (libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_NODEFER),
        } | libc::SA_SIGINFO;
        let mut replaced = earlier;
        // SAFETY: `ours` is complete, and on_sigbus() is async-signal-safe.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &ours, &mut replaced) };
        assert_eq!(result, 0, "sigaction() accepts SIGBUS");
        if replaced.sa_sigaction != earlier.sa_sigaction {
            // Another thread has set a handler in between.
            EARLIER.store(Box::into_raw(Box::new(replaced)), Ordering::Release);
        }
    });
}

/// Whether this module's handler is the current SIGBUS handler. Makes one system call.
pub fn is_first() -> bool {
    current().sa_sigaction == on_sigbus as extern "C" fn(_, _, _) as usize
}

/// The current action for SIGBUS.
fn current() -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: The kernel writes to `action` and changes nothing.
    let result = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) };
    assert_eq!(result, 0, "sigaction() reads the action of SIGBUS");
    // SAFETY: All-zero is a valid sigaction, and the kernel has filled it in.
    unsafe { action.assume_init() }
}

/// The handler: async-signal-safe.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: The kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // SAFETY: Likewise a valid context, for this handler alone.
    let at = arch::program_counter(unsafe { &mut *context.cast::<libc::ucontext_t>() });
    if code == libc::BUS_ADRERR && is_access(*at as usize) {
        *at = vfio_dmabuf_lost as unsafe extern "C" fn() as usize as _;
        return;
    }
    // SAFETY: install() stored it before it installed this handler, and it is never freed.
    let earlier = unsafe { &*EARLIER.load(Ordering::Acquire) };
    pass_on(earlier, signal, info, context);
}

/// Does what the previous action would have done.
fn pass_on(
    earlier: &libc::sigaction,
    signal: i32,
    info: *mut libc::siginfo_t,
    context: *mut c_void,
) {
    // SAFETY: As in on_sigbus().
    let code = unsafe { (*info).si_code };
    let once = earlier.sa_flags & libc::SA_RESETHAND != 0;
    match earlier.sa_sigaction {
        // Not for a fault of an instruction, which would repeat: the kernel kills a process that
        // ignores that.
        libc::SIG_IGN if !is_synchronous(code) => {}
        libc::SIG_DFL | libc::SIG_IGN => die(signal, info),
        _ if once && SPENT.swap(true, Ordering::Relaxed) => die(signal, info),
        handler if earlier.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: With SA_SIGINFO the handler has this type.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: Without SA_SIGINFO the handler has this type.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}

/// Whether an instruction caused a SIGBUS with this code.
fn is_synchronous(code: i32) -> bool {
    matches!(code, libc::BUS_ADRALN | libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR)
}

/// Makes the process die of the signal when the handler returns; it is blocked until then.
fn die(signal: i32, info: *mut libc::siginfo_t) {
    // SAFETY: All-zero is a valid sigaction, that of SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: Restores the default action.
    unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
    // SAFETY: Sends the same signal to this thread; a process may send itself any siginfo. If the
    // signal cannot be queued, a faulting instruction raises it again.
    unsafe {
        let (process, thread) = (libc::getpid(), libc::gettid());
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info);
    }
}
