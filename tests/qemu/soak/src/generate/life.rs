// SPDX-License-Identifier: GPL-2.0
//! The end of a binding of a function and the beginning of the next one, with buffers kept.
//!
//! Other operations come in between.

use rand::seq::IndexedRandom;
use rand::Rng;

use super::pick::{slot, View};
use super::{Generator, Kind};
use crate::machine::{slot_of, spec, virtual_functions, Func, PHYSICAL};
use crate::model::{Model, Source};
use crate::op::{FdRef, Op, Part, Proc, Slot, Via, PROCS};

/// A function on the way from one binding to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    func: Func,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// Its users close and unmap it.
    Closing,
    /// The users of its virtual functions close and unmap those, which are then taken away.
    Removing,
    /// It is unbound, for so many more steps.
    Unbound(u32),
    /// It is bound and open again, for so many more steps.
    Reopened(u32),
}

impl Generator {
    /// Begins to end the binding of a function. Finishes with another one first.
    pub(super) fn begin_life(&mut self, func: Func, model: &Model) -> Option<Op> {
        if self.life.is_none() {
            self.life = Some(Life { func, stage: Stage::Closing });
        }
        self.live(model)
    }

    /// Begins to take away virtual functions. Finishes with another function first.
    pub(super) fn begin_removal(&mut self, model: &Model) -> Option<Op> {
        if self.life.is_none() {
            self.life = Some(Life { func: PHYSICAL, stage: Stage::Removing });
        }
        self.live(model)
    }

    /// The next step of the function in [`Generator::life`].
    pub(super) fn live(&mut self, model: &Model) -> Option<Op> {
        let life = self.life.as_mut()?;
        let func = life.func;
        let op = match life.stage {
            Stage::Closing if !model.func(func).bound => {
                life.stage = Stage::Unbound(self.rng.random_range(0..12));
                return None;
            }
            Stage::Closing => return self.end_binding(func, model),
            Stage::Removing if !model.func(func).virtual_functions => {
                self.life = None;
                return None;
            }
            Stage::Removing => return self.remove_virtual_functions(func, model),
            Stage::Unbound(0) => {
                life.stage = Stage::Reopened(self.rng.random_range(4..16));
                return (!model.func(func).bound).then_some(Op::Bind { func });
            }
            Stage::Unbound(left) => {
                life.stage = Stage::Unbound(left - 1);
                self.use_old(func, model)
            }
            Stage::Reopened(0) => {
                self.life = None;
                return None;
            }
            Stage::Reopened(left) => {
                life.stage = Stage::Reopened(left - 1);
                self.reopen_or_use_old(func, model)
            }
        }?;
        let beside = op.func().is_some() && self.rng.random_bool(0.1);
        if beside {
            self.with_crowd(model, op)
        } else {
            Some(op)
        }
    }

    /// Unmaps a BAR of a function.
    fn unmap_bar(&mut self, func: Func, model: &Model) -> Option<Op> {
        let find = |by| Some((by, bar_mapping(func, model, by)?));
        let (by, part) = (0..PROCS as Proc).find_map(find)?;
        self.by = by;
        Some(Op::Unmap { part })
    }

    /// Closes or unmaps virtual functions, or takes them away once nobody uses them.
    fn remove_virtual_functions(&mut self, func: Func, model: &Model) -> Option<Op> {
        for func in virtual_functions(func) {
            if let Some(op) = self.unmap_bar(func, model) {
                return Some(op);
            }
            let mut users = (0..PROCS as Proc).filter(|&by| model.has_handle(by, func));
            if let Some(by) = users.next() {
                self.by = by;
                return Some(Op::Close { func });
            }
        }
        Some(Op::VirtualFunctions { func, on: false })
    }

    /// Closes or unmaps a function, or unbinds it once nobody uses it.
    fn end_binding(&mut self, func: Func, model: &Model) -> Option<Op> {
        if model.func(func).virtual_functions {
            return self.remove_virtual_functions(func, model);
        }
        if let Some(op) = self.unmap_bar(func, model) {
            return Some(op);
        }
        let users: Vec<Proc> =
            (0..PROCS as Proc).filter(|&by| model.has_handle(by, func)).collect();
        let op = match users[..] {
            [] if spec(func).replugs && self.rng.random_bool(0.2) => Op::Replug { func },
            [] => Op::Unbind { func },
            [by] if self.rng.random_bool(0.5) => {
                self.by = by;
                Op::UnbindOpen { func }
            }
            [by, ..] => {
                self.by = by;
                return Some(Op::Close { func });
            }
        };
        if self.rng.random_bool(0.5) {
            return Some(op);
        }
        self.with_crowd(model, op)
    }

