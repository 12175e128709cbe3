// SPDX-License-Identifier: GPL-2.0
//! Makes each allocation and copy of a call fail, one per run.

use std::collections::BTreeSet;

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
const MANY: u32 = 20_000;

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
    /// Counts the result of a call; returns true for a call without a failure, which must succeed.
    fn is_over(
        &mut self,
        injected: bool,
        result: Result<(), Errno>,
        errnos: &[Errno],
    ) -> Result<bool> {
        match (result, injected) {
            (Ok(()), true) => self.absorbed += 1,
            (Ok(()), false) => return Ok(true),
            (Err(errno), true) if errnos.contains(&errno) => {
                self.errnos.insert(errno as i32);
                self.failed += 1;
            }
            (Err(errno), _) => bail!("{errno}"),
        }
        Ok(false)
    }

    /// Writes it to the kernel log, where all tallies of a run can be read.
    fn log(&self, what: &str) {
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

/// Repeats `step`, which makes a call with its n-th failure, until the call has no n-th failure.
///
/// `step` returns the result and whether the failure was injected. Each errno of `errnos` must
/// occur, and no other one may.
pub fn each_failure(
    what: &str,
    errnos: &[Errno],
    mut step: impl FnMut(u32) -> Result<(Result<(), Errno>, bool)>,
) -> Result<Tally> {
    let mut tally = Tally::default();
    for n in 1..MANY {
        let context = || format!("{what}, failure {n}");
        let (result, injected) = step(n).with_context(context)?;
        if tally.is_over(injected, result, errnos).with_context(context)? {
            tally.log(what);
            for &errno in errnos {
                let found = tally.errnos.contains(&(errno as i32));
                ensure!(found, "{what}: no call failed with {errno}: {tally:?}");
            }
            return Ok(tally);
        }
    }
    bail!("{what}: there is no end of it: {tally:?}")
}

/// Makes each allocation and copy in `call` fail, one after the other.
///
/// A call's result is dropped after `after` has looked at it. Then everything must be as it was
/// before the call, and the next call must work.
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
    each_failure(what, errnos, |n| {
        let (result, injected) = injector.run(n, &mut call)?;
        after(&result)?;
        let result = result.map(drop);
        wait_for("everything is given back", || Ok(Left::now()? == before))?;
        drop(check::works("the next call", call())?);
        Ok((result, injected))
    })
}
