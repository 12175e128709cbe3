// SPDX-License-Identifier: GPL-2.0
//! What waits for the fences of a buffer, and for which of them.
//!
//! The driver of an importing device adds a fence for work that it has not finished. The usage says
//! who else must wait for it; an exporter that takes memory away waits for all.

use anyhow::{Context, Result};
use guest::buffer;
use guest::call::Call;
use guest::fence::Fence;
use guest::pci::EDU;
use guest::testmod::uapi::{USAGE_BOOKKEEP, USAGE_KERNEL, USAGE_READ, USAGE_WRITE};
use guest::testmod::{Importer, UNMAPS_AT_ONCE};
use guest::Errno;

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::rig::{Heir, Rig, WHILE};

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "REVOKE invalidates importers, and waits for them and for fences": [
            revoke_waits_for_fences_of_every_usage,
        ],
        "temporary revocation waits; EINTR undoes it; a reset that cannot fail waits a second": [
            resets_and_config_writes_wait_for_fences_of_every_usage,
        ],
        "last close, unbind: wait for importers": [last_close_waits_for_fences_of_every_usage];
}

/// Those of `enum dma_resv_usage`.
const USAGES: [(&str, u32); 4] = [
    ("kernel", USAGE_KERNEL),
    ("write", USAGE_WRITE),
    ("read", USAGE_READ),
    ("bookkeep", USAGE_BOOKKEEP),
];

/// An importer that has unmapped already, and whose device has not finished.
fn unfinished(rig: &Rig, usage: u32) -> Result<(Importer, Fence)> {
    let importer = rig.attached(UNMAPS_AT_ONCE)?;
    let fence = Fence::new()?.ok_or_else(|| Skip("the kernel has no CONFIG_SW_SYNC".into()))?;
    check::works("dma_resv_add_fence", importer.add_fence(&fence, usage))?;
    Ok((importer, fence))
}

/// Checks that `call` waits for the fence, and works.
fn waits_for(fence: &Fence, what: &str, call: impl FnOnce() -> Result<(), Errno>) -> Result<()> {
    let mut call = Call::start(call)?;
    call.hangs_for(WHILE).with_context(|| what.to_string())?;
    check::works("signal", fence.signal())?;
    check::works(what, call.finish()?)
}

fn revoke_waits_for_fences_of_every_usage() -> Result<()> {
    for (usage, number) in USAGES {
        let rig = Rig::new()?;
        let (_importer, fence) = unfinished(&rig, number)?;
        let revoke = || buffer::revoke(&rig.device, &rig.buffer);
        waits_for(&fence, &format!("REVOKE, usage {usage}"), revoke)?;
    }
    Ok(())
}

fn resets_and_config_writes_wait_for_fences_of_every_usage() -> Result<()> {
    let rig = Rig::new()?;
    for (usage, number) in USAGES {
        let (_importer, fence) = unfinished(&rig, number)?;
        waits_for(&fence, &format!("VFIO_DEVICE_RESET, usage {usage}"), || rig.device.reset())?;
        let (_importer, fence) = unfinished(&rig, number)?;
        let off = || rig.device.set_memory(false).or(Err(Errno::EIO));
        waits_for(&fence, &format!("memory off, usage {usage}"), off)?;
        rig.device.set_memory(true)?;
    }
    Ok(())
}

fn last_close_waits_for_fences_of_every_usage() -> Result<()> {
    for (usage, number) in USAGES {
        let rig = Rig::new()?;
        let (importer, fence) = unfinished(&rig, number)?;
        let heir = Heir::new()?;
        let Rig { device, buffer, .. } = rig;
        drop(device);
        let close = heir.closes().with_context(|| format!("usage {usage}"))?;
        check::works("signal", fence.signal())?;
        check::works("close", close.finish()?)?;
        drop((importer, buffer));
    }
    Ok(())
}
