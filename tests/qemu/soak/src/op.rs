// SPDX-License-Identifier: GPL-2.0
//! Operations, and what comes of them.
//!
//! Pure. An operation names what it works on by slots: process 2, its fd 5, its mapping 3. So each
//! makes sense after any others, or is seen to be impossible ([`crate::model::Model::apply`]), and
//! a sequence can be shortened by leaving any of them out. Pages are 4 KiB, words 4 bytes.

use std::fmt;

use guest::Errno;
use serde::{Deserialize, Serialize};

use crate::machine::{spec, unit_name, Func, Unit};

/// How many processes there are.
pub const PROCS: usize = 4;
/// How many dma-buf fds each may have.
pub const FDS: usize = 8;
/// How many mappings each may have. Each may consist of pieces.
pub const MAPS: usize = 10;
/// How many importers each may have.
pub const IMPORTERS: usize = 3;

/// A process.
pub type Proc = u8;
/// A slot of a process.
pub type Slot = u8;

/// One operation of one process. What no process does (sysfs, signals) is done by the conductor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The process that does it, or that it is done to.
    pub by: Proc,
    /// What is done.
    pub op: Op,
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Via {
    /// Group and container.
    Group,
    /// Character device and iommufd.
    Cdev,
}

/// An fd that a call on a device is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FdRef {
    /// One of the process's buffers.
    Slot(Slot),
    /// A number that is not open.
    Closed,
    /// No dma-buf: `/dev/null`.
    Null,
    /// A dma-buf of the system heap.
    Heap,
}

/// What is wrong with an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flaw {
    /// No ranges.
    NoRanges,
    /// One more than there may be.
    TooManyRanges,
    /// `argsz` does not hold the last range.
    ShortArgsz,
    /// An unknown bit in `flags`.
    Flags,
    /// An open flag that there is not.
    OpenFlags,
    /// A BAR that the function does not have.
    NoBar,
    /// A region that is no BAR.
    NotABar,
    /// The last range's offset is odd.
    OddOffset,
    /// The last range's length is odd.
    OddLength,
    /// The last range is empty.
    Empty,
    /// The last range goes one page too far.
    PastEnd,
}

impl Flaw {
    /// All of them.
    pub const ALL: [Flaw; 11] = [
        Flaw::NoRanges,
        Flaw::TooManyRanges,
        Flaw::ShortArgsz,
        Flaw::Flags,
        Flaw::OpenFlags,
        Flaw::NoBar,
        Flaw::NotABar,
        Flaw::OddOffset,
        Flaw::OddLength,
        Flaw::Empty,
        Flaw::PastEnd,
    ];
}

/// A buffer to be exported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The BAR.
    pub bar: u8,
    /// First page and number of pages of each range.
    pub ranges: Vec<(u32, u32)>,
    /// Whether the fd is `O_RDONLY`.
    pub read_only: bool,
    /// Whether it is born write-combining.
    pub wc: bool,
    /// What is wrong with it.
    pub flaw: Option<Flaw>,
}

/// A call of a feature that no caller should make, and one that has no effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Oddity {
    /// GET of REVOKE.
    GetRevoke,
    /// SET of INFO.
    SetInfo,
    /// SET of DMA_BUF.
    SetDmaBuf,
    /// No operation at all.
    NoOperation,
    /// MEMATTR with an `argsz` that is too small.
    ShortMemattr,
    /// The ioctl with an `argsz` that is too small.
    ShortIoctl,
    /// PROBE of everything.
    Probe,
}

impl Oddity {
    /// All of them.
    pub const ALL: [Oddity; 7] = [
        Oddity::GetRevoke,
        Oddity::SetInfo,
        Oddity::SetDmaBuf,
        Oddity::NoOperation,
        Oddity::ShortMemattr,
        Oddity::ShortIoctl,
        Oddity::Probe,
    ];
}

/// What a mapping allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Prot {
    /// Nothing.
    None,
    /// Loads.
    Read,
    /// Loads and stores.
    Write,
}

/// A new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Area {
    /// First page of the buffer or BAR.
    pub page: u32,
    /// How many.
    pub pages: u32,
    /// What it allows.
    pub prot: Prot,
    /// MAP_SHARED, or MAP_PRIVATE.
    pub shared: bool,
    /// How many pages after a multiple of 64 MiB it starts.
    pub skew: u16,
}

