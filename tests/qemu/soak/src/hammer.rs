// SPDX-License-Identifier: GPL-2.0
//! Repeated accesses to memory during an operation.

use std::sync::atomic::{AtomicBool, Ordering};

use guest::fault;
use guest::mm;
use guest::{Errno, PAGE};

use crate::op::{Access, Seen};

/// A word that all processes share: whether the operation has returned, or may begin.
#[derive(Clone, Copy, Debug)]
pub struct Flag(usize);

impl Flag {
    /// Maps a new one, which processes that are forked later share.
    pub fn new() -> Result<Flag, Errno> {
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
        mm::map(-1, PAGE, mm::RW, flags, 0).map(Flag)
    }

    /// Sets or clears it.
    pub fn set(self, over: bool) {
        fault::store32(self.0, over.into()).expect("the flag is memory");
    }

    /// Waits until it is set.
    pub fn wait(self) {
        while !self.is_set() {
            std::thread::yield_now();
        }
    }

    fn is_set(self) -> bool {
        fault::load32(self.0).expect("the flag is memory") != 0
    }
}

/// An access: an address, and the value of a store.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub address: usize,
    pub store: Option<u32>,
}

/// Accesses `spots` in turn until `stop` returns true, and then once more.
///
/// Calls `begun` after the first round.
pub fn hammer(
    spots: &[Spot],
    flag: Flag,
    begun: impl FnOnce(),
    mut stop: impl FnMut() -> bool,
) -> Vec<Seen> {
    let mut seen = vec![Seen::default(); spots.len()];
    pass(spots, flag, &mut seen);
    begun();
    while !stop() {
        (0..16).for_each(|_| pass(spots, flag, &mut seen));
        // The operation needs a CPU, too.
        std::thread::yield_now();
    }
    pass(spots, flag, &mut seen);
    seen
}

fn pass(spots: &[Spot], flag: Flag, seen: &mut [Seen]) {
    for (spot, seen) in spots.iter().zip(seen) {
        // In this order: an access that begins after the operation must see the state after it.
        let over = flag.is_set();
        let result = access(spot);
        seen.count += 1;
        let list = if over { &mut seen.after } else { &mut seen.before };
        // At most three differ if all is well.
        if !list.contains(&result) && list.len() < 8 {
            list.push(result);
        }
    }
}

fn access(spot: &Spot) -> Access {
    match spot.store {
        None => fault::load32(spot.address),
        Some(value) => fault::store32(spot.address, value).map(|()| 0),
    }
    .map_err(crate::agent::signal)
}

/// Accesses `spots` in a thread while `work` runs in this one.
pub fn during<T>(spots: &[Spot], flag: Flag, work: impl FnOnce() -> T) -> (T, Vec<Seen>) {
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let first_round_done = || begun.store(true, Ordering::Release);
            hammer(spots, flag, first_round_done, || stop.load(Ordering::Acquire))
        });
        while !begun.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        let result = work();
        flag.set(true);
        stop.store(true, Ordering::Release);
        (result, thread.join().expect("hammering does not panic"))
    })
}
