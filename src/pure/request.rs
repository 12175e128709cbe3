// SPDX-License-Identifier: GPL-2.0

//! Decoding of what user space passes to our features.
//!
//! Pure: works on copies of user memory.

use super::memattr::Memattr;
use core::mem::size_of;
use kernel::{
    fs::file::flags::{
        O_CLOEXEC,
        O_NONBLOCK,
        O_RDWR, //
    },
    prelude::*, //
};
use kernel_ext::{
    mm::Followers,
    uapi, //
};

/// What a call of a feature asks for, once it is known to be well-formed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Whether the feature is there; no payload is touched.
    Probe,
    /// `VFIO_DEVICE_FEATURE_GET`
    Get,
    /// `VFIO_DEVICE_FEATURE_SET`
    Set,
}

impl Request {
    /// The rules that all features share, as in `vfio_check_feature()`.
    ///
    /// `ops` are the operation bits that the feature has, `min_size` that of its payload in bytes.
    ///
    /// # Errors
    ///
    /// `EINVAL`: an operation that the feature does not have, none, or too small a payload.
    pub(crate) fn check(flags: u32, argsz: usize, ops: u32, min_size: usize) -> Result<Self> {
        let asked = flags & (uapi::FEATURE_GET | uapi::FEATURE_SET);
        if asked & !ops != 0 {
            return Err(EINVAL);
        }
        if flags & uapi::FEATURE_PROBE != 0 {
            return Ok(Self::Probe);
        }
        let request = match asked {
            uapi::FEATURE_GET => Self::Get,
            uapi::FEATURE_SET => Self::Set,
            _ => return Err(EINVAL),
        };
        if argsz < min_size {
            return Err(EINVAL);
        }
        Ok(request)
    }
}

/// The fixed part of an export request, validated as far as it goes without the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Export {
    /// Index of the region; may be anything.
    pub(crate) region: u32,
    /// Flags of the new fd: access mode, `O_CLOEXEC`, `O_NONBLOCK`.
    pub(crate) open_flags: u32,
    /// The attribute to begin with.
    pub(crate) memattr: Memattr,
    /// What may follow the page frames of its mappings.
    pub(crate) followers: Followers,
    /// How many ranges follow; 1 to `MAX_RANGES`.
    pub(crate) nr_ranges: usize,
}

impl Export {
    /// Decodes the payload; `argsz` is its size in bytes, ranges included.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: no ranges, a flag without a meaning, an access mode that open(2) does not have,
    ///   or ranges that reach past the payload.
    /// - `E2BIG`: more ranges than a buffer may have.
    pub(crate) fn decode(raw: &uapi::FeatureDmaBuf, argsz: usize) -> Result<Self> {
        // A mapping is never only written, so there is no O_WRONLY.
        const OPEN_FLAGS: u32 = O_RDWR | O_CLOEXEC | O_NONBLOCK;

        if raw.nr_ranges == 0 || raw.open_flags & !OPEN_FLAGS != 0 {
            return Err(EINVAL);
        }
        let memattr =
            Memattr::from_export_flags(raw.flags & !(uapi::FLAG_BUFFER | uapi::FLAG_TYPE1))?;
        let followers = match raw.flags & uapi::FLAG_TYPE1 {
            0 => Followers::Notified,
            _ => Followers::All,
        };
        if raw.nr_ranges > uapi::MAX_RANGES {
            return Err(E2BIG);
        }
        // CAST: Bounded just now.
        let nr_ranges = raw.nr_ranges as usize;
        let size = size_of::<uapi::FeatureDmaBuf>() + nr_ranges * size_of::<uapi::DmaRange>();
        if argsz < size {
            return Err(EINVAL);
        }
        Ok(Self {
            region: raw.region_index,
            open_flags: raw.open_flags,
            memattr,
            followers,
            nr_ranges,
        })
    }
}
