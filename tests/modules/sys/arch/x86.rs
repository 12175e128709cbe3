// SPDX-License-Identifier: GPL-2.0

//! Memory types of page table entries: x86-64.

use crate::uapi;
use core::arch::asm;
use kernel::page::PAGE_SIZE;

/// What the page attribute table has for the protection bits of an entry of `size` bytes.
pub(crate) fn memory_type(size: u64, protection: u64) -> u32 {
    const WRITE_COMBINING: u64 = 1;
    const UNCACHED_MINUS: u64 = 7;
    const PWT: u64 = 1 << 3;
    const PCD: u64 = 1 << 4;
    const PAT: u64 = 1 << 7;
    // In an entry of a higher level bit 7 says that it is a leaf.
    const PAT_LARGE: u64 = 1 << 12;

    let pat = if size == PAGE_SIZE as u64 {
        PAT
    } else {
        PAT_LARGE
    };
    let mut index = 0;
    for (bit, value) in [(PWT, 1), (PCD, 2), (pat, 4)] {
        if protection & bit != 0 {
            index += value;
        }
    }
    match (page_attribute_table() >> (8 * index)) & 0xff {
        UNCACHED_MINUS => uapi::MEMORY_UNCACHED,
        WRITE_COMBINING => uapi::MEMORY_WRITE_COMBINING,
        _ => uapi::MEMORY_OTHER,
    }
}

/// `IA32_PAT`: a byte with the memory type for each combination of PWT, PCD and PAT.
fn page_attribute_table() -> u64 {
    const IA32_PAT: u32 = 0x277;
    let (low, high): (u32, u32);
    // SAFETY: Every x86-64 CPU has the register, and reading it has no effect.
    unsafe {
        asm!("rdmsr", in("ecx") IA32_PAT, out("eax") low, out("edx") high,
             options(nomem, nostack, preserves_flags));
    }
    (u64::from(high) << 32) | u64::from(low)
}
