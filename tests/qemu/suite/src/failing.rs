// SPDX-License-Identifier: GPL-2.0
//! Makes each allocation and copy of a call fail, one per run.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};

use guest::failnth::{Injector, Kind, Whose};
use guest::kmsg;

use crate::prelude::*;

/// Allocations, and copies of user memory.
pub const ALL: &[Kind] = &[Kind::Memory, Kind::UserCopy];
/// Allocations.
pub const MEMORY: &[Kind] = &[Kind::Memory];
/// Copies of user memory.
pub const COPIES: &[Kind] = &[Kind::UserCopy];

/// How many failures a call may have before something is wrong with the case.
pub const MANY: u32 = 20_000;

/// Skips the case if the kernel cannot do it.
pub fn injector(kinds: &[Kind], whose: Whose) -> Result<Injector> {
    match Injector::new(kinds, whose)? {
        Some(injector) => Ok(injector),
        None => Err(Skip("the kernel has no fault injection".into()).into()),
    }
}

/// What must be the same after a call that failed.
#[derive(Debug, PartialEq, Eq)]
pub struct Left {
    fds: usize,
    /// The number of the next fd: one that was reserved and not given back is not seen otherwise.
    next_fd: RawFd,
    references: u32,
    buffers: usize,
}

impl Left {
    /// What there is.
    pub fn now() -> Result<Left> {
        let info = fs::read_to_string("/sys/kernel/debug/dma_buf/bufinfo")?;
        Ok(Left {
            fds: fds()?,
            next_fd: File::open("/dev/null")?.as_raw_fd(),
            references: Module::driver().references()?,
            buffers: info.lines().filter(|line| line.contains(&driver())).count(),
        })
    }
}

/// What came of the failures of a call.
#[derive(Debug, Default)]
pub struct Tally {
    /// How many made it fail, and how.
    pub failed: u32,
    pub errnos: BTreeSet<i32>,
    /// How many did not make it fail.
    pub absorbed: u32,
}

impl Tally {
    /// Counts what came of a call; without a failure that is the end, which has to be a good one.
    pub fn is_over<T>(
        &mut self,
        injected: bool,
        result: &Result<T, Errno>,
        errnos: &[Errno],
    ) -> Result<bool> {
        match (result, injected) {
            (Ok(_), true) => self.absorbed += 1,
            (Ok(_), false) => return Ok(true),
            (Err(errno), true) if errnos.contains(errno) => {
                self.errnos.insert(*errno as i32);
                self.failed += 1;
            }
            (Err(errno), _) => bail!("{errno}"),
        }
        Ok(false)
    }

    /// Writes it to the kernel log, where all tallies of a run can be read.
    pub fn tell(&self, what: &str) {
        let errnos: Vec<Errno> = self.errnos.iter().map(|&errno| Errno::from_raw(errno)).collect();
        let (failed, absorbed) = (self.failed, self.absorbed);
        kmsg::mark(&format!(
            "suite: {what}: {failed} answered with {errnos:?}, {absorbed} absorbed"
        ));
    }

    /// How many there were.
    pub fn injected(&self) -> u32 {
        self.failed + self.absorbed
    }
}

/// Lets everything in `call` fail, one thing after the other.
///
/// What the call makes goes away when it is dropped. `after` looks whether all is as before the
/// call, which it gets the result of.
pub fn exhaust<T>(
    what: &str,
    injector: &Injector,
    errnos: &[Errno],
    mut call: impl FnMut() -> Result<T, Errno>,
    mut after: impl FnMut(&Result<T, Errno>) -> Result<()>,
) -> Result<Tally> {
    // Also so that all of this program that it needs is in memory.
    drop(check::works(what, call())?);
    let before = Left::now()?;
    let mut tally = Tally::default();
    for n in 1..MANY {
        let (result, injected) = injector.run(n, &mut call)?;
        let step = || format!("{what}, failure {n} (injected: {injected})");
        if tally.is_over(injected, &result, errnos).with_context(step)? {
            tally.tell(what);
            return Ok(tally);
        }
        after(&result).with_context(step)?;
        drop(result);
        wait_for(&format!("{}: everything is given back", step()), || Ok(Left::now()? == before))?;
        drop(check::works(&format!("{}: the next call", step()), call())?);
    }
    bail!("{what}: there is no end of it: {tally:?}")
}

/// Checks that there were failures at all, with these errnos.
pub fn failed(tally: &Tally, errnos: &[Errno]) -> Result<()> {
    for &errno in errnos {
        let found = tally.errnos.contains(&(errno as i32));
        ensure!(found, "no call failed with {errno}: {tally:?}");
    }
    Ok(())
}
