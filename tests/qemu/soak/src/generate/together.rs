// SPDX-License-Identifier: GPL-2.0
//! Operations of several processes at once, on one function.

use rand::seq::IndexedRandom;
use rand::Rng;

use super::pick::{slot, View};
use super::{Generator, Kind};
use crate::machine::spec;
use crate::model::{BufferId, Model};
use crate::op::{FdRef, Op, Part, Policy, Proc, Slot, Step, Word, IMPORTERS, PROCS};

/// What the owner of a function does beside others. What takes something away is there more often.
const OWNERS: [Kind; 12] = [
    Kind::Revoke,
    Kind::Revoke,
    Kind::Revoke,
    Kind::Memory,
    Kind::Memory,
    Kind::Memory,
    Kind::Reset,
    Kind::Info,
    Kind::Info,
    Kind::SetMemattr,
    Kind::Export,
    Kind::MapBar,
];
/// What any process does.
const CLIENTS: [Kind; 4] = [Kind::Map, Kind::Attach, Kind::ImporterMap, Kind::ImporterMap];
/// How often the generator tries to find operations.
const TRIES: u32 = 8;

impl Generator {
    /// Two or three operations on a function, mostly on one of its buffers. Or what prepares that:
    /// several processes must have the buffer, and importers.
    pub(super) fn together(&mut self, model: &Model) -> Option<Op> {
        let (owner, id) = match self.meeting.and_then(|id| Some((owner(model, id)?, id))) {
            Some(found) => found,
            None => {
                let fds = &model.proc(self.by).fds;
                let fd =
                    slot(&mut self.rng, fds, |fd| fd.is_some_and(|id| owner(model, id).is_some()))?;
                self.meeting = fds[usize::from(fd)];
                return None;
            }
        };
        if let Some(op) = self.prepare(model, owner, id) {
            return Some(op);
        }
        let has_it = |by: Proc| model.proc(by).fds.contains(&Some(id));
        if (0..PROCS as Proc).filter(|&by| has_it(by)).count() < 3 {
            self.by = owner;
            let fd = slot(&mut self.rng, &model.proc(owner).fds, |fd| *fd == Some(id))?;
            let to = self.other();
            let free = slot(&mut self.rng, &model.proc(to).fds, Option::is_none)?;
            return (!has_it(to)).then_some(Op::Pass { fd, to, slot: free });
        }
        if self.rng.random_bool(0.2) {
            self.meeting = None;
        }
        for _ in 0..TRIES {
            let (mut steps, mut then) = (Vec::new(), Vec::new());
            let most = if self.rng.random_bool(0.3) { 3 } else { 2 };
            let first = self.rng.random_range(0..PROCS as Proc);
            for by in (first..PROCS as Proc).chain(0..first) {
                if steps.len() == most {
                    break;
                }
                let is_owner = model.has_handle(by, model.buffer(id).func);
                let kinds =
                    if is_owner && self.rng.random_bool(0.8) { &OWNERS[..] } else { &CLIENTS };
                let kind = *kinds.choose(&mut self.rng)?;
                if let Some(op) = self.part(model, by, kind, id) {
                    then.extend(end(model, by, &op).into_iter().map(|op| Step { by, op }));
                    steps.push(Step { by, op });
                } else if kind == Kind::ImporterMap {
                    self.by = by;
                    return self.part(model, by, Kind::Attach, id);
                }
            }
            if steps.iter().any(|step| step.by == owner) && steps.len() == most {
                return Some(Op::Together { steps, then });
            }
        }
        None
    }

    /// Now and then a second owner, or an importer that maps the buffer: whoever takes that away
    /// has to wait for it.
    fn prepare(&mut self, model: &Model, owner: Proc, id: BufferId) -> Option<Op> {
        let func = model.buffer(id).func;
        let owners = (0..PROCS as Proc).filter(|&by| model.has_handle(by, func)).count();
        if owners == 1 && self.rng.random_bool(0.1) {
            self.by = owner;
            return Some(Op::Fork { to: self.other() });
        }
        let by = self.rng.random_range(0..PROCS as Proc);
        let can_map = |at: &Option<u32>| {
            let importer = at.map(|at| model.importer(at));
            importer.is_some_and(|importer| importer.buffer == Some(id) && !importer.mapped)
        };
        let importer = slot(&mut self.rng, &model.proc(by).importers, can_map)?;
        if self.rng.random_bool(0.5) {
            return None;
        }
        self.by = by;
        Some(Op::ImporterMap { importer, reads: true })
    }

