// SPDX-License-Identifier: GPL-2.0
//! Buffers: slices of BARs as dma-bufs.

use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;

use crate::feature::{Call, Prepared};
use crate::prelude::*;
use crate::sys::ioctl_with;

/// A range of a BAR: offset and length, bytes.
#[derive(Clone, Copy, Debug)]
pub struct Range(pub u64, pub u64);

/// An export, every word of which can be chosen.
#[derive(Clone, Debug)]
pub struct Export {
    /// The BAR.
    pub region: u32,
    /// Flags of the new fd.
    pub open_flags: u32,
    /// `VFIO_DMABUF_ATTR_*`.
    pub flags: u32,
    /// The ranges.
    pub ranges: Vec<Range>,
    /// What `nr_ranges` says, if that is not the truth.
    pub count: Option<u32>,
}

impl Export {
    /// An export of `ranges` of BAR `region`, readable and writable.
    pub fn new(region: u32, ranges: &[Range]) -> Export {
        let open_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
        Export { region, open_flags, flags: 0, ranges: ranges.to_vec(), count: None }
    }

    /// The call that asks for it.
    pub fn call(&self) -> Call {
        let count = self.count.unwrap_or(self.ranges.len() as u32);
        let mut payload = vec![self.region, self.open_flags, self.flags, count];
        for Range(offset, length) in &self.ranges {
            for word in [offset, length] {
                payload.extend([*word as u32, (*word >> 32) as u32]);
            }
        }
        Call::new(feature::GET | uapi::VFIO_DEVICE_FEATURE_DMA_BUF, payload)
    }

    /// Asks for it.
    pub fn make(&self, device: &Device) -> Result<Buffer, Errno> {
        Buffer::by_call(device, &mut self.call())
    }
}

/// An fd of a dma-buf.
#[derive(Debug)]
pub struct Buffer(OwnedFd);

impl Buffer {
    /// Exports `len` bytes from `offset` of BAR `region`.
    pub fn export(device: &Device, region: u32, offset: u64, len: u64) -> Result<Buffer, Errno> {
        Export::new(region, &[Range(offset, len)]).make(device)
    }

    /// Makes a [`Export::call`], which may have been changed.
    pub fn by_call(device: &Device, call: &mut Call) -> Result<Buffer, Errno> {
        Ok(Buffer(raw::own(call.make(device)?)))
    }

    /// Makes an [`Export::call`] that was prepared.
    pub fn by_prepared(device: &Device, call: &mut Prepared) -> Result<Buffer, Errno> {
        Ok(Buffer(raw::own(call.make(device)?)))
    }

    /// A dma-buf that no VFIO device made: `len` bytes of the system heap.
    pub fn from_system_heap(len: u64) -> Result<Buffer> {
        let path = "/dev/dma_heap/system";
        let heap = OpenOptions::new().read(true).write(true).open(path).context(path)?;
        let mut arg = uapi::dma_heap_allocation_data {
            len,
            fd_flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
            ..Default::default()
        };
        ioctl_with(heap.as_raw_fd(), uapi::DMA_HEAP_IOCTL_ALLOC, &mut arg)?;
        Ok(Buffer(raw::own(arg.fd as RawFd)))
    }

    /// Another fd of the same buffer.
    pub fn dup(&self) -> Result<Buffer> {
        Ok(Buffer(self.0.try_clone()?))
    }

    /// The fd's number.
    pub fn raw(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Maps `len` bytes from `offset` of the buffer, readable and writable.
    pub fn map(&self, offset: u64, len: u64) -> Result<Mapping, Errno> {
        Mapping::new(&self.0, len, mm::RW, offset)
    }

    /// `/proc/self/fdinfo` of the fd.
    pub fn fdinfo(&self) -> Result<String> {
        Ok(fs::read_to_string(format!("/proc/self/fdinfo/{}", self.raw()))?)
    }

    /// DMA_BUF_SET_NAME.
    pub fn set_name(&self, name: &std::ffi::CStr) -> Result<(), Errno> {
        crate::sys::ioctl(self.raw(), uapi::DMA_BUF_SET_NAME, name.as_ptr() as usize).map(drop)
    }

    /// DMA_BUF_IOCTL_SYNC with these `DMA_BUF_SYNC_*`.
    pub fn sync(&self, flags: u32) -> Result<(), Errno> {
        let mut arg = uapi::dma_buf_sync { flags: flags.into() };
        ioctl_with(self.raw(), uapi::DMA_BUF_IOCTL_SYNC, &mut arg).map(drop)
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

impl From<OwnedFd> for Buffer {
    fn from(fd: OwnedFd) -> Buffer {
        Buffer(fd)
    }
}

/// REVOKE of whatever `fd` is.
pub fn revoke_fd(device: &Device, fd: RawFd) -> Result<(), Errno> {
    let payload = uapi::vfio_dmabuf_feature_revoke { dmabuf_fd: fd };
    feature::set(device, uapi::VFIO_DMABUF_REVOKE, &payload)
}

/// REVOKE of a buffer.
pub fn revoke(device: &Device, buffer: &Buffer) -> Result<(), Errno> {
    revoke_fd(device, buffer.raw())
}

/// The ioctl that does the same, with the given `argsz`.
pub fn revoke_by_ioctl(device: &Device, fd: RawFd, argsz: u32) -> Result<(), Errno> {
    let mut arg = uapi::vfio_dmabuf_ioctl_revoke { argsz, dmabuf_fd: fd };
    device.ioctl_with(uapi::VFIO_DMABUF_IOCTL_REVOKE, &mut arg).map(drop)
}

/// INFO of whatever `fd` is.
pub fn info(device: &Device, fd: RawFd) -> Result<uapi::vfio_dmabuf_feature_info, Errno> {
    let mut info = uapi::vfio_dmabuf_feature_info { dmabuf_fd: fd, ..Default::default() };
    feature::get(device, uapi::VFIO_DMABUF_INFO, &mut info)?;
    Ok(info)
}

/// MEMATTR GET of whatever `fd` is.
pub fn memattr(device: &Device, fd: RawFd) -> Result<u32, Errno> {
    let mut memattr = uapi::vfio_dmabuf_feature_memattr { dmabuf_fd: fd, ..Default::default() };
    feature::get(device, uapi::VFIO_DMABUF_MEMATTR, &mut memattr)?;
    Ok(memattr.memattr)
}

/// MEMATTR SET of whatever `fd` is.
pub fn set_memattr(device: &Device, fd: RawFd, memattr: u32) -> Result<(), Errno> {
    let payload = uapi::vfio_dmabuf_feature_memattr { dmabuf_fd: fd, memattr };
    feature::set(device, uapi::VFIO_DMABUF_MEMATTR, &payload)
}
