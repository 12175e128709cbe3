// SPDX-License-Identifier: GPL-2.0
//! Races of importers and of fds that outlive the device, each with a thread stopped in the window.

use std::os::unix::fs::FileExt;

use guest::waiting::Waiter;
use guest::windows::Window;
use nix::sys::memfd::{memfd_create, MFdFlags};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "race: importers and release against revoke, reset, close and unbind": [
            import_half_way_holds_up_a_revoke, import_half_way_holds_up_a_reset,
            import_half_way_holds_up_memory_off, import_half_way_holds_up_the_last_close,
            unmap_half_way_holds_up_a_revoke_that_waits, unmap_half_way_holds_up_a_revoke,
            unmap_half_way_holds_up_memory_off,
            import_after_the_start_of_a_revoke_is_refused,
            attach_that_a_revoke_overtook_is_refused, attach_that_unbind_overtook_is_refused,
            nothing_gets_in_while_unbind_is_half_way,
        ];
    Setup::Bound(&[EDU]) =>
        "race: importers and release against revoke, reset, close and unbind": [
            release_that_a_reset_overtook_does_no_harm, release_that_unbind_overtook_does_no_harm,
        ],
        "race: fault against revoke, reset, memory off, close and unbind": [
            fault_that_unbind_overtook_is_sigbus,
        ],
        "race: loads, exports, revokes, resets and memory off, unsynchronized; O_PATH": [
            o_path_descriptor_leaves_other_files_mappings_alone,
        ];
}

/// An importer that has been allowed to map and is stopped before it has.
fn half_way(importer: &Importer) -> Result<(Pause, Call)> {
    Pause::call(windows::IMPORT_CHECKED, || importer.map().map(drop))
}

/// Checks that `call` waits for an importer that is half way, and takes its mapping then.
///
/// It waits before it comes to `acts`, the window in which it does to the device what it is about.
fn holds_up(
    rig: &Rig,
    acts: Window,
    call: impl FnOnce(&Rig) -> Result<(), Errno>,
) -> Result<Importer> {
    rig::peers_reach_each_other()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let (pause, map) = half_way(&importer)?;
    let act = Pause::at(acts)?;
    let mut call = Call::start(|| {
        act.arm_here()?;
        call(rig)
    })?;
    call.hangs_for(WHILE)?;
    act.is_ahead()?;
    pause.end()?;
    act.wait()?;
    check::equal("mapped when it acts", importer.stats()?.mapped, 0)?;
    act.end()?;
    check::works("map that was in time", map.finish()?)?;
    check::works("the call", call.finish()?)?;
    invalidated("the importer", &importer, 1)?;
    Ok(importer)
}

fn import_half_way_holds_up_a_revoke() -> Result<()> {
    let rig = Rig::new()?;
    rig::peers_reach_each_other()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let (pause, map) = half_way(&importer)?;
    let revoke = waiting(|| buffer::revoke(&rig.device, &rig.buffer))?;
    pause.end()?;
    check::works("map that was in time", map.finish()?)?;
    check::works("REVOKE", revoke.finish()?)?;
    invalidated("the importer", &importer, 1)?;
    rig.refuses("after REVOKE", &importer)
}

fn import_half_way_holds_up_a_reset() -> Result<()> {
    let rig = Rig::new()?;
    let importer = holds_up(&rig, windows::RESET, |rig| rig.device.reset())?;
    check::works("map after the reset", importer.map())?;
    check::works("unmap", importer.unmap())
}

fn import_half_way_holds_up_memory_off() -> Result<()> {
    let rig = Rig::new()?;
    let off = |rig: &Rig| rig.device.set_memory(false).map_err(|_| Errno::EIO);
    let importer = holds_up(&rig, windows::CONFIG_WRITE, off)?;
    rig.refuses("with memory off", &importer)?;
    rig.device.set_memory(true)?;
    check::works("map with memory on", importer.map())?;
    check::works("unmap", importer.unmap())
}

fn import_half_way_holds_up_the_last_close() -> Result<()> {
    rig::peers_reach_each_other()?;
    let importer = Importer::new()?;
    let Rig { device, buffer, importing, .. } = Rig::new()?;
    check::works("attach", importer.attach(&buffer, &importing, UNMAPS_AT_ONCE))?;
    // A child would hold the device open: threads.
    let map = thread::scope(|scope| -> Result<_> {
        let (map, close) = overtaken(
            windows::IMPORT_CHECKED,
            || importer.map(),
            |_| {
                let close = Waiter::start(scope, || drop(device))?;
                close.waits_in_driver().context("the last close")?;
                Ok(close)
            },
        )?;
        close.finish()?;
        Ok(map)
    })?;
    check::works("map that was in time", map)?;
    invalidated("the importer", &importer, 1)?;
    check::errno("map after the last close", importer.map(), Errno::ENODEV)
}

