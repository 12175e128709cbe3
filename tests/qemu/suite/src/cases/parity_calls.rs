// SPDX-License-Identifier: GPL-2.0
//! Calls that must neither disturb importers nor wait for anybody, as in-tree vfio-pci's do not;
//! and what importers of a buffer that is not writable may do.

use guest::feature::{Call, GET, PROBE, SET};
use guest::pause;
use guest::testmod::uapi as testmod;

use super::observe;
use crate::prelude::*;

cases! {
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "PROBE has no effect on importers; the end of low power is told to them": [
            probe_of_low_power_disturbs_no_importer, end_of_low_power_is_told_to_importers,
        ];
    Setup::Bound(&[EDU, EDU]) =>
        "INFO and debugfs never wait for a reset": [
            info_does_not_wait_for_a_reset, listing_does_not_wait_for_a_reset,
        ],
        "no reclaim under a lock that a detach takes": [
            nothing_is_reclaimed_under_the_list_of_importers,
        ],
        "an importer of an O_RDONLY export may only read": [
            importer_of_a_read_only_buffer_may_only_read,
        ];
}

/// An importer that has the first page of a device's memory mapped.
fn mapped(device: &Device) -> Result<(Buffer, Importer)> {
    rig::peers_reach_each_other()?;
    let buffer = check::works("export", Buffer::export(device, 0, 0, PAGE))?;
    let importer = rig::attach(&buffer, &rig::importing()?, UNMAPS_AT_ONCE)?;
    check::works("map", importer.map())?;
    Ok((buffer, importer))
}

fn probe_of_low_power_disturbs_no_importer() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&nth(BOCHS, 0)?, via)?;
        let (_buffer, importer) = mapped(&device)?;
        for feature in [
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP,
            uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
        ] {
            for ops in [PROBE | SET, PROBE | GET, PROBE | GET | SET, GET, GET | SET, 0] {
                // Some of these are errors; none has an effect.
                let _ = Call::new(ops | feature, vec![0; 2]).make(&device);
            }
            check::works("PROBE", feature::probe(&device, feature, SET))?;
        }
        let stats = importer.stats()?;
        let got = (stats.invalidations, stats.mapped);
        check::equal(&format!("times told, mapped, {via:?}"), got, (0, 1))?;
    }
    Ok(())
}

fn end_of_low_power_is_told_to_importers() -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&nth(BOCHS, 0)?, via)?;
        let (_buffer, importer) = mapped(&device)?;
        check::works("entry", device.enter_low_power())?;
        let told = importer.stats()?.invalidations;
        check::errno("map", importer.map(), Errno::ENODEV)?;
        check::works("exit", device.leave_low_power())?;
        let now = importer.stats()?.invalidations;
        ensure!(now > told, "{via:?}: told {told} times before the exit, {now} after");
        check::works("map again", importer.map())?;
    }
    Ok(())
}

/// Calls `check` while a reset holds the device's memory, with a buffer of its.
fn during_a_reset(what: &str, check: impl Fn(&Device, &Buffer) -> Result<()> + Sync) -> Result<()> {
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        let buffer = export_edu(&device)?;
        let (pause, reset) = Pause::call(windows::RESET, || device.reset())?;
        let (result, _) = pause::meanwhile(&pause, what, || check(&device, &buffer))?;
        result.with_context(|| format!("{what}, {via:?}"))?;
        pause.end()?;
        check::works("reset", reset.finish()?)?;
        has_status(&device, &buffer, "afterwards", uapi::VFIO_DMABUF_STATUS_LIVE)?;
    }
    Ok(())
}

fn info_does_not_wait_for_a_reset() -> Result<()> {
    during_a_reset("INFO", |device, buffer| {
        let info = check::works("INFO", guest::buffer::info(device, buffer.raw()))?;
        check::equal("status", info.status, uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP)
    })
}

fn listing_does_not_wait_for_a_reset() -> Result<()> {
    during_a_reset("listing", |_, _| {
        let objects = observe::objects(&edu()?)?;
        check::equal("status", &objects[0]["status"], &"revoked-temp".into())
    })
}

/// Detaching takes the lock of that list, and drivers detach where reclaim waits for them.
fn nothing_is_reclaimed_under_the_list_of_importers() -> Result<()> {
    let rig = Rig::new()?;
    let importers = [rig.attached(UNMAPS_AT_ONCE)?, rig.attached(UNMAPS_AT_ONCE)?];
    rig.device.renew_memory()?;
    rig.revoke()?;
    drop(importers);
    let Ok(text) = fs::read_to_string("/proc/lockdep") else {
        return Err(Skip("the kernel has no lockdep".into()).into());
    };
    // It also stands below each lock under which it was taken.
    let is_below = |line: &&str| line.starts_with(" ->");
    let is_head = |line: &str| line.ends_with("Importers::attached") && !is_below(&line);
    let head = text.lines().position(is_head).context("no Importers::attached")?;
    let under = text.lines().skip(head + 1).take_while(is_below);
    let reclaim: Vec<&str> = under.filter(|line| line.ends_with("fs_reclaim")).collect();
    ensure!(reclaim.is_empty(), "taken under Importers::attached: {reclaim:?}");
    Ok(())
}

fn importer_of_a_read_only_buffer_may_only_read() -> Result<()> {
    rig::peers_reach_each_other()?;
    let directions = [testmod::BOTH_WAYS, testmod::TO_DEVICE, testmod::FROM_DEVICE];
    for &via in Via::all() {
        let device = Device::open(&edu()?, via)?;
        for (open_flags, writable) in [(libc::O_RDONLY, false), (libc::O_RDWR, true)] {
            let open_flags = (open_flags | libc::O_CLOEXEC) as u32;
            let export = Export { open_flags, ..Export::new(0, &[Range(0, PAGE)]) };
            let buffer = check::works("export", export.make(&device))?;
            let importer = rig::attach(&buffer, &rig::importing()?, UNMAPS_AT_ONCE)?;
            for direction in directions {
                let what = format!("{via:?}, flags {open_flags:#o}, direction {direction}");
                let mapped = importer.map_for(direction);
                if writable || direction == testmod::TO_DEVICE {
                    check::works(&what, mapped)?;
                    check::works("unmap", importer.unmap())?;
                } else {
                    check::errno(&what, mapped, Errno::EACCES)?;
                }
            }
            check::works("REVOKE", guest::buffer::revoke(&device, &buffer))?;
            let revoked = importer.map_for(testmod::FROM_DEVICE);
            check::errno("revoked", revoked, Errno::ENODEV)?;
        }
    }
    Ok(())
}
