// SPDX-License-Identifier: GPL-2.0
//! Options of an export: `attributes 0000:01:00.0`, a device whose BAR 0 is memory of 64 KiB or
//! more (QEMU's bochs-display).
//!
//! Several ranges in one buffer, write-combining, read-only buffers, and their descriptions.

use std::env;
use std::error::Error;
use std::path::Path;

use vfio_dmabuf::{Access, AccessError, Attribute, Device, Errno, Info, Status, Via};

const PAGE: u64 = 4096;

fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).ok_or("usage: attributes ADDRESS")?.parse()?;
    let cdevs = Path::new("/dev/vfio/devices").exists();
    for via in [Some(Via::Group), cdevs.then_some(Via::Cdev)].into_iter().flatten() {
        let device = Device::open_via(address, via)?;
        assert!(device.can_revoke());
        ranges(&device)?;
        attribute(&device)?;
        read_only(&device)?;
        refusals(&device)?;
        println!("{address} via {via:?}: all as it should be");
    }
    Ok(())
}

/// Ranges lie end to end in the given order.
fn ranges(device: &Device) -> Result<(), Box<dyn Error>> {
    let whole = device.map_bar(0, 0, 16 * PAGE, Access::ReadWrite)?;
    for page in 0..16_u64 {
        whole.write(page * PAGE, page)?;
    }
    let buffer = device.export(0).range(8 * PAGE, 2 * PAGE).range(3 * PAGE, PAGE).create()?;
    assert_eq!(buffer.size()?, 3 * PAGE);
    let mapping = buffer.map(Access::Read)?;
    for (at, page) in [(0, 8), (1, 9), (2, 3)] {
        assert_eq!(mapping.read::<u64>(at * PAGE)?, page);
    }
    let part = buffer.map_part(2 * PAGE, PAGE, Access::ReadWrite)?;
    part.write_slice(8, &[1_u8, 2, 3, 4])?;
    assert_eq!(whole.read::<u32>(3 * PAGE + 8)?, 0x0403_0201);
    Ok(())
}

/// The initial attribute and a later change, which affects later mappings only.
fn attribute(device: &Device) -> Result<(), Box<dyn Error>> {
    let export = device.export(0).range(0, PAGE).attribute(Attribute::WriteCombining);
    let buffer = export.create()?;
    let info =
        Info { status: Status::Live, attribute: Attribute::WriteCombining, ranges: 1, size: PAGE };
    assert_eq!(device.info(&buffer)?, info);
    let mapping = buffer.map(Access::ReadWrite)?;
    let values: Vec<u32> = (0..1024).collect();
    mapping.write_slice(0, &values)?;
    mapping.write_barrier();
    let mut read = vec![0_u32; 1024];
    mapping.read_slice(0, &mut read)?;
    assert_eq!(read, values);

    device.set_attribute(&buffer, Attribute::Uncached)?;
    assert_eq!(device.attribute(&buffer)?, Attribute::Uncached);
    assert!(device.revoke(&buffer)?);
    assert_eq!(device.info(&buffer)?.status, Status::Revoked);
    Ok(())
}

/// A read-only buffer, and a read-only mapping of a writable one.
fn read_only(device: &Device) -> Result<(), Box<dyn Error>> {
    let buffer = device.export(0).range(0, PAGE).read_only().create()?;
    assert!(buffer.is_read_only()?);
    let refused = buffer.map(Access::ReadWrite).unwrap_err();
    assert_eq!(refused.errno(), Some(Errno::ACCESS), "{refused}");
    let mapping = buffer.map(Access::Read)?;
    assert_eq!(mapping.write(0, 1_u8), Err(AccessError::ReadOnly));
    assert_eq!(mapping.read::<u32>(4)?, 1);
    Ok(())
}

/// Refused calls, each with the call and the errno.
fn refusals(device: &Device) -> Result<(), Box<dyn Error>> {
    let size = device.bar_size(0)?;
    let refused = [
        (device.export(0).create(), Errno::INVAL),
        (device.export(0).range(0, 100).create(), Errno::INVAL),
        (device.export(0).range(size, PAGE).create(), Errno::INVAL),
        (device.export(1).range(0, PAGE).create(), Errno::NODEV),
        (device.export(9).range(0, PAGE).create(), Errno::NODEV),
    ];
    for (result, errno) in refused {
        let error = result.unwrap_err();
        assert_eq!(error.errno(), Some(errno), "{error}");
    }
    let busy = Device::open(device.address()).unwrap_err();
    println!("a second open: {busy}");
    let nobody = Device::open("0000:ff:1f.7".parse()?).unwrap_err();
    println!("no device: {nobody}");
    Ok(())
}
