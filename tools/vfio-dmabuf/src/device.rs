// SPDX-License-Identifier: GPL-2.0
//! An open VFIO device: the owner's side.

use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::{retry_on_intr, Errno};
use vfio_bindings::bindings::vfio::{
    VFIO_TYPE1v2_IOMMU, VFIO_API_VERSION, VFIO_GROUP_FLAGS_VIABLE, VFIO_PCI_BAR5_REGION_INDEX,
};

use crate::buffer::Buffer;
use crate::error::{Error, Tried};
use crate::export::{Attribute, Export};
use crate::mapping::{Access, Mapping};
use crate::pci::{PciAddress, PciBus, PciDevice};
use crate::{sys, uapi};

/// The two ways to open a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `/dev/vfio/GROUP`, in a type1 container of its own.
    Group,
    /// `/dev/vfio/devices/vfioN`, bound to an iommufd of its own.
    Cdev,
}

/// What keeps a device usable besides its own fd.
#[derive(Debug)]
enum Holder {
    Group {
        _group: File,
        container: File,
    },
    Iommufd(File),
    Elsewhere,
    #[cfg(feature = "vfio-ioctls")]
    RustVmm {
        _device: KeptOpen,
    },
}

/// A device of another crate, which must stay open.
#[cfg(feature = "vfio-ioctls")]
struct KeptOpen {
    _device: std::sync::Arc<vfio_ioctls::VfioDevice>,
}

#[cfg(feature = "vfio-ioctls")]
impl std::fmt::Debug for KeptOpen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VfioDevice")
    }
}

/// The IOMMU object that a device was opened with, for the program's own DMA mappings.
#[derive(Clone, Copy, Debug)]
pub enum Iommu<'a> {
    /// A type1 container.
    Container(BorrowedFd<'a>),
    /// An iommufd. No address space is attached yet; the device cannot do DMA before one is.
    Iommufd(BorrowedFd<'a>),
    /// The opener of the device has it.
    Elsewhere,
}

/// The state of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Accesses reach the device.
    Live,
    /// The device's memory is disabled or being reset. The buffer will be live again.
    Suspended,
    /// Revoked for good.
    Revoked,
    /// The device was closed. The buffer is dead for good.
    Closed,
}

/// The description of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Info {
    /// Its state at the time of the call. A revoked or closed buffer stays so.
    pub status: Status,
    /// The memory attribute of later mappings.
    pub attribute: Attribute,
    /// The number of ranges that it was exported with.
    pub ranges: u32,
    /// Its size, bytes.
    pub size: u64,
}

/// An open VFIO device.
///
/// It exports and revokes buffers. All its buffers die when it is dropped and the last BAR mapping
/// made through it is gone. A process that crashes thereby revokes everything that it exported.
///
/// ```no_run
/// use vfio_dmabuf::{Access, Device};
///
/// # fn main() -> Result<(), vfio_dmabuf::Error> {
/// let device = Device::open("0000:01:00.0".parse()?)?;
/// let slice = device.export(0).range(0, 4096).create()?;
/// // Hand it out, and later:
/// device.revoke(&slice)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Device {
    // The first field, so that it is closed first: the group stays in its container until then.
    fd: OwnedFd,
    holder: Holder,
    address: PciAddress,
}

impl Device {
    /// Opens a device: through its group if the kernel has groups, else through its character
    /// device. Peer-to-peer DMA needs a container, and only groups have one.
    ///
    /// # Errors
    ///
    /// As [`Device::open_via`].
    pub fn open(address: PciAddress) -> Result<Device, Error> {
        let groups = Path::new("/dev/vfio/vfio").exists();
        Device::open_via(address, if groups { Via::Group } else { Via::Cdev })
    }

