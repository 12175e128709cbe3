// SPDX-License-Identifier: GPL-2.0
//! Page faults: single ones, and sequential reads of a whole BAR.

use guest::prelude::*;

use crate::life::scattered;
use crate::measure::{cost, median, touch, walk};
use crate::{Rows, Unit};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const SMALL: usize = PAGE as usize;
const MIDDLE: usize = BLOCK as usize;

/// Measures faults of 2 MiB and 4 KiB, on the display.
pub fn small_and_middle(device: &Device, ours: bool, rows: &mut Rows) -> Result<()> {
    let bar = device.region(0)?.offset;
    let big = Mapping::aligned(device, 128 * MIB, bar)?;
    let fault = median(64, |n| cost(|| touch(big.address() + n * MIDDLE)))?;
    rows.push(("fault_block", Unit::Instructions, fault));
    drop(big);

    // Address and offset differ by a page, so only entries of 4 KiB fit.
    let odd = Mapping::aligned(device, 64 * MIB, bar + PAGE)?;
    (0..32).try_for_each(|table| touch(odd.address() + table * MIDDLE))?;
    let fault = median(500, |n| {
        // Every 64 KiB, except for the pages that were touched to make the page tables.
        let (table, slot) = (n / 31, 1 + n % 31);
        cost(|| touch(odd.address() + table * MIDDLE + slot * (64 << 10)))
    })?;
    rows.push(("fault_page", Unit::Instructions, fault));
    drop(odd);

    let odd = Mapping::aligned(device, 64 * MIB, bar + PAGE)?;
    walk_all(&odd, "touch_pages", "touch_pages_faults", rows)?;
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
    walk_all(&Mapping::aligned(&buffer, 64 * MIB, 0)?, "touch_wc", "touch_wc_faults", rows)
}

fn many_ranges(device: &Device, rows: &mut Rows) -> Result<()> {
    let buffer = scattered(16384).make(device)?;
    let mapping = Mapping::aligned(&buffer, 16384 * PAGE, 0)?;
    let last = mapping.address() + 16383 * SMALL;
    rows.push(("last_of_16384", Unit::Instructions, cost(|| touch(last))?));
    drop(mapping);
    let mapping = Mapping::aligned(&buffer, 16384 * PAGE, 0)?;
    walk_all(&mapping, "touch_16384", "touch_16384_faults", rows)
}

/// Measures faults of 1 GiB, on the test device.
pub fn huge(device: &Device, rows: &mut Rows) -> Result<()> {
    let index = (0..6)
        .find(|&index| device.region(index).is_ok_and(|region| region.size >= GIB))
        .unwrap_or(0);
    let region = device.region(index)?;
    ensure!(region.size >= GIB, "no BAR of 1 GiB");
    let address = mm::map_gigabyte_aligned(device.raw(), GIB, mm::RW, region.offset)?;
    let aligned = Mapping::from_raw(address, GIB);
    walk_all(&aligned, "touch_blocks", "touch_blocks_faults", rows)?;
    drop(aligned);
    let odd = Mapping::aligned(device, GIB - PAGE, region.offset + PAGE)?;
    walk_all(&odd, "touch_blocks_odd", "touch_blocks_odd_faults", rows)
}
