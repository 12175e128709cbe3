// SPDX-License-Identifier: GPL-2.0
//! Page table entries of this process, as the kernel dumps them in debugfs
//! (`CONFIG_PTDUMP_DEBUGFS`): whether an address has one, of which size, and with which cache mode.

use std::fs;

use anyhow::{bail, Context, Result};

const DUMP: &str = "/sys/kernel/debug/page_tables/current_kernel";

/// The cache mode of an entry, with the PAT as Linux sets it up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Neither PCD nor PWT.
    WriteBack,
    /// PWT: write-combining.
    WriteCombining,
    /// PCD: uncached, unless an MTRR says write-combining.
    UncachedMinus,
    /// PCD and PWT: uncached.
    Uncached,
}

/// A present entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Bytes that it maps: a page, 2 MiB or 1 GiB.
    pub size: u64,
    /// Whether it allows writing.
    pub writable: bool,
    /// How the CPU caches what it maps.
    pub cache: Cache,
}

/// The entry that maps `address` of this process; `None` if an access would fault.
pub fn entry_at(address: usize) -> Result<Option<Entry>> {
    let dump = fs::read_to_string(DUMP).context(DUMP)?;
    for line in dump.lines().filter(|line| line.starts_with("0x")) {
        let (range, rest) = line.split_once(char::is_whitespace).context("range")?;
        let (start, end) = range.split_once('-').context("range")?;
        let number = |text: &str| usize::from_str_radix(text.trim_start_matches("0x"), 16);
        if (number(start)?..number(end)?).contains(&address) {
            return parse(rest).with_context(|| format!("{DUMP}: {line:?}"));
        }
    }
    bail!("{DUMP} has no line for {address:#x}")
}

/// Whether this kernel shows page tables.
pub fn are_shown() -> bool {
    fs::metadata(DUMP).is_ok()
}

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
    let cache = match (has("PAT"), has("PCD"), has("PWT")) {
        (false, false, false) => Cache::WriteBack,
        (false, false, true) => Cache::WriteCombining,
        (false, true, false) => Cache::UncachedMinus,
        (false, true, true) => Cache::Uncached,
        (true, ..) => bail!("a cache mode that Linux does not give to devices"),
    };
    Ok(Some(Entry { size, writable: has("RW"), cache }))
}
