// SPDX-License-Identifier: GPL-2.0
//! Mappings in all six regions of a device's offset space: what takes memory away reaches each.
//!
//! BAR `i` is in region `i`. A buffer's window is where no BAR is, and a new one comes after the
//! last one. Large buffers that are closed at once therefore move the next window into any region.

use std::os::fd::AsRawFd;

use anyhow::{ensure, Context, Result};
use guest::buffer::{self, Buffer, Export, Range};
use guest::device::{Device, Via};
use guest::host::{self, LinkError};
use guest::maps;
use guest::mm::Mapping;
use guest::pause::Pause;
use guest::pci::{Id, Pci, BOCHS, IGB};
use guest::ptes::Ptes;
use guest::{uapi, windows, Errno, PAGE};

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::nth;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "what takes memory away reaches mappings in every region of the offset space": [
            memory_off_reaches_every_region, low_power_reaches_every_region,
            resets_reach_every_region, link_error_reaches_every_region,
            last_close_reaches_every_region, revoke_reaches_one_buffer_in_any_region,
        ];
    Setup::Bound(&[IGB]) =>
        "what takes memory away reaches mappings in every region of the offset space": [
            d3hot_and_flr_reach_every_bar,
        ];
}

/// How many bytes of the offset space VFIO gives to each region.
const REGION: u64 = 1 << 40;
const REGIONS: u64 = 6;

/// A device with mappings, each of which has an entry.
struct Spread {
    pci: Pci,
    device: Device,
    /// A buffer in each region, the first one in region 0.
    buffers: Vec<Buffer>,
    /// A mapping of each buffer, then one of each BAR.
    mappings: Vec<Mapping>,
}

impl Spread {
    /// A bochs-display with a buffer in every region, and both of its BARs.
    fn new() -> Result<Spread> {
        let pci = nth(BOCHS, 0)?;
        let device = Device::open(&pci, Via::Group)?;
        let mut buffers = Vec::new();
        for _ in 0..REGIONS {
            fill_most_of_a_region(&device)?;
            buffers.push(Buffer::export(&device, 0, 0, PAGE)?);
        }
        let mut mappings = Vec::new();
        for buffer in &buffers {
            mappings.push(buffer.map(0, PAGE)?);
        }
        let spread = Spread { pci, device, buffers, mappings };
        let regions: Vec<u64> = spread.mappings.iter().map(region_of).collect::<Result<_>>()?;
        check::equal("regions of the buffers", regions, (0..REGIONS).collect())?;
        spread.with_bars(&[0, 2])
    }

    /// Only BARs of a device, and a buffer over the last of them.
    fn of_bars(id: Id, bars: &[u32]) -> Result<Spread> {
        let pci = nth(id, 0)?;
        let device = Device::open(&pci, Via::Group)?;
        let last = *bars.last().context("no BAR")?;
        let buffers = vec![Buffer::export(&device, last, 0, PAGE)?];
        let mappings = vec![buffers[0].map(0, PAGE)?];
        Spread { pci, device, buffers, mappings }.with_bars(bars)
    }

    fn with_bars(mut self, bars: &[u32]) -> Result<Spread> {
        for &bar in bars {
            let mapping = self.device.map_bar_part(bar, 0, PAGE)?;
            check::equal(&format!("region of BAR{bar}"), region_of(&mapping)?, bar.into())?;
            self.mappings.push(mapping);
        }
        self.heals("at first")?;
        Ok(self)
    }

    /// Checks that no mapping has an entry.
    fn is_empty(&self, when: &str) -> Result<()> {
        no_entries(&self.mappings, when)
    }

    /// Checks that each mapping gets an entry when it is accessed.
    fn heals(&self, when: &str) -> Result<()> {
        let ptes = Ptes::new()?;
        for (number, mapping) in self.mappings.iter().enumerate() {
            let what = format!("mapping {number}, {when}");
            mapping.load(0).with_context(|| what.clone())?;
            ensure!(ptes.at(mapping.address())?.is_some(), "{what}: no entry after an access");
        }
        Ok(())
    }

    /// Checks that nothing reaches the device after `off`, and everything does after `on`.
    fn off_and_on(
        &self,
        what: &str,
        off: impl FnOnce(&Device) -> Result<()>,
        on: impl FnOnce(&Device) -> Result<()>,
    ) -> Result<()> {
        off(&self.device)?;
        self.is_empty(what)?;
        for (number, mapping) in self.mappings.iter().enumerate() {
            check::bus_error(&format!("mapping {number}, {what}"), mapping.load(0))?;
        }
        on(&self.device)?;
        self.heals(&format!("after {what}"))
    }