    /// Opens the function or exports from it, or uses an old buffer.
    fn reopen_or_use_old(&mut self, func: Func, model: &Model) -> Option<Op> {
        let users: Vec<Proc> =
            (0..PROCS as Proc).filter(|&by| model.has_handle(by, func)).collect();
        match users.choose(&mut self.rng) {
            None => {
                // The holder of a sibling, if there is one.
                let has_sibling = |&by: &Proc| slot_of(func).any(|func| model.has_handle(by, func));
                let holders: Vec<Proc> = (0..PROCS as Proc).filter(has_sibling).collect();
                if let Some(&by) = holders.choose(&mut self.rng) {
                    self.by = by;
                }
                let cdev = self.cdevs && spec(func).physical.is_none() && self.rng.random();
                if model.wants_token(func) {
                    return None;
                }
                Some(Op::Open { func, via: if cdev { Via::Cdev } else { Via::Group } })
            }
            Some(&by) if self.rng.random_bool(0.5) => {
                self.by = by;
                let kinds = [
                    Kind::Export,
                    Kind::Export,
                    Kind::Map,
                    Kind::MapBar,
                    Kind::Attach,
                    Kind::ImporterMap,
                    Kind::ImporterMap,
                    Kind::HotReset,
                ];
                let kind = *kinds.choose(&mut self.rng)?;
                self.pick(kind, model)
            }
            _ => self.use_old(func, model),
        }
    }

    /// An operation on a buffer of an earlier binding or opening of the function.
    fn use_old(&mut self, func: Func, model: &Model) -> Option<Op> {
        if let Some(by) = self.holder_of_sibling(func, model) {
            self.by = by;
            let sibling = slot_of(func).find(|&sibling| model.has_handle(by, sibling))?;
            return Some(Op::HotReset { func: sibling });
        }
        let is_old = |fd: &Option<u32>| fd.is_some_and(|id| model.buffer(id).func == func);
        let owners: Vec<Proc> =
            (0..PROCS as Proc).filter(|&by| model.proc(by).fds.iter().any(is_old)).collect();
        self.by = *owners.choose(&mut self.rng)?;
        let view = View { model, proc: model.proc(self.by) };
        let fd = slot(&mut self.rng, &view.proc.fds, is_old)?;
        match self.rng.random_range(0..6) {
            0 => self.access(Kind::Load, &view),
            1 => self.access(Kind::Entry, &view),
            2 => self.importer(Kind::ImporterMap, &view),
            3 => {
                let map = slot(&mut self.rng, &view.proc.maps, Vec::is_empty)?;
                let pages = model.buffer(view.proc.fds[usize::from(fd)]?).pages;
                Some(Op::Map { fd, map, area: self.area(pages) })
            }
            4 => Some(Op::Info { func: self.func(&view, |_| true)?, fd: FdRef::Slot(fd) }),
            _ => {
                let func = self.func(&view, |of| slot_of(of).contains(&func))?;
                Some(Op::Revoke { func, fd: FdRef::Slot(fd), ioctl: self.rng.random() })
            }
        }
    }

    /// Now and then a process that has a sibling of the function open.
    fn holder_of_sibling(&mut self, func: Func, model: &Model) -> Option<Proc> {
        let has_sibling =
            |&by: &Proc| slot_of(func).any(|of| of != func && model.has_handle(by, of));
        let holders: Vec<Proc> = (0..PROCS as Proc).filter(has_sibling).collect();
        let holder = holders.choose(&mut self.rng).copied();
        holder.filter(|_| self.rng.random_bool(0.15))
    }
}

/// A mapping of a process through the fd of a function.
fn bar_mapping(func: Func, model: &Model, by: Proc) -> Option<Part> {
    for (map, segments) in (0 as Slot..).zip(&model.proc(by).maps) {
        let is_bar = |source| matches!(source, Source::Bar(of, _) if of == func);
        if segments.iter().any(|segment| is_bar(segment.source)) {
            let pages = segments.last()?.end();
            return Some(Part { map, at: 0, pages });
        }
    }
    None
}
