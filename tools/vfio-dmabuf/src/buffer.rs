// SPDX-License-Identifier: GPL-2.0
//! A slice of a device as a file descriptor.

use std::ffi::CString;
use std::fs;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{fcntl_getfl, fstat, fstatfs, seek, OFlags, SeekFrom};
use rustix::io::Errno;

use crate::error::{Error, Tried};
use crate::mapping::{Access, Mapping};
use crate::sys;

/// `DMA_BUF_MAGIC` of `<linux/magic.h>`.
const DMA_BUF_MAGIC: i64 = 0x444d_4142;

/// A slice of a device: a dma-buf over ranges of one BAR, laid end to end.
///
/// Any process that holds the fd can map it and needs no VFIO fd for that. Pass the fd over a UNIX
/// socket ([`channel`](crate::channel)), by inheritance ([`command`](crate::command)), or like any
/// other fd. Dropping the last fd and the last mapping releases the buffer. A buffer never keeps
/// the device open.
#[derive(Debug)]
pub struct Buffer(OwnedFd);

impl Buffer {
    /// Takes ownership of an fd.
    ///
    /// # Errors
    ///
    /// [`Error::WrongFd`]: it is not a dma-buf.
    pub fn from_fd(fd: OwnedFd) -> Result<Buffer, Error> {
        let kind = fstatfs(&fd).tried("fstatfs of a buffer")?.f_type;
        match kind == DMA_BUF_MAGIC {
            true => Ok(Buffer(fd)),
            false => Err(Error::WrongFd("a dma-buf")),
        }
    }

    /// A buffer that has just been exported.
    pub(crate) fn exported(fd: OwnedFd) -> Buffer {
        Buffer(fd)
    }

    /// Its size in bytes: the sum of the lengths of its ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn size(&self) -> Result<u64, Error> {
        seek(&self.0, SeekFrom::End(0)).tried("size of a buffer")
    }

    /// Whether the fd is read-only, so that writable mappings are refused.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn is_read_only(&self) -> Result<bool, Error> {
        let flags = fcntl_getfl(&self.0).tried("F_GETFL of a buffer")?;
        Ok(flags & OFlags::ACCMODE == OFlags::RDONLY)
    }

    /// Maps the whole buffer.
    ///
    /// # Errors
    ///
    /// As [`Buffer::map_part`].
    pub fn map(&self, access: Access) -> Result<Mapping, Error> {
        self.map_part(0, self.size()?, access)
    }

    /// Maps `length` bytes from `offset`, a multiple of the page size. The offset counts in the
    /// ranges laid end to end. Mapping works while the device's memory is disabled; accesses then
    /// fail until it is enabled.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENODEV`: the buffer was revoked or its device was closed; `EINVAL`: past the
    /// end, or not page-aligned; `EACCES`: a writable mapping of a read-only buffer.
    pub fn map_part(&self, offset: u64, length: u64, access: Access) -> Result<Mapping, Error> {
        let what = format!("mmap of {length:#x} bytes at {offset:#x} of a buffer");
        Mapping::new(&self.0, offset, length, access).tried_as(what, |errno| match errno {
            Errno::NODEV => Some("it was revoked, or its device was closed"),
            Errno::INVAL => Some("past the end, or not page-aligned"),
            Errno::ACCESS => Some("the buffer is read-only"),
            _ => None,
        })
    }

    /// Whether the buffer is dead for good: revoked, or its device was closed. Disabled memory does
    /// not count. Works in any process that holds the fd.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: the state could not be determined.
    pub fn is_gone(&self) -> Result<bool, Error> {
        let page = rustix::param::page_size() as u64;
        match self.map_part(0, page, Access::Read) {
            Ok(_) => Ok(false),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The inode number, which identifies the buffer in all processes. `/proc/PID/maps` shows it,
    /// too.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn inode(&self) -> Result<u64, Error> {
        Ok(fstat(&self.0).tried("fstat of a buffer")?.st_ino)
    }

    /// Its name, which `/proc/PID/maps` shows after `/dmabuf:`. A new buffer is named after VFIO
    /// device, PCI address and BAR: `vfio0:0000:01:00.0/0`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `/proc` is not mounted.
    pub fn name(&self) -> Result<String, Error> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(&path).tried(path)?;
        let name = text.lines().find_map(|line| line.strip_prefix("name:"));
        Ok(name.unwrap_or_default().trim().to_string())
    }

    /// Renames the buffer for all processes. At most 31 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENAMETOOLONG`, `EINVAL`: the name is not valid.
    pub fn set_name(&self, name: &str) -> Result<(), Error> {
        let tried = format!("DMA_BUF_SET_NAME {name:?}");
        let name = CString::new(name).map_err(|_| Errno::INVAL).tried(&tried)?;
        sys::set_name(&self.0, &name).tried(tried)
    }

    /// Duplicates the fd.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EMFILE`.
    pub fn try_clone(&self) -> Result<Buffer, Error> {
        Ok(Buffer(self.0.try_clone().tried("dup of a buffer")?))
    }
}

impl AsFd for Buffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Buffer> for OwnedFd {
    fn from(buffer: Buffer) -> OwnedFd {
        buffer.0
    }
}
