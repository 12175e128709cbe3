// SPDX-License-Identifier: GPL-2.0
//! A slice of a device, as a file descriptor.

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
/// Whoever holds the fd can map it, in any process, and needs nothing of VFIO for that. The fd
/// travels over a UNIX socket ([`channel`](crate::channel)), by inheritance
/// ([`command`](crate::command)), or as any other fd does. Dropping the last fd and the last
/// mapping releases the buffer; it never keeps the device open.
#[derive(Debug)]
pub struct Buffer(OwnedFd);

impl Buffer {
    /// Takes over an fd that came from somewhere else.
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

    /// What an export gave.
    pub(crate) fn exported(fd: OwnedFd) -> Buffer {
        Buffer(fd)
    }

    /// Its size, bytes: the sum of the lengths of its ranges.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn size(&self) -> Result<u64, Error> {
        seek(&self.0, SeekFrom::End(0)).tried("size of a buffer")
    }

    /// Whether its fd is for reading only, so that it can be mapped for nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn is_read_only(&self) -> Result<bool, Error> {
        let flags = fcntl_getfl(&self.0).tried("F_GETFL of a buffer")?;
        Ok(flags & OFlags::ACCMODE == OFlags::RDONLY)
    }

    /// Maps all of it.
    ///
    /// # Errors
    ///
    /// As [`Buffer::map_part`].
    pub fn map(&self, access: Access) -> Result<Mapping, Error> {
        self.map_part(0, self.size()?, access)
    }

    /// Maps `length` bytes from `offset`, a multiple of the page size, which counts in the ranges
    /// laid end to end. Works while the device's memory is off, too; accesses are lost meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENODEV`: the buffer was revoked or its device was closed; `EINVAL`: past
    /// the end, or parts of pages; `EACCES`: for writing, of a buffer that is for reading only.
    pub fn map_part(&self, offset: u64, length: u64, access: Access) -> Result<Mapping, Error> {
        let what = format!("mmap of {length:#x} bytes at {offset:#x} of a buffer");
        Mapping::new(&self.0, offset, length, access).tried_as(what, |errno| match errno {
            Errno::NODEV => Some("it was revoked, or its device was closed"),
            Errno::INVAL => Some("past the end, or parts of pages"),
            Errno::ACCESS => Some("it is for reading only"),
            _ => None,
        })
    }

    /// Whether it is dead for good: revoked, or its device was closed. While the device's memory
    /// is merely off it is not. Works in any process that holds the fd.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: it could not be found out.
    pub fn is_gone(&self) -> Result<bool, Error> {
        let page = rustix::param::page_size() as u64;
        match self.map_part(0, page, Access::Read) {
            Ok(_) => Ok(false),
            Err(error) if error.errno() == Some(Errno::NODEV) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The number that tells this buffer from all others, in any process: that of its inode.
    /// `/proc/PID/maps` shows it, too.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn inode(&self) -> Result<u64, Error> {
        Ok(fstat(&self.0).tried("fstat of a buffer")?.st_ino)
    }

    /// Its name, as `/proc/PID/maps` shows it behind `/dmabuf:`. At birth that is VFIO device, PCI
    /// address and BAR: `vfio0:0000:01:00.0/0`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: `/proc` is not there.
    pub fn name(&self) -> Result<String, Error> {
        let path = format!("/proc/self/fdinfo/{}", self.0.as_raw_fd());
        let text = fs::read_to_string(&path).tried(path)?;
        let name = text.lines().find_map(|line| line.strip_prefix("name:"));
        Ok(name.unwrap_or_default().trim().to_string())
    }

    /// Gives it another name, in all processes. At most 31 bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENAMETOOLONG`, `EINVAL`: such a name is not possible.
    pub fn set_name(&self, name: &str) -> Result<(), Error> {
        let tried = format!("DMA_BUF_SET_NAME {name:?}");
        let name = CString::new(name).map_err(|_| Errno::INVAL).tried(&tried)?;
        sys::set_name(&self.0, &name).tried(tried)
    }

    /// Another fd of the same buffer.
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
