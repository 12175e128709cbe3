// SPDX-License-Identifier: GPL-2.0

//! Memory types of page table entries: arm64.

use crate::uapi;
use core::arch::asm;

/// What `MAIR_EL1` has for the attribute index of an entry, of any size.
pub(crate) fn memory_type(_size: u64, protection: u64) -> u32 {
    const DEVICE_NGNRNE: u64 = 0x00;
    const NORMAL_NC: u64 = 0x44;

    let index = (protection >> 2) & 7;
    match (memory_attributes() >> (8 * index)) & 0xff {
        DEVICE_NGNRNE => uapi::MEMORY_UNCACHED,
        NORMAL_NC => uapi::MEMORY_WRITE_COMBINING,
        _ => uapi::MEMORY_OTHER,
    }
}

/// `MAIR_EL1`: a byte with the memory type for each index.
fn memory_attributes() -> u64 {
    let value: u64;
    // SAFETY: Every arm64 CPU has the register, and reading it has no effect.
    unsafe {
        asm!("mrs {}, mair_el1", out(reg) value, options(nomem, nostack, preserves_flags));
    }
    value
}
