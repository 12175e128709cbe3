// SPDX-License-Identifier: GPL-2.0
//! The oracle: the contract as a state machine.
//!
//! Pure. [`Model::apply`] returns the outcome that an operation must have, and takes the state that
//! the machine has after it. The outcome does not depend on timing: an operation has returned
//! before the next one starts. The exception is an importer that unmaps late: see
//! [`Importer::pending`].

mod access;
mod buffers;
mod devices;
mod importers;
mod mappings;
mod processes;
mod sriov;
mod together;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use guest::Errno;

use crate::machine::{slot_of, spec, Func, Places, FUNCS};
use crate::op::{
    Access, Op, Outcome, Proc, Pte, Seen, Signal, Step, Via, FDS, IMPORTERS, MAPS, PROCS,
};

pub use mappings::{Segment, Source};

/// The outcomes that an operation may have.
#[derive(Clone, Debug, PartialEq)]
pub enum Expect {
    /// Exactly this one.
    Is(Outcome),
    /// Success with any value.
    AnyValue,
    /// Anything: the step is impossible.
    Anything,
    /// A page table entry, and the result of the load before it.
    Entry { load: Option<Loaded>, pte: Entry },
    /// The state of an importer; `mapped` may be unknown, and `hits` is a range.
    Importer { attached: bool, mapped: Option<bool>, hits: (u32, u32) },
    /// The outcomes of operations that run at once, for each order of what they do.
    Together(Vec<Vec<Expect>>),
    /// The outcome of the operation, and whether it must wait.
    HeldUp { outcome: Box<Expect>, waits: bool },
    /// The outcome of the operation, and for each target the result of an access before and after.
    Race { outcome: Box<Expect>, targets: Vec<(Loaded, Loaded)> },
}

/// The result of a load; `Ok(None)` is an unknown value.
pub type Loaded = Result<Option<u32>, Signal>;

fn is_as(want: &Loaded, got: &Access) -> bool {
    match (want, got) {
        (Ok(want), Ok(got)) => want.is_none_or(|want| want == *got),
        (Err(want), Err(got)) => want == got,
        _ => false,
    }
}

