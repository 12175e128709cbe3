// SPDX-License-Identifier: GPL-2.0
//! Devices that import a buffer, and what REVOKE does to them.

use guest::testmod;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "importers map, get all ranges, and their devices reach these": [
            importer_maps_and_unmaps, several_importers_share_a_buffer,
        ],
        "attach: EOPNOTSUPP without peer2peer or not revocable; EINVAL out of reach": [
            importer_of_bad_manners_cannot_attach, importer_out_of_reach_cannot_map,
        ],
        "mmap: PROT_WRITE of a read-only fd is EACCES": [
            importer_hands_on_no_stores_to_a_read_only_buffer,
        ],
        "attach, map: ENODEV while revoked in any way": [
            revoked_buffer_takes_no_importer, attachment_outlives_the_device,
        ],
        "REVOKE invalidates importers, and waits for them and for fences": [
            revoke_unmaps_importers, revoke_waits_for_a_slow_importer, revoke_waits_for_a_fence,
            revoke_of_what_nobody_imports_waits_for_no_fence,
        ],
        "REVOKE interrupted: EINTR, in force, call again; stalls nothing else": [
            revoke_waiting_for_an_importer_is_interruptible,
            revoke_waiting_for_an_importer_can_be_killed,
            revoke_that_waits_for_an_importer_stalls_nothing_else,
            revoke_that_waits_for_a_fence_stalls_nothing_else,
            revoke_waiting_for_a_fence_is_interruptible,
        ],
        "last close, unbind: wait for importers": [
            last_close_waits_for_an_importer, last_close_waits_for_a_fence,
            unbind_waits_for_an_importer, close_of_a_killed_owner_waits_for_its_importers,
        ];
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "REVOKE invalidates importers, and waits for them and for fences": [
            revoke_leaves_importers_of_other_buffers_alone,
        ];
}

fn importer_maps_and_unmaps() -> Result<()> {
    let rig = Rig::new()?;
    rig::peers_reach_each_other()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    for direction in
        [testmod::uapi::BOTH_WAYS, testmod::uapi::TO_DEVICE, testmod::uapi::FROM_DEVICE]
    {
        let entries = check::works("map", importer.map_for(direction))?;
        let size: u64 = entries.iter().map(|entry| entry.length).sum();
        check::equal("bytes mapped", size, PAGE)?;
        ensure!(entries.iter().all(|entry| entry.address % PAGE == 0), "{entries:x?}");
        check::errno("second map", importer.map(), Errno::EBUSY)?;
        check::works("unmap", importer.unmap())?;
        check::errno("second unmap", importer.unmap(), Errno::EALREADY)?;
    }
    invalidated("not revoked", &importer, 0)?;
    check::works("detach", importer.detach())?;
    check::works("REVOKE without importers", buffer::revoke(&rig.device, &rig.buffer))
}

/// A driver may let its own fd be mapped, and give the mapping to the dma-buf that it imports.
fn importer_hands_on_no_stores_to_a_read_only_buffer() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let mapping = check::works("mmap through the importer", importer.mmap())?;
    check::value("id register", mapping.load(ID_AT), ID)?;
    drop(mapping);
    let read_only = export_read_only(&rig.device)?;
    let importer = rig::attach(&read_only, &rig.importing, UNMAPS_AT_ONCE)?;
    check::errno("mmap through the importer, read-only", importer.mmap(), Errno::EACCES)
}

fn several_importers_share_a_buffer() -> Result<()> {
    let rig = Rig::new()?;
    let importers =
        (0..4).map(|_| rig.mapped(UNMAPS_AT_ONCE)).collect::<Result<Vec<Importer>>>()?;
    check::works("unmap of the first", importers[0].unmap())?;
    check::works("detach of the second", importers[1].detach())?;
    rig.revoke()?;
    for (number, importer) in importers.iter().enumerate().skip(2) {
        invalidated(&format!("importer {number}"), importer, 1)?;
    }
    invalidated("the first, which had unmapped", &importers[0], 0)
}

