// SPDX-License-Identifier: GPL-2.0
//! One operation of each kind.

use rand::seq::IndexedRandom;
use rand::Rng;

use super::{Generator, Kind};
use crate::machine::{bar_of, slot_of, spec, Bar, Content, Func, FUNCS, PAINTED, PHYSICAL};
use crate::model::{Model, Process, Segment};
use crate::op::{
    Area, FdRef, Flaw, Oddity, Op, Part, Policy, Proc, Prot, Slot, Spec, Via, Word, IMPORTERS,
    PROCS,
};

/// A random slot of a list for which `wanted` is true.
pub(super) fn slot<T>(
    rng: &mut impl Rng,
    slots: &[T],
    wanted: impl Fn(&T) -> bool,
) -> Option<Slot> {
    let found: Vec<Slot> =
        (0..).zip(slots).filter(|(_, slot)| wanted(slot)).map(|(at, _)| at).collect();
    found.choose(rng).copied()
}

/// The functions of buffers that importers have mapped.
fn imported(model: &Model) -> Vec<Func> {
    let mapped = model.importers.iter().filter(|importer| importer.mapped);
    mapped.filter_map(|importer| Some(model.buffer(importer.buffer?).func)).collect()
}

/// The model with the process that is to perform an operation.
pub(super) struct View<'a> {
    pub(super) model: &'a Model,
    pub(super) proc: &'a Process,
}

impl Generator {
    /// An operation of a kind, if the process can do one.
    pub(super) fn pick(&mut self, kind: Kind, model: &Model) -> Option<Op> {
        let view = View { model, proc: model.proc(self.by) };
        match kind {
            Kind::Load | Kind::Store | Kind::Entry => self.access(kind, &view),
            Kind::Map | Kind::MapBar => self.mapping(kind, &view),
            Kind::Unmap | Kind::Punch | Kind::Protect | Kind::Move | Kind::Grow => {
                self.change(kind, &view)
            }
            Kind::Export | Kind::FlawedExport => {
                let func = self.func(&view, |_| true)?;
                let to = slot(&mut self.rng, &view.proc.fds, Option::is_none)?;
                let flaw = match kind {
                    Kind::FlawedExport => Flaw::ALL.choose(&mut self.rng).copied(),
                    _ => None,
                };
                Some(Op::Export { func, to, spec: self.spec(func, flaw) })
            }
            Kind::Revoke | Kind::GetMemattr | Kind::SetMemattr | Kind::Info => {
                let fd = slot(&mut self.rng, &view.proc.fds, Option::is_some)?;
                let func = self.func_for(&view, fd)?;
                Some(self.call(kind, func, FdRef::Slot(fd)))
            }
            Kind::StrangeFd => {
                let func = self.func(&view, |_| true)?;
                let fd = *[FdRef::Closed, FdRef::Null, FdRef::Heap].choose(&mut self.rng)?;
                let kinds = [Kind::Revoke, Kind::GetMemattr, Kind::SetMemattr, Kind::Info];
                let kind = *kinds.choose(&mut self.rng)?;
                Some(self.call(kind, func, fd))
            }
            Kind::Odd => {
                let func = self.func(&view, |_| true)?;
                Some(Op::Odd { func, oddity: *Oddity::ALL.choose(&mut self.rng)? })
            }
            Kind::CloseFd => {
                let fd = slot(&mut self.rng, &view.proc.fds, Option::is_some)?;
                Some(Op::CloseFd { fd })
            }
            Kind::Dup | Kind::Pass => self.copy(kind, &view),
            Kind::Attach | Kind::ImporterMap | Kind::ImporterUnmap | Kind::Detach | Kind::Stats => {
                self.importer(kind, &view)
            }
            Kind::Race => self.race(model),
            Kind::HeldUp => self.held_up(model),
            Kind::Together => self.together(model),
            Kind::Kill => Some(Op::Kill),
            Kind::Fork => {
                let to = self.other();
                Some(Op::Fork { to })
            }
            _ => self.device(kind, &view),
        }
    }

    /// Another process.
    pub(super) fn other(&mut self) -> Proc {
        let step = self.rng.random_range(1..PROCS as Proc);
        (self.by + step) % PROCS as Proc
    }

