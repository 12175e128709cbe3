// SPDX-License-Identifier: GPL-2.0
//! The cost of disabling and enabling the device's memory.

use std::os::unix::fs::FileExt;

use guest::prelude::*;

use crate::life::touched;
use crate::measure::{cost, median, touch};
use crate::{Rows, Unit};

const COUNT: u64 = 1000;

/// Writes the command register; returns the instructions of the write.
fn set_memory(device: &Device, on: bool) -> Result<u64> {
    let command = u64::from(uapi::PCI_COMMAND);
    let bit = uapi::PCI_COMMAND_MEMORY as u16;
    let old = device.config16(command)?;
    let new = if on { old | bit } else { old & !bit };
    let place = device.region(uapi::VFIO_PCI_CONFIG_REGION_INDEX)?.offset + command;
    let file = File::from(device.as_fd().try_clone_to_owned()?);
    cost(|| file.write_all_at(&new.to_le_bytes(), place))
}

/// The medians of disabling and enabling memory. `again` touches the mappings after each round.
fn off_and_on(device: &Device, mut again: impl FnMut() -> Result<()>) -> Result<(u64, u64)> {
    let mut on = Vec::new();
    let off = median(11, |_| {
        let off = set_memory(device, false)?;
        on.push(set_memory(device, true)?);
        again()?;
        Ok(off)
    })?;
    on.sort_unstable();
    Ok((off, on[on.len() / 2]))
}

/// Measures both without buffers, with a thousand mapped and with a thousand exported ones.
pub fn disable_and_enable(device: &Device, ours: bool, rows: &mut Rows) -> Result<()> {
    let (off, _) = off_and_on(device, || Ok(()))?;
    rows.push(("memoff_0", Unit::Instructions, off));

    let bars = (0..COUNT)
        .map(|n| device.map_bar_part(0, n * 2 * PAGE, PAGE))
        .collect::<Result<Vec<_>, _>>()?;
    let touch_bars = || bars.iter().try_for_each(|mapping| touch(mapping.address()));
    touch_bars()?;
    let (bars_off, bars_on) = off_and_on(device, touch_bars)?;
    rows.push(("memoff_1000_bar_maps", Unit::Instructions, bars_off));
    drop(bars);

    // In-tree has only BAR mappings: their figures are compared with those of our mapped buffers.
    let (off, on) = if ours {
        let all = touched(device, COUNT)?;
        off_and_on(device, || all.iter().try_for_each(|(_, mapping)| touch(mapping.address())))?
    } else {
        (bars_off, bars_on)
    };
    rows.push(("memoff_1000_mapped", Unit::Instructions, off));
    rows.push(("memon_1000", Unit::Instructions, on));

    let exported = (0..COUNT)
        .map(|n| Buffer::export(device, 0, n * 2 * PAGE, PAGE))
        .collect::<Result<Vec<_>, _>>()?;
    let (off, on) = off_and_on(device, || Ok(()))?;
    rows.push(("memoff_1000_exported", Unit::Instructions, off));
    rows.push(("memon_1000_exported", Unit::Instructions, on));
    drop(exported);
    Ok(())
}