fn importer_of_bad_manners_cannot_attach() -> Result<()> {
    use testmod::uapi::{PEER_TO_PEER, REVOCABLE, STATIC};
    let rig = Rig::new()?;
    for (what, flags) in [
        ("without peer2peer", REVOCABLE),
        ("not revocable", PEER_TO_PEER),
        ("neither", 0),
        ("static", STATIC),
    ] {
        let how = Attach { flags, ..UNMAPS_AT_ONCE };
        let result = Importer::new()?.attach(&rig.buffer, &rig.importing, how);
        check::errno(&format!("attach {what}"), result, Errno::EOPNOTSUPP)?;
    }
    rig.attached(UNMAPS_AT_ONCE).map(drop)
}

/// An importer must be a PCI device, and one that the kernel believes can reach the exporter; see
/// [`guest::arch::host_bridge_is_trusted`].
fn importer_out_of_reach_cannot_map() -> Result<()> {
    let rig = Rig::new()?;
    let flags = UNMAPS_AT_ONCE.flags | testmod::uapi::NOT_PCI;
    let importer = rig.attached(Attach { flags, ..UNMAPS_AT_ONCE })?;
    check::errno("map for no PCI device", importer.map(), Errno::EINVAL)?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    if guest::arch::host_bridge_is_trusted()? {
        check::works("map through a trusted host bridge", importer.map()).map(drop)
    } else {
        check::errno("map through a strange host bridge", importer.map(), Errno::EINVAL)
    }?;
    rig.revoke()
}

fn revoked_buffer_takes_no_importer() -> Result<()> {
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    rig.revoke()?;
    rig.refuses("after REVOKE", &importer)?;
    rig.device.renew_memory()?;
    rig.refuses("after memory came back", &importer)
}

fn revoke_unmaps_importers() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    rig.revoke()?;
    invalidated("REVOKE", &importer, 1)?;
    rig.refuses("after REVOKE", &importer)?;
    rig.revoke_again()
}

fn revoke_waits_for_a_slow_importer() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(SLOW)?;
    let start = Instant::now();
    rig.revoke()?;
    let (took, now) = (start.elapsed(), testmod::now());
    invalidated("REVOKE", &importer, 1)?;
    let stats = importer.stats()?;
    let unmapped_after = Duration::from_nanos(stats.unmapped_at - stats.hit_at);
    ensure!(unmapped_after >= DELAY, "it unmapped after {unmapped_after:?}");
    ensure!(took >= DELAY, "REVOKE took {took:?} only");
    ensure!(stats.unmapped_at < now, "REVOKE returned before the unmap");
    ensure!(took < DELAY + scaled(rig::SOON), "REVOKE took {took:?}");
    Ok(())
}

fn revoke_waiting_for_an_importer_is_interruptible() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let mapping = rig.touched()?;
    let idle = rig.attached(UNMAPS_AT_ONCE)?;
    for round in 0..3 {
        let call = waiting_revoke(&rig)?;
        check::errno(&format!("REVOKE, round {round}"), call.interrupt()?, Errno::EINTR)?;
        // It is in force all the same.
        check::bus_error("CPU", mapping.load(ID_AT))?;
        check::errno("mmap", rig.buffer.map(0, PAGE), Errno::ENODEV)?;
        rig.refuses("after an interrupted REVOKE", &idle)?;
        rig.has_status("after EINTR", uapi::VFIO_DMABUF_STATUS_REVOKED)?;
        check::equal("still mapped", importer.stats()?.mapped, 1)?;
    }
    let call = waiting_revoke(&rig)?;
    check::works("unmap", importer.unmap())?;
    check::works("REVOKE, at last", call.finish()?)?;
    rig.revoke_again()
}

fn revoke_waiting_for_an_importer_can_be_killed() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let mapping = rig.touched()?;
    // Kills the process, and waits until nothing is left of it.
    drop(waiting_revoke(&rig)?);
    check::bus_error("CPU", mapping.load(ID_AT))?;
    rig.has_status("after its death", uapi::VFIO_DMABUF_STATUS_REVOKED)?;
    let call = waiting_revoke(&rig)?;
    check::works("unmap", importer.unmap())?;
    check::works("REVOKE", call.finish()?)
}

fn revoke_that_waits_for_an_importer_stalls_nothing_else() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    stalls_nothing(&rig)?;
    check::equal("times invalidated", importer.stats()?.hits, 1)
}

