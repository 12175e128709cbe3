// SPDX-License-Identifier: GPL-2.0
//! Time limits on slow machines, and waiting within one.
//!
//! Limits are written for the usual kernel. A debug kernel is ten times slower; `scripts` starts it
//! with that factor in `$SLOWER`.

use std::env;

use crate::prelude::*;

/// A limit, scaled for this machine.
pub fn scaled(time: Duration) -> Duration {
    time * slower()
}

/// Scales a delay that always passes in full, by less than [`scaled`] does a limit.
pub fn scaled_delay(time: Duration) -> Duration {
    time * slower().min(3)
}

/// Waits until `done` returns true; fails with `what` once the scaled limit has passed.
pub fn wait_until(
    limit: Duration,
    what: &str,
    mut done: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + scaled(limit);
    while !done()? {
        ensure!(Instant::now() < deadline, "timed out: {what}");
        sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn slower() -> u32 {
    env::var("SLOWER").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
