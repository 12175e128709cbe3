// SPDX-License-Identifier: GPL-2.0
//! Time limits on slow machines.
//!
//! Limits are written for the usual kernel. A debug kernel is ten times slower; `scripts` starts it
//! with that factor in `$SLOWER`.

use std::env;
use std::time::Duration;

/// A limit, scaled for this machine.
pub fn scaled(time: Duration) -> Duration {
    time * slower()
}

/// Scales a delay that always passes in full, by less than [`scaled`] does a limit.
pub fn scaled_delay(time: Duration) -> Duration {
    time * slower().min(3)
}

fn slower() -> u32 {
    env::var("SLOWER").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
