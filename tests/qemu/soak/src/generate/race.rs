// SPDX-License-Identifier: GPL-2.0
//! Operations with accesses of several processes beside them.

use rand::seq::IndexedRandom;
use rand::Rng;

use super::pick::{slot, View};
use super::{Generator, Kind};
use crate::machine::{slot_of, Func};
use crate::model::Model;
use crate::op::{Accessor, FdRef, Op, Proc, Target, PROCS};

/// Operations that change what other processes reach.
const KINDS: [Kind; 23] = [
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
    Kind::LinkError,
    Kind::VirtualFunctions,
    Kind::Open,
    Kind::Close,
    Kind::Life,
    Kind::Unmap,
    Kind::Punch,
    Kind::Protect,
    Kind::Move,
];
/// How often the generator tries to find an operation with accesses that it affects.
const TRIES: u32 = 8;

/// Operations that wait until importers have unmapped, mostly.
const WAITS: [Kind; 8] = [
    Kind::Revoke,
    Kind::Revoke,
    Kind::Memory,
    Kind::Memory,
    Kind::LowPower,
    Kind::Reset,
    Kind::Close,
    Kind::Info,
];

impl Generator {
    /// An operation on a buffer or its device, while another process has the buffer imported.
    pub(super) fn held_up(&mut self, model: &Model) -> Option<Op> {
        let holder = self.other();
        let fd = slot(&mut self.rng, &model.proc(holder).fds, |fd| {
            fd.is_some_and(|id| model.is_reachable(id))
        })?;
        let id = model.proc(holder).fds[usize::from(fd)]?;
        let func = model.buffer(id).func;
        let mut owners =
            (0..PROCS as Proc).filter(|&by| by != holder && model.has_handle(by, func));
        self.by = owners.next()?;
        let kind = *WAITS.choose(&mut self.rng)?;
        let own = slot(&mut self.rng, &model.proc(self.by).fds, |fd| *fd == Some(id));
        let op = match kind {
            Kind::Revoke => Op::Revoke { func, fd: FdRef::Slot(own?), ioctl: self.rng.random() },
            Kind::Info => Op::Info { func, fd: FdRef::Slot(own?) },
            Kind::Memory => Op::Memory { func, on: self.rng.random() },
            Kind::LowPower => Op::LowPower { func, enter: true },
            Kind::Reset => Op::Reset { func },
            _ => Op::Close { func },
        };
        Some(Op::HeldUp { op: Box::new(op), holder, fd })
    }

    /// An operation, and processes that access memory during it.
    pub(super) fn race(&mut self, model: &Model) -> Option<Op> {
        let kind = *KINDS.choose(&mut self.rng)?;
        for _ in 0..TRIES {
            let race = self.pick(kind, model).and_then(|op| self.with_crowd(model, op));
            if race.is_some() {
                return race;
            }
        }
        None
    }

    /// Adds processes that access memory during an operation: the functions of its slot, if it has
    /// one.
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

    /// Up to four targets of the process, in the slot of `func`.
    fn targets(&mut self, model: &Model, func: Option<Func>) -> Vec<Target> {
        let view = View { model, proc: model.proc(self.by) };
        let who = self.by;
        let is_near = |word| {
            let place = model.place_of(who, word);
            func.is_none_or(|func| place.is_some_and(|(of, ..)| slot_of(func).contains(&of)))
        };
        let mut targets = Vec::new();
        for _ in 0..self.rng.random_range(1..5) * TRIES {
            let Some(Op::Load { word }) = self.access(Kind::Load, &view) else { break };
            let is_useful = is_near(word) && model.is_telling(who, word);
            if !is_useful && self.rng.random_bool(0.95) {
                continue;
            }
            let store = self.rng.random_bool(0.3);
            let store = model.memory_at(who, word).filter(|_| store);
            targets.push(Target { word, store });
        }
        if !targets.iter().any(|target| is_near(target.word)) {
            targets.clear();
        }
        targets.truncate(4);
        targets
    }
}
