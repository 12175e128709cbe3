// SPDX-License-Identifier: GPL-2.0
//! A second process on a string.
//!
//! [`Peer::fork`] makes a child that waits for orders: map this fd, load from there, unmap. Both
//! sides of a two-process case thus stand in one function, in the order in which they happen.
//! What the child holds is what its parent held at the fork, plus what was sent to it: fork it
//! first and it has no VFIO fd. It ends with the [`Peer`], or with its parent.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, RawFd};
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, ForkResult, Pid};

use crate::fault::{self, Fault};
use crate::link::{Link, Words};
use crate::mm;

/// How long an order may take. The guest is emulated and its kernel full of checks.
const LIMIT: Duration = Duration::from_secs(30);

const TAKE: u64 = 1;
const MAP: u64 = 2;
const UNMAP: u64 = 3;
const PROTECT: u64 = 4;
const LOAD: u64 = 5;
const STORE: u64 = 6;
const CLOSE: u64 = 7;
const REMAP: u64 = 8;
const IOCTL: u64 = 9;

const HAMMER: u64 = 10;

const OK: u64 = 0;
const ERRNO: u64 = 1;
const FAULT: u64 = 2;

/// The largest number of reads of one kind that [`Hits`] can say.
const MANY: u64 = (1 << 21) - 1;

/// What came of many reads.
#[derive(Clone, Copy, Debug)]
pub struct Hits {
    /// How many gave what they should.
    pub good: u64,
    /// How many were SIGBUS.
    pub faults: u64,
    /// How many gave something else.
    pub wrong: u64,
}

/// A process that does as it is told.
pub struct Peer {
    pid: Pid,
    link: Link,
}

impl Peer {
    /// A child of this process, with copies of all it has.
    pub fn fork() -> Result<Peer> {
        let (ours, theirs) = Link::pair()?;
        let parent = Pid::this();
        // SAFETY: cases fork while they have one thread; the child runs obey() and leaves by
        // _exit(), so no destructor of the parent's objects runs twice.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => {
                drop(theirs);
                ours.set_limit(LIMIT)?;
                Ok(Peer { pid: child, link: ours })
            }
            ForkResult::Child => {
                drop(ours);
                crate::worker::die_with(parent);
                let _ = obey(&theirs);
                // SAFETY: ends the process, that is all.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends it a copy of `fd`; returns the number that the copy has there.
    pub fn take(&self, fd: impl AsFd) -> Result<RawFd> {
        let fd = fd.as_fd().as_raw_fd();
        let value = self.order([TAKE, 0, 0, 0, 0, 0], Some(fd))?;
        Ok(value.ok().context("an fd was lost on the way")? as RawFd)
    }

    /// mmap(MAP_SHARED) there, of an fd that it has; returns the address.
    pub fn map(&self, fd: RawFd, len: u64, prot: i32, at: u64) -> Result<Result<usize, Errno>> {
        self.begin_map(fd, len, prot, at)?;
        self.finish_map()
    }

    /// Starts an mmap() there, without waiting for what comes of it.
    pub fn begin_map(&self, fd: RawFd, len: u64, prot: i32, at: u64) -> Result<()> {
        self.link.send([MAP, fd as u64, len, prot as u64, at, 0], None)
    }

    /// What came of [`Peer::begin_map`].
    pub fn finish_map(&self) -> Result<Result<usize, Errno>> {
        let answer = self.answer()?;
        Ok(answer.map(|address| address as usize).map_err(Failure::errno))
    }

    /// munmap() there.
    pub fn unmap(&self, address: usize, len: u64) -> Result<()> {
        let answer = self.order([UNMAP, address as u64, len, 0, 0, 0], None)?;
        answer.map(drop).map_err(Failure::errno).context("munmap in the peer")
    }

    /// mprotect() there.
    pub fn protect(&self, address: usize, len: u64, prot: i32) -> Result<Result<(), Errno>> {
        let answer = self.order([PROTECT, address as u64, len, prot as u64, 0, 0], None)?;
        Ok(answer.map(drop).map_err(Failure::errno))
    }

    /// mremap() there, to an unused place.
    pub fn move_away(&self, address: usize, len: u64) -> Result<Result<usize, Errno>> {
        let answer = self.order([REMAP, address as u64, len, 0, 0, 0], None)?;
        Ok(answer.map(|address| address as usize).map_err(Failure::errno))
    }

    /// Reads four bytes there.
    pub fn load(&self, address: usize) -> Result<Result<u32, Fault>> {
        self.begin_load(address)?;
        self.finish_load()
    }

    /// Starts a read there, without waiting for what comes of it.
    pub fn begin_load(&self, address: usize) -> Result<()> {
        self.link.send([LOAD, address as u64, 0, 0, 0, 0], None)
    }

    /// What came of [`Peer::begin_load`].
    pub fn finish_load(&self) -> Result<Result<u32, Fault>> {
        let answer = self.answer()?;
        Ok(answer.map(|value| value as u32).map_err(Failure::fault))
    }

    /// Starts to read there over and over; each read must give `want` or SIGBUS.
    pub fn begin_hammer(&self, address: usize, want: u32) -> Result<()> {
        self.link.send([HAMMER, address as u64, want.into(), 0, 0, 0], None)
    }

    /// Ends [`Peer::begin_hammer`], and says what came of it.
    pub fn end_hammer(&self) -> Result<Hits> {
        let word = self.order([HAMMER, 0, 0, 0, 0, 0], None)?.map_err(Failure::errno)?;
        let part = |number: u32| (word >> (21 * number)) & MANY;
        Ok(Hits { good: part(0), faults: part(1), wrong: part(2) })
    }

    /// Writes four bytes there.
    pub fn store(&self, address: usize, value: u32) -> Result<Result<(), Fault>> {
        let answer = self.order([STORE, address as u64, value.into(), 0, 0, 0], None)?;
        Ok(answer.map(drop).map_err(Failure::fault))
    }

    /// close() there.
    pub fn close(&self, fd: RawFd) -> Result<()> {
        let answer = self.order([CLOSE, fd as u64, 0, 0, 0, 0], None)?;
        answer.map(drop).map_err(Failure::errno).context("close in the peer")
    }

    /// ioctl() there with two 32-bit words behind its pointer.
    pub fn ioctl(&self, fd: RawFd, request: u32, arg: [u32; 2]) -> Result<Result<i32, Errno>> {
        let arg = u64::from(arg[0]) | (u64::from(arg[1]) << 32);
        let answer = self.order([IOCTL, fd as u64, request.into(), arg, 0, 0], None)?;
        Ok(answer.map(|value| value as i32).map_err(Failure::errno))
    }

    /// Stops it (SIGSTOP) and waits until it has stopped.
    pub fn stop(&self) -> Result<()> {
        kill(self.pid, Signal::SIGSTOP)?;
        let status = waitpid(self.pid, Some(WaitPidFlag::WUNTRACED))?;
        ensure!(matches!(status, WaitStatus::Stopped(..)), "peer: {status:?}");
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        Ok(kill(self.pid, Signal::SIGCONT)?)
    }

    /// Kills it, and waits until nothing is left of it.
    pub fn kill(self) -> Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        let status = waitpid(self.pid, None)?;
        ensure!(matches!(status, WaitStatus::Signaled(..)), "peer: {status:?}");
        Ok(())
    }

