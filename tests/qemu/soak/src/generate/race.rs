// SPDX-License-Identifier: GPL-2.0
//! Operations with accesses of several processes beside them.

use rand::seq::IndexedRandom;
use rand::Rng;

use super::pick::View;
use super::{Generator, Kind};
use crate::machine::{unit_of, Func};
use crate::model::Model;
use crate::op::{Accessor, Op, Proc, Target, PROCS};

/// Operations that change what other processes reach.
const KINDS: [Kind; 21] = [
    Kind::Revoke,
    Kind::Revoke,
    Kind::Revoke,
    Kind::Revoke,
    Kind::Memory,
    Kind::Memory,
    Kind::Memory,
    Kind::LowPower,
    Kind::Power,
    Kind::Reset,
    Kind::HotReset,
    Kind::HotReset,
    Kind::SysfsReset,
    Kind::Flr,
    Kind::Open,
    Kind::Close,
    Kind::Life,
    Kind::Unmap,
    Kind::Punch,
    Kind::Protect,
    Kind::Move,
];
/// How often the generator looks for a target that the operation affects.
const TRIES: u32 = 6;

impl Generator {
    /// An operation, and processes that access memory during it.
    pub(super) fn race(&mut self, model: &Model) -> Option<Op> {
        let kind = *KINDS.choose(&mut self.rng)?;
        let op = self.pick(kind, model)?;
        self.with_crowd(model, op)
    }

    /// Adds processes that access memory during an operation.
    pub(super) fn with_crowd(&mut self, model: &Model, op: Op) -> Option<Op> {
        if matches!(op, Op::Race { .. }) {
            return Some(op);
        }
        let by = self.by;
        let mut crowd = Vec::new();
        for who in 0..PROCS as Proc {
            let takes_part = self.rng.random_bool(0.6);
            let is_busy = who == by && matches!(op, Op::UnbindOpen { .. });
            if !takes_part || is_busy {
                continue;
            }
            self.by = who;
            let targets = self.targets(model, op.func());
            if !targets.is_empty() {
                crowd.push(Accessor { by: who, targets });
            }
        }
        self.by = by;
        (!crowd.is_empty()).then_some(Op::Race { op: Box::new(op), crowd })
    }

    /// Up to four targets of the process, preferably in the unit of `func`.
    fn targets(&mut self, model: &Model, func: Option<Func>) -> Vec<Target> {
        let view = View { model, proc: model.proc(self.by) };
        let unit = func.map(unit_of);
        let mut targets = Vec::new();
        for _ in 0..self.rng.random_range(1..5) {
            let mut word = None;
            for _ in 0..TRIES {
                let Some(Op::Load { word: new }) = self.access(Kind::Load, &view) else { break };
                word = Some(new);
                let place = model.place_of(self.by, new);
                if unit.is_none() || place.map(|(func, ..)| unit_of(func)) == unit {
                    break;
                }
            }
            if let Some(word) = word {
                let store = self.rng.random_bool(0.3);
                let store = model.memory_at(self.by, word).filter(|_| store);
                targets.push(Target { word, store });
            }
        }
        targets
    }
}
