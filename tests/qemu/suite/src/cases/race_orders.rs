// SPDX-License-Identifier: GPL-2.0
//! Faults of different orders on one block, at the same time, each with a thread stopped in the
//! window on purpose.
//!
//! Which order a fault takes is not the driver's choice alone: a process may forbid blocks, and
//! allow them again, at any time (`prctl(PR_SET_THP_DISABLE)`). The kernel warns of a page table
//! where a block is to be mapped to write to it, and of a block where pages are to be.

use std::fs;

use anyhow::{anyhow, Result};
use guest::buffer::Buffer;
use guest::device::Device;
use guest::mm::{self, Mapping};
use guest::pause::{meanwhile, Pause};
use guest::pci::BOCHS;
use guest::ptes::{self, Pte};
use guest::windows::{self, Window};
use guest::{Errno, PAGE};
use nix::sys::prctl::set_thp_disable;

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::open_bochs;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "race: fault against fault of another order on the same block": [
            page_fault_that_a_block_overtook_leaves_the_block,
            page_fault_that_made_a_page_table_is_not_overtaken,
            block_fault_that_a_page_overtook_leaves_the_page,
            block_that_was_loaded_takes_stores, block_that_is_watched_for_writes_takes_stores,
        ];
}

const BLOCK: u64 = 2 << 20;

/// A block of the video memory, mapped so that one entry can map it.
fn block() -> Result<(Device, Mapping)> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, BLOCK)?;
    let address = mm::map_aligned(buffer.raw(), BLOCK, mm::RW, 0)?;
    Ok((device, Mapping::from_raw(address, BLOCK)))
}

fn entry(mapping: &Mapping) -> Result<Pte> {
    ptes::entry(mapping, 0)?.ok_or_else(|| anyhow!("no entry"))
}

/// Stops an access in `window`, lets `others` do what they like, and ends it.
fn overtaken(
    window: Window,
    access: impl FnOnce() -> Result<()> + Send,
    others: impl FnOnce(&Pause) -> Result<()>,
) -> Result<()> {
    let pause = Pause::at(window)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pause.arm_here()?;
            access()
        });
        pause.wait()?;
        others(&pause)?;
        pause.release()?;
        thread.join().map_err(|_| anyhow!("access: panic"))?
    })
}

/// Lets a store to the second page of a block overtake one to the first, which stops in `window`.
/// One of them is allowed to take the block. `size` is that of the entry in the end, bytes.
fn store_overtakes(window: Window, first_takes_block: bool, size: u64) -> Result<()> {
    let (_device, mapping) = block()?;
    set_thp_disable(!first_takes_block)?;
    let first = || Ok(mapping.store(0, 1)?);
    overtaken(window, first, |pause| {
        set_thp_disable(first_takes_block)?;
        let second = || mapping.store(PAGE, 2);
        Ok(meanwhile(pause, "the second store", second)?.0?)
    })?;
    set_thp_disable(false)?;
    check::equal("size of the entry", entry(&mapping)?.size, size)?;
    check::value("first page", mapping.load(0), 1)?;
    check::value("second page", mapping.load(PAGE), 2)
}

fn page_fault_that_a_block_overtook_leaves_the_block() -> Result<()> {
    for window in [windows::FAULT_LOOKS_FOR_TABLE, windows::FAULT_MAKES_TABLE] {
        store_overtakes(window, false, BLOCK)?;
    }
    Ok(())
}

fn page_fault_that_made_a_page_table_is_not_overtaken() -> Result<()> {
    store_overtakes(windows::FAULT_MADE_TABLE, false, PAGE)
}

fn block_fault_that_a_page_overtook_leaves_the_page() -> Result<()> {
    store_overtakes(windows::HUGE_FAULT_CHECKED, true, PAGE)
}

/// Lets the kernel watch for writes to what this process has mapped (soft-dirty): entries that are
/// made from here on are not writable at first.
fn watch_for_writes() -> Result<()> {
    Ok(fs::write("/proc/self/clear_refs", "4")?)
}

fn block_that_was_loaded_takes_stores() -> Result<()> {
    let (_device, mapping) = block()?;
    mapping.load(0)?;
    let first = entry(&mapping)?;
    check::equal("entry after a load", (first.size, first.writable), (BLOCK, true))?;
    mapping.store(0, 1)?;
    check::value("what was written", mapping.load(0), 1)?;
    check::equal("entry after a store", entry(&mapping)?, first)
}

fn block_that_is_watched_for_writes_takes_stores() -> Result<()> {
    let (device, mapping) = block()?;
    watch_for_writes()?;
    mapping.load(0)?;
    if entry(&mapping)?.writable {
        return Err(Skip("the kernel has no CONFIG_MEM_SOFT_DIRTY".into()).into());
    }
    check::equal("size of the entry", entry(&mapping)?.size, BLOCK)?;
    mapping.store(0, 1)?;
    check::value("what was written", mapping.load(0), 1)?;
    // The kernel takes the block away then, and the store makes an entry of its own.
    let second = entry(&mapping)?;
    check::equal("entry after a store", (second.size, second.writable), (PAGE, true))?;

    device.set_memory(false)?;
    device.set_memory(true)?;
    check::value("loaded anew", mapping.load(0), 1)?;
    check::equal("writable anew", entry(&mapping)?.writable, false)?;
    let store = || Ok(mapping.store(0, 3)?);
    overtaken(windows::HUGE_FAULT, store, |pause| {
        device.set_memory(false)?;
        device.set_memory(true)?;
        set_thp_disable(true)?;
        let load = || mapping.load(PAGE).map(drop).or(Err(Errno::EIO));
        check::works("load of a page", meanwhile(pause, "load of a page", load)?.0)
    })?;
    set_thp_disable(false)?;
    check::equal("size of the entry in the end", entry(&mapping)?.size, PAGE)?;
    check::value("what was written in the end", mapping.load(0), 3)
}
