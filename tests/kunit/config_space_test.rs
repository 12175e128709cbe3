// SPDX-License-Identifier: GPL-2.0

//! Config writes: exactly the bytes that can change memory are found.

use crate::pure::config_space::Capabilities;
use kernel::prelude::*;

const ALL: Capabilities = Capabilities {
    pm: Some(0x40),
    express: Some(0x50),
    af: Some(0x90),
};
const NONE: Capabilities = Capabilities {
    pm: None,
    express: None,
    af: None,
};

#[kunit_tests(dmabuf_vfio_pci_config_space)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_bytes_that_matter_count() -> Result {
        for offset in 0..4096 {
            let want = matches!(offset, 0x04 | 0x44 | 0x59 | 0x94);
            let got = ALL.memory_may_change(offset, 1);
            expect_eq!(got, want, "byte {offset:#x}")?;
            let got = NONE.memory_may_change(offset, 1);
            expect_eq!(got, offset == 4, "byte {offset:#x} without capabilities")?;
        }
        Ok(())
    }

    #[test]
    fn a_write_that_touches_such_a_byte_counts() -> Result {
        for (offset, count, want) in [
            (0x00, 4, false),
            (0x00, 5, true),
            (0x04, 2, true),
            (0x04, 4, true),
            (0x05, 3, false),
            (0x06, 2, false),
            (0x42, 2, false),
            (0x42, 3, true),
            (0x58, 1, false),
            (0x58, 2, true),
            (0x00, 4096, true),
            (0x04, 0, false),
            (0x94, usize::MAX, true),
            (0x95, usize::MAX, false),
            (u64::MAX, 1, false),
        ] {
            let got = ALL.memory_may_change(offset, count);
            expect_eq!(got, want, "{count} bytes at {offset:#x}")?;
        }
        Ok(())
    }
}
