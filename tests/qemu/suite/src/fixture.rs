// SPDX-License-Identifier: GPL-2.0
//! Devices, buffers and helpers that most cases start with.

use std::env;
use std::fs;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{bail, Context, Result};
use guest::buffer::{Buffer, Export, Range};
use guest::device::{Device, Via};
use guest::fault::Fault;
use guest::mm::{self, Mapping};
use guest::module::Module;
use guest::pci::{self, Id, Pci};
use guest::peer::Peer;
use guest::ptes::MemoryType;
use guest::timeout::scaled;
use guest::{uapi, PAGE};

use crate::check;

/// edu's id register.
pub const ID_AT: u64 = 0x00;
/// What is in it.
pub const ID: u32 = 0x0100_00ed;
/// edu's inverter: reads as the inverse of what was written.
pub const INVERTER: u64 = 0x04;
/// In bochs-display's BAR2: a register that says how long the block is that it starts.
pub const BOCHS_SIZE_AT: u64 = 0x600;
/// What is in it.
pub const BOCHS_SIZE: u32 = 8;

/// The driver's name.
pub fn driver() -> String {
    env::var("DRIVER").unwrap_or_else(|_| Module::driver().name().replace('_', "-"))
}

/// The `nth` device with this id.
pub fn nth(id: Id, nth: usize) -> Result<Pci> {
    let found = Pci::find(id)?;
    found.get(nth).cloned().with_context(|| format!("there is no device {nth} with id {id:x?}"))
}

/// The first edu.
pub fn edu() -> Result<Pci> {
    nth(pci::EDU, 0)
}

/// The first edu, open through its group.
pub fn open_edu() -> Result<Device> {
    Device::open(&edu()?, Via::Group)
}

/// The first bochs-display, open through its group.
pub fn open_bochs() -> Result<Device> {
    Device::open(&nth(pci::BOCHS, 0)?, Via::Group)
}

/// A buffer over the first page of edu's BAR0, which has the registers.
pub fn export_edu(device: &Device) -> Result<Buffer> {
    Buffer::export(device, 0, 0, PAGE).context("export of edu's first page")
}

/// Writes a number to each of the first `pages` pages of `memory` that tells them apart.
pub fn paint(memory: &Mapping, pages: u64) -> Result<(), Fault> {
    (0..pages).try_for_each(|page| memory.store(page * PAGE, colour(page)))
}

/// What [`paint`] wrote to a page.
pub fn colour(page: u64) -> u32 {
    0xc010_0000 | page as u32
}

/// So many pages from the end of the BAR to its start, so that no two ranges are neighbours.
pub fn backwards(pages: u64) -> Vec<Range> {
    (0..pages).rev().map(|page| Range(page * PAGE, PAGE)).collect()
}

/// How many fds this process has.
pub fn fds() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Waits until `done` says so; deferred work of the kernel takes its time.
pub fn wait_for(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + scaled(Duration::from_secs(20));
    while !done()? {
        if Instant::now() >= deadline {
            bail!("timed out: {what}");
        }
        sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// The flags of an export for each memory type, and that type.
pub const WITH_EACH_TYPE: [(u32, MemoryType); 2] = [
    (uapi::VFIO_DMABUF_ATTR_UC, MemoryType::UncachedMinus),
    (uapi::VFIO_DMABUF_ATTR_WC, MemoryType::WriteCombining),
];

/// Exports ranges of BAR0 with these flags.
pub fn export_with(device: &Device, flags: u32, ranges: &[Range]) -> Result<Buffer> {
    let export = Export { flags, ..Export::new(0, ranges) };
    check::works("export", export.make(device))
}

/// Maps the first page of a buffer in another process, which has only the mapping afterwards.
pub fn map_in(process: &Peer, buffer: &Buffer) -> Result<usize> {
    let fd = process.take(buffer)?;
    let address = check::works("mmap", process.map(fd, PAGE, mm::RW, 0)?)?;
    process.close(fd)?;
    Ok(address)
}
