// SPDX-License-Identifier: GPL-2.0
//! Random steps.
//!
//! The generator reads the model, so most of its steps are possible. It stays with a process for a
//! while, so that the conductor can send many operations at once. Slow operations are rare: QEMU
//! rebuilds its memory map whenever the memory of a device is disabled or enabled. That happens
//! many times when a device is opened, closed or reset, and a fork or kill may close several.

mod life;
mod pick;
mod race;
mod together;

use rand::distr::weighted::WeightedIndex;
use rand::distr::Distribution;
use rand::{Rng, SeedableRng};
use rand_pcg::Pcg64;

use crate::model::{BufferId, Model};
use crate::op::{Op, Proc, Step, PROCS};
use crate::session::Source;
use life::Life;

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
    HeldUp,
    Together,
    Memory,
    LowPower,
    Wakeups,
    WakeImporters,
    Power,
    Fork,
    Kill,
    Open,
    Close,
    Life,
    Reset,
    HotReset,
    SysfsReset,
    Flr,
    LinkError,
    VirtualFunctions,
    Restore,
}

/// How often the generator tries each, relative to the others.
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
    (Kind::Race, 100),
    (Kind::HeldUp, 40),
    (Kind::Together, 300),
    (Kind::Memory, 200),
    (Kind::LowPower, 30),
    (Kind::Wakeups, 60),
    (Kind::WakeImporters, 40),
    (Kind::Power, 150),
    (Kind::Fork, 25),
    (Kind::Kill, 8),
    (Kind::Open, 60),
    (Kind::Close, 6),
    (Kind::Life, 10),
    (Kind::Reset, 8),
    (Kind::HotReset, 8),
    (Kind::SysfsReset, 3),
    (Kind::Flr, 12),
    (Kind::LinkError, 8),
    (Kind::VirtualFunctions, 15),
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
    /// The function whose binding ends, and how far it has got.
    life: Option<Life>,
    /// The buffer that several processes use at once.
    meeting: Option<BufferId>,
}

impl Generator {
    /// A source of `count` steps that follow from `seed`. With `cdevs` they open devices through
    /// character devices, too.
    pub fn new(seed: u64, count: u64, cdevs: bool) -> Generator {
        let weights = WEIGHTS.iter().map(|(_, weight)| *weight);
        Generator {
            rng: Pcg64::seed_from_u64(seed),
            kinds: WeightedIndex::new(weights).expect("there are weights"),
            by: 0,
            left: count,
            cdevs,
            life: None,
            meeting: None,
        }
    }

    fn kind(&mut self, model: &Model) -> Kind {
        // Most operations need an open device.
        let open = model.funcs.iter().filter(|func| func.open).count();
        if open < 3 && self.rng.random_bool(0.2) {
            return Kind::Open;
        }
        // A device in low power wakes up for each call, which takes milliseconds.
        if self.rng.random_bool(0.1) && model.funcs.iter().any(|func| func.open && func.low_power) {
            return Kind::LowPower;
        }
        // Most operations need a device that is there.
        if self.rng.random_bool(0.1) && model.funcs.iter().any(|func| func.open && func.lost) {
            return Kind::Restore;
        }
        WEIGHTS[self.kinds.sample(&mut self.rng)].0
    }

    fn op(&mut self, model: &Model) -> Option<Op> {
        if self.life.is_some() && self.rng.random_bool(0.5) {
            return self.live(model);
        }
        if self.meeting.is_some() && self.rng.random_bool(0.3) {
            return self.together(model);
        }
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