    /// A function that the process has open.
    pub(super) fn func(&mut self, view: &View, wanted: impl Fn(Func) -> bool) -> Option<Func> {
        let has = |&func: &Func| view.proc.handles[usize::from(func)] && wanted(func);
        let found: Vec<Func> = (0..FUNCS.len() as Func).filter(has).collect();
        found.choose(&mut self.rng).copied()
    }

    /// A function to call with fd `fd`: mostly that of its buffer.
    fn func_for(&mut self, view: &View, fd: Slot) -> Option<Func> {
        let own = view.proc.fds[usize::from(fd)].map(|id| view.model.buffer(id).func);
        if self.rng.random_bool(0.05) {
            return self.func(view, |_| true);
        }
        self.func(view, |func| Some(func) == own)
    }

    fn call(&mut self, kind: Kind, func: Func, fd: FdRef) -> Op {
        match kind {
            Kind::Revoke => Op::Revoke { func, fd, ioctl: self.rng.random() },
            Kind::GetMemattr => Op::GetMemattr { func, fd },
            Kind::SetMemattr => {
                let odd = self.rng.random_bool(0.05);
                let value = if odd { 2 } else { self.rng.random_range(0..2) };
                Op::SetMemattr { func, fd, value }
            }
            _ => Op::Info { func, fd },
        }
    }

    pub(super) fn spec(&mut self, func: Func, flaw: Option<Flaw>) -> Spec {
        let bars = spec(func).bars;
        let bar = if bars.len() > 1 && self.rng.random_bool(0.1) { &bars[1] } else { &bars[0] };
        let count = match self.rng.random_range(0..10) {
            0..6 => 1,
            6..9 => self.rng.random_range(2..5),
            _ => 12,
        };
        let ranges = (0..count).map(|_| self.range(bar)).collect();
        let (read_only, wc) = (self.rng.random_bool(0.15), self.rng.random_bool(0.3));
        Spec { bar: bar.index, ranges, read_only, wc, flaw }
    }

    /// A range of a BAR; ranges near its start overlap often.
    fn range(&mut self, bar: &Bar) -> (u32, u32) {
        let most = match self.rng.random_range(0..20) {
            0..12 => 4,
            12..19 => 16,
            _ => bar.pages,
        };
        let pages = self.rng.random_range(1..=most.min(bar.pages));
        let last = bar.pages - pages;
        // edu has its registers on page 0.
        let is_edu = bar.content == Content::Edu;
        let page = match self.rng.random_range(0..10) {
            0..4 if is_edu => 0,
            0..6 => self.rng.random_range(0..=last.min(12)),
            // Where a huge page begins, if there is one.
            6..8 if last >= 512 => 512 * self.rng.random_range(0..=last / 512),
            8 => last,
            _ => self.rng.random_range(0..=last),
        };
        (page, pages)
    }