/// The importer begins to unmap because a REVOKE waits for it; meanwhile its device can still reach
/// the memory.
fn unmap_half_way_holds_up_a_revoke_that_waits() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(NEVER_UNMAPS)?;
    let mut revoke = Call::start(|| buffer::revoke(&rig.device, &rig.buffer))?;
    revoke.hangs_for(WHILE)?;
    let (pause, unmap) = Pause::call(windows::IMPORT_ENDS, || importer.unmap())?;
    revoke.hangs_for(WHILE)?;
    pause.end()?;
    check::works("unmap", unmap.finish()?)?;
    check::works("REVOKE", revoke.finish()?)
}

fn unmap_half_way_holds_up_memory_off() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(NEVER_UNMAPS)?;
    let act = Pause::at(windows::CONFIG_WRITE)?;
    let mut off = Call::start(|| {
        act.arm_here()?;
        rig.device.set_memory(false).or(Err(Errno::EIO))
    })?;
    off.hangs_for(WHILE)?;
    let (pause, unmap) = Pause::call(windows::IMPORT_ENDS, || importer.unmap())?;
    off.hangs_for(WHILE)?;
    act.is_ahead()?;
    pause.end()?;
    act.wait()?;
    check::works("unmap", unmap.finish()?)?;
    act.end()?;
    check::works("memory off", off.finish()?)
}

/// The importer has begun before anybody asked for it.
fn unmap_half_way_holds_up_a_revoke() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.mapped(NEVER_UNMAPS)?;
    let (pause, unmap) = Pause::call(windows::IMPORT_ENDS, || importer.unmap())?;
    let mut revoke = Call::start(|| buffer::revoke(&rig.device, &rig.buffer))?;
    revoke.hangs_for(WHILE)?;
    pause.end()?;
    check::works("unmap", unmap.finish()?)?;
    check::works("REVOKE", revoke.finish()?)?;
    rig.refuses("after REVOKE", &importer)
}

fn import_after_the_start_of_a_revoke_is_refused() -> Result<()> {
    rig::peers_reach_each_other()?;
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    check::works("map", importer.map())?;
    check::works("unmap", importer.unmap())?;
    let (pause, revoke) = Pause::call(windows::ZAP, || buffer::revoke(&rig.device, &rig.buffer))?;
    rig.refuses("before any invalidation", &importer)?;
    pause.end()?;
    check::works("REVOKE", revoke.finish()?)?;
    invalidated("the importer", &importer, 0)
}

fn attach_that_a_revoke_overtook_is_refused() -> Result<()> {
    let rig = Rig::new()?;
    let importer = Importer::new()?;
    let attach = || importer.attach(&rig.buffer, &rig.importing, UNMAPS_AT_ONCE);
    let (check, attach) = Pause::call(windows::ATTACH, attach)?;
    let note = Pause::of(attach.pid(), windows::MUTEX_LOCK)?;
    check.end()?;
    note.wait()?;
    let revoke = || buffer::revoke(&rig.device, &rig.buffer);
    check::works("REVOKE", meanwhile(&note, "REVOKE", revoke)?.0)?;
    note.end()?;
    check::errno("attach", attach.finish()?, Errno::ENODEV)?;
    // Nothing of it is left that the last close would wait for.
    let fence = add_fence(&rig.buffer)?;
    let heir = Heir::new()?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    check::works("close", heir.ends()?.finish()?)?;
    check::works("signal", fence.signal())?;
    drop((importer, buffer));
    Ok(())
}

fn attach_that_unbind_overtook_is_refused() -> Result<()> {
    let importer = Importer::new()?;
    let Rig { device, buffer, importing, pci } = Rig::new()?;
    let attach = || importer.attach(&buffer, &importing, UNMAPS_AT_ONCE);
    let (attach, ()) = overtaken(windows::ATTACH, attach, |_| {
        drop(device);
        pci.unbind()
    })?;
    check::errno("attach", attach, Errno::ENODEV)?;
    pci.bind(&driver())
}

fn nothing_gets_in_while_unbind_is_half_way() -> Result<()> {
    let peer = Peer::fork()?;
    let [old, new] = [Importer::new()?, Importer::new()?];
    let Rig { device, buffer, importing, pci } = Rig::new()?;
    let address = map_in(&peer, &buffer)?;
    check::value("before", peer.load(address)?, ID)?;
    check::works("attach", old.attach(&buffer, &importing, UNMAPS_AT_ONCE))?;
    drop(device);
    let unbind = || pci.unbind().map_err(|_| Errno::EIO);
    let (pause, unbind) = Pause::call(windows::UNREGISTERED, unbind)?;
    check::bus_error("load", peer.load(address)?)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("map", old.map(), Errno::ENODEV)?;
    check::errno("attach", new.attach(&buffer, &importing, UNMAPS_AT_ONCE), Errno::ENODEV)?;
    ensure!(Device::open(&pci, Via::Group).is_err(), "the device was opened");
    pause.end()?;
    check::works("unbind", unbind.finish()?)?;
    check::works("detach", old.detach())?;
    pci.bind(&driver())?;
    check::bus_error("load, with a new driver", peer.load(address)?)
}

