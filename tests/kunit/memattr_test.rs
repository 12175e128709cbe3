// SPDX-License-Identifier: GPL-2.0

//! Memory attributes: the two that exist, and numbers of none.

use crate::{
    pure::memattr::Memattr::{
        self,
        Noncached,
        WriteCombining, //
    }, //
};
use kernel::prelude::*;
use kernel_ext::errno::EOPNOTSUPP;
use kernel_ext::mm::CacheMode;

#[kunit_tests(dmabuf_vfio_pci_memattr)]
mod tests {
    use super::*;

    #[test]
    fn only_nc_and_wc_exist() -> Result {
        for (raw, want) in [
            (0, Ok(Noncached)),
            (1, Ok(WriteCombining)),
            (2, Err(EOPNOTSUPP)),
            (1 << 28, Err(EOPNOTSUPP)),
            (1 << 31, Err(EOPNOTSUPP)),
            (u32::MAX, Err(EOPNOTSUPP)),
        ] {
            expect_eq!(Memattr::from_raw(raw), want, "{raw:#x}")?;
        }
        for memattr in [Noncached, WriteCombining] {
            expect_eq!(
                Memattr::from_raw(memattr.as_raw()),
                Ok(memattr),
                "{memattr:?}"
            )?;
        }
        Ok(())
    }

    #[test]
    fn export_flags_have_the_attribute_and_nothing_else() -> Result {
        for (flags, want) in [(0, Ok(Noncached)), (1 << 28, Ok(WriteCombining))] {
            expect_eq!(Memattr::from_export_flags(flags), want, "{flags:#x}")?;
        }
        // Every other value of the attribute field.
        for value in 2..16 {
            let got = Memattr::from_export_flags(value << 28);
            expect_eq!(got, Err(EINVAL), "attribute {value}")?;
        }
        // Every bit outside of the field, alone and together with WC.
        for flags in (0..28).flat_map(|bit| [1 << bit, 1 << bit | 1 << 28]) {
            let got = Memattr::from_export_flags(flags);
            expect_eq!(got, Err(EINVAL), "{flags:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn cache_modes_match() -> Result {
        expect_eq!(Noncached.cache_mode(), CacheMode::Noncached, "NC")?;
        expect_eq!(WriteCombining.cache_mode(), CacheMode::WriteCombining, "WC")
    }
}
