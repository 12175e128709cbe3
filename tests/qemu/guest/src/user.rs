// SPDX-License-Identifier: GPL-2.0
//! User and limits of a process.

use anyhow::{Context, Result};
use nix::sys::resource::{setrlimit, Resource};
use nix::unistd::{setgid, setgroups, setuid, Gid, Uid};

const NOBODY: u32 = 65534;

/// From here on this process has no privileges. It keeps its fds.
pub fn become_nobody() -> Result<()> {
    setgroups(&[]).context("setgroups")?;
    setgid(Gid::from_raw(NOBODY)).context("setgid")?;
    setuid(Uid::from_raw(NOBODY)).context("setuid")
}

/// How many fds this process may have.
pub fn limit_fds(count: u64) -> Result<()> {
    setrlimit(Resource::RLIMIT_NOFILE, count, count).context("RLIMIT_NOFILE")
}
