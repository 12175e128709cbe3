// SPDX-License-Identifier: GPL-2.0
//! One line of the show.

use anyhow::{ensure, Result};
use guest::maps;

/// Prints what `who` does.
pub fn say(who: &str, what: &str) {
    println!("{who:>6} | {what}");
}

/// Prints the line of `/proc/self/maps` that holds `address`, which must carry a buffer's name.
pub fn say_maps(who: &str, address: usize) -> Result<()> {
    let pid = std::process::id() as i32;
    let line = maps::line_at(pid, address)?;
    say(who, &format!("  /proc/{pid}/maps: {line}"));
    ensure!(line.name.starts_with("/dmabuf:vfio"), "the mapping is not a buffer's");
    Ok(())
}
