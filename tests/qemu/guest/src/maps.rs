// SPDX-License-Identifier: GPL-2.0
//! `/proc/PID/maps`.

use std::fmt;
use std::fs;

use anyhow::{Context, Result};

/// One line of `/proc/PID/maps`.
#[derive(Clone, Debug)]
pub struct Line {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// `rw-s` and the like.
    pub perms: String,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Name of the file, or empty.
    pub name: String,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Line { start, end, perms, offset, name } = self;
        write!(f, "{start:x}-{end:x} {perms} {offset:08x} {name}")
    }
}

/// The lines of process `pid`.
pub fn of(pid: i32) -> Result<Vec<Line>> {
    let text = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    text.lines().map(|line| parse(line).with_context(|| format!("maps line {line:?}"))).collect()
}

/// The lines of this process.
pub fn own() -> Result<Vec<Line>> {
    of(std::process::id() as i32)
}

/// The line of process `pid` that holds `address`.
pub fn line_at(pid: i32, address: usize) -> Result<Line> {
    let address = address as u64;
    of(pid)?
        .into_iter()
        .find(|line| (line.start..line.end).contains(&address))
        .with_context(|| format!("{address:#x} is not mapped in process {pid}"))
}

/// The flags of the mapping of this process that starts at `address`, as smaps names them, in
/// alphabetical order; without `sd` (soft-dirty), which not all kernels have.
pub fn flags_at(address: usize) -> Result<Vec<String>> {
    let text = fs::read_to_string("/proc/self/smaps")?;
    let start = format!("{address:x}-");
    let mut lines = text.lines().skip_while(|line| !line.starts_with(&start));
    let flags = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    let flags = flags.with_context(|| format!("no mapping starts at {address:#x}"))?;
    let mut flags: Vec<_> = flags.split_whitespace().map(String::from).collect();
    flags.retain(|flag| flag != "sd");
    flags.sort();
    Ok(flags)
}

fn parse(line: &str) -> Option<Line> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let perms = words.next()?.to_string();
    let offset = u64::from_str_radix(words.next()?, 16).ok()?;
    let (_dev, _inode) = (words.next()?, words.next()?);
    let name = words.collect::<Vec<_>>().join(" ");
    let start = u64::from_str_radix(start, 16).ok()?;
    let end = u64::from_str_radix(end, 16).ok()?;
    Some(Line { start, end, perms, offset, name })
}