fn revoke_that_waits_for_a_fence_stalls_nothing_else() -> Result<()> {
    let (rig, _importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let _fence = add_fence(&rig.buffer)?;
    stalls_nothing(&rig)
}

/// A REVOKE hangs; resets, config writes and other buffers do not care.
fn stalls_nothing(rig: &Rig) -> Result<()> {
    let other = Buffer::export(&rig.device, 0, 0, PAGE)?;
    let third = Buffer::export(&rig.device, 0, 0, PAGE)?;
    let bar = rig.device.map_bar(0)?;
    let mut call = waiting_revoke(rig)?;
    let importer = rig.attached_to(&other, UNMAPS_AT_ONCE)?;
    for round in 0..2 {
        let when = |what| format!("{what} beside a REVOKE, round {round}");
        check::works(&when("map of another buffer"), importer.map())?;
        soon(&when("VFIO_DEVICE_RESET"), || rig.device.reset())?;
        check::works(&when("map of another buffer"), importer.map())?;
        soon(&when("reset through sysfs"), || rig.pci.reset())?;
        soon(&when("memory off and on"), || {
            rig.device.set_memory(false).map_err(|_| Errno::EIO)?;
            rig.device.set_memory(true).map_err(|_| Errno::EIO)
        })?;
        check::value(&when("load"), bar.load(ID_AT), ID)?;
    }
    check::works("map of another buffer", importer.map())?;
    soon("REVOKE of another buffer", || buffer::revoke(&rig.device, &other))?;
    invalidated("REVOKE of another buffer", &importer, 5)?;
    soon("REVOKE of a third", || buffer::revoke(&rig.device, &third))?;
    soon("export", || Buffer::export(&rig.device, 0, 0, PAGE).map(drop))?;
    call.hangs_for(WHILE)?;
    check::errno("REVOKE", call.interrupt()?, Errno::EINTR)
}

fn revoke_waits_for_a_fence() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let mapping = rig.buffer.map(0, PAGE)?;
    let fence = add_fence(&rig.buffer)?;
    let call = waiting_revoke(&rig)?;
    check::bus_error("CPU", mapping.load(ID_AT))?;
    check::works("signal", fence.signal())?;
    check::works("REVOKE", call.finish()?)?;
    invalidated("REVOKE", &importer, 1)
}

/// Any holder of a buffer can add a fence. That must not hold up its owner, nor must importers of
/// other buffers make it do so.
fn revoke_of_what_nobody_imports_waits_for_no_fence() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let never = Buffer::export(&rig.device, 0, 0, PAGE)?;
    let no_longer = Buffer::export(&rig.device, 0, 0, PAGE)?;
    check::works("detach", rig.attached_to(&no_longer, UNMAPS_AT_ONCE)?.detach())?;
    for (what, buffer) in [("never imported", never), ("no longer imported", no_longer)] {
        let _fence = add_fence(&buffer)?;
        let revoke = Call::start(|| buffer::revoke(&rig.device, &buffer))?;
        let ends = revoke.finish().with_context(|| format!("REVOKE of one {what}"))?;
        check::works(&format!("REVOKE of one {what}"), ends)?;
        check::errno("once more", buffer::revoke(&rig.device, &buffer), Errno::EBADFD)?;
    }
    still_mapped(&importer, 0)
}

fn revoke_waiting_for_a_fence_is_interruptible() -> Result<()> {
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    let fence = add_fence(&rig.buffer)?;
    let call = waiting_revoke(&rig)?;
    check::errno("REVOKE", call.interrupt()?, Errno::EINTR)?;
    rig.refuses("after an interrupted REVOKE", &importer)?;
    let call = waiting_revoke(&rig)?;
    check::works("signal", fence.signal())?;
    check::works("REVOKE", call.finish()?)?;
    rig.revoke_again()
}

fn last_close_waits_for_an_importer() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(SLOW)?;
    let Rig { device, buffer, importing, .. } = rig;
    let start = Instant::now();
    drop(device);
    let took = start.elapsed();
    ensure!(took >= DELAY, "close took {took:?}");
    invalidated("close", &importer, 1)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("map", importer.map(), Errno::ENODEV)?;
    let late = Importer::new()?.attach(&buffer, &importing, UNMAPS_AT_ONCE);
    check::errno("attach", late, Errno::ENODEV)
}

