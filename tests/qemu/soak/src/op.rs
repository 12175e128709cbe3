// SPDX-License-Identifier: GPL-2.0
//! Operations and their outcomes.
//!
//! Pure. An operation names its objects by slots: process 2, its fd 5, its mapping 3. Each
//! operation is therefore possible after any others, or the model refuses it
//! ([`crate::model::Model::apply`]). A sequence can be shortened by leaving out any of them. Pages
//! are 4 KiB, words 4 bytes.

use guest::Errno;
use serde::{Deserialize, Serialize};

use crate::machine::Func;

/// How many processes there are.
pub const PROCS: usize = 4;
/// How many dma-buf fds each may have.
pub const FDS: usize = 8;
/// How many mappings each may have. Each may consist of several VMAs.
pub const MAPS: usize = 10;
/// How many importers each may have.
pub const IMPORTERS: usize = 3;

/// A process.
pub type Proc = u8;
/// A slot of a process.
pub type Slot = u8;

/// One operation of one process. The conductor performs some itself ([`Op::is_conductors`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The process that performs it, or that is its object.
    pub by: Proc,
    /// The operation.
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

/// The fd argument of a call on a device.
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

/// The error in the arguments of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flaw {
    /// No ranges.
    NoRanges,
    /// One range more than the limit.
    TooManyRanges,
    /// `argsz` does not hold the last range.
    ShortArgsz,
    /// An unknown bit in `flags`.
    Flags,
    /// An unsupported open flag.
    OpenFlags,
    /// A BAR that the function does not have.
    NoBar,
    /// A region that is no BAR.
    NotABar,
    /// The last range's offset is not page-aligned.
    OddOffset,
    /// The last range's length is not page-aligned.
    OddLength,
    /// The last range is empty.
    Empty,
    /// The last range ends one page past the BAR.
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

/// The arguments of an export.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spec {
    /// The BAR.
    pub bar: u8,
    /// First page and number of pages of each range.
    pub ranges: Vec<(u32, u32)>,
    /// Whether the fd is `O_RDONLY`.
    pub read_only: bool,
    /// Whether it starts as write-combining.
    pub wc: bool,
    /// The error in the arguments, if any.
    pub flaw: Option<Flaw>,
}

/// A call of a feature with bad arguments, or a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Oddity {
    /// GET of REVOKE.
    GetRevoke,
    /// SET of INFO.
    SetInfo,
    /// SET of DMA_BUF.
    SetDmaBuf,
    /// Neither GET nor SET.
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

/// The protection of a mapping.
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
    /// Its protection.
    pub prot: Prot,
    /// MAP_SHARED, or MAP_PRIVATE.
    pub shared: bool,
    /// Where it starts: pages after a multiple of 128 MiB.
    pub skew: u16,
}

/// How an importer reacts to an invalidation, or why it cannot attach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Policy {
    /// Unmaps from its invalidate callback.
    AtOnce,
    /// Unmaps a millisecond later, from a work item.
    Later,
    /// Unmaps from its invalidate callback, and tries there to map again.
    Again,
    /// Has no callbacks at all.
    Static,
    /// Requires `struct page`.
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

/// An access during a race: a load, or a store of the value that the word already has.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Where.
    pub word: Word,
    /// The value to store.
    pub store: Option<u32>,
}

/// A process that accesses memory all the time during a race.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accessor {
    /// The process.
    pub by: Proc,
    /// What it accesses, in turn.
    pub targets: Vec<Target>,
}

/// The result of an access: the value of a load, 0 for a store.
pub type Access = Result<u32, Signal>;

/// The results of the accesses to one target; each different result once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Of accesses that began before the operation had returned.
    pub before: Vec<Access>,
    /// Of later ones.
    pub after: Vec<Access>,
    /// How many accesses there were.
    pub count: u64,
}