/// The page table entries that are allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Entry {
    /// None.
    Absent,
    /// None, or this one. It may be read-only although the mapping is not.
    Perhaps(Pte),
    /// This one, which may be read-only, too.
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

    /// Whether `outcome` is allowed.
    pub fn allows(&self, outcome: &Outcome) -> bool {
        match (self, outcome) {
            (Expect::Is(want), got) => want == got,
            (Expect::AnyValue, Outcome::Done(_)) | (Expect::Anything, _) => true,
            (Expect::Entry { load, pte }, Outcome::Entry { load: got, pte: entry }) => {
                let load = match (load, got) {
                    (Some(want), Some(got)) => is_as(want, got),
                    (None, None) => true,
                    _ => false,
                };
                load && pte.allows(entry.as_ref())
            }
            (
                Expect::Importer { attached, mapped, hits: (least, most) },
                Outcome::Importer { attached: is_attached, mapped: is_mapped, hits },
            ) => {
                attached == is_attached
                    && mapped.is_none_or(|mapped| mapped == *is_mapped)
                    && (least..=most).contains(&hits)
            }
            (Expect::Together(orders), Outcome::Together(got)) => {
                let fits = |order: &Vec<Expect>| {
                    order.len() == got.len()
                        && order.iter().zip(got).all(|(want, got)| want.allows(got))
                };
                orders.iter().any(fits)
            }
            (Expect::HeldUp { outcome, waits }, Outcome::HeldUp { outcome: got, waited }) => {
                outcome.allows(got) && (*waited || !waits)
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

/// What owns an IOMMU group while any of its functions is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub via: Via,
    /// The number of the group fd or iommufd.
    pub holder: u32,
}

/// An IOMMU group: that of the slot of its first function, or that of a single function.
pub type Group = Func;

/// The state of a function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FuncState {
    /// Whether the driver has it.
    pub bound: bool,
    /// Its IOMMU group.
    pub group: Group,
    /// How often it was bound since the start.
    pub binding: u32,
    /// Whether its virtual functions are there.
    pub virtual_functions: bool,
    /// Whether the token that they are opened with is known: the first open through the group since
    /// the function was bound has set it.
    pub token: bool,
    /// Whether it is open.
    pub open: bool,
    /// How often it was opened.
    pub opening: u32,
    /// The memory bit.
    pub memory: bool,
    /// How many operations keep everybody out that may change that.
    pub suspensions: u8,
    /// Whether it is in D3hot.
    pub d3: bool,
    /// Whether it is in low power.
    pub low_power: bool,
    /// Whether the next call ends that.
    pub dozes: bool,
    /// How often a call has done so since somebody asked.
    pub wakeups: u32,
    /// Whether a reset of the link has cut it off.
    pub lost: bool,
    /// Whether it has forgotten its command register since, so that no access reaches it. Its user
    /// can end [`FuncState::lost`] alone, by a reset.
    pub blank: bool,
}

impl FuncState {
    /// Whether accesses reach its memory.
    pub fn memory_enabled(&self) -> bool {
        let awake = !self.d3 && !self.low_power && self.suspensions == 0;
        self.open && self.memory && awake && !self.lost
    }
}

/// The life of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Reachable while the device's memory is enabled.
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
    /// The binding and the opening of the function when it was exported.
    pub binding: u32,
    pub opening: u32,
    /// First page and number of pages of each range.
    pub ranges: Vec<(u32, u32)>,
    pub pages: u32,
    pub life: Life,
    /// How many operations revoke it and may still wait for importers.
    pub revoking: u8,
    pub wc: bool,
    pub read_only: bool,
}

impl Buffer {
    /// Whether a revoke has ended.
    fn is_revoked(&self) -> bool {
        self.life == Life::Revoked && self.revoking == 0
    }
}

/// An importer, by its place in [`Model::importers`].
pub type ImporterId = u32;

/// An open file of the test module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Importer {
    pub buffer: Option<BufferId>,
    pub mapped: bool,
    /// Whether it unmaps a while after an invalidation.
    pub late: bool,
    /// Whether it maps from its callback when it can.
    pub again: bool,
    /// Whether it was invalidated without a wait, so that it may still be mapped.
    pub pending: bool,
    /// How often it was invalidated while mapped.
    pub hits: u32,
    /// How often it was invalidated while pending: each may have been a hit.
    pub extra: u32,
}

/// A process.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Process {
    /// Whether it has the device fd of each function.
    pub handles: [bool; FUNCS.len()],
    pub fds: [Option<BufferId>; FDS],
    /// The VMAs of each mapping, in order of addresses. An empty one is a free slot.
    pub maps: [Vec<Segment>; MAPS],
    pub importers: [Option<ImporterId>; IMPORTERS],
}

/// A word of device memory: function, BAR, page, word.
type Place = (Func, u8, u32, u16);

/// The state of the machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    places: Arc<Places>,
    /// The owners of IOMMU groups.
    pub owners: [Option<Owner>; FUNCS.len()],
    holders: u32,
    pub funcs: [FuncState; FUNCS.len()],
    pub buffers: Vec<Buffer>,
    pub importers: Vec<Importer>,
    pub procs: [Process; PROCS],
    /// The functions whose importers the operation tells in the end to look again.
    resumed: Vec<Func>,
    /// Words that were written.
    written: HashMap<Place, u32>,
}

impl Model {
    /// All functions but virtual ones are bound and closed; all processes are fresh.
    pub fn new(places: Arc<Places>) -> Model {
        Model {
            places,
            owners: Default::default(),
            holders: 0,
            funcs: std::array::from_fn(|func| FuncState {
                bound: spec(func as Func).physical.is_none(),
                group: slot_of(func as Func).start,
                ..FuncState::default()
            }),
            buffers: Vec::new(),
            importers: Vec::new(),
            procs: Default::default(),
            resumed: Vec::new(),
            written: HashMap::new(),
        }
    }

