// SPDX-License-Identifier: GPL-2.0
//! A VFIO device, opened in either of the two ways.

use std::fs::OpenOptions;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;

use crate::prelude::*;
use crate::sys::{ioctl, ioctl_with};

/// How a VFIO device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// `/dev/vfio/GROUP` and a type 1 container.
    Group,
    /// `/dev/vfio/devices/vfioN` and an iommufd.
    Cdev,
}

impl Via {
    /// The ways that the kernel offers: not every one has cdevs (`CONFIG_VFIO_DEVICE_CDEV`).
    pub fn all() -> &'static [Via] {
        let numbers = fs::read_to_string("/proc/devices").unwrap_or_default();
        if numbers.lines().any(|line| line.ends_with(" vfio-dev")) {
            &[Via::Group, Via::Cdev]
        } else {
            &[Via::Group]
        }
    }

    /// The last of [`Via::all`].
    pub fn newest() -> Via {
        if Via::all().contains(&Via::Cdev) {
            Via::Cdev
        } else {
            Via::Group
        }
    }

    /// They take turns.
    pub fn in_turn(round: usize) -> Via {
        Via::all()[round % Via::all().len()]
    }
}

/// Where a region is in the device file.
#[derive(Clone, Copy, Debug)]
pub struct Region {
    /// `VFIO_REGION_INFO_FLAG_*`.
    pub flags: u32,
    /// Bytes; 0 if the device has no such region.
    pub size: u64,
    /// Offset in the device file.
    pub offset: u64,
}

/// An open VFIO device.
#[derive(Debug)]
pub struct Device {
    file: File,
    /// What has to stay open besides the device's fd: group and container, or the iommufd.
    /// A case that wants another order of closing takes them from here.
    pub holders: Vec<OwnedFd>,
}

impl Device {
    /// Opens the device at `pci`.
    pub fn open(pci: &Pci, via: Via) -> Result<Device> {
        match via {
            Via::Group => Device::open_group(pci, ""),
            Via::Cdev => Device::open_cdev(pci),
        }
        .with_context(|| format!("open {pci} via {via:?}"))
    }

    /// Opens a virtual function through its group, with the token of its physical function.
    pub fn open_with_token(pci: &Pci, token: &str) -> Result<Device> {
        Device::open_group(pci, &format!(" vf_token={token}"))
            .with_context(|| format!("open {pci} with token {token}"))
    }

    fn open_group(pci: &Pci, options: &str) -> Result<Device> {
        let container = open("/dev/vfio/vfio")?;
        let group = open(&format!("/dev/vfio/{}", pci.group()?))?;
        let version = ioctl(container.as_raw_fd(), uapi::VFIO_GET_API_VERSION, 0)?;
        ensure!(version == uapi::VFIO_API_VERSION as i32, "VFIO API version is {version}");

        let mut number = container.as_raw_fd();
        ioctl_with(group.as_raw_fd(), uapi::VFIO_GROUP_SET_CONTAINER, &mut number)
            .context("VFIO_GROUP_SET_CONTAINER")?;
        let model = uapi::VFIO_TYPE1v2_IOMMU as usize;
        ioctl(container.as_raw_fd(), uapi::VFIO_SET_IOMMU, model).context("VFIO_SET_IOMMU")?;

        let file = from_group(pci, &group, options)?;
        Ok(Device { file, holders: vec![group.into(), container.into()] })
    }

    fn open_cdev(pci: &Pci) -> Result<Device> {
        let iommufd = open("/dev/iommu")?;
        let file = from_cdev(pci, &iommufd)?;
        Ok(Device { file, holders: vec![iommufd.into()] })
    }

    /// Opens another device of the same IOMMU group, through what holds this one.
    pub fn open_sibling(&self, pci: &Pci, via: Via) -> Result<Device> {
        Device::open_through(pci, via, &self.holders[0])
    }

    /// Opens a device through a group fd or an iommufd that is open.
    pub fn open_through(pci: &Pci, via: Via, holder: impl AsFd) -> Result<Device> {
        let file = match via {
            Via::Group => from_group(pci, holder, ""),
            Via::Cdev => from_cdev(pci, holder),
        };
        let file = file.with_context(|| format!("open {pci} via {via:?} of another"))?;
        Ok(Device { file, holders: Vec::new() })
    }

    /// A device fd that came from elsewhere.
    pub fn from_fd(fd: OwnedFd) -> Device {
        Device { file: fd.into(), holders: Vec::new() }
    }

    /// Another fd of the same open device.
    pub fn dup(&self) -> Result<Device> {
        Ok(Device { file: self.file.try_clone()?, holders: Vec::new() })
    }

    /// An ioctl of the device with a number for an argument.
    pub fn ioctl(&self, request: u32, arg: usize) -> Result<i32, Errno> {
        ioctl(self.raw(), request, arg)
    }

    /// An ioctl of the device with a structure.
    pub fn ioctl_with<T>(&self, request: u32, arg: &mut T) -> Result<i32, Errno> {
        ioctl_with(self.raw(), request, arg)
    }

    /// An ioctl of the container, for a device that was opened through its group.
    pub fn container_ioctl<T>(&self, request: u32, arg: &mut T) -> Result<(), Errno> {
        let container = self.holders.get(1).ok_or(Errno::ENOTCONN)?;
        ioctl_with(container.as_raw_fd(), request, arg).map(drop)
    }

    /// Maps memory of this process for the devices of the container, readable and writable.
    pub fn map_dma(&self, iova: u64, memory: &Mapping) -> Result<(), Errno> {
        let mut arg = uapi::vfio_iommu_type1_dma_map {
            argsz: size_of::<uapi::vfio_iommu_type1_dma_map>() as u32,
            flags: uapi::VFIO_DMA_MAP_FLAG_READ | uapi::VFIO_DMA_MAP_FLAG_WRITE,
            vaddr: memory.address() as u64,
            iova,
            size: memory.size(),
        };
        self.container_ioctl(uapi::VFIO_IOMMU_MAP_DMA, &mut arg)
    }

