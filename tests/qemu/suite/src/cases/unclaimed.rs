// SPDX-License-Identifier: GPL-2.0
//! BARs that the core has not claimed as memory: of another owner, and of I/O ports.

use anyhow::Result;
use guest::buffer::Buffer;
use guest::device::{Device, Via};
use guest::mm;
use guest::pci::{Pci, EDU, TESTDEV};
use guest::testmod::Claim;
use guest::{uapi, Errno, PAGE};

use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::in_tree;
use crate::fixture::{driver, edu, export_edu, nth, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        "BAR of another owner, or of I/O ports: export is ENODEV, mmap is as in-tree": [
            bar_of_another_owner_cannot_be_exported,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "BAR of another owner, or of I/O ports: export is ENODEV, mmap is as in-tree": [
            bar_of_io_ports_cannot_be_exported,
        ];
}

/// pci-testdev: BAR0 is a page of memory, BAR1 has I/O ports.
const IO_BAR: u32 = 1;

/// What mmap of a BAR says with the in-tree driver, and with this one.
fn mmap_is_refused_as_in_tree(pci: &Pci, bar: u32, want: Errno) -> Result<()> {
    in_tree()?.load()?;
    for name in ["vfio-pci".to_string(), driver()] {
        pci.bind(&name)?;
        let device = Device::open(pci, Via::Group)?;
        let offset = device.region(bar)?.offset;
        let mapped = mm::map(device.raw(), PAGE, mm::RW, mm::SHARED, offset);
        check::errno(&format!("mmap with {name}"), mapped, want)?;
    }
    Ok(())
}

fn bar_of_another_owner_cannot_be_exported() -> Result<()> {
    let pci = edu()?;
    let claim = Claim::of(&pci, 0)?;
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        check::errno("export", Buffer::export(&device, 0, 0, PAGE), Errno::ENODEV)?;
    }
    mmap_is_refused_as_in_tree(&pci, 0, Errno::EBUSY)?;
    // The core claims the BARs of a device when that is opened.
    let device = Device::open(&pci, Via::Group)?;
    drop(claim);
    check::errno("export, too late", Buffer::export(&device, 0, 0, PAGE), Errno::ENODEV)?;
    drop(device);
    let device = Device::open(&pci, Via::Group)?;
    check::value("buffer", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)?;
    check::value("BAR", device.map_bar(0)?.load(ID_AT), ID)
}

fn bar_of_io_ports_cannot_be_exported() -> Result<()> {
    let pci = nth(TESTDEV, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let ports = device.region(IO_BAR)?;
    check::equal("has ports", ports.size > 0, true)?;
    let mappable = ports.flags & uapi::VFIO_REGION_INFO_FLAG_MMAP != 0;
    check::equal("says that it can be mapped", mappable, false)?;
    for len in [PAGE, ports.size] {
        let export = Buffer::export(&device, IO_BAR, 0, len);
        check::errno(&format!("export of {len:#x}"), export, Errno::ENODEV)?;
    }
    check::works("export of memory", Buffer::export(&device, 2, 0, PAGE))?;
    drop(device);
    mmap_is_refused_as_in_tree(&pci, IO_BAR, Errno::EINVAL)
}