/// Closes the last fd of a buffer in a thread, and stops that in the driver.
fn released(buffer: Buffer) -> Result<(Pause, std::thread::JoinHandle<Result<(), Errno>>)> {
    let pause = Pause::at(windows::RELEASE)?;
    let theirs = pause.share()?;
    let release = thread::spawn(move || {
        theirs.arm_here()?;
        drop(buffer);
        Ok(())
    });
    pause.wait()?;
    Ok((pause, release))
}

fn release_that_a_reset_overtook_does_no_harm() -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let other = export_edu(&device)?.map(0, PAGE)?;
    check::value("before", other.load(ID_AT), ID)?;
    let (pause, release) = released(export_edu(&device)?)?;
    check::works("VFIO_DEVICE_RESET", meanwhile(&pause, "a reset", || device.reset())?.0)?;
    check::works("reset through sysfs", meanwhile(&pause, "a reset", || pci.reset())?.0)?;
    let revoke = || buffer::revoke(&device, &export_edu(&device).map_err(|_| Errno::EIO)?);
    check::works("export and REVOKE", meanwhile(&pause, "export and REVOKE", revoke)?.0)?;
    check::value("meanwhile", other.load(ID_AT), ID)?;
    pause.end()?;
    check::equal("the release", release.join().ok(), Some(Ok(())))?;
    check::value("afterwards", other.load(ID_AT), ID)
}

fn release_that_unbind_overtook_does_no_harm() -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let (pause, release) = released(export_edu(&device)?)?;
    drop(device);
    pci.unbind()?;
    check::errno("rmmod", Module::driver().unload(), Errno::EWOULDBLOCK)?;
    pause.end()?;
    check::equal("the release", release.join().ok(), Some(Ok(())))?;
    wait_for("the module's last reference", || Ok(Module::driver().references()? == 0))?;
    pci.bind(&driver())
}

fn fault_that_unbind_overtook_is_sigbus() -> Result<()> {
    let (peer, device, _buffer, address) = edu_with_client()?;
    let pause = Pause::of(peer.pid(), windows::FAULT)?;
    peer.begin_load(address)?;
    pause.wait()?;
    drop(device);
    edu()?.unbind()?;
    pause.end()?;
    check::bus_error("with no driver", peer.finish_load()?)?;
    edu()?.bind(&driver())?;
    check::bus_error("with a new one", peer.load(address)?)?;
    check::value("a new buffer", export_edu(&open_edu()?)?.map(0, PAGE)?.load(ID_AT), ID)
}

/// Whether this process has an entry for the page at `address`, in the words of
/// `/proc/self/pagemap`.
fn is_present(address: usize) -> Result<bool> {
    let mut entry = [0; 8];
    let at = address as u64 / PAGE * 8;
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, at)?;
    Ok(u64::from_le_bytes(entry) >> 63 != 0)
}

/// The kernel reuses the memory of a freed file for the next one. A driver that zaps through the
/// dma-buf's file would then take pages from another file's mapping.
fn o_path_descriptor_leaves_other_files_mappings_alone() -> Result<()> {
    const MANY: usize = 32;
    let device = open_edu()?;
    let buffers = (0..MANY).map(|_| export_edu(&device)).collect::<Result<Vec<_>>>()?;
    let paths = buffers.iter().map(o_path).collect::<Result<Vec<_>>>()?;
    let kept = export_edu(&device)?;
    drop(buffers);
    let mut others = Vec::new();
    for _ in 0..MANY {
        let file = memfd_create(c"other", MFdFlags::empty())?;
        fs::File::from(file.try_clone()?).set_len(PAGE)?;
        let mapping = Mapping::new(&file, PAGE, mm::RW, 0)?;
        mapping.store(0, 1)?;
        others.push((file, mapping));
    }
    let untouched = |when: &str| {
        let gone = others.iter().map(|(_, mapping)| is_present(mapping.address()));
        let gone = gone.collect::<Result<Vec<_>>>()?.iter().filter(|present| !**present).count();
        check::equal(&format!("other files' mappings that lost a page {when}"), gone, 0)
    };
    untouched("before")?;
    device.set_memory(false)?;
    untouched("with memory off")?;
    device.set_memory(true)?;
    check::works("reset", device.reset())?;
    untouched("after a reset")?;
    check::works("REVOKE", buffer::revoke(&device, &kept))?;
    untouched("after REVOKE")?;
    drop(device);
    untouched("after the last close")?;
    drop(paths);
    // What would be seen.
    mm::advise(others[0].1.address(), PAGE, libc::MADV_DONTNEED)?;
    check::equal("a mapping that did lose its page", is_present(others[0].1.address())?, false)
}
