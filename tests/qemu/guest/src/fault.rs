// SPDX-License-Identifier: GPL-2.0
//! Loads and stores that survive a fault.
//!
//! A mapping of device memory may turn into SIGBUS at any instruction, and that is what most
//! cases are about. So each access is one instruction of assembly at an address known by name
//! ([`guest_load32_at`], [`guest_store32_at`]). The handler of SIGBUS and SIGSEGV looks where the
//! signal came from. At one of these instructions it notes signal and code as the result and lets
//! the thread continue at `guest_access_failed`, which returns that to the caller. From anywhere
//! else it is a bug of the program: the default action is put back, the instruction runs again and
//! the process dies of it. Nothing is shared between threads, and nothing but registers changes.

use std::fmt;
use std::mem;
use std::ptr;
use std::sync::Once;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::arch;

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// SIGBUS or SIGSEGV.
    pub signal: i32,
    /// `si_code`.
    pub code: i32,
}

impl Fault {
    /// Whether the kernel said "there is nothing behind this page".
    pub fn is_bus_error(self) -> bool {
        self.signal == libc::SIGBUS
    }

    /// In one word, as it travels in a register; never 0.
    fn pack(self) -> u64 {
        ((self.code as u32 as u64) << 32) | self.signal as u64
    }

    fn unpack(word: u64) -> Fault {
        Fault { signal: word as u32 as i32, code: (word >> 32) as u32 as i32 }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.signal {
            libc::SIGBUS => "SIGBUS",
            libc::SIGSEGV => "SIGSEGV",
            _ => "signal",
        };
        write!(f, "{name} (code {})", self.code)
    }
}

impl std::error::Error for Fault {}

// In `crate::arch`.
extern "C" {
    fn guest_load32(address: usize, value: *mut u32) -> u64;
    fn guest_load32_at();
    fn guest_store32(address: usize, value: u32) -> u64;
    fn guest_store32_at();
    fn guest_access_failed();
}

/// Reads four bytes at `address` with one instruction.
///
/// The address may be any number: what is not mapped is a [`Fault`]. Memory that Rust owns is not
/// meant, but reading it does no harm.
pub fn load32(address: usize) -> Result<u32, Fault> {
    catch_faults();
    let mut value = 0;
    // SAFETY: one load, whose fault the handler turns into a return value; `value` is writable.
    match unsafe { guest_load32(address, &mut value) } {
        0 => Ok(value),
        word => Err(Fault::unpack(word)),
    }
}

/// Writes four bytes at `address` with one instruction. The address must be one that
/// [`crate::mm`] gave out, or one that is not mapped.
pub fn store32(address: usize, value: u32) -> Result<(), Fault> {
    catch_faults();
    // SAFETY: one store to memory that no Rust object lives in (see above), whose fault the
    // handler turns into a return value.
    match unsafe { guest_store32(address, value) } {
        0 => Ok(()),
        word => Err(Fault::unpack(word)),
    }
}

fn catch_faults() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in [libc::SIGBUS, libc::SIGSEGV] {
            // SAFETY: all-zero is a valid sigaction.
            let mut action: libc::sigaction = unsafe { mem::zeroed() };
            action.sa_sigaction = on_fault as extern "C" fn(_, _, _) as usize;
            action.sa_flags = libc::SA_SIGINFO;
            // SAFETY: `action` is complete and `on_fault` is async-signal-safe.
            let result = unsafe { libc::sigaction(signal, &action, ptr::null_mut()) };
            Errno::result(result).expect("sigaction takes SIGBUS and SIGSEGV");
        }
    });
}

extern "C" fn on_fault(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context to a handler with SA_SIGINFO, for it alone.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    // SAFETY: likewise a valid siginfo.
    let code = unsafe { (*info).si_code };
    let at = arch::program_counter(context);
    if at == guest_load32_at as usize || at == guest_store32_at as usize {
        arch::resume(context, guest_access_failed as usize, Fault { signal, code }.pack());
        return;
    }
    // SAFETY: resetting a signal's action is async-signal-safe.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}
