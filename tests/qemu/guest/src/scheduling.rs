// SPDX-License-Identifier: GPL-2.0
//! Which CPUs a process runs on, and how much of them it gets.

use nix::sched::{sched_getaffinity, sched_setaffinity, CpuSet};
use nix::unistd::Pid;

use crate::prelude::*;

/// The last CPU that this process may run on.
pub fn last_cpu() -> Result<usize> {
    let set = sched_getaffinity(Pid::from_raw(0))?;
    let cpus = (0..CpuSet::count()).filter(|&cpu| set.is_set(cpu).unwrap_or(false));
    cpus.last().context("no CPU")
}

/// This process runs on `cpu` only.
pub fn stay_on(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// This process runs on all CPUs but `cpu`.
pub fn stay_off(cpu: usize) -> Result<()> {
    let mut set = sched_getaffinity(Pid::from_raw(0))?;
    set.unset(cpu)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// This process runs when a CPU has next to nothing else to do. `SCHED_IDLE`
pub fn starve() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure during the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
    Ok(Errno::result(done).map(drop)?)
}
