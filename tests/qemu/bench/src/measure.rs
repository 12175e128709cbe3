// SPDX-License-Identifier: GPL-2.0
//! Counts instructions and page faults.

use anyhow::{Context, Result};
use guest::arch::counter;
use guest::fault;

/// Counts the instructions of one call of `work`, less those of the counting itself.
pub fn count<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let start = counter();
    let result = work();
    let end = counter();
    (end - start - nothing(), result)
}

/// Counts the instructions of `work`, which must succeed.
pub fn cost<T, E>(work: impl FnOnce() -> Result<T, E>) -> Result<u64>
where
    anyhow::Error: From<E>,
{
    let (count, result) = count(work);
    result?;
    Ok(count)
}

/// The instructions between two consecutive calls of [`counter`].
fn nothing() -> u64 {
    let start = counter();
    counter() - start
}

/// The median of the counts that `work` returns in `times` calls.
pub fn median(times: usize, mut work: impl FnMut(usize) -> Result<u64>) -> Result<u64> {
    let mut counts = (0..times).map(&mut work).collect::<Result<Vec<_>>>()?;
    counts.sort_unstable();
    Ok(counts[counts.len() / 2])
}

/// Reads a word, which must not fault for good.
pub fn touch(address: usize) -> Result<()> {
    fault::load32(address).with_context(|| format!("load at {address:#x}")).map(drop)
}

/// Counts instructions and page faults of reading a word every `step` bytes of `start..end`.
pub fn walk(start: usize, end: usize, step: usize) -> Result<(u64, u64)> {
    let faults = faults();
    let cost = cost(|| (start..end).step_by(step).try_for_each(touch))?;
    Ok((cost, self::faults() - faults))
}

/// The page faults of this process so far.
pub fn faults() -> u64 {
    // SAFETY: a structure of numbers, for which 0 is a value.
    let mut usage: libc::rusage = unsafe { core::mem::zeroed() };
    // SAFETY: `usage` is there to be written.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &mut usage) };
    usage.ru_minflt as u64 + usage.ru_majflt as u64
}