/// What an importer is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manners {
    /// Unmaps at once.
    Good,
    /// Unmaps a millisecond later.
    Slow,
    /// Cannot do without `struct page`.
    NoPeerToPeer,
    /// Has no invalidate callback.
    NotRevocable,
}

/// Part of a mapping: pages counted from its start.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The mapping.
    pub map: Slot,
    /// First page.
    pub at: u32,
    /// How many.
    pub pages: u32,
}

/// A word in a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Word {
    /// The mapping.
    pub map: Slot,
    /// Page, counted from its start.
    pub page: u32,
    /// Word of the page.
    pub word: u16,
}

/// What is accessed during a race: a load, or a store of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Where.
    pub word: Word,
    /// What is stored.
    pub store: Option<u32>,
}

/// What came of an access: the value of a load, 0 for a store.
pub type Access = Result<u32, Signal>;

/// What came of the accesses to one target; each different result once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Of those that were begun before the operation was over.
    pub before: Vec<Access>,
    /// Of the others.
    pub after: Vec<Access>,
    /// How many accesses there were.
    pub count: u64,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Opens all functions of a unit.
    Open { unit: Unit, via: Via },
    /// Closes them.
    Close { unit: Unit },
    /// VFIO_DEVICE_FEATURE_DMA_BUF
    Export { func: Func, to: Slot, spec: Spec },
    /// REVOKE, as a feature or as the ioctl.
    Revoke { func: Func, fd: FdRef, ioctl: bool },
    /// MEMATTR GET
    GetMemattr { func: Func, fd: FdRef },
    /// MEMATTR SET
    SetMemattr { func: Func, fd: FdRef, value: u32 },
    /// INFO
    Info { func: Func, fd: FdRef },
    /// A call that is not as it should be.
    Odd { func: Func, oddity: Oddity },
    /// Writes the command register.
    Memory { func: Func, on: bool },
    /// Writes the power state.
    Power { func: Func, d3: bool },
    /// Enters or leaves low power.
    LowPower { func: Func, enter: bool },
    /// VFIO_DEVICE_RESET
    Reset { func: Func },
    /// VFIO_DEVICE_PCI_HOT_RESET
    HotReset { func: Func },
    /// Function level reset through the config space.
    Flr { func: Func },
    /// Closes a buffer's fd.
    CloseFd { fd: Slot },
    /// Makes a second fd of a buffer.
    Dup { fd: Slot, to: Slot },
    /// Maps a buffer.
    Map { fd: Slot, map: Slot, area: Area },
    /// Maps a BAR.
    MapBar { func: Func, bar: u8, map: Slot, area: Area },
    /// munmap()
    Unmap { part: Part },
    /// mprotect()
    Protect { part: Part, prot: Prot },
    /// mremap() to another place, which becomes a mapping of its own.
    Move { part: Part, to: Slot, skew: u16 },
    /// mremap() to twice the size.
    Grow { part: Part },
    /// Reads a word.
    Load { word: Word },
    /// Writes a word.
    Store { word: Word, value: u32 },
    /// Reads the page table entry, perhaps after a load.
    Entry { word: Word, load: bool },
    /// Attaches an importer to a buffer.
    Attach { importer: Slot, fd: Slot, manners: Manners },
    /// Maps the buffer for the importer's device.
    ImporterMap { importer: Slot },
    /// Unmaps it.
    ImporterUnmap { importer: Slot },
    /// Detaches the importer.
    Detach { importer: Slot },
    /// Asks what happened to it.
    Stats { importer: Slot },
    /// Sends an fd to another process.
    Pass { fd: Slot, to: Proc, slot: Slot },
    /// Replaces another process by a copy of this one.
    Fork { to: Proc },
    /// Kills the process; a fresh one takes its place.
    Kill,
    /// Resets a function through sysfs.
    SysfsReset { func: Func },
    /// Unbinds all functions of a unit and binds them again.
    Rebind { unit: Unit },
    /// Does an operation while a thread of a process accesses memory all the time.
    Race { op: Box<Op>, who: Proc, targets: Vec<Target> },
}

