// SPDX-License-Identifier: GPL-2.0
//! The cost of mmap, export and revoke.

use guest::feature::Call;
use guest::meminfo::slabs;
use guest::prelude::*;

use crate::measure::{cost, faults, median, touch};
use crate::{Rows, Unit};

/// Counts mmap() and munmap() of a page.
fn map_and_unmap(fd: impl AsFd, offset: u64) -> Result<u64> {
    let fd = fd.as_fd().as_raw_fd();
    cost(|| {
        let address = mm::map(fd, PAGE, mm::RW, mm::SHARED, offset)?;
        mm::unmap(address, PAGE)
    })
}

/// Measures mmap of a page through the device fd and a dma-buf, and the kernel memory of a mapping.
pub fn mappings(device: &Device, ours: bool, rows: &mut Rows) -> Result<()> {
    let bar = device.region(0)?.offset;
    let cost = median(101, |_| map_and_unmap(device, bar))?;
    rows.push(("bar_mmap", Unit::Instructions, cost));
    if ours {
        let buffer = Buffer::export(device, 0, 0, PAGE)?;
        let cost = median(101, |_| map_and_unmap(&buffer, 0))?;
        rows.push(("buf_mmap", Unit::Instructions, cost));
    }
    // With so many mappings, objects that the slabs still hold from earlier ones do not matter.
    const MAPPINGS: u64 = 40_000;
    let before = slabs()?;
    let all = (0..MAPPINGS)
        .map(|n| device.map_bar_part(0, n * PAGE, PAGE))
        .collect::<Result<Vec<_>, _>>()?;
    rows.push(("slab_per_bar_map", Unit::Bytes, (slabs()? - before) / MAPPINGS));
    drop(all);
    Ok(())
}

/// An export of `ranges` ranges of one page, none adjacent to another.
pub fn scattered(ranges: u64) -> Export {
    let ranges: Vec<Range> = (0..ranges).map(|n| Range(n * 2 * PAGE, PAGE)).collect();
    Export::new(0, &ranges)
}

/// Measures export and close.
pub fn exports(device: &Device, rows: &mut Rows) -> Result<()> {
    for (row, ranges) in [("export_1", 1), ("export_4096_ranges", 4096)] {
        let mut call = scattered(ranges).call().prepared();
        let cost = median(101, |_| cost(|| call.make(device).map(raw::close)))?;
        rows.push((row, Unit::Instructions, cost));
    }
    Ok(())
}

/// Exports, maps and touches `count` buffers of one page.
pub fn touched(device: &Device, count: u64) -> Result<Vec<(Buffer, Mapping)>> {
    let mut all = Vec::new();
    for n in 0..count {
        let buffer = Buffer::export(device, 0, n * 2 * PAGE, PAGE)?;
        let mapping = buffer.map(0, PAGE)?;
        touch(mapping.address())?;
        all.push((buffer, mapping));
    }
    Ok(all)
}

fn revoke_one(device: &Device, offset: u64) -> Result<u64> {
    let buffer = Buffer::export(device, 0, offset, PAGE)?;
    let mapping = buffer.map(0, PAGE)?;
    touch(mapping.address())?;
    let fd = buffer.raw() as u32;
    let call = Call::new(feature::SET | uapi::VFIO_DMABUF_REVOKE, vec![fd]);
    let mut call = call.prepared();
    cost(|| call.make(device))
}

/// Measures the revocation of one touched page, alone and among a thousand others.
pub fn revokes(device: &Device, rows: &mut Rows) -> Result<()> {
    let far = 4096 * PAGE;
    let cost = median(51, |_| revoke_one(device, far))?;
    rows.push(("revoke_1", Unit::Instructions, cost));
    let others = touched(device, 1000)?;
    let cost = median(51, |_| revoke_one(device, far))?;
    rows.push(("revoke_1_among_1000", Unit::Instructions, cost));
    let before = faults();
    others.iter().try_for_each(|(_, mapping)| touch(mapping.address()))?;
    rows.push(("revoke_innocent", Unit::Faults, faults() - before));
    Ok(())
}
