// SPDX-License-Identifier: GPL-2.0
//! Hostile user space: what the fuzzer cannot hit by chance, or could not tell if it did.

use anyhow::Result;
use guest::device::{Device, Via};
use guest::mm;
use guest::pci::EDU;
use guest::{Errno, PAGE};

use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{edu, export_edu, open_edu, wait_for, ID, ID_AT};

cases! {
    Setup::Bound(&[EDU]) =>
        bar_mapping_is_dead_when_somebody_else_opens_the_device,
        remap_file_pages_of_a_mapping_of_a_buffer_stays_in_the_buffer;
}

/// It calls mmap() of the file that is under the mapping, past the device fd. What that made would
/// not keep the device open, and be there when somebody else opens it.
fn bar_mapping_is_dead_when_somebody_else_opens_the_device() -> Result<()> {
    let device = open_edu()?;
    let bar = device.map_bar_part(0, 0, 2 * PAGE)?;
    check::value("id register", bar.load(ID_AT), ID)?;
    let remapped = mm::remap_file_pages(bar.address(), PAGE, 0);
    bar.unmap_part(PAGE, PAGE)?;
    device.close();
    if remapped.is_err() {
        bar.unmap_part(0, PAGE)?;
    }
    let mut next = None;
    wait_for("the device can be opened again", || {
        next = Device::open(&edu()?, Via::Group).ok();
        Ok(next.is_some())
    })?;
    check::segv("load through the old mapping", bar.load(ID_AT))?;
    check::errno("remap_file_pages", remapped, Errno::EINVAL)
}

fn remap_file_pages_of_a_mapping_of_a_buffer_stays_in_the_buffer() -> Result<()> {
    let device = open_edu()?;
    let buffer = export_edu(&device)?;
    let mapping = buffer.map(0, PAGE)?;
    check::works("to page 0", mm::remap_file_pages(mapping.address(), PAGE, 0))?;
    check::value("id register", mapping.load(ID_AT), ID)?;
    for page in [1, 2, 1 << 28, (1 << 52) - 1] {
        let got = mm::remap_file_pages(mapping.address(), PAGE, page);
        check::errno(&format!("to page {page:#x}"), got, Errno::EINVAL)?;
        let again = buffer.map(0, PAGE)?;
        check::value("id register of another mapping", again.load(ID_AT), ID)?;
    }
    Ok(())
}
