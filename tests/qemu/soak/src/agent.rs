// SPDX-License-Identifier: GPL-2.0
//! A process that performs the operations that the conductor orders.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use anyhow::{bail, Context, Result};
use guest::arena;
use guest::buffer::Buffer;
use guest::fault::{self, Fault};
use guest::link::Link;
use guest::mm;
use guest::ptes::{MemoryType, Ptes};
use guest::testmod::{Importer, NEVER_UNMAPS};
use guest::worker;
use guest::{Errno, PAGE};
use serde::{Deserialize, Serialize};

use crate::device::Handle;
use crate::hammer::{self, Flag, Spot};
use crate::hardware::Hardware;
use crate::machine::FUNCS;
use crate::op::{
    Area, FdRef, Op, Outcome, Part, Prot, Pte, Seen, Signal, Slot, Target, Word, FDS, IMPORTERS,
    MAPS,
};

/// An order to a process.
#[derive(Serialize, Deserialize)]
pub enum Order {
    /// Performs these operations in order.
    Do(Vec<Op>),
    /// Performs the operation while another thread accesses the targets.
    Race(Op, Vec<Target>),
    /// Performs the operation when the flag is set. Has two answers: ready, and the outcome.
    AtOnce(Op),
    /// Accesses the targets until the next order. Has two answers, after the first round and at
    /// the end.
    Hammer(Vec<Target>),
    /// Ends [`Order::Hammer`].
    Stop,
    /// Answers with a copy of this fd.
    Give(Slot),
    /// Keeps the fd that comes with the order.
    Take(Slot),
    /// Maps the buffer of an fd for an importer that never unmaps by itself.
    Hold(Slot),
    /// Unmaps it, and ends that importer.
    Release,
    /// Forks a process that obeys the socket that comes with the order.
    Fork,
}

/// An answer of a process.
#[derive(Serialize, Deserialize)]
pub enum Answer {
    /// To [`Order::Do`].
    Did(Vec<Outcome>),
    /// To [`Order::Hammer`].
    Saw(Vec<Seen>),
    /// To all others; the process id for [`Order::Fork`].
    Done(i32),
}

/// Bytes between the places of mappings: enough for the largest BAR and a skew.
const STRIDE: usize = 128 << 20;

/// A process and its fds and mappings.
pub struct Agent<'a> {
    link: Link,
    flag: Flag,
    pub hardware: &'a Hardware,
    pub handles: [Option<Handle>; FUNCS.len()],
    pub fds: [Option<Buffer>; FDS],
    pub importers: [Option<Importer>; IMPORTERS],
    /// The importer of [`Order::Hold`].
    held: Option<Importer>,
    /// Where each mapping starts.
    bases: [usize; MAPS],
    /// Not a dma-buf.
    null: File,
    /// A dma-buf of another exporter.
    heap: Buffer,
    ptes: Ptes,
}

