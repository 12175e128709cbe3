// SPDX-License-Identifier: GPL-2.0
//! How long to wait for what has to come.
//!
//! A kernel with all checks on is ten times slower than others. Who starts the machine knows which
//! one it has and says so in `$SLOWER`; limits are written for the usual one.

use std::env;
use std::time::Duration;

/// `time` as long as this machine needs it to be.
pub fn patient(time: Duration) -> Duration {
    time * slower()
}

/// As [`patient`], for a time that always passes: on slow machines not as much longer.
pub fn a_while(time: Duration) -> Duration {
    time * slower().min(3)
}

fn slower() -> u32 {
    env::var("SLOWER").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}
