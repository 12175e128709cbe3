// SPDX-License-Identifier: GPL-2.0
//! Faults, and walks through BARs.

use anyhow::{ensure, Result};
use guest::buffer::{Buffer, Export, Range};
use guest::device::Device;
use guest::mm::{self, Mapping};
use guest::{uapi, PAGE};
use std::os::fd::{AsFd, AsRawFd};

use crate::measure::{count, median, touch, walk};
use crate::{Rows, Unit};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SMALL: usize = PAGE as usize;
const MIDDLE: usize = 2 << 20;

/// A mapping of `len` bytes from `offset` of `fd`, at a multiple of 2 MiB. With an offset of one
/// page no page larger than 4 KiB fits.
fn map(fd: impl AsFd, len: u64, offset: u64) -> Result<Mapping> {
    let address = mm::map_aligned(fd.as_fd().as_raw_fd(), len, mm::RW, offset)?;
    Ok(Mapping::from_raw(address, len))
}

/// With the display: 2 MiB and 4 KiB.
pub fn small_and_middle(device: &Device, ours: bool, rows: &mut Rows) -> Result<()> {
    let bar = device.region(0)?.offset;
    let big = map(device, 128 * MIB, bar)?;
    let fault = median(64, |n| {
        let (count, result) = count(|| touch(big.address() + n * MIDDLE));
        result.map(|()| count)
    })?;
    rows.push(("fault_2m", Unit::Instructions, fault));
    drop(big);

    let odd = map(device, 64 * MIB, bar + PAGE)?;
    (0..32).try_for_each(|table| touch(odd.address() + table * MIDDLE))?;
    let fault = median(500, |n| {
        // Every 64 KiB, but not where the page tables were made.
        let (table, slot) = (n / 31, 1 + n % 31);
        let address = odd.address() + table * MIDDLE + slot * (64 << 10);
        let (count, result) = count(|| touch(address));
        result.map(|()| count)
    })?;
    rows.push(("fault_4k", Unit::Instructions, fault));
    drop(odd);

    let odd = map(device, 64 * MIB, bar + PAGE)?;
    walk_all(&odd, "touch_4k", "touch_4k_faults", rows)?;
    if ours {
        write_combining(device, rows)?;
        many_ranges(device, rows)?;
    }
    Ok(())
}

fn walk_all(
    mapping: &Mapping,
    work: &'static str,
    faults: &'static str,
    rows: &mut Rows,
) -> Result<()> {
    let start = mapping.address();
    let (count, got) = walk(start, start + mapping.size() as usize, SMALL)?;
    rows.push((work, Unit::Instructions, count));
    rows.push((faults, Unit::Faults, got));
    Ok(())
}

fn write_combining(device: &Device, rows: &mut Rows) -> Result<()> {
    let mut export = Export::new(0, &[Range(PAGE, 64 * MIB)]);
    export.flags = uapi::VFIO_DMABUF_ATTR_WC;
    let buffer = export.make(device)?;
    walk_all(&map(&buffer, 64 * MIB, 0)?, "touch_wc", "touch_wc_faults", rows)
}

/// 16,384 ranges of a page each, none of which touches another.
fn scattered(device: &Device, count: u64) -> Result<Buffer> {
    let ranges: Vec<Range> = (0..count).map(|n| Range(n * 2 * PAGE, PAGE)).collect();
    Ok(Export::new(0, &ranges).make(device)?)
}

fn many_ranges(device: &Device, rows: &mut Rows) -> Result<()> {
    let buffer = scattered(device, 16384)?;
    let mapping = map(&buffer, 16384 * PAGE, 0)?;
    let last = mapping.address() + 16383 * SMALL;
    let (cold, result) = count(|| touch(last));
    result?;
    rows.push(("last_of_16384", Unit::Instructions, cold));
    drop(mapping);
    let mapping = map(&buffer, 16384 * PAGE, 0)?;
    walk_all(&mapping, "touch_16384", "touch_16384_faults", rows)
}

/// With the test device: 1 GiB.
pub fn huge(device: &Device, rows: &mut Rows) -> Result<()> {
    let index = (0..6)
        .find(|&index| device.region(index).is_ok_and(|region| region.size >= GIB))
        .unwrap_or(0);
    let region = device.region(index)?;
    ensure!(region.size >= GIB, "no BAR of 1 GiB");
    let address = mm::map_gigabyte_aligned(device.raw(), GIB, mm::RW, region.offset)?;
    let aligned = Mapping::from_raw(address, GIB);
    walk_all(&aligned, "touch_1g", "touch_1g_faults", rows)?;
    drop(aligned);
    let odd = map(device, GIB - PAGE, region.offset + PAGE)?;
    walk_all(&odd, "touch_1g_odd", "touch_1g_odd_faults", rows)
}
