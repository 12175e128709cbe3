// SPDX-License-Identifier: GPL-2.0
//! What can go wrong: which call, on what, and what the kernel said.

use std::fmt::Display;

use rustix::io::Errno;

use crate::pci::PciAddress;

/// An error of this crate but for accesses to a mapping, which have [`AccessError`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a call.
    #[error("{tried}: {errno}{}", explained(.meaning))]
    Os {
        /// The call and what it was made on.
        tried: String,
        /// What the kernel answered.
        errno: Errno,
        /// What that answer means for this call, where the interface says.
        meaning: Option<&'static str>,
    },
    /// The text is no PCI address.
    #[error("{0:?} is no PCI address; one looks like 0000:01:00.0")]
    BadAddress(String),
    /// The machine has no such device.
    #[error("there is no PCI device {0}")]
    NoDevice(PciAddress),
    /// The device has no driver, or one that is not VFIO's.
    #[error("{address} is not bound to a VFIO driver but to {}", or_none(.driver))]
    NotVfio {
        /// The device.
        address: PciAddress,
        /// Its driver.
        driver: Option<String>,
    },
    /// The device is in no IOMMU group: the machine has no IOMMU, or it is off.
    #[error("{0} is in no IOMMU group: is the machine's IOMMU on?")]
    NoGroup(PciAddress),
    /// Another device of the IOMMU group has a driver that is not VFIO's.
    #[error("IOMMU group {group} of {address} is not viable: a device in it has another driver")]
    GroupNotViable {
        /// The device.
        address: PciAddress,
        /// Its group.
        group: u32,
    },
    /// The fd is something else than what it was said to be.
    #[error("the fd is not {0}")]
    WrongFd(&'static str),
    /// A message of another process cannot be used.
    #[error("message with a buffer: {0}")]
    Message(#[from] MessageError),
    /// A file of the kernel does not have the form that it should have.
    #[error("{file}: {found:?} makes no sense")]
    Unreadable {
        /// Its path.
        file: String,
        /// What was in it.
        found: String,
    },
    /// An access to a mapping failed.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// Why a message was refused. Whatever fds came with it were closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The other side has closed the connection.
    #[error("the other side has closed the connection")]
    Closed,
    /// Not a message of this crate, or one of another version of it.
    #[error("it is not one that this version understands")]
    Malformed,
    /// Not exactly one fd came with it.
    #[error("not exactly one fd came with it")]
    Fds,
    /// The fd is not a dma-buf.
    #[error("the fd is not a dma-buf")]
    NotABuffer,
    /// The dma-buf has another size than the message says.
    #[error("the dma-buf has another size than the message says")]
    Size,
}

/// Why an access to a [`Mapping`](crate::Mapping) failed. Offsets and sizes are bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// It reaches past the end of the mapping. Nothing was accessed.
    #[error("{length} bytes at {offset:#x} reach past the end of the mapping, {size:#x}")]
    Bounds {
        /// Where the access begins.
        offset: u64,
        /// How long it is.
        length: u64,
        /// How long the mapping is.
        size: u64,
    },
    /// The offset is no multiple of the width. Nothing was accessed.
    #[error("an access of {width} bytes at {offset:#x} is not aligned")]
    Alignment {
        /// Where the access begins.
        offset: u64,
        /// Its width.
        width: u64,
    },
    /// A write to a mapping that is for reading only. Nothing was accessed.
    #[error("the mapping is for reading only")]
    ReadOnly,
    /// There is no device memory behind the page: the buffer was revoked, its device was closed,
    /// or the device's memory is off. In the last case the same mapping works again later;
    /// [`Buffer::is_gone`](crate::Buffer::is_gone) tells which it is.
    ///
    /// Everything before `offset` was accessed.
    #[error("no device memory at {offset:#x}: the buffer was revoked or the device is off")]
    Lost {
        /// Of the element that could not be accessed.
        offset: u64,
    },
}

impl Error {
    /// What the kernel answered, if that is what went wrong.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Error::Os { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// Whether an access failed because the buffer was revoked or the device is off.
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

/// Turns what the kernel answered into an [`Error`].
pub(crate) trait Tried<T> {
    /// Names the call.
    fn tried(self, what: impl Display) -> Result<T, Error>;

    /// Names the call, and what its answers mean.
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

/// The errno of rustix or of the standard library.
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