/// An operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Op {
    /// Opens a function. A process that has a sibling open uses the same group fd or iommufd.
    Open { func: Func, via: Via },
    /// Closes the process's fd of it.
    Close { func: Func },
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
    /// A call with bad arguments, or a probe.
    Odd { func: Func, oddity: Oddity },
    /// Writes the command register.
    Memory { func: Func, on: bool },
    /// Writes the power state.
    Power { func: Func, d3: bool },
    /// Enters or leaves low power.
    LowPower { func: Func, enter: bool },
    /// Enters low power that the next call ends (ENTRY_WITH_WAKEUP).
    Sleep { func: Func },
    /// How often such a low power has ended since the last time.
    Wakeups { func: Func },
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
    Attach { importer: Slot, fd: Slot, policy: Policy },
    /// Maps the buffer for the importer's device, which only reads it, or writes it too.
    ImporterMap { importer: Slot, reads: bool },
    /// Unmaps it.
    ImporterUnmap { importer: Slot },
    /// Detaches the importer.
    Detach { importer: Slot },
    /// Reads its counters.
    Stats { importer: Slot },
    /// Sends an fd to another process.
    Pass { fd: Slot, to: Proc, slot: Slot },
    /// Replaces another process by a copy of this one.
    Fork { to: Proc },
    /// Kills the process; a fresh one takes its place.
    Kill,
    /// Resets a function through sysfs.
    SysfsReset { func: Func },
    /// Unbinds a function that is not open.
    Unbind { func: Func },
    /// Unbinds a function that only this process has open, which closes it meanwhile.
    UnbindOpen { func: Func },
    /// Binds a function.
    Bind { func: Func },
    /// Takes a function off the bus that is not open and lets the kernel find it again, unbound.
    Replug { func: Func },
    /// Makes the virtual functions of a function, or takes them away.
    VirtualFunctions { func: Func, on: bool },
    /// Lets the link to the slot of a function have an error.
    LinkError { func: Func, fatal: bool },
    /// Performs operations of different processes at once, and then others that look at what the
    /// former have made, and end it.
    Together { steps: Vec<Step>, then: Vec<Step> },
    /// Performs an operation while another process has a buffer mapped for an importer that does
    /// not unmap for a while.
    HeldUp { op: Box<Op>, holder: Proc, fd: Slot },
    /// Performs an operation while processes access memory all the time.
    Race { op: Box<Op>, crowd: Vec<Accessor> },
}

impl Op {
    /// Whether the conductor performs it, from outside of VFIO.
    pub fn is_conductors(&self) -> bool {
        use Op::*;
        matches!(
            self,
            SysfsReset { .. }
                | Unbind { .. }
                | UnbindOpen { .. }
                | Bind { .. }
                | Replug { .. }
                | VirtualFunctions { .. }
                | LinkError { .. }
        )
    }

    /// Whether a process performs it without the conductor.
    pub fn runs_in_one_process(&self) -> bool {
        use Op::*;
        !self.is_conductors()
            && !matches!(
                self,
                Pass { .. } | Fork { .. } | Kill | Together { .. } | HeldUp { .. } | Race { .. }
            )
    }

    /// The function whose fd it calls, if that wakes it.
    pub fn wakes(&self) -> Option<Func> {
        use Op::*;
        match *self {
            Export { func, .. }
            | Revoke { func, .. }
            | GetMemattr { func, .. }
            | SetMemattr { func, .. }
            | Info { func, .. }
            | Odd { func, .. }
            | Memory { func, .. }
            | Power { func, .. }
            | LowPower { func, .. }
            | Sleep { func }
            | Reset { func }
            | HotReset { func }
            | Flr { func } => Some(func),
            _ => None,
        }
    }

    /// The function that it works on.
    pub fn func(&self) -> Option<Func> {
        use Op::*;
        match *self {
            Open { func, .. }
            | Close { func }
            | Revoke { func, .. }
            | Memory { func, .. }
            | Power { func, .. }
            | LowPower { func, .. }
            | Sleep { func }
            | Reset { func }
            | HotReset { func }
            | Flr { func }
            | SysfsReset { func }
            | Unbind { func }
            | UnbindOpen { func }
            | Bind { func }
            | Replug { func }
            | VirtualFunctions { func, .. }
            | LinkError { func, .. } => Some(func),
            _ => None,
        }
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

/// The outcome of an operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Outcome {
    /// Success, with a number if the operation returns one.
    Done(u64),
    /// Failure.
    Errno(i32),
    /// The signal that ended the access.
    Fault(Signal),
    /// INFO
    Info { status: u32, memattr: u32, ranges: u32, size: u64 },
    /// The page table entry, and the result of the load before it.
    Entry { load: Option<Result<u32, Signal>>, pte: Option<Pte> },
    /// The outcome of the operation, and the accesses to each target of the crowd, in order.
    Race { outcome: Box<Outcome>, seen: Vec<Seen> },
    /// The outcomes of operations that ran at once, and of those after them.
    Together(Vec<Outcome>),
    /// The outcome of the operation, and whether it waited for the importer.
    HeldUp { outcome: Box<Outcome>, waited: bool },
    /// The state of an importer; `hits` counts invalidations while it was mapped.
    Importer { attached: bool, mapped: bool, hits: u32 },
}

impl Outcome {
    /// Success without a number.
    pub const OK: Outcome = Outcome::Done(0);

    /// The outcome of a call.
    pub fn of<T>(result: Result<T, Errno>, value: impl FnOnce(T) -> u64) -> Outcome {
        match result {
            Ok(got) => Outcome::Done(value(got)),
            Err(errno) => Outcome::Errno(errno as i32),
        }
    }
}
