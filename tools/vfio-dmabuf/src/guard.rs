// SPDX-License-Identifier: GPL-2.0
//! Accesses to device memory that end in an error where others end in SIGBUS.
//!
//! When a buffer is revoked, the next access to a mapping of it makes the kernel send SIGBUS to
//! the thread, whose default action kills the process. [`Mapping`](crate::Mapping) makes all its
//! accesses through this module, so that they return
//! [`AccessError::Lost`](crate::AccessError::Lost) instead.
//!
//! # How
//!
//! Each access is one instruction of a few small assembly functions, at an address that is known
//! by name. One handler of SIGBUS for the whole process looks where the signal came from. If it is
//! one of these instructions, and the kernel says that there was nothing behind the address
//! (`BUS_ADRERR`), the handler lets the thread go on at the end of the function, which returns how
//! many elements are left. Any other SIGBUS goes on to the handler that was there before, as if
//! ours were not there: from another place in the program, from `kill`, for broken memory. If
//! there was none, the process dies of the signal with its original `siginfo_t`, so that a core
//! dump shows the true place.
//!
//! Threads share nothing but that earlier handler's address, which is written once. The handler
//! takes no lock, allocates nothing, makes no system call for a lost access and leaves `errno`
//! alone. No jump buffer is kept and no signal mask is changed around an access.
//!
//! # What it costs
//!
//! An access that works costs the checks, a call and a return on top of the device's own time,
//! which for an uncached read is hundreds of ns; there is no system call. An access that is lost
//! costs a page fault and a signal. On a virtual machine with other things to do,
//! `cargo run --release --example guard_cost` said 5 to 11 ns and 4 to 12 µs.
//!
//! # Limits
//!
//! - The handler is installed by the first mapping of this crate, or by [`install`], and stays.
//!   **Who sets a SIGBUS handler later must call the one that it replaces** for signals that it
//!   does not know, as this one does; otherwise lost accesses go to that handler. [`is_first`]
//!   tells whether SIGBUS comes here first.
//! - A thread that blocks SIGBUS dies of a lost access: the kernel resets a signal that it cannot
//!   deliver. So does a process that sets SIGBUS back to the default or ignores it.
//! - Raw pointers ([`Mapping::as_ptr`](crate::Mapping::as_ptr)) are not guarded, nor are system
//!   calls on the memory: those answer `EFAULT` by themselves.
//! - x86-64 only.
//! - A debugger stops at each SIGBUS first (gdb: `handle SIGBUS nostop noprint pass`).

use std::arch::global_asm;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::Once;

use crate::mapping::Word;
use crate::sys::Area;

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the SIGBUS guard of vfio-dmabuf knows x86-64 only");

/// The two functions of one width: `$load(device, memory, count)` and `$store(device, memory,
/// count)` copy `count` elements one after the other, with one access to the device for each, and
/// return how many are left: 0, or those from the one that was lost on.
///
/// RDI and RSI go along, RAX counts down; it is what the handler leaves to be returned.
macro_rules! functions {
    ($load:ident $load_at:ident $store:ident $store_at:ident:
        $size:literal $part:literal $step:literal) => {
        global_asm!(
            concat!(".pushsection .text.", stringify!($load), ",\"ax\",@progbits"),
            concat!(".globl ", stringify!($load), ", ", stringify!($load_at)),
            concat!(".hidden ", stringify!($load), ", ", stringify!($load_at)),
            concat!(".type ", stringify!($load), ", @function"),
            concat!(stringify!($load), ":"),
            ".cfi_startproc",
            "mov rax, rdx",
            "test rax, rax",
            "jz 3f",
            "2:",
            concat!(stringify!($load_at), ":"),
            concat!("mov ", $part, ", ", $size, " ptr [rdi]"),
            concat!("mov ", $size, " ptr [rsi], ", $part),
            concat!("add rdi, ", $step),
            concat!("add rsi, ", $step),
            "dec rax",
            "jnz 2b",
            "3:",
            "ret",
            ".cfi_endproc",
            concat!(".size ", stringify!($load), ", . - ", stringify!($load)),
            concat!(".globl ", stringify!($store), ", ", stringify!($store_at)),
            concat!(".hidden ", stringify!($store), ", ", stringify!($store_at)),
            concat!(".type ", stringify!($store), ", @function"),
            concat!(stringify!($store), ":"),
            ".cfi_startproc",
            "mov rax, rdx",
            "test rax, rax",
            "jz 3f",
            "2:",
            concat!("mov ", $part, ", ", $size, " ptr [rsi]"),
            concat!(stringify!($store_at), ":"),
            concat!("mov ", $size, " ptr [rdi], ", $part),
            concat!("add rdi, ", $step),
            concat!("add rsi, ", $step),
            "dec rax",
            "jnz 2b",
            "3:",
            "ret",
            ".cfi_endproc",
            concat!(".size ", stringify!($store), ", . - ", stringify!($store)),
            ".popsection",
        );
        extern "C" {
            fn $load(device: *const u8, memory: *mut u8, count: usize) -> usize;
            fn $load_at();
            fn $store(device: *mut u8, memory: *const u8, count: usize) -> usize;
            fn $store_at();
        }
    };
}

