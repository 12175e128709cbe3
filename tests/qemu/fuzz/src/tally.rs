// SPDX-License-Identifier: GPL-2.0
//! Counts in memory that all processes share. Each process writes only to its own slot.

use guest::prelude::*;

/// What is counted.
#[derive(Clone, Copy, Debug)]
pub enum Count {
    /// Calls that were made.
    Calls,
    /// Those that worked.
    Good,
    /// Buffers that were made.
    Buffers,
}

/// The number of slots.
pub const SLOTS: u64 = 8;
const SLOT: u64 = 16;

/// All counts.
pub struct Tally(Mapping);

impl Tally {
    /// Makes counts of zero.
    pub fn new() -> Result<Tally> {
        Ok(Tally(Mapping::anonymous_shared(PAGE)?))
    }

    fn at(slot: u64, what: Count) -> u64 {
        (slot % SLOTS) * SLOT + what as u64 * 4
    }

    /// Counts one.
    pub fn add(&self, slot: u64, what: Count) {
        let at = Tally::at(slot, what);
        let now = self.0.load(at).unwrap_or(0);
        let _ = self.0.store(at, now + 1);
    }

    /// The sum over all processes.
    pub fn sum(&self, what: Count) -> u64 {
        let of = |slot| u64::from(self.0.load(Tally::at(slot, what)).unwrap_or(0));
        (0..SLOTS).map(of).sum()
    }
}