    /// An ioctl of the iommufd, for a device that was opened through its cdev.
    pub fn iommufd_ioctl<T>(&self, request: u32, arg: &mut T) -> Result<(), Errno> {
        ioctl_with(self.holders[0].as_raw_fd(), request, arg).map(drop)
    }

    /// Gives a device that was opened through its cdev an address space of its own; returns its id.
    pub fn attach_ioas(&self) -> Result<u32, Errno> {
        let mut alloc = uapi::iommu_ioas_alloc {
            size: size_of::<uapi::iommu_ioas_alloc>() as u32,
            ..Default::default()
        };
        self.iommufd_ioctl(uapi::IOMMU_IOAS_ALLOC, &mut alloc)?;
        let mut attach = uapi::vfio_device_attach_iommufd_pt {
            argsz: size_of::<uapi::vfio_device_attach_iommufd_pt>() as u32,
            pt_id: alloc.out_ioas_id,
            ..Default::default()
        };
        self.ioctl_with(uapi::VFIO_DEVICE_ATTACH_IOMMUFD_PT, &mut attach)?;
        Ok(alloc.out_ioas_id)
    }

    /// The device's fd.
    pub fn raw(&self) -> RawFd {
        self.file.as_raw_fd()
    }

    /// Where region `index` is.
    pub fn region(&self, index: u32) -> Result<Region, Errno> {
        let mut info = uapi::vfio_region_info {
            argsz: size_of::<uapi::vfio_region_info>() as u32,
            index,
            ..Default::default()
        };
        self.ioctl_with(uapi::VFIO_DEVICE_GET_REGION_INFO, &mut info)?;
        Ok(Region { flags: info.flags, size: info.size, offset: info.offset })
    }

    /// Maps all of BAR `index`, readable and writable.
    pub fn map_bar(&self, index: u32) -> Result<Mapping, Errno> {
        let size = self.region(index)?.size;
        self.map_bar_part(index, 0, size)
    }

    /// Maps `len` bytes from `offset` of BAR `index`, readable and writable.
    pub fn map_bar_part(&self, index: u32, offset: u64, len: u64) -> Result<Mapping, Errno> {
        Mapping::new(&self.file, len, mm::RW, self.region(index)?.offset + offset)
    }

    /// Reads from a region through the fd.
    pub fn read(&self, index: u32, offset: u64, bytes: &mut [u8]) -> Result<()> {
        Ok(self.file.read_exact_at(bytes, self.region(index)?.offset + offset)?)
    }

    /// Writes to a region through the fd.
    pub fn write(&self, index: u32, offset: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.file.write_all_at(bytes, self.region(index)?.offset + offset)?)
    }

    /// Reads two bytes of configuration space, as VFIO shows it.
    pub fn config16(&self, offset: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        self.read(uapi::VFIO_PCI_CONFIG_REGION_INDEX, offset, &mut bytes)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes two bytes of configuration space through VFIO.
    pub fn set_config16(&self, offset: u64, value: u16) -> Result<()> {
        self.write(uapi::VFIO_PCI_CONFIG_REGION_INDEX, offset, &value.to_le_bytes())
    }

    /// Sets or clears the memory bit of PCI_COMMAND.
    pub fn set_memory(&self, on: bool) -> Result<()> {
        let (offset, bit) = (u64::from(uapi::PCI_COMMAND), uapi::PCI_COMMAND_MEMORY as u16);
        let old = self.config16(offset)?;
        let new = if on { old | bit } else { old & !bit };
        self.set_config16(offset, new)?;
        let now = self.config16(offset)?;
        ensure!((now & bit != 0) == on, "PCI_COMMAND is {now:#06x} after writing {new:#06x}");
        Ok(())
    }

    /// Disables and enables memory, which takes away all entries.
    pub fn renew_memory(&self) -> Result<()> {
        self.set_memory(false)?;
        self.set_memory(true)
    }

    /// VFIO_DEVICE_RESET.
    pub fn reset(&self) -> Result<(), Errno> {
        self.ioctl(uapi::VFIO_DEVICE_RESET, 0).map(drop)
    }

    /// Closes the device's fd and gives back what else was open.
    pub fn close(self) -> Vec<OwnedFd> {
        self.holders
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn from_group(pci: &Pci, group: impl AsFd, options: &str) -> Result<File> {
    let mut name = [0u8; 80];
    let text = format!("{}{options}", pci.address());
    name[..text.len()].copy_from_slice(text.as_bytes());
    let group = group.as_fd().as_raw_fd();
    let fd = ioctl_with(group, uapi::VFIO_GROUP_GET_DEVICE_FD, &mut name)
        .context("VFIO_GROUP_GET_DEVICE_FD")?;
    Ok(raw::own(fd).into())
}

fn from_cdev(pci: &Pci, iommufd: impl AsFd) -> Result<File> {
    let file = open(&format!("/dev/vfio/devices/{}", pci.vfio_name()?))?;
    let mut bind = uapi::vfio_device_bind_iommufd {
        argsz: size_of::<uapi::vfio_device_bind_iommufd>() as u32,
        iommufd: iommufd.as_fd().as_raw_fd(),
        ..Default::default()
    };
    ioctl_with(file.as_raw_fd(), uapi::VFIO_DEVICE_BIND_IOMMUFD, &mut bind)
        .context("VFIO_DEVICE_BIND_IOMMUFD")?;
    Ok(file)
}

fn open(path: &str) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(Path::new(path))
        .with_context(|| format!("open {path}"))
}