    /// Opens a device in one of the two ways.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`], [`Error::NotVfio`], [`Error::NoGroup`], [`Error::GroupNotViable`];
    /// [`Error::Os`] with `EBUSY`: the device or its group is already open.
    pub fn open_via(address: PciAddress, via: Via) -> Result<Device, Error> {
        let pci = PciBus::system().device(address)?;
        if pci.vfio_name().is_none() {
            return Err(Error::NotVfio { address, driver: pci.driver() });
        }
        match via {
            Via::Group => Device::open_group(&pci),
            Via::Cdev => Device::open_cdev(&pci),
        }
    }

    fn open_group(pci: &PciDevice) -> Result<Device, Error> {
        let (address, number) = (pci.address(), pci.group()?);
        let container = open("/dev/vfio/vfio")?;
        let version = sys::api_version(&container).tried("VFIO_GET_API_VERSION")?;
        if version != VFIO_API_VERSION as i32 {
            let found = format!("VFIO API version {version}");
            return Err(Error::Unreadable { file: "/dev/vfio/vfio".into(), found });
        }
        let group = open(&format!("/dev/vfio/{number}"))?;
        let flags = sys::group_flags(&group).tried("VFIO_GROUP_GET_STATUS")?;
        if flags & VFIO_GROUP_FLAGS_VIABLE == 0 {
            return Err(Error::GroupNotViable { address, group: number });
        }
        sys::set_container(&group, &container).tried("VFIO_GROUP_SET_CONTAINER")?;
        sys::set_iommu(&container, VFIO_TYPE1v2_IOMMU).tried("VFIO_SET_IOMMU")?;
        let fd = sys::device_of_group(&group, &address.to_string())
            .tried(format_args!("VFIO_GROUP_GET_DEVICE_FD {address}"))?;
        Ok(Device { fd, holder: Holder::Group { _group: group, container }, address })
    }

    fn open_cdev(pci: &PciDevice) -> Result<Device, Error> {
        let address = pci.address();
        let name = pci.vfio_name().ok_or(Error::NotVfio { address, driver: pci.driver() })?;
        let iommufd = open("/dev/iommu")?;
        let fd = open(&format!("/dev/vfio/devices/{name}"))?;
        sys::bind_iommufd(&fd, &iommufd)
            .tried(format_args!("VFIO_DEVICE_BIND_IOMMUFD {address}"))?;
        Ok(Device { fd: fd.into(), holder: Holder::Iommufd(iommufd), address })
    }

    /// Takes ownership of a VFIO device fd that this program or another one opened. The fd must be
    /// usable: its group has a container, or it is bound to an iommufd. The container or the
    /// iommufd stays untouched.
    ///
    /// # Errors
    ///
    /// [`Error::WrongFd`]: the fd is not a VFIO device, or the kernel is too old to name the device
    /// in fdinfo (`vfio-device-syspath`).
    pub fn from_fd(fd: OwnedFd) -> Result<Device, Error> {
        let address = address_of(fd.as_fd())?;
        Ok(Device { fd, holder: Holder::Elsewhere, address })
    }

    /// Uses a device that rust-vmm's `vfio-ioctls` opened. Its container or iommufd stays with that
    /// crate. The device stays open at least as long as this object lives.
    ///
    /// # Errors
    ///
    /// As [`Device::from_fd`]; [`Error::Os`] with `EMFILE`.
    #[cfg(feature = "vfio-ioctls")]
    pub fn from_rust_vmm(device: std::sync::Arc<vfio_ioctls::VfioDevice>) -> Result<Device, Error> {
        let fd = sys::duplicate(&*device).tried("dup of a device fd")?;
        let address = address_of(fd.as_fd())?;
        Ok(Device {
            fd,
            holder: Holder::RustVmm { _device: KeptOpen { _device: device } },
            address,
        })
    }

