// SPDX-License-Identifier: GPL-2.0
//! `/proc/meminfo`.

use std::fs;

use anyhow::{Context, Result};

/// Kernel memory of the machine that is in slabs, bytes.
pub fn slabs() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("Slab:")).context("meminfo")?;
    let kib: u64 = line.split_whitespace().nth(1).context("Slab")?.parse()?;
    Ok(kib << 10)
}
