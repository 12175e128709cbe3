// SPDX-License-Identifier: GPL-2.0
//! What waits for the fences of a buffer, and for which of them.
//!
//! The driver of an importing device adds a fence for work that it has not finished. The usage says
//! who else must wait for it; an exporter that takes memory away waits for all.

use anyhow::{ensure, Context, Result};
use guest::buffer::{self, Buffer};
use guest::call::Call;
use guest::device::{Device, Via};
use guest::fence::Fence;
use guest::pci::EDU;
use guest::testmod::uapi::{
    FENCE_LAZY, FENCE_PLAIN, FENCE_REFUSING, USAGE_BOOKKEEP, USAGE_KERNEL, USAGE_READ, USAGE_WRITE,
};
use guest::testmod::{Importer, NEVER_UNMAPS, UNMAPS_AT_ONCE};
use guest::waiting::is_in_driver;
use guest::Errno;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::wait_for;
use crate::rig::{add_fence, waiting_revoke, Heir, Rig, WHILE};

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "REVOKE invalidates importers, and waits for them and for fences": [
            revoke_waits_for_fences_of_every_kind, revoke_waits_for_each_of_several_fences,
        ],
        "temporary revocation waits; EINTR undoes it; a reset that cannot fail waits a second": [
            resets_and_config_writes_wait_for_fences_of_every_kind,
        ],
        "last close, unbind: wait for importers": [
            last_close_waits_for_fences_of_every_kind,
            last_close_waits_for_what_an_interrupted_revoke_has_left,
            close_of_a_killed_owner_waits_for_a_fence,
        ],
        "fences that are added too late hold nothing up": [
            client_of_an_earlier_owner_does_not_hold_up_the_close,
            fence_of_a_revoked_buffer_does_not_hold_up_the_close,
            fence_that_is_added_during_a_revoke_does_not_count,
            fence_that_is_added_during_the_last_close_does_not_count,
        ];
}

/// Those of `enum dma_resv_usage`.
const USAGES: [(&str, u32); 4] = [
    ("kernel", USAGE_KERNEL),
    ("write", USAGE_WRITE),
    ("read", USAGE_READ),
    ("bookkeep", USAGE_BOOKKEEP),
];

/// How the drivers of fences behave.
const MANNERS: [(&str, u32); 3] =
    [("plain", FENCE_PLAIN), ("lazy", FENCE_LAZY), ("refusing", FENCE_REFUSING)];

/// All kinds of fences: their names, usages and manners.
fn kinds() -> impl Iterator<Item = (String, u32, u32)> {
    let of_usage = |(name, usage)| {
        MANNERS.map(|(how, manners)| (format!("a {how} fence, usage {name}"), usage, manners))
    };
    USAGES.into_iter().flat_map(of_usage)
}

/// An importer that has unmapped already, and whose device has not finished.
fn unfinished(rig: &Rig, usage: u32, manners: u32) -> Result<(Importer, Fence)> {
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let fence = Fence::new()?.ok_or_else(|| Skip("the kernel has no CONFIG_SW_SYNC".into()))?;
    check::works("dma_resv_add_fence", importer.add_fence_with(&fence, usage, manners))?;
    Ok((importer, fence))
}

/// Checks that `call` waits for the fence, and works.
fn waits_for(fence: &Fence, what: &str, call: impl FnOnce() -> Result<(), Errno>) -> Result<()> {
    let mut call = Call::start(call)?;
    call.hangs_for(WHILE).with_context(|| what.to_string())?;
    check::works("signal", fence.signal())?;
    check::works(what, call.finish()?)
}

fn revoke_waits_for_fences_of_every_kind() -> Result<()> {
    for (kind, usage, manners) in kinds() {
        let rig = Rig::new()?;
        let (_importer, fence) = unfinished(&rig, usage, manners)?;
        let revoke = || buffer::revoke(&rig.device, &rig.buffer);
        waits_for(&fence, &format!("REVOKE, {kind}"), revoke)?;
    }
    Ok(())
}

fn resets_and_config_writes_wait_for_fences_of_every_kind() -> Result<()> {
    let rig = Rig::new()?;
    for (kind, usage, manners) in kinds() {
        let (_importer, fence) = unfinished(&rig, usage, manners)?;
        waits_for(&fence, &format!("VFIO_DEVICE_RESET, {kind}"), || rig.device.reset())?;
        let (_importer, fence) = unfinished(&rig, usage, manners)?;
        let off = || rig.device.set_memory(false).or(Err(Errno::EIO));
        waits_for(&fence, &format!("memory off, {kind}"), off)?;
        rig.device.set_memory(true)?;
    }
    Ok(())
}