    /// The PCI address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// The IOMMU object that the device was opened with.
    pub fn iommu(&self) -> Iommu<'_> {
        match &self.holder {
            Holder::Group { container, .. } => Iommu::Container(container.as_fd()),
            Holder::Iommufd(iommufd) => Iommu::Iommufd(iommufd.as_fd()),
            _ => Iommu::Elsewhere,
        }
    }

    /// Whether the driver can revoke buffers: `true` for this project's driver. In-tree vfio-pci
    /// exports buffers for other devices only.
    pub fn can_revoke(&self) -> bool {
        let flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DMABUF_REVOKE;
        sys::probe(&self.fd, flags).is_ok()
    }

    /// The size of BAR `bar` in bytes; 0 if the device does not have it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EINVAL`: PCI devices have no such BAR.
    pub fn bar_size(&self, bar: u32) -> Result<u64, Error> {
        Ok(self.region(bar)?.size)
    }

    /// Maps `length` bytes from `offset` of a BAR, both multiples of the page size, uncached. The
    /// mapping keeps the device open.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EINVAL`: past the end, not page-aligned, or not memory.
    pub fn map_bar(
        &self,
        bar: u32,
        offset: u64,
        length: u64,
        access: Access,
    ) -> Result<Mapping, Error> {
        let at = self.region(bar)?.offset.wrapping_add(offset);
        let what = format!("mmap of {length:#x} bytes at {offset:#x} of {}", self.bar(bar));
        Mapping::new(&self.fd, at, length, access).tried_as(what, |errno| match errno {
            Errno::INVAL => Some("past the end of the BAR, not page-aligned, or not memory"),
            _ => None,
        })
    }

    /// Starts an export of ranges of a BAR.
    pub fn export(&self, bar: u32) -> Export<'_> {
        Export::new(self, bar)
    }

    /// Revokes a buffer for good. When this returns, no process and no other device reaches the
    /// memory through it. Any fd of the buffer will do. Other buffers over the same memory stay as
    /// they are.
    ///
    /// Returns `false` if the buffer was revoked before.
    ///
    /// Waits until other devices that have imported the buffer unmap it. Neither they nor any
    /// process can map it again meanwhile. Signals do not end the wait: a program that must not
    /// block calls this from a separate thread.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENODEV`: the buffer belongs to another device, or the device was closed
    /// since the export.
    pub fn revoke(&self, buffer: &Buffer) -> Result<bool, Error> {
        let payload = uapi::vfio_dmabuf_feature_revoke { dmabuf_fd: raw(buffer) };
        let flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DMABUF_REVOKE;
        match retry_on_intr(|| sys::feature(&self.fd, flags, payload)) {
            Ok(_) => Ok(true),
            Err(Errno::BADFD) => Ok(false),
            Err(errno) => Err(errno).tried_as(self.on_buffer("REVOKE"), of_buffer),
        }
    }

    /// Returns the attribute of later mappings of a buffer.
    ///
    /// # Errors
    ///
    /// As [`Device::revoke`].
    pub fn attribute(&self, buffer: &Buffer) -> Result<Attribute, Error> {
        let flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DMABUF_MEMATTR;
        let payload = uapi::vfio_dmabuf_feature_memattr { dmabuf_fd: raw(buffer), memattr: 0 };
        let got = sys::feature(&self.fd, flags, payload)
            .tried_as(self.on_buffer("GET MEMATTR"), of_buffer)?;
        Attribute::from_memattr(got.memattr)
    }

    /// Sets the attribute of later mappings of a buffer. Existing mappings keep theirs.
    ///
    /// # Errors
    ///
    /// As [`Device::revoke`]; `EOPNOTSUPP`: this machine does not have the attribute.
    pub fn set_attribute(&self, buffer: &Buffer, attribute: Attribute) -> Result<(), Error> {
        let flags = uapi::VFIO_DEVICE_FEATURE_SET | uapi::VFIO_DMABUF_MEMATTR;
        let payload = uapi::vfio_dmabuf_feature_memattr {
            dmabuf_fd: raw(buffer),
            memattr: attribute.memattr(),
        };
        sys::feature(&self.fd, flags, payload)
            .tried_as(self.on_buffer("SET MEMATTR"), of_buffer)
            .map(drop)
    }

    /// Describes a buffer.
    ///
    /// # Errors
    ///
    /// As [`Device::revoke`], except that a buffer whose device was closed is described while the
    /// same device is open again.
    pub fn info(&self, buffer: &Buffer) -> Result<Info, Error> {
        let flags = uapi::VFIO_DEVICE_FEATURE_GET | uapi::VFIO_DMABUF_INFO;
        let payload =
            uapi::vfio_dmabuf_feature_info { dmabuf_fd: raw(buffer), ..Default::default() };
        let got = sys::feature(&self.fd, flags, payload)
            .tried_as(self.on_buffer("GET INFO"), of_buffer)?;
        let status = match got.status {
            uapi::VFIO_DMABUF_STATUS_LIVE => Status::Live,
            uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP => Status::Suspended,
            uapi::VFIO_DMABUF_STATUS_REVOKED => Status::Revoked,
            uapi::VFIO_DMABUF_STATUS_CLOSED => Status::Closed,
            other => {
                let file = "status of a buffer".to_string();
                return Err(Error::Unreadable { file, found: other.to_string() });
            }
        };
        let attribute = Attribute::from_memattr(got.memattr)?;
        Ok(Info { status, attribute, ranges: got.nr_ranges, size: got.size })
    }

    /// Resets the device. Accesses wait for the end of the reset; mappings and buffers stay.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENOTTY`: this device cannot be reset by itself; `EINTR`: a signal arrived
    /// while the call waited for importing devices, and there was no reset.
    pub fn reset(&self) -> Result<(), Error> {
        sys::reset(&self.fd).tried(format_args!("VFIO_DEVICE_RESET {}", self.address))
    }

    fn region(&self, bar: u32) -> Result<vfio_bindings::bindings::vfio::vfio_region_info, Error> {
        let found = match bar {
            0..=VFIO_PCI_BAR5_REGION_INDEX => sys::region(&self.fd, bar),
            _ => Err(Errno::INVAL),
        };
        found.tried(format_args!("size of {}", self.bar(bar)))
    }

    /// The name of a BAR for messages.
    pub(crate) fn bar(&self, bar: u32) -> String {
        format!("BAR {bar} of {}", self.address)
    }

    fn on_buffer(&self, what: &str) -> String {
        format!("{what} of a buffer on {}", self.address)
    }
}

