// SPDX-License-Identifier: GPL-2.0
//! Faults of different orders on one block, at the same time, each with a thread stopped in the
//! window on purpose.
//!
//! Which order a fault takes is not the driver's choice alone: a process may forbid blocks, and
//! allow them again, at any time (`prctl(PR_SET_THP_DISABLE)`). The kernel warns of a page table
//! where a block is to be mapped to write to it, and of a block where pages are to be.

use guest::ptes::{self, Pte};
use guest::windows::Window;
use nix::sys::prctl::set_thp_disable;

use crate::prelude::*;

cases! {
    Setup::Bound(&[BOCHS]) =>
        "race: fault against fault of another order on the same block": [
            page_fault_that_a_block_overtook_leaves_the_block,
            page_fault_that_made_a_page_table_is_not_overtaken =>
                store_overtakes(windows::FAULT_MADE_TABLE, false, PAGE),
            block_fault_that_a_page_overtook_leaves_the_page =>
                store_overtakes(windows::HUGE_FAULT_CHECKED, true, PAGE),
            page_table_that_is_gone_again_is_made_anew,
            block_that_was_loaded_takes_stores, block_that_is_watched_for_writes_takes_stores,
        ];
}

/// A block of the video memory, mapped so that one entry can map it.
fn block() -> Result<(Device, Mapping)> {
    let device = open_bochs()?;
    let buffer = Buffer::export(&device, 0, 0, BLOCK)?;
    Ok((device, Mapping::aligned(&buffer, BLOCK, 0)?))
}

fn entry(mapping: &Mapping) -> Result<Pte> {
    ptes::entry(mapping, 0)?.ok_or_else(|| anyhow!("no entry"))
}

/// Lets a store to the second page of a block overtake one to the first, which stops in `window`.
/// One of them is allowed to take the block. `size` is that of the entry in the end, bytes.
fn store_overtakes(window: Window, first_takes_block: bool, size: u64) -> Result<()> {
    let (_device, mapping) = block()?;
    set_thp_disable(!first_takes_block)?;
    let (first, ()) = overtaken(
        window,
        || mapping.store(0, 1),
        |pause| {
            set_thp_disable(first_takes_block)?;
            let second = || mapping.store(PAGE, 2);
            Ok(meanwhile(pause, "the second store", second)?.0?)
        },
    )?;
    first?;
    set_thp_disable(false)?;
    check::equal("size of the entry", entry(&mapping)?.size, size)?;
    check::value("first page", mapping.load(0), 1)?;
    check::value("second page", mapping.load(PAGE), 2)
}

fn page_fault_that_a_block_overtook_leaves_the_block() -> Result<()> {
    store_overtakes(windows::FAULT_LOOKS_FOR_TABLE, false, BLOCK)?;
    store_overtakes(windows::FAULT_MAKES_TABLE, false, BLOCK)
}

/// The kernel frees an empty page table when it discards what a process has mapped (PT_RECLAIM).
fn page_table_that_is_gone_again_is_made_anew() -> Result<()> {
    let (_device, mapping) = block()?;
    set_thp_disable(true)?;
    let (stored, ()) = overtaken(
        windows::FAULT_SAW_TABLE,
        || mapping.store(0, 1),
        |_| mm::advise(mapping.address(), BLOCK, libc::MADV_DONTNEED).context("MADV_DONTNEED"),
    )?;
    stored?;
    set_thp_disable(false)?;
    check::equal("size of the entry", entry(&mapping)?.size, PAGE)?;
    check::value("what was written", mapping.load(0), 1)
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

    // Another block, without a page table.
    drop((device, mapping));
    let (device, mapping) = block()?;
    watch_for_writes()?;
    mapping.load(0)?;
    let first = entry(&mapping)?;
    check::equal("entry of the second block", (first.size, first.writable), (BLOCK, false))?;
    let (stored, ()) = overtaken(
        windows::HUGE_FAULT,
        || mapping.store(0, 3),
        |pause| {
            device.renew_memory()?;
            set_thp_disable(true)?;
            let load = || mapping.load(PAGE).map(drop).or(Err(Errno::EIO));
            check::works("load of a page", meanwhile(pause, "load of a page", load)?.0)
        },
    )?;
    stored?;
    set_thp_disable(false)?;
    check::equal("size of the entry in the end", entry(&mapping)?.size, PAGE)?;
    check::value("what was written in the end", mapping.load(0), 3)
}
