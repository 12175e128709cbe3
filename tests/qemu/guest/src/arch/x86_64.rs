// SPDX-License-Identifier: GPL-2.0
//! x86-64.

use std::arch::global_asm;

use crate::prelude::*;

/// Where addresses of programs end.
pub const USER_END: u64 = 1 << 47;
/// Whether one entry maps 1 GiB of a mapping of a BAR.
pub const HAS_ENTRIES_OF_1_GIB: bool = true;
/// Whether blocks can be write-combining: on x86 the kernel gives blocks a memory type of its own.
pub const HAS_BLOCKS_OF_EACH_TYPE: bool = false;
/// The lines of a report of the OOM killer that look like those of a splat.
pub const REPORT_LOOKS_BAD: &[&str] = &["Call Trace:", "RIP: 0033:"];

// See `crate::fault`.
global_asm!(
    ".globl guest_load32, guest_load32_at, guest_store32, guest_store32_at, guest_access_failed",
    "guest_load32:", // rdi: address, rsi: where the value goes
    "guest_load32_at:",
    "mov eax, dword ptr [rdi]",
    "mov dword ptr [rsi], eax",
    "xor eax, eax",
    "ret",
    "guest_store32:", // rdi: address, esi: value
    "guest_store32_at:",
    "mov dword ptr [rdi], esi",
    "xor eax, eax",
    "ret",
    "guest_access_failed:", // rax: set by the handler
    "ret",
);

/// Where a signal has interrupted the thread.
pub fn program_counter(context: &libc::ucontext_t) -> usize {
    context.uc_mcontext.gregs[libc::REG_RIP as usize] as usize
}

/// Lets the thread continue at `at`, with `result` in the register for results of functions.
pub fn resume(context: &mut libc::ucontext_t, at: usize, result: u64) {
    let registers = &mut context.uc_mcontext.gregs;
    registers[libc::REG_RAX as usize] = result as i64;
    registers[libc::REG_RIP as usize] = at as i64;
}

/// The time stamp counter.
pub fn counter() -> u64 {
    // SAFETY: every x86-64 CPU has this instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether Linux lets devices reach each other through the host bridge: with AMD CPUs from family
/// 0x17 on (`cpu_supports_p2pdma()`). QEMU's host bridge is on no list.
pub fn host_bridge_is_trusted() -> Result<bool> {
    let text = fs::read_to_string("/proc/cpuinfo")?;
    let field = |name: &str| {
        let line = text.lines().find(|line| line.split(':').next().unwrap_or("").trim() == name);
        line.and_then(|line| line.split(':').nth(1)).map(str::trim)
    };
    let family: u32 = field("cpu family").context("cpu family")?.parse()?;
    Ok(field("vendor_id") == Some("AuthenticAMD") && family >= 0x17)
}

/// Does what the machine needs for that, until this process ends: nothing, the CPU decides.
pub fn trust_host_bridge() -> Result<()> {
    Ok(())
}
