// SPDX-License-Identifier: GPL-2.0
//! Errors: the call that failed, its object, and the errno.

use std::fmt::Display;

use rustix::io::Errno;

use crate::pci::PciAddress;

/// An error of this crate. Accesses to a mapping return [`AccessError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a call.
    #[error("{tried}: {errno}{}", explained(.meaning))]
    Os {
        /// The call and its object.
        tried: String,
        /// The errno.
        errno: Errno,
        /// The meaning of the errno for this call, if it has a particular one.
        meaning: Option<&'static str>,
    },
    /// The text is not a PCI address.
    #[error("{0:?} is not a PCI address; an example is 0000:01:00.0")]
    BadAddress(String),
    /// The machine has no such device.
    #[error("there is no PCI device {0}")]
    NoDevice(PciAddress),
    /// The device has no driver, or one that is not a VFIO driver.
    #[error("{address} is bound to {}, which is not a VFIO driver", or_none(.driver))]
    NotVfio {
        /// The device.
        address: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// The device is in no IOMMU group: the machine has no IOMMU, or it is disabled.
    #[error("{0} is in no IOMMU group: is the IOMMU of this machine enabled?")]
    NoGroup(PciAddress),
    /// Another device of the IOMMU group has a driver that is not a VFIO driver.
    #[error(
        "IOMMU group {group} of {address} is not viable: a device in it has a non-VFIO driver"
    )]
    GroupNotViable {
        /// The device.
        address: PciAddress,
        /// Its group.
        group: u32,
    },
    /// The fd is not of the expected kind.
    #[error("the fd is not {0}")]
    WrongFd(&'static str),
    /// A message from another process is invalid.
    #[error("message with a buffer: {0}")]
    Message(#[from] MessageError),
    /// A file of the kernel has an unexpected content.
    #[error("{file}: unexpected content {found:?}")]
    Unreadable {
        /// Its path.
        file: String,
        /// Its content.
        found: String,
    },
    /// An access to a mapping failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// The reason why a message was refused. Its fds were closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The peer has closed the connection.
    #[error("the peer has closed the connection")]
    Closed,
    /// Not a message of this crate, or one of another format version.
    #[error("its format is unknown")]
    Malformed,
    /// It did not carry exactly one fd.
    #[error("it does not carry exactly one fd")]
    Fds,
    /// The fd is not a dma-buf.
    #[error("its fd is not a dma-buf")]
    NotABuffer,
    /// The size of the dma-buf is not the one in the message.
    #[error("the size of the dma-buf is not the one in the message")]
    Size,
}

/// The reason why an access to a [`Mapping`](crate::Mapping) failed. Offsets and sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The access reaches past the end of the mapping. Nothing was accessed.
    #[error("{length} bytes at {offset:#x} reach past the end of the mapping, {size:#x}")]
    Bounds {
        /// Start of the access.
        offset: u64,
        /// Length of the access.
        length: u64,
        /// Length of the mapping.
        size: u64,
    },
    /// The offset is not a multiple of the width. Nothing was accessed.
    #[error("an access of {width} bytes at {offset:#x} is not aligned")]
    Alignment {
        /// Start of the access.
        offset: u64,
        /// Its width.
        width: u64,
    },
    /// A write to a read-only mapping. Nothing was accessed.
    #[error("the mapping is read-only")]
    ReadOnly,
    /// There is no device memory at this address: the buffer was revoked, its device was closed, or
    /// the device's memory is disabled. In the last case the same mapping works again later;
    /// [`Buffer::is_gone`](crate::Buffer::is_gone) distinguishes the cases.
    ///
    /// Everything before `offset` was accessed.
    #[error("no device memory at {offset:#x}: the buffer was revoked or memory is disabled")]
    Lost {
        /// Offset of the element that could not be accessed.
        offset: u64,
    },
}

impl Error {
    /// The errno, if a call failed.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether an access failed because the buffer was revoked or the device's memory is disabled.
    pub fn is_lost(&self) -> bool {
        matches!(self, Error::Access(AccessError::Lost { .. }))
    }
}

fn explained(meaning: &Option<&'static str>) -> String {
    meaning.map(|text| format!(": {text}")).unwrap_or_default()
}

fn or_none(driver: &Option<String>) -> &str {
    driver.as_deref().unwrap_or("none")
}

/// Turns an errno into an [`Error`].
pub(crate) trait Tried<T> {
    /// Names the call.
    fn tried(self, what: impl Display) -> Result<T, Error>;

    /// Names the call and the meaning of its errnos.
    fn tried_as(
        self,
        what: impl Display,
        meaning: fn(Errno) -> Option<&'static str>,
    ) -> Result<T, Error>;
}

impl<T, E: Into<AnyErrno>> Tried<T> for Result<T, E> {
    fn tried(self, what: impl Display) -> Result<T, Error> {
        self.tried_as(what, |_| None)
    }

    fn tried_as(
        self,
        what: impl Display,
        meaning: fn(Errno) -> Option<&'static str>,
    ) -> Result<T, Error> {
        self.map_err(|error| {
            let AnyErrno(errno) = error.into();
            Error::Os { tried: what.to_string(), errno, meaning: meaning(errno) }
        })
    }
}

/// An errno from rustix or from the standard library.
pub(crate) struct AnyErrno(Errno);

impl From<Errno> for AnyErrno {
    fn from(errno: Errno) -> AnyErrno {
        AnyErrno(errno)
    }
}

impl From<std::io::Error> for AnyErrno {
    fn from(error: std::io::Error) -> AnyErrno {
        AnyErrno(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_call_errno_and_meaning() {
        let refused: Result<(), Errno> = Err(Errno::BADFD);
        let error = refused.tried_as("REVOKE", |_| Some("it was revoked before")).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("REVOKE: "), "{text}");
        assert!(text.ends_with(": it was revoked before"), "{text}");
        assert_eq!(error.errno(), Some(Errno::BADFD));
    }

    #[test]
    fn lost_is_told_from_other_failures() {
        assert!(Error::from(AccessError::Lost { offset: 0 }).is_lost());
        assert!(!Error::from(AccessError::ReadOnly).is_lost());
    }
}
