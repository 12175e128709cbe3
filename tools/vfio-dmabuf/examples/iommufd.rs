// SPDX-License-Identifier: GPL-2.0
//! Memory of one device for DMA of another through iommufd, as a VMM does it: `iommufd 0000:01:00.0
//! 0000:02:00.0`, QEMU's bochs-display and edu.

use std::env;
use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use iommufd_bindings::iommufd::{
    iommu_ioas_alloc, iommu_ioas_map_file, iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE,
    iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
};
use vfio_bindings::bindings::vfio::{vfio_device_attach_iommufd_pt, VFIO_BASE, VFIO_TYPE};
use vfio_dmabuf::{Access, Buffer, Device, Errno, Iommu, Via};

const PAGE: u64 = 4096;
/// The address of the pages for edu, which reaches 28 bits.
const IOVA: u64 = 0x10_0000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [memory, edu] = &arguments[..] else { return Err("usage: iommufd MEMORY EDU".into()) };

    let owner = Device::open_via(memory.parse()?, Via::Cdev)?;
    let pages = owner.map_bar(0, 0, 4 * PAGE, Access::ReadWrite)?;
    for page in 0..4 {
        pages.write(page * PAGE, 0x600d_0000 | page)?;
    }
    let fd = owner.export(0).range(PAGE, 3 * PAGE).create_for_iommufd()?;

    let device = Device::open_via(edu.parse()?, Via::Cdev)?;
    let space = Space::of(&device)?;
    space.map_file(fd.as_fd(), 3 * PAGE, IOVA)?;
    copy_page(&device, IOVA, IOVA + 2 * PAGE)?;
    for (page, from) in [(0, 0), (1, 1), (2, 2), (3, 1)] {
        assert_eq!(pages.read::<u64>(page * PAGE)?, 0x600d_0000 | from, "page {page}");
    }
    println!("{edu} copied a page of {memory} to another");

    // The fd is not a buffer, and iommufd does not accept a buffer.
    let refused = owner.export(0).range(0, 100).create_for_iommufd().unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::INVAL), "{refused}");
    let no_buffer = Buffer::from_fd(fd)?;
    let refused = no_buffer.map(Access::Read).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::INVAL), "{refused}");
    let refused = owner.revoke(&no_buffer).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::NODEV), "{refused}");
    let buffer = owner.export(0).range(PAGE, PAGE).create()?;
    let refused = space.map_file(buffer.as_fd(), PAGE, 2 * IOVA).unwrap_err();
    println!("iommufd and a buffer: {refused}");
    Ok(())
}

/// An address space of an iommufd.
struct Space<'a> {
    iommufd: BorrowedFd<'a>,
    id: u32,
}

impl Space<'_> {
    /// Creates one and attaches `device`.
    fn of(device: &Device) -> io::Result<Space<'_>> {
        let Iommu::Iommufd(iommufd) = device.iommu() else { unreachable!() };
        let size = size_of::<iommu_ioas_alloc>() as u32;
        let mut alloc = iommu_ioas_alloc { size, ..Default::default() };
        ioctl(iommufd, IOMMU_IOAS_ALLOC, &mut alloc)?;
        let id = alloc.out_ioas_id;
        let argsz = size_of::<vfio_device_attach_iommufd_pt>() as u32;
        let mut attach = vfio_device_attach_iommufd_pt { argsz, pt_id: id, ..Default::default() };
        ioctl(device.as_fd(), VFIO_DEVICE_ATTACH_IOMMUFD_PT, &mut attach)?;
        Ok(Space { iommufd, id })
    }

    /// Maps the first `length` bytes of a file at `iova`.
    fn map_file(&self, file: BorrowedFd<'_>, length: u64, iova: u64) -> io::Result<()> {
        let mut map = iommu_ioas_map_file {
            size: size_of::<iommu_ioas_map_file>() as u32,
            flags: iommufd_ioas_map_flags_IOMMU_IOAS_MAP_FIXED_IOVA
                | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_READABLE
                | iommufd_ioas_map_flags_IOMMU_IOAS_MAP_WRITEABLE,
            ioas_id: self.id,
            fd: file.as_raw_fd(),
            start: 0,
            length,
            iova,
        };
        ioctl(self.iommufd, IOMMU_IOAS_MAP_FILE, &mut map)
    }
}

// VFIO and iommufd share the ioctl type.
const VFIO_DEVICE_ATTACH_IOMMUFD_PT: u32 = VFIO_BASE + 19;
const IOMMU_IOAS_ALLOC: u32 = 0x81;
const IOMMU_IOAS_MAP_FILE: u32 = 0x8f;

/// An ioctl of VFIO or iommufd, whose argument starts with its size.
fn ioctl<T>(fd: BorrowedFd<'_>, number: u32, arg: &mut T) -> io::Result<()> {
    let request = (libc::Ioctl::from(VFIO_TYPE) << 8) | libc::Ioctl::from(number);
    // SAFETY: The kernel accesses as many bytes as the size in `arg` says, which are those of
    // `arg`.
    match unsafe { libc::ioctl(fd.as_raw_fd(), request, arg) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Makes edu's DMA engine copy a page through its own memory.
fn copy_page(edu: &Device, from: u64, to: u64) -> Result<(), Box<dyn Error>> {
    const OWN: u64 = 0x4_0000;
    const START: u32 = 1;
    const OUT: u32 = 2;
    // Enables memory and bus mastering in the command register.
    let config = File::from(edu.as_fd().try_clone_to_owned()?);
    config.write_all_at(&6_u16.to_le_bytes(), (7 << 40) + 4)?;
    let registers = edu.map_bar(0, 0, PAGE, Access::ReadWrite)?;
    for (from, to, command) in [(from, OWN, START), (OWN, to, START | OUT)] {
        registers.write(0x80, from as u32)?;
        registers.write(0x88, to as u32)?;
        registers.write(0x90, PAGE as u32)?;
        registers.write(0x98, command)?;
        while registers.read::<u32>(0x98)? & START != 0 {
            std::thread::yield_now();
        }
    }
    Ok(())
}