impl<'a> Agent<'a> {
    /// A process without device fds, buffers and mappings.
    pub fn new(hardware: &'a Hardware, link: Link, flag: Flag) -> Result<Agent<'a>> {
        Ok(Agent {
            link,
            flag,
            hardware,
            handles: Default::default(),
            fds: Default::default(),
            importers: Default::default(),
            held: None,
            bases: std::array::from_fn(|map| arena::START + map * STRIDE),
            null: File::open("/dev/null")?,
            heap: Buffer::from_system_heap(PAGE)?,
            ptes: Ptes::new()?,
        })
    }

    /// Obeys orders until the conductor closes the socket.
    pub fn obey(&mut self) -> Result<()> {
        loop {
            let mut enclosure = None;
            let answer = match self.link.receive()? {
                (Order::Do(ops), _) => Answer::Did(ops.iter().map(|op| self.perform(op)).collect()),
                (Order::Race(op, targets), _) => {
                    let spots = self.spots(&targets);
                    let flag = self.flag;
                    let (outcome, seen) = hammer::during(&spots, flag, || self.perform(&op));
                    Answer::Did(vec![Outcome::Race { outcome: Box::new(outcome), seen }])
                }
                (Order::AtOnce(op), _) => {
                    self.link.send(&Answer::Done(0), None)?;
                    self.flag.wait();
                    Answer::Did(vec![self.perform(&op)])
                }
                (Order::Hammer(targets), _) => self.hammer(&targets)?,
                (Order::Stop, _) => bail!("no accesses to stop"),
                (Order::Give(slot), _) => {
                    enclosure = Some(self.fd(slot)?.raw());
                    Answer::Done(0)
                }
                (Order::Take(slot), Some(fd)) => {
                    self.fds[usize::from(slot)] = Some(fd.into());
                    Answer::Done(0)
                }
                (Order::Hold(slot), _) => {
                    self.held = Some(self.hold(slot)?);
                    Answer::Done(0)
                }
                (Order::Release, _) => {
                    self.held = None;
                    Answer::Done(0)
                }
                (Order::Fork, Some(fd)) => Answer::Done(self.fork(fd)?),
                _ => bail!("an order without an fd"),
            };
            self.link.send(&answer, enclosure)?;
        }
    }

    fn spots(&self, targets: &[Target]) -> Vec<Spot> {
        let spot = |target: &Target| Spot { address: self.word(target.word), store: target.store };
        targets.iter().map(spot).collect()
    }

    fn hold(&self, slot: Slot) -> Result<Importer> {
        let importer = Importer::new()?;
        importer.attach(self.fd(slot)?, &self.hardware.importing, NEVER_UNMAPS)?;
        importer.map()?;
        Ok(importer)
    }

    fn hammer(&self, targets: &[Target]) -> Result<Answer> {
        let mut sent = Ok(());
        let begun = || sent = self.link.send(&Answer::Done(0), None);
        // An error means that the conductor has closed the socket.
        let stop = || self.link.has_message().unwrap_or(true);
        let seen = hammer::hammer(&self.spots(targets), self.flag, begun, stop);
        sent?;
        self.link.receive::<Order>()?;
        Ok(Answer::Saw(seen))
    }

    /// Forks a process that obeys orders from `fd`.
    fn fork(&mut self, fd: OwnedFd) -> Result<i32> {
        worker::start_away(|| {
            // Drops the copy of the old socket: the conductor must see when this process ends.
            self.link = fd.into();
            // Fails when the conductor closes the socket.
            let _ = self.obey();
        })
    }

    pub fn fd(&self, slot: Slot) -> Result<&Buffer> {
        self.fds[usize::from(slot)].as_ref().with_context(|| format!("slot {slot} has no fd"))
    }

    /// The number of an fd, -1 if it is closed.
    pub fn number(&self, fd: FdRef) -> RawFd {
        match fd {
            FdRef::Closed => -1,
            FdRef::Null => self.null.as_raw_fd(),
            FdRef::Heap => self.heap.raw(),
            FdRef::Slot(slot) => self.fds[usize::from(slot)].as_ref().map_or(-1, Buffer::raw),
        }
    }

    fn raw(&self, slot: Slot) -> RawFd {
        self.number(FdRef::Slot(slot))
    }

    fn perform(&mut self, op: &Op) -> Outcome {
        match *op {
            Op::CloseFd { fd } => {
                self.fds[usize::from(fd)] = None;
                Outcome::OK
            }
            Op::Dup { fd, to } => {
                let copy = self.fd(fd).and_then(Buffer::dup);
                self.fds[usize::from(to)] = copy.ok();
                Outcome::OK
            }
            Op::Map { fd, map, area } => self.map(self.raw(fd), map, area, 0),
            Op::MapBar { func, bar, map, area } => {
                let (fd, start) = self.bar(func, bar);
                self.map(fd, map, area, start)
            }
            Op::Unmap { part } => {
                Outcome::of(arena::unmap(self.address(part), bytes(part)), |()| 0)
            }
            Op::Protect { part, prot } => {
                let result = arena::protect(self.address(part), bytes(part), bits(prot));
                Outcome::of(result, |()| 0)
            }
            Op::Move { part, to, skew } => {
                let target = self.base(to, skew);
                Outcome::of(arena::move_to(self.address(part), bytes(part), target), |()| 0)
            }
            Op::Grow { part } => {
                let len = bytes(part);
                Outcome::of(arena::resize(self.address(part), len, len * 2), |()| 0)
            }
            Op::Load { word } => match fault::load32(self.word(word)) {
                Ok(value) => Outcome::Done(value.into()),
                Err(fault) => Outcome::Fault(signal(fault)),
            },
            Op::Store { word, value } => match fault::store32(self.word(word), value) {
                Ok(()) => Outcome::OK,
                Err(fault) => Outcome::Fault(signal(fault)),
            },
            Op::Entry { word, load } => self.entry(word, load),
            _ => self.perform_on_device(op),
        }
    }

    fn base(&mut self, map: Slot, skew: u16) -> usize {
        let base = arena::START + usize::from(map) * STRIDE + usize::from(skew) * PAGE as usize;
        self.bases[usize::from(map)] = base;
        base
    }

    fn map(&mut self, fd: RawFd, map: Slot, area: Area, start: u64) -> Outcome {
        let flags = if area.shared { mm::SHARED } else { mm::PRIVATE };
        let (len, offset) = (u64::from(area.pages) * PAGE, start + u64::from(area.page) * PAGE);
        let base = self.base(map, area.skew);
        Outcome::of(arena::map(base, fd, len, bits(area.prot), flags, offset), |()| 0)
    }

    fn address(&self, part: Part) -> usize {
        self.bases[usize::from(part.map)] + part.at as usize * PAGE as usize
    }

    fn word(&self, word: Word) -> usize {
        let part = Part { map: word.map, at: word.page, pages: 1 };
        self.address(part) + usize::from(word.word) * 4
    }

    fn entry(&self, word: Word, load: bool) -> Outcome {
        let address = self.word(word);
        let load = load.then(|| fault::load32(address).map_err(signal));
        match self.ptes.at(address) {
            Err(errno) => Outcome::Errno(errno as i32),
            Ok(pte) => Outcome::Entry {
                load,
                pte: pte.map(|pte| Pte {
                    frame: pte.pfn,
                    writable: pte.writable,
                    memory: match pte.memory {
                        MemoryType::Uncached => 0,
                        MemoryType::WriteCombining => 1,
                        _ => 2,
                    },
                }),
            },
        }
    }
}

fn bytes(part: Part) -> u64 {
    u64::from(part.pages) * PAGE
}

fn bits(prot: Prot) -> i32 {
    match prot {
        Prot::None => libc::PROT_NONE,
        Prot::Read => mm::RO,
        Prot::Write => mm::RW,
    }
}

pub fn signal(fault: Fault) -> Signal {
    if fault.is_bus_error() {
        Signal::Bus
    } else {
        Signal::Segv
    }
}

/// The errno at the bottom of an error.
pub fn errno_of(error: &anyhow::Error) -> Errno {
    let of_cause = |cause: &(dyn std::error::Error + 'static)| {
        let io = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        io.map(Errno::from_raw).or_else(|| cause.downcast_ref::<Errno>().copied())
    };
    error.chain().find_map(of_cause).unwrap_or(Errno::UnknownErrno)
}
