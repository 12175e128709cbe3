// SPDX-License-Identifier: GPL-2.0
//! arm64.

use std::arch::{asm, global_asm};
use std::mem::forget;

use crate::prelude::*;
use crate::testmod::Disguise;

/// Where addresses of programs end that ask for no higher ones.
pub const USER_END: u64 = 1 << 48;
/// Whether one entry maps 1 GiB of a mapping of a BAR.
pub const HAS_ENTRIES_OF_1_GIB: bool = false;
/// Whether blocks can be write-combining: on x86 the kernel gives blocks a memory type of its own.
pub const HAS_BLOCKS_OF_EACH_TYPE: bool = true;
/// The lines of a report of the OOM killer that look like those of a splat.
pub const REPORT_LOOKS_BAD: &[&str] = &["Call trace:"];

// See `crate::fault`.
global_asm!(
    ".globl guest_load32, guest_load32_at, guest_store32, guest_store32_at, guest_access_failed",
    "guest_load32:", // x0: address, x1: where the value goes
    "guest_load32_at:",
    "ldr w2, [x0]",
    "str w2, [x1]",
    "mov x0, xzr",
    "ret",
    "guest_store32:", // x0: address, w1: value
    "guest_store32_at:",
    "str w1, [x0]",
    "mov x0, xzr",
    "ret",
    "guest_access_failed:", // x0: set by the handler
    "ret",
);

/// Where a signal has interrupted the thread.
pub fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.pc as usize
}

/// Lets the thread continue at `at`, with `result` in the register for results of functions.
pub fn resume(context: &mut libc::ucontext_t, at: usize, result: u64) {
    context.uc_mcontext.regs[0] = result;
    context.uc_mcontext.pc = at as u64;
}

/// The virtual counter; QEMU has one of 1 GHz with `-cpu max`.
pub fn counter() -> u64 {
    let count;
    // SAFETY: Linux lets programs read it.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) count, options(nostack)) };
    count
}

/// A host bridge on the list of those that Linux trusts (`pci_p2pdma_whitelist`): NVIDIA's Grace.
const GRACE: Id = Id(0x10de, 0x2f95);

fn host_bridge() -> Result<Pci> {
    Pci::at("0000:00:00.0")
}

/// Whether Linux lets devices reach each other through the host bridge.
pub fn host_bridge_is_trusted() -> Result<bool> {
    Ok(host_bridge()?.id()? == GRACE)
}

/// Does what the machine needs for that, until this process ends: the test module makes the kernel
/// take QEMU's host bridge, which is on no list, for one that is.
pub fn trust_host_bridge() -> Result<()> {
    if !host_bridge_is_trusted()? {
        forget(Disguise::of(&host_bridge()?, GRACE)?);
    }
    Ok(())
}
