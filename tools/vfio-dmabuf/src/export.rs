// SPDX-License-Identifier: GPL-2.0
//! Exports: making buffers.

use std::os::fd::OwnedFd;

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::buffer::Buffer;
use crate::device::Device;
use crate::error::{Error, Tried};
use crate::{sys, uapi};

/// How CPUs access a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Attribute {
    /// Each access reaches the device, in program order.
    #[default]
    Uncached,
    /// The CPU may merge and reorder writes up to a [`Mapping::write_barrier`]. Much faster for
    /// bulk writes, wrong for registers with side effects.
    ///
    /// [`Mapping::write_barrier`]: crate::Mapping::write_barrier
    WriteCombining,
}

impl Attribute {
    pub(crate) fn memattr(self) -> u32 {
        match self {
            Attribute::Uncached => uapi::VFIO_DMABUF_MEMATTR_NC,
            Attribute::WriteCombining => uapi::VFIO_DMABUF_MEMATTR_WC,
        }
    }

    pub(crate) fn from_memattr(number: u32) -> Result<Attribute, Error> {
        match number {
            uapi::VFIO_DMABUF_MEMATTR_NC => Ok(Attribute::Uncached),
            uapi::VFIO_DMABUF_MEMATTR_WC => Ok(Attribute::WriteCombining),
            _ => Err(Error::Unreadable {
                file: "memory attribute of a buffer".into(),
                found: number.to_string(),
            }),
        }
    }

    fn at_birth(self) -> u32 {
        match self {
            Attribute::Uncached => uapi::VFIO_DMABUF_ATTR_UC,
            Attribute::WriteCombining => uapi::VFIO_DMABUF_ATTR_WC,
        }
    }
}

/// An export that is being prepared; see [`Device::export`].
#[derive(Clone, Debug)]
#[must_use = "create() makes the buffer"]
pub struct Export<'a> {
    device: &'a Device,
    bar: u32,
    ranges: Vec<(u64, u64)>,
    attribute: Attribute,
    read_only: bool,
}

impl<'a> Export<'a> {
    pub(crate) fn new(device: &'a Device, bar: u32) -> Export<'a> {
        Export {
            device,
            bar,
            ranges: Vec::new(),
            attribute: Attribute::default(),
            read_only: false,
        }
    }

    /// Adds `length` bytes from `offset` of the BAR, both multiples of the page size. The buffer
    /// has the ranges end to end, in the order in which they are added. They may overlap.
    pub fn range(mut self, offset: u64, length: u64) -> Export<'a> {
        self.ranges.push((offset, length));
        self
    }

    /// Sets the initial memory attribute; the default is [`Attribute::Uncached`].
    pub fn attribute(mut self, attribute: Attribute) -> Export<'a> {
        self.attribute = attribute;
        self
    }

    /// Makes the buffer read-only: it refuses writable mappings.
    pub fn read_only(mut self) -> Export<'a> {
        self.read_only = true;
        self
    }

    /// Makes the buffer. Its fd has `FD_CLOEXEC`.
    ///
    /// Works while the device's memory is disabled; accesses then fail until it is enabled.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EINVAL`: no ranges, not page-aligned, past the end of the BAR; `ENODEV`: the
    /// device has no memory in that BAR; `E2BIG`: more than
    /// [`VFIO_DMABUF_MAX_RANGES`](uapi::VFIO_DMABUF_MAX_RANGES)
    /// ranges; `EOPNOTSUPP`: this machine lacks the attribute; `EMFILE` and `ENOMEM` as usual.
    pub fn create(self) -> Result<Buffer, Error> {
        // In-tree vfio-pci does not have the flag, and this driver may be told to need it.
        let flag = if self.device.can_revoke() { uapi::VFIO_DMABUF_BUFFER } else { 0 };
        let fd = self.call(uapi::VFIO_DEVICE_FEATURE_DMA_BUF, flag)?;
        Ok(Buffer::exported(fd))
    }

    /// Makes an fd for `IOMMU_IOAS_MAP_FILE`, for DMA of another device to these ranges. iommufd
    /// maps dma-bufs of the in-tree VFIO core only, and this fd is one.
    ///
    /// Up to Linux 7.3 at least, iommufd takes fds of one range only (`EOPNOTSUPP`). Do not pass
    /// such an fd to an untrusted process: these dma-bufs of the core have a use-after-free through
    /// `O_PATH` fds.
    ///
    /// The fd is not a buffer: no process can map it, and it cannot be revoked. iommufd loses its
    /// mapping when the device's memory is disabled, when the device is reset through its fd, and
    /// when it is closed. Map the fd again to restore it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EINVAL`: as for [`Export::create`], or an attribute other than
    /// [`Attribute::Uncached`]; `ENODEV`: the device has no memory in that BAR; `ENOTTY`: the
    /// kernel was built without `CONFIG_VFIO_PCI_DMABUF`.
    pub fn create_for_iommufd(self) -> Result<OwnedFd, Error> {
        // In-tree vfio-pci has one kind of export only.
        let feature = match self.device.can_revoke() {
            true => uapi::VFIO_DMABUF_IOMMUFD,
            false => uapi::VFIO_DEVICE_FEATURE_DMA_BUF,
        };
        self.call(feature, 0)
    }

    fn call(&self, feature: u32, flags: u32) -> Result<OwnedFd, Error> {
        let access = if self.read_only { OFlags::RDONLY } else { OFlags::RDWR };
        let call = sys::Export {
            feature,
            bar: self.bar,
            open_flags: (access | OFlags::CLOEXEC).bits(),
            flags: flags | self.attribute.at_birth(),
            ranges: &self.ranges,
        };
        let tried = format!("export of {} of {}", ranges(&self.ranges), self.device.bar(self.bar));
        sys::export(self.device, &call).tried_as(tried, |errno| match errno {
            Errno::INVAL => Some("no ranges, not page-aligned, or past the end of the BAR"),
            Errno::NODEV => Some("the device has no memory in that BAR"),
            Errno::TOOBIG => Some("too many ranges"),
            Errno::NOSPC => Some("the total length of the ranges is too large"),
            Errno::OPNOTSUPP => Some("this machine does not have that memory attribute"),
            Errno::NOTTY => Some("the driver of the device does not support this export"),
            _ => None,
        })
    }
}

fn ranges(ranges: &[(u64, u64)]) -> String {
    match ranges {
        [(offset, length)] => format!("{length:#x} bytes at {offset:#x}"),
        _ => format!("{} ranges", ranges.len()),
    }
}