fn revoke_waits_for_each_of_several_fences() -> Result<()> {
    for first in [0, 1] {
        let rig = Rig::new()?;
        let importer = rig.attached(UNMAPS_AT_ONCE)?;
        let mut fences = vec![add_fence(&rig.buffer)?, add_fence(&rig.buffer)?];
        let mut revoke = waiting_revoke(&rig)?;
        check::works("signal", fences.remove(first).signal())?;
        revoke.hangs_for(WHILE).with_context(|| format!("REVOKE, after fence {first}"))?;
        check::works("signal", fences.remove(0).signal())?;
        check::works("REVOKE", revoke.finish()?)?;
        check::works("detach", importer.detach())?;
    }
    Ok(())
}

fn last_close_waits_for_fences_of_every_kind() -> Result<()> {
    for (kind, usage, manners) in kinds() {
        let rig = Rig::new()?;
        let (importer, fence) = unfinished(&rig, usage, manners)?;
        let heir = Heir::new()?;
        let Rig { device, buffer, .. } = rig;
        drop(device);
        let close = heir.closes().with_context(|| kind)?;
        check::works("signal", fence.signal())?;
        check::works("close", close.finish()?)?;
        drop((importer, buffer));
    }
    Ok(())
}

fn last_close_waits_for_what_an_interrupted_revoke_has_left() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let revoke = waiting_revoke(&rig)?;
    check::errno("REVOKE", revoke.interrupt()?, Errno::EINTR)?;
    let heir = Heir::new()?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    let close = heir.closes()?;
    check::works("unmap", importer.unmap())?;
    check::works("close", close.finish()?)?;
    drop(buffer);
    Ok(())
}

fn close_of_a_killed_owner_waits_for_a_fence() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let fence = add_fence(&rig.buffer)?;
    let mut owner = Call::start(|| loop {
        nix::unistd::pause();
    })?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    // The second time while the close waits.
    for _ in 0..2 {
        kill(Pid::from_raw(owner.pid()), Signal::SIGKILL)?;
        wait_for("the close to wait", || Ok(is_in_driver(owner.pid())))?;
        owner.hangs_for(WHILE)?;
    }
    check::works("signal", fence.signal())?;
    owner.was_killed()?;
    drop((importer, buffer));
    Ok(())
}

/// A buffer that was drained cannot be mapped again. Whoever still holds it has no power over those
/// who have the device open later.
fn client_of_an_earlier_owner_does_not_hold_up_the_close() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let Rig { device, buffer, pci, .. } = rig;
    drop(device);
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        let fence = add_fence(&buffer)?;
        let heir = Heir::new()?;
        drop(device);
        check::works(&format!("close, {via:?}"), heir.ends()?.finish()?)?;
        check::works("signal", fence.signal())?;
    }
    check::works("detach", importer.detach())
}

fn fence_of_a_revoked_buffer_does_not_hold_up_the_close() -> Result<()> {
    let rig = Rig::new()?;
    let importers = [rig.attached(UNMAPS_AT_ONCE)?, rig.attached(UNMAPS_AT_ONCE)?];
    rig.revoke()?;
    let fence = add_fence(&rig.buffer)?;
    let heir = Heir::new()?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    check::works("close", heir.ends()?.finish()?)?;
    check::works("signal", fence.signal())?;
    importers.iter().try_for_each(|importer| check::works("detach", importer.detach()))?;
    drop(buffer);
    Ok(())
}

/// Signals the two fences that a call waits for, and puts a third in the place of the second.
fn ends_without_late_fences(buffer: &Buffer, fences: [Fence; 2], mut call: Call) -> Result<()> {
    let [first, second] = fences;
    check::works("signal", second.signal())?;
    let third = add_fence(buffer)?;
    ensure!(!call.is_over()?, "it did not wait for the first fence");
    check::works("signal", first.signal())?;
    check::works("the call, with a late fence", call.finish()?)?;
    check::works("signal", third.signal())
}

fn fence_that_is_added_during_a_revoke_does_not_count() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let fences = [add_fence(&rig.buffer)?, add_fence(&rig.buffer)?];
    let revoke = waiting_revoke(&rig)?;
    ends_without_late_fences(&rig.buffer, fences, revoke)?;
    check::works("detach", importer.detach())
}

fn fence_that_is_added_during_the_last_close_does_not_count() -> Result<()> {
    let rig = Rig::new()?;
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let fences = [add_fence(&rig.buffer)?, add_fence(&rig.buffer)?];
    let heir = Heir::new()?;
    let Rig { device, buffer, .. } = rig;
    drop(device);
    ends_without_late_fences(&buffer, fences, heir.closes()?)?;
    check::works("detach", importer.detach())
}
