// SPDX-License-Identifier: GPL-2.0
//! Opening the device, and what the driver leaves to the VFIO core.

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "open: through the group and through the cdev": [
            device_opens_through_its_group => opens(Via::Group),
            device_opens_through_its_cdev => opens(Via::Cdev),
        ],
        "open: what the driver does not handle goes to the core": [
            device_info_and_regions_are_the_cores, registers_work_through_read_and_write,
            unknown_ioctl_is_enotty,
        ],
        "VFIO_DEVICE_RESET, sysfs reset: faults wait; the same mappings work afterwards": [
            reset_ioctl_works,
        ];
}

fn opens(via: Via) -> Result<()> {
    for round in 0..3 {
        let device = Device::open(&edu()?, via)?;
        let bar = check::works("mmap of BAR0", device.map_bar(0))?;
        check::value(&format!("id register, round {round}"), bar.load(ID_AT), ID)?;
    }
    Ok(())
}

fn device_info_and_regions_are_the_cores() -> Result<()> {
    let device = open_edu()?;
    let mut info = uapi::vfio_device_info {
        argsz: size_of::<uapi::vfio_device_info>() as u32,
        ..Default::default()
    };
    check::works("GET_INFO", device.ioctl_with(uapi::VFIO_DEVICE_GET_INFO, &mut info))?;
    let flags = uapi::VFIO_DEVICE_FLAGS_PCI | uapi::VFIO_DEVICE_FLAGS_RESET;
    ensure!(info.flags & flags == flags, "device flags are {:#x}", info.flags);
    check::equal("num_regions", info.num_regions, uapi::VFIO_PCI_NUM_REGIONS)?;

    let bar = device.region(0)?;
    check::equal("size of BAR0", bar.size, 1 << 20)?;
    check::equal("offset of BAR0", bar.offset, 0)?;
    let flags = uapi::VFIO_REGION_INFO_FLAG_READ
        | uapi::VFIO_REGION_INFO_FLAG_WRITE
        | uapi::VFIO_REGION_INFO_FLAG_MMAP;
    check::equal("flags of BAR0", bar.flags & flags, flags)?;
    check::equal("size of BAR1, which edu has not", device.region(1)?.size, 0)?;
    let config = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?;
    ensure!(config.size == 256 || config.size == 4096, "config space: {config:?}");
    check::equal("offset of config space", config.offset, 7 << 40)?;
    check::errno("region 99", device.region(99), Errno::EINVAL)
}

fn registers_work_through_read_and_write() -> Result<()> {
    let device = open_edu()?;
    let mut bytes = [0; 4];
    device.read(0, ID_AT, &mut bytes)?;
    check::equal("id register", u32::from_le_bytes(bytes), ID)?;
    device.write(0, INVERTER, &0x1234_5678_u32.to_le_bytes())?;
    device.read(0, INVERTER, &mut bytes)?;
    check::equal("inverter", u32::from_le_bytes(bytes), !0x1234_5678)?;
    check::equal("vendor id", device.config16(0)?, EDU.0)?;
    check::equal("device id", device.config16(2)?, EDU.1)
}

fn reset_ioctl_works() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    for round in 0..3 {
        check::works("VFIO_DEVICE_RESET", device.reset())?;
        check::value(&format!("id register after reset {round}"), bar.load(ID_AT), ID)?;
        bar.store(INVERTER, round)?;
        check::value("inverter", bar.load(INVERTER), !round)?;
    }
    Ok(())
}

fn unknown_ioctl_is_enotty() -> Result<()> {
    let device = open_edu()?;
    // The numbers on both sides of VFIO_DMABUF_IOCTL_REVOKE belong to others.
    let request = uapi::VFIO_DMABUF_IOCTL_REVOKE + 30;
    check::errno("an unknown ioctl", device.ioctl(request, 0), Errno::ENOTTY)
}
