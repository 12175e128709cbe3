// SPDX-License-Identifier: GPL-2.0
//! Page table entries: as the test module reads them for an address, and as the kernel dumps all of
//! this process in debugfs (`CONFIG_PTDUMP_DEBUGFS`), which takes seconds with all checks on.

use std::fs;
use std::path::Path;

use anyhow::{bail, Context, Result};

use crate::mm::Mapping;
use crate::testmod::{MemoryType, Ptes};

const DUMP: &str = "/sys/kernel/debug/page_tables/current_kernel";

/// A present entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes that it maps: a page, 2 MiB or 1 GiB.
    pub size: u64,
    /// Whether it allows writing.
    pub writable: bool,
    /// How the CPU treats what it maps.
    pub memory: MemoryType,
}

/// The entry at an offset of a mapping of this process, as the test module reads it; `None` if an
/// access would fault.
pub fn entry(mapping: &Mapping, at: u64) -> Result<Option<Entry>> {
    let pte = Ptes::new()?.at(mapping.address() + at as usize).context("READ_PTE")?;
    Ok(pte.map(|pte| Entry { size: pte.size, writable: pte.writable, memory: pte.memory }))
}

/// All entries of this process at some time, as the kernel dumps them.
pub struct Dump(String);

impl Dump {
    /// Takes one; `None` if the kernel cannot.
    pub fn take() -> Result<Option<Dump>> {
        if !Path::new(DUMP).exists() {
            return Ok(None);
        }
        Ok(Some(Dump(fs::read_to_string(DUMP).context(DUMP)?)))
    }

    /// The entry at an offset of a mapping.
    pub fn entry(&self, mapping: &Mapping, at: u64) -> Result<Option<Entry>> {
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
fn parse(rest: &str) -> Result<Option<Entry>> {
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
        (false, false, false) => MemoryType::Cached,
        (false, false, true) => MemoryType::WriteCombining,
        (false, true, false) => MemoryType::UncachedMinus,
        (false, true, true) => MemoryType::Uncached,
        (true, ..) => bail!("a memory type that Linux does not give to devices"),
    };
    Ok(Some(Entry { size, writable: has("RW"), memory }))
}