functions!(vfio_dmabuf_load8 vfio_dmabuf_load8_at
    vfio_dmabuf_store8 vfio_dmabuf_store8_at: "byte" "cl" "1");
functions!(vfio_dmabuf_load16 vfio_dmabuf_load16_at
    vfio_dmabuf_store16 vfio_dmabuf_store16_at: "word" "cx" "2");
functions!(vfio_dmabuf_load32 vfio_dmabuf_load32_at
    vfio_dmabuf_store32 vfio_dmabuf_store32_at: "dword" "ecx" "4");
functions!(vfio_dmabuf_load64 vfio_dmabuf_load64_at
    vfio_dmabuf_store64 vfio_dmabuf_store64_at: "qword" "rcx" "8");

global_asm!(
    ".pushsection .text.vfio_dmabuf_lost,\"ax\",@progbits",
    ".globl vfio_dmabuf_lost",
    ".hidden vfio_dmabuf_lost",
    ".type vfio_dmabuf_lost, @function",
    "vfio_dmabuf_lost:",
    ".cfi_startproc",
    "ret",
    ".cfi_endproc",
    ".size vfio_dmabuf_lost, . - vfio_dmabuf_lost",
    ".popsection",
);

extern "C" {
    /// Where a thread goes on whose access was lost: a lone return.
    fn vfio_dmabuf_lost();
}

/// Whether an access to device memory is made by the instruction at `address`.
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

/// Reads elements from a device, one access each, in ascending order. Returns how many were not
/// read because the first of them was lost.
///
/// # Panics
///
/// They reach past the end of the area: the caller has to look at that.
pub(crate) fn load<T: Word>(area: &Area, offset: usize, memory: &mut [T]) -> usize {
    let device = place(area, offset, size_of_val(memory)).cast_const();
    let (to, count) = (memory.as_mut_ptr().cast(), memory.len());
    // SAFETY: place() has found the elements in the area, which is borrowed meanwhile; no Rust
    // object lives there. `memory` takes `count` elements of the width, and that a lost access
    // leaves the rest of it as it was is no harm.
    unsafe {
        match size_of::<T>() {
            1 => vfio_dmabuf_load8(device, to, count),
            2 => vfio_dmabuf_load16(device, to, count),
            4 => vfio_dmabuf_load32(device, to, count),
            _ => vfio_dmabuf_load64(device, to, count),
        }
    }
}

/// Writes elements to a device, as [`load`] reads them. An area that is mapped for reading only
/// makes that SIGSEGV: the caller has to look at that, too.
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

/// What was done on SIGBUS before; never freed, as a handler may be reading it at any time.
static EARLIER: AtomicPtr<libc::sigaction> = AtomicPtr::new(ptr::null_mut());

/// Whether an earlier handler that wanted to be called only once (`SA_RESETHAND`) has been.
static SPENT: AtomicBool = AtomicBool::new(false);