fn last_close_waits_for_a_fence() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(UNMAPS_AT_ONCE)?;
    let fence = add_fence(&rig.buffer)?;
    let heir = Heir::new()?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    let close = heir.closes()?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    invalidated("close", &importer, 1)?;
    check::works("signal", fence.signal())?;
    check::works("close", close.finish()?)
}

fn unbind_waits_for_an_importer() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let heir = Heir::new()?;
    let Rig { device, buffer, pci, .. } = rig;
    drop(device);
    let mut unbind = Call::start(|| pci.unbind().map_err(|_| Errno::EIO))?;
    let mut close = heir.closes()?;
    unbind.hangs_for(WHILE)?;
    close.hangs_for(WHILE)?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::equal("times invalidated", importer.stats()?.hits, 1)?;
    check::works("unmap", importer.unmap())?;
    check::works("close", close.finish()?)?;
    check::works("unbind", unbind.finish()?)?;
    check::equal("driver", pci.driver(), None)?;
    check::errno("map", importer.map(), Errno::ENODEV)
}

/// Nothing ends this wait: there is no call that a signal could interrupt.
fn close_of_a_killed_owner_waits_for_its_importers() -> Result<()> {
    let rig = Rig::new()?;
    let mapping = rig.buffer.map(0, PAGE)?;
    check::value("before", mapping.load(ID_AT), ID)?;
    let importers = [rig.mapped(NEVER_UNMAPS)?, rig.mapped(UNMAPS_AT_ONCE)?];
    // From here on the child is the owner, with the last fds of the device.
    let mut owner = Call::start(|| loop {
        nix::unistd::pause();
    })?;
    let Rig { device, buffer, pci, .. } = rig;
    drop(device);
    check::value("while the owner lives", mapping.load(ID_AT), ID)?;
    check::equal("times invalidated", importers[0].stats()?.hits, 0)?;
    for _ in 0..2 {
        kill(Pid::from_raw(owner.pid()), Signal::SIGKILL)?;
        wait_for("the invalidation", || Ok(importers[0].stats()?.hits == 1))?;
        owner.hangs_for(WHILE)?;
    }
    check::bus_error("the mapping", mapping.load(ID_AT))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    invalidated("the one that unmaps", &importers[1], 1)?;
    check::works("unmap", importers[0].unmap())?;
    owner.was_killed()?;
    for importer in &importers {
        check::errno("map", importer.map(), Errno::ENODEV)?;
    }
    let device = Device::open(&pci, Via::Group)?;
    let again = device.map_bar(0)?;
    check::value("opened anew", again.load(ID_AT), ID)?;
    drop((importers, mapping, buffer, device, again));
    let driver = Module::driver();
    driver.unload_soon()?;
    driver.load()?;
    pci.bind(&crate::fixture::driver())
}

fn attachment_outlives_the_device() -> Result<()> {
    let (rig, importer) = Rig::new_attached(UNMAPS_AT_ONCE)?;
    let Rig { device, buffer, pci, importing } = rig;
    drop(device);
    pci.unbind()?;
    check::errno("map without a driver", importer.map(), Errno::ENODEV)?;
    let late = Importer::new()?.attach(&buffer, &importing, UNMAPS_AT_ONCE);
    check::errno("attach without a driver", late, Errno::ENODEV)?;
    drop(buffer);
    pci.bind(&driver())?;
    check::errno("map after bind", importer.map(), Errno::ENODEV)?;
    check::works("detach", importer.detach())
}

fn revoke_leaves_importers_of_other_buffers_alone() -> Result<()> {
    let rig = Rig::with(nth(BOCHS, 0)?)?;
    let alias = Buffer::export(&rig.device, 0, 0, 4 * PAGE)?;
    let importer = rig.mapped(UNMAPS_AT_ONCE)?;
    let other = rig.attached_to(&alias, UNMAPS_AT_ONCE)?;
    check::works("map of the alias", other.map())?;
    rig.revoke()?;
    invalidated("REVOKE", &importer, 1)?;
    check::equal("the alias's invalidations", other.stats()?.invalidations, 0)?;
    still_mapped(&other, 0)
}