    /// An operation of a process on a function, or on a buffer of it if it takes one.
    fn part(&mut self, model: &Model, by: Proc, kind: Kind, id: BufferId) -> Option<Op> {
        let func = model.buffer(id).func;
        let view = View { model, proc: model.proc(by) };
        let has_handle = model.has_handle(by, func);
        let fd = slot(&mut self.rng, &view.proc.fds, |fd| *fd == Some(id));
        let map = slot(&mut self.rng, &view.proc.maps, Vec::is_empty);
        Some(match kind {
            Kind::Attach => {
                let importer = self.rng.random_range(0..IMPORTERS as Slot);
                // Whoever takes the buffer away waits for the latter while others go on.
                let policy = *[Policy::AtOnce, Policy::Later].choose(&mut self.rng)?;
                Op::Attach { importer, fd: fd?, policy }
            }
            Kind::ImporterMap => {
                let is_of = |importer: &Option<u32>| {
                    importer.is_some_and(|at| model.importer(at).buffer == Some(id))
                };
                let importer = slot(&mut self.rng, &view.proc.importers, is_of)?;
                Op::ImporterMap { importer, reads: self.rng.random() }
            }
            Kind::Map => {
                let area = self.area(model.buffer(id).pages);
                Op::Map { fd: fd?, map: map?, area }
            }
            _ if !has_handle => return None,
            Kind::MapBar => {
                let bar = spec(func).bars.choose(&mut self.rng)?;
                let area = self.area(bar.pages);
                Op::MapBar { func, bar: bar.index, map: map?, area }
            }
            Kind::Export => {
                let to = slot(&mut self.rng, &view.proc.fds, Option::is_none)?;
                Op::Export { func, to, spec: self.spec(func, None) }
            }
            Kind::Revoke => Op::Revoke { func, fd: FdRef::Slot(fd?), ioctl: self.rng.random() },
            Kind::Info => Op::Info { func, fd: FdRef::Slot(fd?) },
            Kind::SetMemattr => {
                Op::SetMemattr { func, fd: FdRef::Slot(fd?), value: self.rng.random_range(0..2) }
            }
            Kind::Memory => Op::Memory { func, on: self.rng.random() },
            _ => Op::Reset { func },
        })
    }
}

/// A process that has a buffer and its function, if the buffer can be reached.
fn owner(model: &Model, id: BufferId) -> Option<Proc> {
    let func = model.buffer(id).func;
    let mut all = 0..PROCS as Proc;
    let owns = |by: &Proc| model.has_handle(*by, func) && model.proc(*by).fds.contains(&Some(id));
    all.find(owns).filter(|_| model.is_reachable(id))
}

/// Looks at what the operation has made, and takes back how the state depends on its order.
fn end(model: &Model, by: Proc, op: &Op) -> Vec<Op> {
    match *op {
        Op::Export { to, .. } => vec![Op::CloseFd { fd: to }],
        Op::Map { map, area, .. } | Op::MapBar { map, area, .. } => {
            let word = Word { map, page: 0, word: 0 };
            let part = Part { map, at: 0, pages: area.pages.max(1) };
            vec![Op::Entry { word, load: true }, Op::Unmap { part }]
        }
        Op::Attach { importer, .. } => vec![Op::Stats { importer }, Op::Detach { importer }],
        Op::ImporterMap { importer, .. } => {
            // An attach that fails resets the counters.
            let fd = (0..).zip(&model.proc(by).fds).find(|(_, fd)| fd.is_some());
            let attach = |(fd, _)| Op::Attach { importer, fd, policy: Policy::Static };
            [Op::Stats { importer }, Op::Detach { importer }]
                .into_iter()
                .chain(fd.map(attach))
                .collect()
        }
        Op::Memory { func, .. } => vec![Op::Memory { func, on: true }],
        Op::SetMemattr { func, fd, .. } => vec![Op::SetMemattr { func, fd, value: 0 }],
        _ => Vec::new(),
    }
}
