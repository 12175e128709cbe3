// SPDX-License-Identifier: GPL-2.0

//! Memory attributes: how CPUs access a mapping.
//!
//! Pure.

use kernel::prelude::*;
use kernel_ext::{
    errno::EOPNOTSUPP,
    mm::CacheMode,
    uapi, //
};

/// A memory attribute, by its number in the UAPI (`enum vfio_dmabuf_memattr`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Memattr {
    Noncached = uapi::MEMATTR_NC,
    WriteCombining = uapi::MEMATTR_WC,
}

impl Memattr {
    /// Decodes the number that MEMATTR SET gets.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` when there is no such attribute.
    pub(crate) fn from_raw(raw: u32) -> Result<Self> {
        match raw {
            uapi::MEMATTR_NC => Ok(Self::Noncached),
            uapi::MEMATTR_WC => Ok(Self::WriteCombining),
            _ => Err(EOPNOTSUPP),
        }
    }

    /// Decodes the `flags` of an export.
    ///
    /// # Errors
    ///
    /// `EINVAL` when a bit is set that has no meaning.
    pub(crate) fn from_export_flags(flags: u32) -> Result<Self> {
        match flags {
            uapi::ATTR_UC => Ok(Self::Noncached),
            uapi::ATTR_WC => Ok(Self::WriteCombining),
            _ => Err(EINVAL),
        }
    }

    /// What a listing of buffers calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Noncached => "uc",
            Self::WriteCombining => "wc",
        }
    }

    /// The number that MEMATTR GET gives.
    pub(crate) fn as_raw(self) -> u32 {
        self as u32
    }

    /// How page table entries are made for it.
    pub(crate) fn cache_mode(self) -> CacheMode {
        match self {
            Self::Noncached => CacheMode::Noncached,
            Self::WriteCombining => CacheMode::WriteCombining,
        }
    }
}