    /// Resets the device, and checks that no entry was left and that each mapping works.
    fn reset(&self, what: &str, call: impl FnOnce() -> Result<(), Errno> + Send) -> Result<()> {
        check::works(what, call())?;
        self.is_empty(&format!("after {what}"))?;
        self.heals(&format!("after {what}, accessed"))
    }
}

/// Takes three quarters of a region, or the rest of one and three quarters of the next, and gives
/// them back.
fn fill_most_of_a_region(device: &Device) -> Result<()> {
    let size = device.region(0)?.size;
    let ranges = vec![Range(0, size); (REGION / 4 / size) as usize];
    let mut call = Export::new(0, &ranges).call();
    for _ in 0..3 {
        check::works("export of a quarter of a region", Buffer::by_call(device, &mut call))?;
    }
    Ok(())
}

fn region_of(mapping: &Mapping) -> Result<u64> {
    let line = maps::line_at(std::process::id() as i32, mapping.address())?;
    Ok(line.offset / REGION)
}

fn no_entries(mappings: &[Mapping], when: &str) -> Result<()> {
    let ptes = Ptes::new()?;
    for (number, mapping) in mappings.iter().enumerate() {
        check::equal(&format!("mapping {number}, {when}"), ptes.at(mapping.address())?, None)?;
    }
    Ok(())
}

fn memory_off_reaches_every_region() -> Result<()> {
    let on = |device: &Device| device.set_memory(true);
    Spread::new()?.off_and_on("memory off", |device| device.set_memory(false), on)
}

fn low_power_reaches_every_region() -> Result<()> {
    let enter = |device: &Device| check::works("LOW_POWER_ENTRY", device.enter_low_power());
    let leave = |device: &Device| check::works("LOW_POWER_EXIT", device.leave_low_power());
    Spread::new()?.off_and_on("low power", enter, leave)
}

fn resets_reach_every_region() -> Result<()> {
    let spread = Spread::new()?;
    let groups = [spread.device.holders[0].as_raw_fd()];
    spread.reset("VFIO_DEVICE_RESET", || spread.device.reset())?;
    spread.reset("a reset through sysfs", || spread.pci.reset())?;
    spread.reset("HOT_RESET", || spread.device.hot_reset(&groups))
}

fn link_error_reaches_every_region() -> Result<()> {
    let spread = Spread::new()?;
    let [reset, end] =
        [Pause::of_any(windows::LINK_RESET)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    if !host::port_has_error(&spread.pci, LinkError::Fatal)? {
        return Err(Skip("the host injects no errors".into()).into());
    }
    reset.wait()?;
    spread.is_empty("when the link is about to be reset")?;
    reset.end()?;
    end.wait()?;
    end.end()?;
    // Writes the addresses anew.
    spread.device.set_memory(false)?;
    spread.device.set_memory(true)?;
    spread.heals("in the end")
}

fn last_close_reaches_every_region() -> Result<()> {
    let Spread { device, buffers, mut mappings, .. } = Spread::new()?;
    // Those of BARs keep the device open.
    mappings.truncate(buffers.len());
    drop(device);
    no_entries(&mappings, "after the last close")?;
    for (number, (mapping, buffer)) in mappings.iter().zip(&buffers).enumerate() {
        check::bus_error(&format!("buffer {number}"), mapping.load(0))?;
        check::errno(&format!("mmap of {number}"), buffer.map(0, PAGE), Errno::ENODEV)?;
    }
    Ok(())
}

fn revoke_reaches_one_buffer_in_any_region() -> Result<()> {
    let spread = Spread::new()?;
    let ptes = Ptes::new()?;
    let mut want = vec![true; spread.mappings.len()];
    for (number, buffer) in spread.buffers.iter().enumerate() {
        check::works("REVOKE", buffer::revoke(&spread.device, buffer))?;
        want[number] = false;
        let entries = spread.mappings.iter().map(|mapping| ptes.at(mapping.address()));
        let got = entries.map(|entry| Ok(entry?.is_some())).collect::<Result<Vec<bool>>>()?;
        check::equal(&format!("entries after the revoke of {number}"), got, want.clone())?;
        let status = buffer::info(&spread.device, buffer.raw())?.status;
        check::equal("status", status, uapi::VFIO_DMABUF_STATUS_REVOKED)?;
    }
    Ok(())
}

fn d3hot_and_flr_reach_every_bar() -> Result<()> {
    let spread = Spread::of_bars(IGB, &[0, 3])?;
    let on = |device: &Device| device.set_power_state(0);
    spread.off_and_on("D3hot", |device| device.set_power_state(3), on)?;
    let flr = || spread.device.express_flr().map_err(|_| Errno::EIO);
    spread.reset("an Express FLR", flr)?;
    spread.reset("a reset through sysfs", || spread.pci.reset())
}