/// Installs the handler, unless that was done before.
///
/// Mappings do it by themselves. A program whose other parts set SIGBUS handlers calls this first,
/// so that theirs come later and call this one; or last, and then this one calls theirs.
pub fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // The earlier handler must be known before the first signal comes.
        let earlier = current();
        EARLIER.store(Box::into_raw(Box::new(earlier)), Ordering::Release);
        let mut ours = earlier;
        ours.sa_sigaction = on_sigbus as extern "C" fn(_, _, _) as usize;
        // The earlier handler finds the stack and the mask that it asked for.
        ours.sa_flags = match earlier.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => libc::SA_ONSTACK | libc::SA_RESTART,
            _ => earlier.sa_flags & (libc::SA_ONSTACK | libc::SA_RESTART | libc::SA_NODEFER),
        } | libc::SA_SIGINFO;
        let mut replaced = earlier;
        // SAFETY: `ours` is complete, and on_sigbus() is async-signal-safe.
        let result = unsafe { libc::sigaction(libc::SIGBUS, &ours, &mut replaced) };
        assert_eq!(result, 0, "sigaction() takes SIGBUS");
        if replaced.sa_sigaction != earlier.sa_sigaction {
            // Another thread was faster than we.
            EARLIER.store(Box::into_raw(Box::new(replaced)), Ordering::Release);
        }
    });
}

/// Whether SIGBUS comes to this module's handler first: it is installed, and nobody has set
/// another one since. One system call.
pub fn is_first() -> bool {
    current().sa_sigaction == on_sigbus as extern "C" fn(_, _, _) as usize
}

/// What is done on SIGBUS now.
fn current() -> libc::sigaction {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: `action` takes what the kernel says; nothing is changed.
    let result = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), action.as_mut_ptr()) };
    assert_eq!(result, 0, "sigaction() knows SIGBUS");
    // SAFETY: All-zero is a valid sigaction, and the kernel has filled it in.
    unsafe { action.assume_init() }
}

/// The handler: async-signal-safe.
extern "C" fn on_sigbus(signal: i32, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: The kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let code = unsafe { (*info).si_code };
    // SAFETY: Likewise a valid context, for this handler alone.
    let registers = unsafe { &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs };
    let at = &mut registers[libc::REG_RIP as usize];
    if code == libc::BUS_ADRERR && is_access(*at as usize) {
        *at = vfio_dmabuf_lost as unsafe extern "C" fn() as usize as i64;
        return;
    }
    // SAFETY: install() has stored it before it made us the handler, and it is never freed.
    let earlier = unsafe { &*EARLIER.load(Ordering::Acquire) };
    pass_on(earlier, signal, info, context);
}

/// Does what would have been done without us.
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
        // The instruction would fault again: the kernel kills a process that ignores that.
        libc::SIG_IGN if !is_synchronous(code) => {}
        libc::SIG_DFL | libc::SIG_IGN => die(signal, info),
        _ if once && SPENT.swap(true, Ordering::Relaxed) => die(signal, info),
        handler if earlier.sa_flags & libc::SA_SIGINFO != 0 => {
            type Handler = extern "C" fn(i32, *mut libc::siginfo_t, *mut c_void);
            // SAFETY: sigaction() had it as a handler of this type, says SA_SIGINFO.
            let handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: As above, without SA_SIGINFO.
            let handler = unsafe { std::mem::transmute::<usize, extern "C" fn(i32)>(handler) };
            handler(signal);
        }
    }
}

/// Whether an instruction was the cause of a SIGBUS with this code.
fn is_synchronous(code: i32) -> bool {
    matches!(code, libc::BUS_ADRALN | libc::BUS_ADRERR | libc::BUS_OBJERR | libc::BUS_MCEERR_AR)
}

/// Lets the process die of the signal: as soon as the handler returns, as it is blocked till then.
fn die(signal: i32, info: *mut libc::siginfo_t) {
    // SAFETY: All-zero is a valid sigaction, that of SIG_DFL.
    let default: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: Puts the default action back.
    unsafe { libc::sigaction(signal, &default, ptr::null_mut()) };
    // SAFETY: Sends this thread what it was sent; a process may send itself any siginfo. If it
    // cannot be queued, an instruction that faults does so again.
    unsafe {
        let (process, thread) = (libc::getpid(), libc::gettid());
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, process, thread, signal, info);
    }
}
