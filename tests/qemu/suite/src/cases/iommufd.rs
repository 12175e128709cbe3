// SPDX-License-Identifier: GPL-2.0
//! DMA through an iommufd: what it maps of a device's memory, and what not.

use super::container::{Dma, IOVA};
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "type 1 maps BARs for other devices; iommufd maps only what was exported for it": [
            iommufd_maps_neither_a_mapping_nor_a_buffer, fd_for_iommufd_is_no_buffer,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "type 1 maps BARs for other devices; iommufd maps only what was exported for it": [
            iommufd_maps_the_memory_of_another_device,
        ];
}

const FLAGS: u32 = uapi::IOMMU_IOAS_MAP_FIXED_IOVA
    | uapi::IOMMU_IOAS_MAP_READABLE
    | uapi::IOMMU_IOAS_MAP_WRITEABLE;

/// A device that has an address space of an iommufd.
pub(super) struct Attached {
    pub(super) device: Device,
    ioas: u32,
}

impl Attached {
    pub(super) fn new() -> Result<Attached> {
        let device = Device::open(&edu()?, Via::Cdev)?;
        let ioas = device.attach_ioas()?;
        Ok(Attached { device, ioas })
    }

    /// Maps a page of this process.
    pub(super) fn map(&self, memory: &Mapping, iova: u64) -> Result<(), Errno> {
        let mut arg = uapi::iommu_ioas_map {
            size: size_of::<uapi::iommu_ioas_map>() as u32,
            flags: FLAGS,
            ioas_id: self.ioas,
            user_va: memory.address() as u64,
            length: PAGE,
            iova,
            ..Default::default()
        };
        self.device.iommufd_ioctl(uapi::IOMMU_IOAS_MAP, &mut arg)
    }

    /// Maps a page of a file.
    pub(super) fn map_file(&self, fd: RawFd, iova: u64) -> Result<(), Errno> {
        /// `IOMMU_IOAS_MAP_FILE`, which headers before 6.13 do not have.
        const MAP_FILE: u32 = uapi::IOMMU_IOAS_MAP + 0x8f - 0x85;
        let mut arg = [40, FLAGS, self.ioas, fd as u32, 0, 0, PAGE as u32, 0, iova as u32, 0];
        self.device.iommufd_ioctl(MAP_FILE, &mut arg)
    }
}

/// A page of a BAR, for iommufd.
pub(super) fn export_for_iommufd(device: &Device, page: u64) -> Result<Buffer, Errno> {
    let mut call = Export::new(0, &[Range(page * PAGE, PAGE)]).call();
    call.flags = feature::GET | uapi::VFIO_DMABUF_IOMMUFD;
    Buffer::by_call(device, &mut call)
}

/// iommufd wants pages, which a mapping of a BAR has not, or a dma-buf of the core's own exporter.
fn iommufd_maps_neither_a_mapping_nor_a_buffer() -> Result<()> {
    let attached = Attached::new()?;
    let device = &attached.device;
    let buffer = export_edu(device)?;
    let (bar, mapping) = (device.map_bar_part(0, 0, PAGE)?, buffer.map(0, PAGE)?);
    check::works("memory", attached.map(&Mapping::anonymous(PAGE)?, IOVA))?;
    check::errno("a BAR mapping", attached.map(&bar, IOVA + PAGE), Errno::EFAULT)?;
    check::errno("a buffer's mapping", attached.map(&mapping, IOVA + PAGE), Errno::EFAULT)?;
    let got = attached.map_file(buffer.raw(), IOVA + PAGE);
    check::errno("a buffer's fd", got, Errno::EOPNOTSUPP)?;
    check::works("REVOKE", buffer::revoke(device, &buffer))
}

fn fd_for_iommufd_is_no_buffer() -> Result<()> {
    let device = Device::open(&edu()?, Via::Group)?;
    let probe = feature::probe(&device, uapi::VFIO_DMABUF_IOMMUFD, feature::GET);
    check::works("probe", probe)?;
    let fd = check::works("export for iommufd", export_for_iommufd(&device, 0))?;
    check::errno("mmap", fd.map(0, PAGE), Errno::EINVAL)?;
    check::errno("REVOKE", buffer::revoke(&device, &fd), Errno::ENODEV)?;
    check::errno("INFO", buffer::info(&device, fd.raw()), Errno::ENODEV)
}

fn iommufd_maps_the_memory_of_another_device() -> Result<()> {
    let other = Device::open(&nth(BOCHS, 0)?, Via::Cdev)?;
    let memory = other.map_bar_part(0, 0, 8 * PAGE)?;
    (0..8).try_for_each(|page| memory.store(page * PAGE, 0))?;
    let fd = check::works("export for iommufd", export_for_iommufd(&other, 3))?;

    let attached = Attached::new()?;
    let dma = Dma::of(&attached.device)?;
    let source = Mapping::anonymous(PAGE)?;
    check::works("map memory", attached.map(&source, IOVA))?;
    check::works("map the fd", attached.map_file(fd.raw(), IOVA + PAGE))?;
    let write = |value| -> Result<()> {
        source.store(0, value)?;
        dma.copy(IOVA, IOVA + PAGE)
    };
    let holds = |when: &str, value| -> Result<()> {
        for page in 0..8 {
            let want = if page == 3 { value } else { 0 };
            check::value(&format!("page {page} {when}"), memory.load(page * PAGE), want)?;
        }
        Ok(())
    };
    write(1)?;
    holds("after DMA", 1)?;
    other.renew_memory()?;
    write(2)?;
    holds("after DMA since memory was off", 1)?;
    check::works("map the fd again", attached.map_file(fd.raw(), IOVA + 2 * PAGE))?;
    let mut call = Export::new(0, &[Range(0, PAGE), Range(2 * PAGE, PAGE)]).call();
    call.flags = feature::GET | uapi::VFIO_DMABUF_IOMMUFD;
    let two = check::works("export of two ranges", Buffer::by_call(&other, &mut call))?;
    let got = attached.map_file(two.raw(), IOVA + 3 * PAGE);
    check::errno("map of two ranges", got, Errno::EOPNOTSUPP)
}
