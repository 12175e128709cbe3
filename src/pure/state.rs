// SPDX-License-Identifier: GPL-2.0

//! The life of a buffer.
//!
//! Pure. A buffer has a [`Life`] of its own, in which nothing is ever taken back, and shares with
//! all buffers of its device whether the device's memory answers. What user space sees, the
//! [`Status`], is made of both.
//!
//! | life | revoke | drained | close |
//! |---|---|---|---|
//! | `Live` | → `Revoking` | `Live` | → `Closed` |
//! | `Revoking` | `Revoking`: wait on | → `Revoked` | → `Closed` |
//! | `Revoked` | `EBADFD` | `Revoked` | → `Closed` |
//! | `Closed` | `ENODEV` | `Closed` | `Closed` |
//!
//! *drained* says that no importer has a mapping any more. In `Revoking` the buffer is already out
//! of reach of all processes and of new importers; what may be left is an importer that is slow to
//! unmap. A revoke that was interrupted leaves that state behind, and the next one goes on.

use kernel::prelude::*;
use kernel_ext::{
    errno::EBADFD,
    uapi, //
};

/// What became of a buffer; see the table in the [module's documentation](self).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Life {
    /// Reachable whenever the device's memory answers.
    Live = 0,
    /// Revoked for good; importers may still have to unmap.
    Revoking = 1,
    /// Revoked for good, and no importer has a mapping.
    Revoked = 2,
    /// The device was closed.
    Closed = 3,
}

/// What happens to a buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// User space revokes it.
    Revoke,
    /// After a revoke no importer has a mapping any more.
    Drained,
    /// The device is being closed.
    Close,
}

impl Life {
    /// The state after `event`.
    ///
    /// # Errors
    ///
    /// Of a revoke: `EBADFD` when that is already done, `ENODEV` when the device was closed.
    pub(crate) fn after(self, event: Event) -> Result<Self> {
        match (self, event) {
            (_, Event::Close) => Ok(Self::Closed),
            (Self::Live | Self::Revoking, Event::Revoke) => Ok(Self::Revoking),
            (Self::Revoked, Event::Revoke) => Err(EBADFD),
            (Self::Closed, Event::Revoke) => Err(ENODEV),
            (Self::Revoking, Event::Drained) => Ok(Self::Revoked),
            (same, Event::Drained) => Ok(same),
        }
    }

    /// Whether the buffer may be reached, as far as it depends on the buffer.
    pub(crate) fn is_live(self) -> bool {
        self == Self::Live
    }

    /// Whether the device was closed since the buffer was exported.
    pub(crate) fn is_closed(self) -> bool {
        self == Self::Closed
    }

    /// Decodes what an atomic holds. Numbers that no state has are `Closed`, the safe one.
    pub(crate) fn from_raw(raw: u32) -> Self {
        match raw {
            0 => Self::Live,
            1 => Self::Revoking,
            2 => Self::Revoked,
            _ => Self::Closed,
        }
    }

    /// What user space sees, `memory_enabled` telling whether the device's memory answers.
    pub(crate) fn status(self, memory_enabled: bool) -> Status {
        match (self, memory_enabled) {
            (Self::Live, true) => Status::Live,
            (Self::Live, false) => Status::RevokedTemporarily,
            (Self::Revoking | Self::Revoked, _) => Status::Revoked,
            (Self::Closed, _) => Status::Closed,
        }
    }
}

/// The status of a buffer, by its number in the UAPI (`enum vfio_dmabuf_status`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum Status {
    Live = uapi::STATUS_LIVE,
    RevokedTemporarily = uapi::STATUS_REVOKED_TEMP,
    Revoked = uapi::STATUS_REVOKED,
    Closed = uapi::STATUS_CLOSED,
}

impl Status {
    /// What a listing of buffers calls it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::RevokedTemporarily => "revoked-temp",
            Self::Revoked => "revoked",
            Self::Closed => "closed",
        }
    }
}
