// SPDX-License-Identifier: GPL-2.0
//! Importers that map again from the callback that tells them that memory is back.

use std::os::fd::AsRawFd;

use anyhow::{ensure, Result};
use guest::call::Call;
use guest::device::Device;
use guest::pause::{meanwhile, Pause};
use guest::pci::{BOCHS, EDU, IGB};
use guest::testmod::{Importer, MAPS_AGAIN, NEVER_UNMAPS};
use guest::{windows, Errno, PAGE};

use super::importers_reset::clear_command;
use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{nth, ID, ID_AT};
use crate::rig::{Rig, WHILE};

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "temporary revocation invalidates importers; they map again afterwards": [
            importer_maps_again_from_its_callback_when_memory_is_enabled,
            importer_maps_again_from_its_callback_after_each_reset,
            importer_maps_again_from_its_callback_after_an_interrupted_write,
            gate_is_open_when_importers_are_told_that_memory_is_back,
        ];
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "temporary revocation invalidates importers; they map again afterwards": [
            importer_maps_again_from_its_callback_after_low_power,
        ];
    Setup::Bound(&[IGB, EDU, EDU]) =>
        "temporary revocation invalidates importers; they map again afterwards": [
            importer_maps_again_from_its_callback_in_d0,
        ];
}

fn has_mapping(when: &str, importer: &Importer, want: bool) -> Result<()> {
    check::equal(&format!("mapped {when}"), importer.stats()?.mapped, want.into())
}

/// Disables memory by `off` and enables it by `on`.
fn comes_back(
    rig: &Rig,
    off: impl Fn(&Device) -> Result<()>,
    on: impl Fn(&Device) -> Result<()>,
) -> Result<()> {
    let importer = rig.mapped(MAPS_AGAIN)?;
    for _ in 0..2 {
        off(&rig.device)?;
        has_mapping("without memory", &importer, false)?;
        on(&rig.device)?;
        has_mapping("with memory", &importer, true)?;
    }
    rig.revoke()?;
    has_mapping("after REVOKE", &importer, false)
}

fn importer_maps_again_from_its_callback_when_memory_is_enabled() -> Result<()> {
    let rig = Rig::new()?;
    comes_back(&rig, |device| device.set_memory(false), |device| device.set_memory(true))
}

fn importer_maps_again_from_its_callback_after_low_power() -> Result<()> {
    let rig = Rig::with(nth(BOCHS, 0)?)?;
    let enter = |device: &Device| check::works("enter", device.enter_low_power());
    comes_back(&rig, enter, |device| check::works("leave", device.leave_low_power()))
}

fn importer_maps_again_from_its_callback_in_d0() -> Result<()> {
    let rig = Rig::with(nth(IGB, 0)?)?;
    comes_back(
        &rig,
        |device| device.set_power_state(3),
        |device| {
            device.set_power_state(0)?;
            device.set_memory(true)
        },
    )
}

fn importer_maps_again_from_its_callback_after_each_reset() -> Result<()> {
    type Reset<'a> = &'a dyn Fn() -> Result<(), Errno>;
    let rig = Rig::new()?;
    let importer = rig.mapped(MAPS_AGAIN)?;
    let group = rig.device.holders[0].as_raw_fd();
    let resets: [(&str, Reset); 3] = [
        ("VFIO_DEVICE_RESET", &|| rig.device.reset()),
        ("hot reset", &|| rig.device.hot_reset(&[group])),
        ("sysfs reset", &|| rig.pci.reset()),
    ];
    for (what, reset) in resets {
        let before = importer.stats()?.hits;
        check::works(what, reset())?;
        ensure!(importer.stats()?.hits > before, "{what}: it was not invalidated");
        has_mapping(&format!("after {what}"), &importer, true)?;
    }
    Ok(())
}

/// Another importer holds up the write, until a signal ends it.
fn importer_maps_again_from_its_callback_after_an_interrupted_write() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(MAPS_AGAIN)?;
    let _stubborn = rig.mapped(NEVER_UNMAPS)?;
    let mut write = Call::start(|| clear_command(&rig.device))?;
    write.hangs_for(WHILE)?;
    has_mapping("while the write waits", &importer, false)?;
    check::errno("write to the command register", write.interrupt()?, Errno::EINTR)?;
    has_mapping("afterwards", &importer, true)?;
    check::value("CPU", rig.device.map_bar(0)?.load(ID_AT), ID)
}

/// The task that makes a change passes the gate at any time. An importer may let another one map.
fn gate_is_open_when_importers_are_told_that_memory_is_back() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(MAPS_AGAIN)?;
    let mapping = rig.buffer.map(0, PAGE)?;
    rig.device.set_memory(false)?;
    let on = || rig.device.set_memory(true).or(Err(Errno::EIO));
    let (before, write) = Pause::call(windows::CONFIG_WRITE, on)?;
    let told = Pause::of(write.pid(), windows::INVALIDATE)?;
    before.end()?;
    told.wait()?;
    let (loaded, _) = meanwhile(&told, "load", || mapping.load(ID_AT))?;
    check::value("load", loaded, ID)?;
    told.end()?;
    check::works("memory on", write.finish()?)?;
    has_mapping("with memory", &importer, true)
}
