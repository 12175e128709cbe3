// SPDX-License-Identifier: GPL-2.0

//! What VFIO passes to the driver of a device.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

use crate::{
    bindings,
    uapi,
    vfio_pci_core::REGION_PAGES, //
};
use kernel::{
    page::PAGE_SHIFT,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

pub mod pci;

/// A call of `VFIO_DEVICE_FEATURE`. The VFIO core has checked what does not depend on the feature.
#[derive(Clone, Copy)]
pub struct FeatureCall {
    /// Feature number and `VFIO_DEVICE_FEATURE_*` operation bits.
    pub flags: u32,
    arg: UserPtr,
    /// Size of the payload, bytes.
    pub argsz: usize,
}

impl FeatureCall {
    /// A call with the payload at `arg`.
    pub(crate) fn new(flags: u32, arg: UserPtr, argsz: usize) -> Self {
        Self { flags, arg, argsz }
    }

    /// The number of the feature.
    pub fn number(&self) -> u32 {
        self.flags & uapi::FEATURE_MASK
    }

    /// The payload in user memory.
    pub fn payload(&self) -> UserSlice {
        UserSlice::new(self.arg, self.argsz)
    }
}

/// A position in a VFIO device file: a region, and an offset in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Position {
    /// `VFIO_PCI_*_REGION_INDEX`
    pub(crate) region: u64,
    /// Bytes.
    pub(crate) offset: u64,
}

impl Position {
    /// Decodes the position of a read or write.
    pub(crate) fn of_file(position: u64) -> Self {
        let shift = bindings::VFIO_PCI_OFFSET_SHIFT;
        Self {
            region: position >> shift,
            offset: position & ((1 << shift) - 1),
        }
    }

    /// Decodes the page offset of a mapping.
    pub(crate) fn of_page(page: usize) -> Self {
        // CAST: The target is 64 bit.
        Self {
            region: (page / REGION_PAGES) as u64,
            offset: ((page % REGION_PAGES) as u64) << PAGE_SHIFT,
        }
    }
}
