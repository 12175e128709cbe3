// SPDX-License-Identifier: GPL-2.0

//! Devices that no untrusted user may have, by PCI ID: those on the list of the in-tree vfio-pci.
//!
//! Pure.

const INTEL: u16 = 0x8086;

/// Whether the in-tree vfio-pci refuses the device.
pub(crate) fn has(vendor: u16, device: u16) -> bool {
    vendor == INTEL
        && matches!(
            device,
            // QAT DH895xCC, C62x, C3xxx, and the virtual functions of each.
            0x0435 | 0x0443 | 0x37c8 | 0x37c9 | 0x19e2 | 0x19e3
            // DSA and IAX of Sapphire Rapids.
            | 0x0b25 | 0x0cfe
        )
}
