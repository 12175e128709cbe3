// SPDX-License-Identifier: GPL-2.0
//! Page table entries: as the test module reads them, in any process, and as the kernel dumps those
//! of this process in debugfs (`CONFIG_PTDUMP_DEBUGFS`, x86 only), which takes seconds on a debug
//! kernel.

use crate::prelude::*;
use crate::sys::ioctl_with;
use crate::testmod::{open, uapi};

const DUMP: &str = "/sys/kernel/debug/page_tables/current_kernel";

/// How the CPU treats what an entry maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryType {
    /// As `pgprot_noncached()` has it.
    Uncached,
    /// As `pgprot_writecombine()` has it.
    WriteCombining,
    /// Any other.
    Other,
}

/// A present page table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte {
    /// Page frame of the address that was asked for; 0 from a [`Dump`], which does not say it.
    pub pfn: u64,
    /// Bytes that the entry maps.
    pub size: u64,
    /// Whether it can be written through.
    pub writable: bool,
    /// How the CPU treats it.
    pub memory: MemoryType,
}

/// Reads page table entries.
#[derive(Debug)]
pub struct Ptes(File);

impl Ptes {
    /// A reader.
    pub fn new() -> Result<Ptes> {
        Ok(Ptes(open(uapi::PTES)?))
    }

    /// The entry for `address` of this process; `None` if an access would fault.
    pub fn at(&self, address: usize) -> Result<Option<Pte>, Errno> {
        self.of(0, address)
    }

    /// The entry for `address` of process `pid`.
    pub fn of(&self, pid: i32, address: usize) -> Result<Option<Pte>, Errno> {
        let mut arg = uapi::Pte { address: address as u64, pid, ..Default::default() };
        ioctl_with(self.0.as_raw_fd(), uapi::READ_PTE, &mut arg)?;
        let memory = match arg.memory_type {
            uapi::MEMORY_UNCACHED => MemoryType::Uncached,
            uapi::MEMORY_WRITE_COMBINING => MemoryType::WriteCombining,
            _ => MemoryType::Other,
        };
        let (pfn, size, writable) = (arg.pfn, arg.size, arg.writable != 0);
        Ok((arg.present != 0).then_some(Pte { pfn, size, writable, memory }))
    }
}

/// The entry at an offset of a mapping of this process; `None` if an access would fault.
pub fn entry(mapping: &Mapping, at: u64) -> Result<Option<Pte>> {
    Ptes::new()?.at(mapping.address() + at as usize).context("READ_PTE")
}

/// The entry there after an access.
pub fn touched(mapping: &Mapping, at: u64) -> Result<Pte> {
    mapping.load(at)?;
    entry(mapping, at)?.with_context(|| format!("no entry at {at:#x} after an access"))
}

/// The entries of this process, as the kernel dumps them.
pub struct Dump(String);

impl Dump {
    /// Takes one; `None` without `CONFIG_PTDUMP_DEBUGFS`.
    pub fn take() -> Result<Option<Dump>> {
        if !Path::new(DUMP).exists() {
            return Ok(None);
        }
        Ok(Some(Dump(fs::read_to_string(DUMP).context(DUMP)?)))
    }

    /// The entry at an offset of a mapping.
    pub fn entry(&self, mapping: &Mapping, at: u64) -> Result<Option<Pte>> {
        let address = mapping.address() + at as usize;
        for line in self.0.lines().filter(|line| line.starts_with("0x")) {
            let (range, rest) = line.split_once(char::is_whitespace).context("range")?;
            let (start, end) = range.split_once('-').context("range")?;
            let number = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16);
            if (number(start)?..number(end)?).contains(&address) {
                return parse(rest).with_context(|| format!("{DUMP}: {line:?}"));
            }
        }
        bail!("{DUMP} has no line for {address:#x}")
    }
}

/// What is behind the addresses in a line. The names of the bits are for the page attribute table
/// as Linux sets it up.
fn parse(rest: &str) -> Result<Option<Pte>> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    let has = |word| words.contains(&word);
    if !has("USR") {
        return Ok(None);
    }
    let size = match words.last().copied() {
        Some("pte") => 1 << 12,
        Some("pmd") => 1 << 21,
        Some("pud") => 1 << 30,
        other => bail!("level {other:?}"),
    };
    let memory = match (has("PAT"), has("PCD"), has("PWT")) {
        (false, false, true) => MemoryType::WriteCombining,
        (false, true, false) => MemoryType::Uncached,
        _ => MemoryType::Other,
    };
    Ok(Some(Pte { pfn: 0, size, writable: has("RW"), memory }))
}