impl Op {
    /// Whether a process does it by itself.
    pub fn is_of_one_process(&self) -> bool {
        use Op::*;
        !matches!(
            self,
            Pass { .. } | Fork { .. } | Kill | SysfsReset { .. } | Rebind { .. } | Race { .. }
        )
    }
}

/// Why an access failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Signal {
    /// SIGBUS
    Bus,
    /// SIGSEGV
    Segv,
}

/// A page table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pte {
    /// Its page frame.
    pub frame: u64,
    /// Whether it can be written through.
    pub writable: bool,
    /// Whether it is UC- (0), WC (1) or something else (2).
    pub memory: u8,
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// It worked; a number for those that give one.
    Done(u64),
    /// It failed.
    Errno(i32),
    /// The access failed.
    Fault(Signal),
    /// INFO
    Info { status: u32, memattr: u32, ranges: u32, size: u64 },
    /// The entry, after what came of the load.
    Entry { load: Option<Result<u32, Signal>>, pte: Option<Pte> },
    /// Of the operation, and of the accesses meanwhile.
    Race { outcome: Box<Outcome>, seen: Vec<Seen> },
    /// What happened to an importer: attached, mapped, how often invalidated while mapped.
    Importer { attached: bool, mapped: bool, hits: u32 },
}

impl Outcome {
    /// It worked.
    pub const OK: Outcome = Outcome::Done(0);

    /// Of a call.
    pub fn of<T>(result: Result<T, Errno>, value: impl FnOnce(T) -> u64) -> Outcome {
        match result {
            Ok(got) => Outcome::Done(value(got)),
            Err(errno) => Outcome::Errno(errno as i32),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(0) => write!(f, "success"),
            Outcome::Done(value) => write!(f, "{value:#x}"),
            Outcome::Errno(errno) => write!(f, "{:?}", Errno::from_raw(*errno)),
            Outcome::Fault(Signal::Bus) => write!(f, "SIGBUS"),
            Outcome::Fault(Signal::Segv) => write!(f, "SIGSEGV"),
            other => write!(f, "{other:x?}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Op::*;
        write!(f, "process {}: ", self.by)?;
        let name = |func: &Func| spec(*func).name;
        match &self.op {
            Open { unit, via } => write!(f, "open {} via {via:?}", unit_name(*unit)),
            Close { unit } => write!(f, "close {}", unit_name(*unit)),
            Export { func, to, spec } => {
                write!(f, "fd {to} = export of {} BAR {}", name(func), spec.bar)?;
                spec.ranges.iter().try_for_each(|(page, pages)| write!(f, " [{page}+{pages}]"))?;
                write!(f, "{}", if spec.read_only { ", read-only" } else { "" })?;
                write!(f, "{}", if spec.wc { ", write-combining" } else { "" })?;
                spec.flaw.map_or(Ok(()), |flaw| write!(f, ", flaw {flaw:?}"))
            }
            Map { fd, map, area } => write!(f, "map {map} = mmap of fd {fd}, {area}"),
            MapBar { func, bar, map, area } => {
                write!(f, "map {map} = mmap of {} BAR {bar}, {area}", name(func))
            }
            Load { word } => write!(f, "load {word}"),
            Store { word, value } => write!(f, "store {word} = {value:#x}"),
            Race { op, who, targets } => {
                write!(f, "while process {who} accesses")?;
                for target in targets {
                    let how = if target.store.is_some() { "store" } else { "load" };
                    write!(f, " ({how} {})", target.word)?;
                }
                write!(f, ", {}", Step { by: self.by, op: (**op).clone() })
            }
            SysfsReset { func } => write!(f, "(conductor) sysfs reset of {}", name(func)),
            Rebind { unit } => write!(f, "(conductor) rebind {}", unit_name(*unit)),
            Revoke { func, .. }
            | GetMemattr { func, .. }
            | SetMemattr { func, .. }
            | Info { func, .. }
            | Odd { func, .. }
            | Memory { func, .. }
            | Power { func, .. }
            | LowPower { func, .. }
            | Reset { func }
            | HotReset { func }
            | Flr { func } => write!(f, "on {}: {:?}", name(func), self.op),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = if self.shared { "" } else { ", private" };
        write!(f, "[{}+{}] {:?}{shared}", self.page, self.pages, self.prot)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {} page {} word {}", self.map, self.page, self.word)
    }
}
