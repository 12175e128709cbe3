// SPDX-License-Identifier: GPL-2.0
//! The oracle: the contract as a state machine.
//!
//! Pure: knows the kernel only by its description. [`Model::apply`] says what an operation must
//! come to, and becomes what the machine is after it. Nothing in here is a guess about timing: one
//! operation is over before the next one starts.

mod access;
mod buffers;
mod devices;
mod importers;
mod mappings;
mod processes;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use guest::Errno;

use crate::machine::{Func, Places, FUNCS, UNITS};
use crate::op::{
    Access, Op, Outcome, Proc, Pte, Seen, Signal, Step, Via, FDS, IMPORTERS, MAPS, PROCS,
};

pub use mappings::{Segment, Source};

/// What an operation must come to.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Exactly this.
    Is(Outcome),
    /// A value that is not known.
    AnyValue,
    /// Any page table entry, or none, after a load that fared so.
    Entry { load: Option<Loaded>, pte: Entry },
    /// Of the operation; and for each target what accesses come to before and after it.
    Race { outcome: Box<Expect>, targets: Vec<(Loaded, Loaded)> },
}

/// What a load gives; `Ok(None)` is a value that is not known.
pub type Loaded = Result<Option<u32>, Signal>;

fn is_as(want: &Loaded, got: &Access) -> bool {
    match (want, got) {
        (Ok(want), Ok(got)) => want.is_none_or(|want| want == *got),
        (Err(want), Err(got)) => want == got,
        _ => false,
    }
}

/// What a page table entry may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// There is none.
    Absent,
    /// There is none, or this one. It may be read-only though the mapping is not.
    Perhaps(Pte),
    /// It is this one, likewise.
    Present(Pte),
}

impl Expect {
    fn ok() -> Option<Expect> {
        Some(Expect::Is(Outcome::OK))
    }

    fn fails(errno: Errno) -> Option<Expect> {
        Some(Expect::Is(Outcome::Errno(errno as i32)))
    }

    /// Success, or the error.
    fn of(result: Result<(), Errno>) -> Option<Expect> {
        match result {
            Ok(()) => Expect::ok(),
            Err(errno) => Expect::fails(errno),
        }
    }

    /// Whether `outcome` is as expected.
    pub fn allows(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Expect::Is(want), got) => want == got,
            (Expect::AnyValue, Outcome::Done(_)) => true,
            (Expect::Entry { load, pte }, Outcome::Entry { load: got, pte: entry }) => {
                let load = match (load, got) {
                    (Some(want), Some(got)) => is_as(want, got),
                    (None, None) => true,
                    _ => false,
                };
                load && pte.allows(entry.as_ref())
            }
            (Expect::Race { outcome, targets }, Outcome::Race { outcome: got, seen }) => {
                let fine = |((before, after), seen): (&(Loaded, Loaded), &Seen)| {
                    let early = |got: &Access| is_as(before, got) || is_as(after, got);
                    seen.before.iter().all(early)
                        && !seen.after.is_empty()
                        && seen.after.iter().all(|got| is_as(after, got))
                };
                outcome.allows(got)
                    && targets.len() == seen.len()
                    && targets.iter().zip(seen).all(fine)
            }
            _ => false,
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Is(outcome) => outcome.fmt(f),
            other => write!(f, "{other:x?}"),
        }
    }
}

impl Entry {
    fn allows(&self, got: Option<&Pte>) -> bool {
        match (self, got) {
            (Entry::Absent | Entry::Perhaps(_), None) => true,
            (Entry::Perhaps(want) | Entry::Present(want), Some(got)) => {
                got.frame == want.frame
                    && got.memory == want.memory
                    && (want.writable || !got.writable)
            }
            _ => false,
        }
    }
}

/// A unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Unit {
    /// How often it was bound.
    pub binding: u32,
    /// While any of its functions is open: how that came.
    pub via: Option<Via>,
}

/// A function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Func_ {
    /// Whether it is open.
    pub open: bool,
    /// How often it was opened.
    pub opening: u32,
    /// The memory bit.
    pub memory: bool,
    /// Whether it is in D3hot.
    pub d3: bool,
    /// Whether it is in low power.
    pub low_power: bool,
}

impl Func_ {
    /// Whether its memory answers.
    pub fn answers(&self) -> bool {
        self.open && self.memory && !self.d3 && !self.low_power
    }
}

/// What became of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Reachable when the device's memory answers.
    Live,
    /// Revoked for good.
    Revoked,
    /// Its device was closed.
    Closed,
}

/// A buffer, by its place in [`Model::buffers`].
pub type BufferId = u32;

/// A buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    pub func: Func,
    pub bar: u8,
    /// Of which binding and opening of the function it is.
    pub binding: u32,
    pub opening: u32,
    /// First page and number of pages of each range.
    pub ranges: Vec<(u32, u32)>,
    pub pages: u32,
    pub life: Life,
    pub wc: bool,
    pub read_only: bool,
}

/// An importer, by its place in [`Model::importers`].
pub type ImporterId = u32;

