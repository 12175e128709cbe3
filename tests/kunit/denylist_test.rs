// SPDX-License-Identifier: GPL-2.0

//! The denylist: every device ID of its vendor, and the same IDs of other vendors.

use crate::pure::denylist;
use kernel::prelude::*;

#[kunit_tests(dmabuf_vfio_pci_denylist)]
mod tests {
    use super::*;

    const LISTED: [u16; 8] = [
        0x0435, 0x0443, 0x0b25, 0x0cfe, 0x19e2, 0x19e3, 0x37c8, 0x37c9,
    ];

    #[test]
    fn list_is_that_of_the_in_tree_driver() -> Result {
        for device in 0..=u16::MAX {
            let got = denylist::has(0x8086, device);
            let want = LISTED.contains(&device);
            expect_eq!(got, want, "8086:{device:04x}")?;
        }
        Ok(())
    }

    #[test]
    fn other_vendors_have_none_on_it() -> Result {
        for vendor in (0..=u16::MAX).filter(|vendor| *vendor != 0x8086) {
            for device in LISTED {
                let got = denylist::has(vendor, device);
                expect_eq!(got, false, "{vendor:04x}:{device:04x}")?;
            }
        }
        Ok(())
    }
}
