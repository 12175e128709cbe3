// SPDX-License-Identifier: GPL-2.0
//! Random steps that make sense.
//!
//! The generator sees the model, so that most of what it picks is possible, and goes on for a while
//! with one process, so that it can be sent many operations at once. What is slow is rare: an
//! emulator builds its memory map anew whenever a device's memory goes off or on, which happens
//! many times when one is opened, closed or reset; and each fork and each kill may close some.

mod pick;

use rand::distr::weighted::WeightedIndex;
use rand::distr::Distribution;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::model::Model;
use crate::op::{Op, Proc, Step, PROCS};
use crate::session::Source;

/// Kinds of operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Load,
    Store,
    Entry,
    Map,
    MapBar,
    Unmap,
    Punch,
    Protect,
    Move,
    Grow,
    Export,
    FlawedExport,
    Revoke,
    GetMemattr,
    SetMemattr,
    Info,
    StrangeFd,
    Odd,
    CloseFd,
    Dup,
    Pass,
    Attach,
    ImporterMap,
    ImporterUnmap,
    Detach,
    Stats,
    Race,
    Memory,
    LowPower,
    Power,
    Fork,
    Kill,
    Open,
    Close,
    Rebind,
    Reset,
    HotReset,
    SysfsReset,
    Flr,
}

/// How often each comes, of all tries.
const WEIGHTS: &[(Kind, u32)] = &[
    (Kind::Load, 30_000),
    (Kind::Store, 15_000),
    (Kind::Entry, 6_000),
    (Kind::Map, 8_000),
    (Kind::MapBar, 2_500),
    (Kind::Unmap, 4_500),
    (Kind::Punch, 2_500),
    (Kind::Protect, 3_000),
    (Kind::Move, 1_500),
    (Kind::Grow, 300),
    (Kind::Export, 5_000),
    (Kind::FlawedExport, 600),
    (Kind::Revoke, 2_000),
    (Kind::GetMemattr, 1_500),
    (Kind::SetMemattr, 2_500),
    (Kind::Info, 4_000),
    (Kind::StrangeFd, 800),
    (Kind::Odd, 400),
    (Kind::CloseFd, 2_500),
    (Kind::Dup, 1_500),
    (Kind::Pass, 1_000),
    (Kind::Attach, 1_500),
    (Kind::ImporterMap, 2_000),
    (Kind::ImporterUnmap, 700),
    (Kind::Detach, 700),
    (Kind::Stats, 1_500),
    (Kind::Race, 150),
    (Kind::Memory, 200),
    (Kind::LowPower, 30),
    (Kind::Power, 20),
    (Kind::Fork, 25),
    (Kind::Kill, 8),
    (Kind::Open, 50),
    (Kind::Close, 6),
    (Kind::Rebind, 5),
    (Kind::Reset, 4),
    (Kind::HotReset, 3),
    (Kind::SysfsReset, 3),
    (Kind::Flr, 4),
];

/// How many steps one process takes in a row, on average.
const TURN: f64 = 40.0;

/// A source of random steps.
pub struct Generator {
    rng: Pcg64,
    kinds: WeightedIndex<u32>,
    by: Proc,
    left: u64,
    cdevs: bool,
}

impl Generator {
    /// One that gives `count` steps, the same for each `seed`; with `cdevs` devices are opened
    /// through these, too.
    pub fn new(seed: u64, count: u64, cdevs: bool) -> Generator {
        let weights = WEIGHTS.iter().map(|(_, weight)| *weight);
        Generator {
            rng: Pcg64::seed_from_u64(seed),
            kinds: WeightedIndex::new(weights).expect("there are weights"),
            by: 0,
            left: count,
            cdevs,
        }
    }

    fn kind(&mut self, model: &Model) -> Kind {
        // Without an open device there is little to do.
        let open = model.units.iter().filter(|unit| unit.via.is_some()).count();
        if open < 2 && self.rng.random_bool(0.2) {
            return Kind::Open;
        }
        // A device that is asleep wakes up for each call, which takes milliseconds.
        if self.rng.random_bool(0.1) && model.funcs.iter().any(|func| func.open && func.low_power) {
            return Kind::LowPower;
        }
        WEIGHTS[self.kinds.sample(&mut self.rng)].0
    }

    fn op(&mut self, model: &Model) -> Option<Op> {
        let kind = self.kind(model);
        self.pick(kind, model)
    }
}

impl Source for Generator {
    fn next(&mut self, model: &Model) -> Option<Step> {
        self.left = self.left.checked_sub(1)?;
        if self.rng.random_bool(1.0 / TURN) {
            self.by = self.rng.random_range(0..PROCS as Proc);
        }
        loop {
            if let Some(op) = self.op(model) {
                return Some(Step { by: self.by, op });
            }
        }
    }
}