/// An open file of the test module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importer {
    pub buffer: Option<BufferId>,
    pub mapped: bool,
    pub hits: u32,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Whether it has the device fds of each unit.
    pub handles: [bool; UNITS.len()],
    pub fds: [Option<BufferId>; FDS],
    /// What is left of each mapping, in order of addresses. Empty: none.
    pub maps: [Vec<Segment>; MAPS],
    pub importers: [Option<ImporterId>; IMPORTERS],
}

/// A word of device memory: function, BAR, page, word.
type Place = (Func, u8, u32, u16);

/// What the machine is like.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    places: Arc<Places>,
    pub units: [Unit; UNITS.len()],
    pub funcs: [Func_; FUNCS.len()],
    pub buffers: Vec<Buffer>,
    pub importers: Vec<Importer>,
    pub procs: [Process; PROCS],
    /// Words that were written.
    written: HashMap<Place, u32>,
}

impl Model {
    /// All devices are bound and closed; all processes are fresh.
    pub fn new(places: Arc<Places>) -> Model {
        Model {
            places,
            units: Default::default(),
            funcs: Default::default(),
            buffers: Vec::new(),
            importers: Vec::new(),
            procs: Default::default(),
            written: HashMap::new(),
        }
    }

    pub fn proc(&self, by: Proc) -> &Process {
        &self.procs[usize::from(by)]
    }

    fn proc_mut(&mut self, by: Proc) -> &mut Process {
        &mut self.procs[usize::from(by)]
    }

    pub fn func(&self, func: Func) -> &Func_ {
        &self.funcs[usize::from(func)]
    }

    fn func_mut(&mut self, func: Func) -> &mut Func_ {
        &mut self.funcs[usize::from(func)]
    }

    pub fn buffer(&self, id: BufferId) -> &Buffer {
        &self.buffers[id as usize]
    }

    fn buffer_mut(&mut self, id: BufferId) -> &mut Buffer {
        &mut self.buffers[id as usize]
    }

    pub fn importer(&self, id: ImporterId) -> &Importer {
        &self.importers[id as usize]
    }

    fn importer_mut(&mut self, id: ImporterId) -> &mut Importer {
        &mut self.importers[id as usize]
    }

    /// Applies `step`; returns the outcome that it must have. `None`: it makes no sense now (a slot
    /// is empty, or not), and nothing happens.
    pub fn apply(&mut self, step: &Step) -> Option<Expect> {
        let by = step.by;
        match step.op {
            Op::Open { unit, via } => self.open(by, unit, via),
            Op::Close { unit } => self.close(by, unit),
            Op::Memory { func, on } => self.set_memory(by, func, on),
            Op::Power { func, d3 } => self.set_power(by, func, d3),
            Op::LowPower { func, enter } => self.set_low_power(by, func, enter),
            Op::Reset { func } => self.reset(by, func),
            Op::HotReset { func } => self.hot_reset(by, func),
            Op::Flr { func } => self.flr(by, func),
            Op::SysfsReset { func } => self.sysfs_reset(func),
            Op::Rebind { unit } => self.rebind(unit),

            Op::Export { func, to, ref spec } => self.export(by, func, to, spec),
            Op::Revoke { func, fd, .. } => self.revoke(by, func, fd),
            Op::GetMemattr { func, fd } => self.memattr(by, func, fd, None),
            Op::SetMemattr { func, fd, value } => self.memattr(by, func, fd, Some(value)),
            Op::Info { func, fd } => self.info(by, func, fd),
            Op::Odd { func, oddity } => self.odd(by, func, oddity),

            Op::Map { fd, map, area } => self.map(by, fd, map, area),
            Op::MapBar { func, bar, map, area } => self.map_bar(by, func, bar, map, area),
            Op::Unmap { part } => self.unmap(by, part),
            Op::Protect { part, prot } => self.protect(by, part, prot),
            Op::Move { part, to, .. } => self.move_away(by, part, to),
            Op::Grow { part } => self.grow(by, part),
            Op::Load { word } => self.load(by, word),
            Op::Store { word, value } => self.store(by, word, value),
            Op::Entry { word, load } => self.entry(by, word, load),

            Op::Attach { importer, fd, manners } => self.attach(by, importer, fd, manners),
            Op::ImporterMap { importer } => self.importer_map(by, importer),
            Op::ImporterUnmap { importer } => self.importer_unmap(by, importer),
            Op::Detach { importer } => self.detach(by, importer),
            Op::Stats { importer } => self.stats(by, importer),

            Op::CloseFd { fd } => self.close_fd(by, fd),
            Op::Dup { fd, to } => self.pass(by, fd, by, to),
            Op::Pass { fd, to, slot } if to != by => self.pass(by, fd, to, slot),
            Op::Pass { .. } => None,
            Op::Race { ref op, who, ref targets } => self.race(by, op, who, targets),
            Op::Fork { to } => self.fork(by, to),
            Op::Kill => self.kill(by),
        }
    }
}

#[cfg(test)]
mod test;
