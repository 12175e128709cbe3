// SPDX-License-Identifier: GPL-2.0
//! Slices of a device that a VMM has opened with rust-vmm's `vfio-ioctls`. Its container and its
//! DMA mappings stay as they are. `existing_device 0000:01:00.0`, QEMU's edu.

use std::env;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use vfio_dmabuf::{Access, AccessError, Device, Iommu};
use vfio_ioctls::{VfioContainer, VfioDevice};

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: existing_device ADDRESS")?;
    let container = Arc::new(VfioContainer::new(None)?);
    let path = Path::new("/sys/bus/pci/devices").join(&address);
    let theirs = Arc::new(VfioDevice::new(&path, container, true)?);

    let device = Device::from_rust_vmm(theirs.clone())?;
    assert_eq!(device.address().to_string(), address);
    assert!(matches!(device.iommu(), Iommu::Elsewhere));
    let slice = device.export(0).range(0, 4096).create()?;
    let registers = slice.map(Access::ReadWrite)?;
    registers.write(4, 5_u32)?;

    let mut word = [0; 4];
    theirs.region_read(0, &mut word, 4);
    assert_eq!(u32::from_le_bytes(word), !5, "both see the same register");
    device.revoke(&slice)?;
    assert_eq!(registers.read::<u32>(4), Err(AccessError::Lost { offset: 4 }));
    theirs.region_read(0, &mut word, 4);
    assert_eq!(u32::from_le_bytes(word), !5, "and the VMM's way there is not touched");

    // Another fd of the same device, as a process receives it from the owner.
    let copy = Device::from_fd(std::os::fd::AsFd::as_fd(&device).try_clone_to_owned()?)?;
    let slice = copy.export(0).range(0, 4096).create()?;
    drop(theirs);
    assert_eq!(slice.map(Access::Read)?.read::<u32>(0)?, 0x0100_00ed);
    assert!(device.revoke(&slice)?, "a buffer is the device's, whichever fd made it");
    println!("{address}: slices of a device of vfio-ioctls");
    Ok(())
}
