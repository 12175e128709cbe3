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

/// `thread` runs on `cpu` only; 0 is the calling thread.
pub fn stay_on(thread: i32, cpu: usize) -> Result<(), Errno> {
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(thread), &set)
}

/// This thread, and those that it starts from here on, do not run on `cpu`.
pub fn stay_off(cpu: usize) -> Result<(), Errno> {
    let mut set = sched_getaffinity(Pid::from_raw(0))?;
    set.unset(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set)
}

/// This thread, and those that it starts from here on, leave the CPU to others that is so far from
/// the last one, which is 1. Returns the CPU.
pub fn reserve(from_end: usize) -> Result<usize> {
    let cpus = fs::read_to_string("/sys/devices/system/cpu/present")?;
    let last: usize = cpus.trim().rsplit('-').next().unwrap_or("0").parse()?;
    let cpu = (last + 1).checked_sub(from_end).filter(|&cpu| cpu > 0);
    let cpu = cpu.context("too few CPUs")?;
    stay_off(cpu)?;
    Ok(cpu)
}

/// This process runs when a CPU has next to nothing else to do. `SCHED_IDLE`
pub fn starve() -> Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the kernel reads the structure during the call.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &parameters) };
    Ok(Errno::result(done).map(drop)?)
}