    pub fn proc(&self, by: Proc) -> &Process {
        &self.procs[usize::from(by)]
    }

    fn proc_mut(&mut self, by: Proc) -> &mut Process {
        &mut self.procs[usize::from(by)]
    }

    pub fn func(&self, func: Func) -> &FuncState {
        &self.funcs[usize::from(func)]
    }

    fn func_mut(&mut self, func: Func) -> &mut FuncState {
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

    /// Applies `step` and returns the outcome that it must have. `None`: the step is impossible
    /// now, for example because a slot is empty, and the state does not change.
    pub fn apply(&mut self, step: &Step) -> Option<Expect> {
        let called = step.op.wakes().filter(|&func| self.has_handle(step.by, func));
        let asleep = called.map(|func| (func, self.func(func).clone()));
        called.into_iter().for_each(|func| self.wake(func));
        let expect = self.perform(step);
        self.resume_importers();
        if let (None, Some((func, asleep))) = (&expect, asleep) {
            *self.func_mut(func) = asleep;
        }
        expect
    }

    fn perform(&mut self, step: &Step) -> Option<Expect> {
        let by = step.by;
        match step.op {
            Op::Open { func, via } => self.open(by, func, via),
            Op::Close { func } => self.close(by, func),
            Op::Memory { func, on } => self.set_memory(by, func, on),
            Op::Power { func, d3 } => self.set_power(by, func, d3),
            Op::LowPower { func, enter: true } => self.enter_low_power(by, func, false),
            Op::LowPower { func, enter: false } => self.leave_low_power(by, func),
            Op::Sleep { func } => self.enter_low_power(by, func, true),
            Op::Wakeups { func } => self.wakeups(func),
            Op::Reset { func } => self.reset(by, func),
            Op::HotReset { func } => self.hot_reset(by, func),
            Op::Flr { func } => self.flr(by, func),
            Op::SysfsReset { func } => self.sysfs_reset(func),
            Op::Unbind { func } => self.unbind(func),
            Op::UnbindOpen { func } => self.unbind_open(by, func),
            Op::Bind { func } => self.bind(func),
            Op::Replug { func } => self.replug(func),
            Op::VirtualFunctions { func, on } => self.set_virtual_functions(func, on),
            Op::LinkError { func, fatal } => self.link_error(func, fatal),

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
            Op::Move { part, to, .. } => self.remap(by, part, to),
            Op::Grow { part } => self.grow(by, part),
            Op::Load { word } => self.load(by, word),
            Op::Store { word, value } => self.store(by, word, value),
            Op::Entry { word, load } => self.entry(by, word, load),

            Op::Attach { importer, fd, policy } => self.attach(by, importer, fd, policy),
            Op::ImporterMap { importer, reads } => self.importer_map(by, importer, reads),
            Op::ImporterUnmap { importer } => self.importer_unmap(by, importer),
            Op::Detach { importer } => self.detach(by, importer),
            Op::Stats { importer } => self.stats(by, importer),

            Op::CloseFd { fd } => self.close_fd(by, fd),
            Op::Dup { fd, to } => self.pass(by, fd, by, to),
            Op::Pass { fd, to, slot } if to != by => self.pass(by, fd, to, slot),
            Op::Pass { .. } => None,
            Op::Together { ref steps, ref then } => self.together(steps, then),
            Op::HeldUp { ref op, holder, fd } => self.held_up(by, op, holder, fd),
            Op::Race { ref op, ref crowd } => self.race(by, op, crowd),
            Op::Fork { to } => self.fork(by, to),
            Op::Kill => self.kill(by),
        }
    }
}

#[cfg(test)]
mod test;