impl AsFd for Device {
    /// The device fd, for everything else that VFIO offers.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn raw(buffer: &Buffer) -> i32 {
    buffer.as_fd().as_raw_fd()
}

fn of_buffer(errno: Errno) -> Option<&'static str> {
    match errno {
        Errno::NODEV => Some("it belongs to another device, or its device was closed"),
        Errno::NOTTY => Some("the driver of the device does not have this feature"),
        Errno::OPNOTSUPP => Some("this machine does not have that memory attribute"),
        _ => None,
    }
}

fn open(path: &str) -> Result<File, Error> {
    let file = fs::OpenOptions::new().read(true).write(true).open(path);
    file.tried_as(format_args!("open {path}"), |errno| match errno {
        Errno::BUSY => Some("it is already open"),
        _ => None,
    })
}

/// The device that an fd belongs to, from its fdinfo.
fn address_of(fd: BorrowedFd<'_>) -> Result<PciAddress, Error> {
    let path = format!("/proc/self/fdinfo/{}", fd.as_raw_fd());
    let text = fs::read_to_string(&path).tried(path)?;
    let device = text.lines().find_map(|line| line.strip_prefix("vfio-device-syspath:"));
    let name = device.and_then(|path| path.trim().rsplit('/').next());
    name.and_then(|name| name.parse().ok()).ok_or(Error::WrongFd("a VFIO PCI device"))
}