    pub(super) fn area(&mut self, pages: u32) -> Area {
        let page = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(0..pages),
            _ => 0,
        };
        let all = pages - page;
        let count = match self.rng.random_range(0..3) {
            0 => self.rng.random_range(1..=all),
            _ => all,
        };
        let prot = match self.rng.random_range(0..10) {
            0 => Prot::None,
            1..3 => Prot::Read,
            _ => Prot::Write,
        };
        let mut area = Area { page, pages: count, prot, shared: true, skew: 0 };
        // Large entries fit without a skew only.
        area.skew = if self.rng.random() { 0 } else { self.rng.random_range(0..1024) };
        match self.rng.random_range(0..60) {
            0 => area.shared = false,
            1 => area.pages = all + 1,
            2 => area.pages = 0,
            3 => area.page = pages,
            _ => {}
        }
        area
    }

    fn mapping(&mut self, kind: Kind, view: &View) -> Option<Op> {
        let map = slot(&mut self.rng, &view.proc.maps, Vec::is_empty)?;
        if kind == Kind::MapBar {
            let func = self.func(view, |_| true)?;
            let bar = spec(func).bars.choose(&mut self.rng)?;
            let area = self.area(bar.pages);
            return Some(Op::MapBar { func, bar: bar.index, map, area });
        }
        let fd = slot(&mut self.rng, &view.proc.fds, Option::is_some)?;
        let pages = view.proc.fds[usize::from(fd)].map(|id| view.model.buffer(id).pages)?;
        Some(Op::Map { fd, map, area: self.area(pages) })
    }

    /// A mapping, and a piece of it.
    fn piece<'a>(&mut self, view: &View<'a>) -> Option<(Slot, &'a Segment)> {
        let map = slot(&mut self.rng, &view.proc.maps, |map| !map.is_empty())?;
        Some((map, view.proc.maps[usize::from(map)].choose(&mut self.rng)?))
    }

    pub(super) fn access(&mut self, kind: Kind, view: &View) -> Option<Op> {
        let (map, piece) = self.piece(view)?;
        let page = match self.rng.random_range(0..24) {
            // A hole, perhaps.
            0 => self.rng.random_range(0..piece.end() + 2),
            1..5 => self.rng.random_range(piece.at..piece.end()),
            // Few pages, so that processes share them.
            _ => piece.at + self.rng.random_range(0..piece.pages.min(4)),
        };
        let mut word = Word { map, page, word: 0 };
        word.word = self.word(view, word);
        let value = self.rng.random();
        Some(match kind {
            Kind::Load => Op::Load { word },
            Kind::Store => Op::Store { word, value },
            _ => Op::Entry { word, load: self.rng.random() },
        })
    }

    /// A word whose value is known, if the page has one.
    fn word(&mut self, view: &View, word: Word) -> u16 {
        let Some((func, bar, page)) = view.model.place_of(self.by, word) else { return 0 };
        match (bar_of(func, bar).content, page) {
            (Content::Memory, _) => PAINTED[self.rng.random_range(0..PAINTED.len())],
            (Content::Edu, 0) => self.rng.random_range(0..2),
            (Content::BochsRegisters, _) => crate::machine::BOCHS_SIZE.0,
            (Content::Igb, 0) => crate::machine::IGB_VLAN.0,
            _ => self.rng.random_range(0..1024),
        }
    }

    fn change(&mut self, kind: Kind, view: &View) -> Option<Op> {
        let (map, piece) = self.piece(view)?;
        let at = self.rng.random_range(piece.at..piece.end());
        let pages = self.rng.random_range(1..=piece.end() - at);
        let some = Part { map, at, pages };
        let all = Part { map, at: piece.at, pages: piece.pages };
        let part = if self.rng.random_bool(0.3) { all } else { some };
        Some(match kind {
            Kind::Unmap => {
                let end = view.proc.maps[usize::from(map)].last()?.end();
                Op::Unmap { part: Part { map, at: 0, pages: end } }
            }
            Kind::Punch => Op::Unmap { part: some },
            Kind::Protect => {
                let prots = [Prot::None, Prot::Read, Prot::Write, Prot::Write];
                Op::Protect { part, prot: *prots.choose(&mut self.rng)? }
            }
            Kind::Move => {
                let to = slot(&mut self.rng, &view.proc.maps, Vec::is_empty)?;
                Op::Move { part, to, skew: self.rng.random_range(0..1024) }
            }
            _ => Op::Grow { part },
        })
    }

    fn copy(&mut self, kind: Kind, view: &View) -> Option<Op> {
        let fd = slot(&mut self.rng, &view.proc.fds, Option::is_some)?;
        if kind == Kind::Dup {
            let to = slot(&mut self.rng, &view.proc.fds, Option::is_none)?;
            return Some(Op::Dup { fd, to });
        }
        let to = self.other();
        let slot = slot(&mut self.rng, &view.model.proc(to).fds, Option::is_none)?;
        Some(Op::Pass { fd, to, slot })
    }

    pub(super) fn importer(&mut self, kind: Kind, view: &View) -> Option<Op> {
        if kind == Kind::Attach {
            let fd = slot(&mut self.rng, &view.proc.fds, Option::is_some)?;
            let policy = match self.rng.random_range(0..30) {
                0 => Policy::NoPeerToPeer,
                1 => Policy::NotRevocable,
                2 => Policy::Static,
                3..7 => Policy::Later,
                7..14 => Policy::Again,
                _ => Policy::AtOnce,
            };
            let importer = self.rng.random_range(0..IMPORTERS as Slot);
            return Some(Op::Attach { importer, fd, policy });
        }
        let importer = slot(&mut self.rng, &view.proc.importers, Option::is_some)?;
        Some(match kind {
            Kind::ImporterMap => Op::ImporterMap { importer, reads: self.rng.random_bool(0.2) },
            Kind::ImporterUnmap => Op::ImporterUnmap { importer },
            Kind::Detach => Op::Detach { importer },
            _ => Op::Stats { importer },
        })
    }

    /// Opens a function. One that is open already is picked rarely, except for siblings.
    fn open(&mut self, view: &View, func: Func) -> Op {
        let is_open = |func: Func| view.model.func(func).open;
        let is_closed = |func: &Func| !is_open(*func) && view.model.is_there(*func);
        let closed: Vec<Func> = (0..FUNCS.len() as Func).filter(is_closed).collect();
        let func = match closed.choose(&mut self.rng) {
            Some(&closed) if is_open(func) && self.rng.random_bool(0.8) => closed,
            _ => func,
        };
        // The kernel tells, but not too often, that it has refused one without a token.
        if view.model.wants_token(func) && self.rng.random_bool(0.95) {
            return Op::Open { func: PHYSICAL, via: Via::Group };
        }
        let cdev = spec(func).physical.is_none() && self.cdevs && self.rng.random();
        Op::Open { func, via: if cdev { Via::Cdev } else { Via::Group } }
    }

    fn device(&mut self, kind: Kind, view: &View) -> Option<Op> {
        let func = self.rng.random_range(0..FUNCS.len() as Func);
        match kind {
            Kind::Open => Some(self.open(view, func)),
            Kind::Close => Some(Op::Close { func: self.func(view, |_| true)? }),
            Kind::Life => self.begin_life(func, view.model),
            Kind::SysfsReset => view.model.func(func).open.then_some(Op::SysfsReset { func }),
            Kind::Memory => {
                let func = self.func(view, |_| true)?;
                // Mostly on: with memory off most accesses fail.
                let on = !view.model.func(func).memory || self.rng.random_bool(0.6);
                Some(Op::Memory { func, on })
            }
            Kind::LowPower => {
                let func = self.func(view, |_| true)?;
                let is_in = view.model.func(func).low_power;
                if !is_in && self.rng.random_bool(0.4) {
                    return Some(Op::Sleep { func });
                }
                Some(Op::LowPower { func, enter: is_in == self.rng.random_bool(0.1) })
            }
            Kind::Wakeups => Some(Op::Wakeups { func }),
            Kind::WakeImporters => {
                let mapped = imported(view.model);
                let func = self.func(view, |func| mapped.contains(&func))?;
                Some(Op::LowPower { func, enter: false })
            }
            Kind::Power => {
                let func = self.func(view, |func| spec(func).d3)?;
                // The core takes a function in D3hot to low power by way of D0.
                Some(match (view.model.func(func).d3, self.rng.random_range(0..4)) {
                    (true, 0) => Op::Sleep { func },
                    (true, 1) => Op::LowPower { func, enter: true },
                    (d3, other) => Op::Power { func, d3: !d3 && other < 3 },
                })
            }
            Kind::Reset => Some(Op::Reset { func: self.func(view, |_| true)? }),
            Kind::HotReset => {
                // Preferably one whose sibling has importers.
                let mapped = imported(view.model);
                let hits = |func| slot_of(func).any(|of| of != func && mapped.contains(&of));
                let func = self.func(view, hits).filter(|_| self.rng.random_bool(0.8));
                let func = func.or_else(|| self.func(view, |func| spec(func).hot_resets))?;
                Some(Op::HotReset { func })
            }
            Kind::VirtualFunctions if !view.model.func(PHYSICAL).virtual_functions => {
                Some(Op::VirtualFunctions { func: PHYSICAL, on: true })
            }
            Kind::VirtualFunctions => self.begin_removal(view.model),
            Kind::LinkError => {
                let fatal = spec(func).hot_resets && self.rng.random_bool(0.6);
                view.model.func(func).open.then_some(Op::LinkError { func, fatal })
            }
            Kind::Restore => {
                let func = self.func(view, |func| view.model.func(func).lost)?;
                Some(match self.rng.random_range(0..8) {
                    0 => Op::Reset { func },
                    1 => Op::HotReset { func },
                    _ => Op::Memory { func, on: true },
                })
            }
            _ => Some(Op::Flr { func: self.func(view, |func| spec(func).flr)? }),
        }
    }
}