    fn order(&self, words: Words, fd: Option<RawFd>) -> Result<Result<u64, Failure>> {
        self.link.send(words, fd)?;
        self.answer()
    }

    fn answer(&self) -> Result<Result<u64, Failure>> {
        let (words, _) =
            self.link.receive().with_context(|| format!("peer, process {}", self.pid))?;
        Ok(match words[0] {
            OK => Ok(words[1]),
            ERRNO => Err(Failure::Errno(Errno::from_raw(words[1] as i32))),
            FAULT => Err(Failure::Fault(Fault::unpack(words[1]))),
            other => bail!("peer answers {other}"),
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// What an order came to when it failed.
#[derive(Debug)]
enum Failure {
    Errno(Errno),
    Fault(Fault),
}

impl Failure {
    fn errno(self) -> Errno {
        match self {
            Failure::Errno(errno) => errno,
            Failure::Fault(_) => Errno::EFAULT,
        }
    }

    fn fault(self) -> Fault {
        match self {
            Failure::Fault(fault) => fault,
            Failure::Errno(_) => Fault { signal: 0, code: 0 },
        }
    }
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Failure {
        Failure::Errno(errno)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Failure {
        Failure::Fault(fault)
    }
}

/// The child's life.
fn obey(link: &Link) -> Result<()> {
    loop {
        let (words, fd) = link.receive()?;
        let result = match (words, fd) {
            (_, Some(fd)) => Ok(fd.into_raw_fd() as u64),
            ([HAMMER, address, want, ..], _) => Ok(hammer(link, address as usize, want as u32)?),
            (words, None) => perform(words),
        };
        let answer = match result {
            Ok(value) => [OK, value],
            Err(Failure::Errno(errno)) => [ERRNO, errno as u64],
            Err(Failure::Fault(fault)) => [FAULT, fault.pack()],
        };
        link.send([answer[0], answer[1], 0, 0, 0, 0], None)?;
    }
}

fn perform([order, a, b, c, d, _]: Words) -> Result<u64, Failure> {
    let address = a as usize;
    Ok(match order {
        MAP => mm::map(a as RawFd, b, c as i32, mm::SHARED, d)? as u64,
        UNMAP => mm::unmap(address, b).map(|()| 0)?,
        PROTECT => mm::protect(address, b, c as i32).map(|()| 0)?,
        REMAP => mm::move_away(address, b)? as u64,
        LOAD => fault::load32(address)?.into(),
        STORE => fault::store32(address, b as u32).map(|()| 0)?,
        CLOSE => nix::unistd::close(a as RawFd).map(|()| 0)?,
        IOCTL => {
            let mut arg = [c as u32, (c >> 32) as u32];
            crate::sys::ioctl_with(a as RawFd, b as u32, &mut arg)? as u64
        }
        _ => return Err(Errno::ENOSYS.into()),
    })
}

/// Reads until the next message comes.
fn hammer(link: &Link, address: usize, want: u32) -> Result<u64> {
    let [mut good, mut faults, mut wrong] = [0u64; 3];
    while !link.has_message()? {
        for _ in 0..100 {
            match fault::load32(address) {
                Ok(value) if value == want => good += 1,
                Err(fault) if fault.is_bus_error() => faults += 1,
                _ => wrong += 1,
            }
        }
    }
    link.receive()?;
    Ok(good.min(MANY) | (faults.min(MANY) << 21) | (wrong.min(MANY) << 42))
}
