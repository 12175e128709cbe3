// SPDX-License-Identifier: GPL-2.0
//! Counting instructions and faults.

use anyhow::{ensure, Result};
use guest::device::Device;
use guest::feature::Call;
use guest::{fault, uapi, Errno};

/// The time stamp counter: with `-icount shift=0` one tick is one instruction.
pub fn ticks() -> u64 {
    // SAFETY: every x86-64 CPU has this instruction.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The instructions of one call of `work`, less those of the counting itself.
pub fn count<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let start = ticks();
    let result = work();
    let end = ticks();
    (end - start - nothing(), result)
}

/// What [`ticks`] twice in a row counts.
fn nothing() -> u64 {
    let start = ticks();
    ticks() - start
}

/// The median of what `work` counts in `times` calls.
pub fn median(times: usize, mut work: impl FnMut(usize) -> Result<u64>) -> Result<u64> {
    let mut counts = (0..times).map(&mut work).collect::<Result<Vec<_>>>()?;
    counts.sort_unstable();
    Ok(counts[counts.len() / 2])
}

/// Reads a word that must be there.
pub fn touch(address: usize) -> Result<()> {
    fault::load32(address).map_err(|fault| anyhow::anyhow!("{address:#x}: {fault:?}"))?;
    Ok(())
}

/// The instructions and the page faults of reading a word every `step` bytes of `start..end`.
pub fn walk(start: usize, end: usize, step: usize) -> Result<(u64, u64)> {
    let faults = faults();
    let (count, result) = count(|| (start..end).step_by(step).try_for_each(touch));
    result?;
    Ok((count, self::faults() - faults))
}

/// The page faults of this process so far.
pub fn faults() -> u64 {
    // SAFETY: a structure of numbers, for which 0 is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: `usage` is there to be written.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_minflt as u64 + usage.ru_majflt as u64
}

/// Kernel memory in slabs, bytes.
pub fn slab() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find(|line| line.starts_with("Slab:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    ensure!(number.is_some(), "no Slab in meminfo");
    Ok(number.unwrap_or(0) * 1024)
}

/// A feature call as it lies in memory, so that only the system call is counted.
pub struct Prepared(Vec<u32>);

impl Prepared {
    /// Lays it out.
    pub fn new(call: &Call) -> Prepared {
        let mut words = vec![call.argsz, call.flags];
        words.extend(&call.payload);
        Prepared(words)
    }

    /// Makes the call.
    pub fn make(&mut self, device: &Device) -> Result<i32, Errno> {
        device.ioctl(uapi::VFIO_DEVICE_FEATURE, self.0.as_mut_ptr() as usize)
    }
}

/// close()
pub fn close(fd: i32) {
    // SAFETY: the caller got the fd from a system call and has no owner for it.
    unsafe { libc::close(fd) };
}
