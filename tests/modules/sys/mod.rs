// SPDX-License-Identifier: GPL-2.0

//! The unsafe layer of the test module: one file per C header, no policy.

#[cfg_attr(CONFIG_X86_64, path = "arch/x86.rs")]
#[cfg_attr(CONFIG_ARM64, path = "arch/arm64.rs")]
mod arch;
pub(crate) mod dma_buf;
#[cfg(CONFIG_KPROBES)]
pub(crate) mod kprobe;
pub(crate) mod pci;
pub(crate) mod ptes;
pub(crate) mod reset;
pub(crate) mod time;
pub(crate) mod unlocked;
pub(crate) mod work;

use crate::uapi;
use kernel::transmute::{
    AsBytes,
    FromBytes, //
};

/// For structures of numbers without padding, which any bytes may fill.
macro_rules! plain {
    ($($type:ty),+ $(,)?) => {$(
        // SAFETY: Numbers only, so all bit patterns are valid.
        unsafe impl FromBytes for $type {}
        // SAFETY: No padding: members are in falling order of alignment or aligned by count.
        unsafe impl AsBytes for $type {}
    )+};
}

plain!(
    uapi::Arm,
    uapi::Attach,
    uapi::Claim,
    uapi::Disguise,
    uapi::Fence,
    uapi::Map,
    uapi::PauseStats,
    uapi::Pte,
    uapi::Stats,
);
