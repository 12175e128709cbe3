// SPDX-License-Identifier: GPL-2.0
//! A second process that follows orders.
//!
//! [`Peer::fork`] makes a child that waits for orders: map this fd, load from there, unmap. Both
//! sides of a case with two processes thus stand in one function, in the order in which they
//! happen. The child holds what its parent held at the fork, and what was sent to it: fork it first
//! and it has no VFIO fd. It ends with the [`Peer`], or with its parent.

use std::os::fd::IntoRawFd;

use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::link::Link;
use crate::prelude::*;

/// How long an answer may take. The guest is emulated.
const LIMIT: Duration = Duration::from_secs(30);

/// What the child is to do.
#[derive(Serialize, Deserialize)]
enum Order {
    /// Keep the fd that comes with this.
    Take,
    /// A system call, by its number.
    Call(i64, [u64; 6]),
    Load(usize),
    Store(usize, u32),
    /// Load again and again until [`Order::Stop`]; only that is answered.
    LoadUntilStopped {
        address: usize,
        want: u32,
    },
    Stop,
    Ioctl {
        fd: RawFd,
        request: u32,
        arg: [u32; 2],
    },
}

/// What came of an order.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done(u64),
    Errno(i32),
    Fault(Fault),
    Loads(Loads),
}

/// What came of many loads.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Loads {
    /// How many gave the value that was expected.
    pub good: u64,
    /// How many were SIGBUS.
    pub faults: u64,
    /// How many gave something else.
    pub wrong: u64,
}

/// A process that follows orders.
pub struct Peer {
    worker: Worker,
    link: Link,
}

impl Peer {
    /// Forks a child of this process, with copies of all it has.
    pub fn fork() -> Result<Peer> {
        let (ours, theirs) = Link::pair()?;
        ours.set_limit(LIMIT)?;
        let mut ours = Some(ours);
        let worker = Worker::start(|| {
            // The end of the parent must be the end of the connection.
            drop(ours.take());
            obey(&theirs)
        })?;
        let link = ours.context("the child has it")?;
        Ok(Peer { worker, link })
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        self.worker.pid()
    }

    /// Sends it a copy of `fd`; returns the number that the copy has there.
    pub fn take(&self, fd: impl AsFd) -> Result<RawFd> {
        self.link.send(&Order::Take, Some(fd.as_fd().as_raw_fd()))?;
        Ok(self.result()?.context("an fd was lost on the way")? as RawFd)
    }

    /// mmap(MAP_SHARED) there, of an fd that it has; returns the address.
    pub fn map(&self, fd: RawFd, len: u64, prot: i32, offset: u64) -> Result<Result<usize, Errno>> {
        self.begin_map(fd, len, prot, offset)?;
        self.finish_map()
    }

    /// Starts an mmap() there without waiting for its result.
    pub fn begin_map(&self, fd: RawFd, len: u64, prot: i32, offset: u64) -> Result<()> {
        let flags = mm::SHARED as u64;
        let args = [0, len, prot as u64, flags, fd as u64, offset];
        self.link.send(&Order::Call(libc::SYS_mmap, args), None)
    }

    /// The result of [`Peer::begin_map`].
    pub fn finish_map(&self) -> Result<Result<usize, Errno>> {
        Ok(self.result()?.map(|address| address as usize))
    }

    /// munmap() there.
    pub fn unmap(&self, address: usize, len: u64) -> Result<()> {
        let args = [address as u64, len, 0, 0, 0, 0];
        self.call(&Order::Call(libc::SYS_munmap, args))?.map(drop).context("munmap in the peer")
    }

    /// mprotect() there.
    pub fn protect(&self, address: usize, len: u64, prot: i32) -> Result<Result<(), Errno>> {
        let args = [address as u64, len, prot as u64, 0, 0, 0];
        Ok(self.call(&Order::Call(libc::SYS_mprotect, args))?.map(drop))
    }

    /// Reads four bytes there.
    pub fn load(&self, address: usize) -> Result<Result<u32, Fault>> {
        self.begin_load(address)?;
        self.finish_load()
    }

    /// Starts a load there without waiting for its result.
    pub fn begin_load(&self, address: usize) -> Result<()> {
        self.link.send(&Order::Load(address), None)
    }

    /// The result of [`Peer::begin_load`].
    pub fn finish_load(&self) -> Result<Result<u32, Fault>> {
        self.access().map(|result| result.map(|value| value as u32))
    }

    /// Starts to load there again and again; each load must give `want` or SIGBUS.
    pub fn begin_loads(&self, address: usize, want: u32) -> Result<()> {
        self.link.send(&Order::LoadUntilStopped { address, want }, None)
    }

    /// Ends [`Peer::begin_loads`]; returns what came of the loads.
    pub fn end_loads(&self) -> Result<Loads> {
        self.link.send(&Order::Stop, None)?;
        match self.answer()? {
            Answer::Loads(loads) => Ok(loads),
            other => bail!("peer answers {other:?}"),
        }
    }

    /// Writes four bytes there.
    pub fn store(&self, address: usize, value: u32) -> Result<Result<(), Fault>> {
        self.link.send(&Order::Store(address, value), None)?;
        self.access().map(|result| result.map(drop))
    }

    /// close() there.
    pub fn close(&self, fd: RawFd) -> Result<()> {
        let args = [fd as u64, 0, 0, 0, 0, 0];
        self.call(&Order::Call(libc::SYS_close, args))?.map(drop).context("close in the peer")
    }

    /// ioctl() there with two 32-bit words behind its pointer.
    pub fn ioctl(&self, fd: RawFd, request: u32, arg: [u32; 2]) -> Result<Result<i32, Errno>> {
        Ok(self.call(&Order::Ioctl { fd, request, arg })?.map(|value| value as i32))
    }

    /// Stops it (SIGSTOP) and waits until it has stopped.
    pub fn stop(&self) -> Result<()> {
        let pid = Pid::from_raw(self.pid());
        kill(pid, Signal::SIGSTOP)?;
        let status = waitpid(pid, Some(WaitPidFlag::WUNTRACED))?;
        ensure!(matches!(status, WaitStatus::Stopped(..)), "peer: {status:?}");
        Ok(())
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) -> Result<()> {
        Ok(kill(Pid::from_raw(self.pid()), Signal::SIGCONT)?)
    }

    /// Kills it, and waits until nothing is left of it.
    pub fn kill(self) -> Result<()> {
        self.worker.kill()
    }

    fn call(&self, order: &Order) -> Result<Result<u64, Errno>> {
        self.link.send(order, None)?;
        self.result()
    }

    fn result(&self) -> Result<Result<u64, Errno>> {
        match self.answer()? {
            Answer::Done(value) => Ok(Ok(value)),
            Answer::Errno(errno) => Ok(Err(Errno::from_raw(errno))),
            other => bail!("peer answers {other:?}"),
        }
    }

    fn access(&self) -> Result<Result<u64, Fault>> {
        match self.answer()? {
            Answer::Done(value) => Ok(Ok(value)),
            Answer::Fault(fault) => Ok(Err(fault)),
            other => bail!("peer answers {other:?}"),
        }
    }

    fn answer(&self) -> Result<Answer> {
        let answer = self.link.receive();
        Ok(answer.with_context(|| format!("peer, process {}", self.pid()))?.0)
    }
}

impl From<Result<u64, Errno>> for Answer {
    fn from(result: Result<u64, Errno>) -> Answer {
        result.map_or_else(|errno| Answer::Errno(errno as i32), Answer::Done)
    }
}

impl From<Result<u64, Fault>> for Answer {
    fn from(result: Result<u64, Fault>) -> Answer {
        result.map_or_else(Answer::Fault, Answer::Done)
    }
}

/// Follows orders as long as the parent lives.
fn obey(link: &Link) -> Result<()> {
    loop {
        let (order, fd) = link.receive()?;
        let answer = match order {
            Order::Take => Answer::Done(fd.context("no fd")?.into_raw_fd() as u64),
            Order::Load(address) => fault::load32(address).map(u64::from).into(),
            Order::Store(address, value) => fault::store32(address, value).map(|()| 0).into(),
            Order::LoadUntilStopped { address, want } => load_until_stopped(link, address, want)?,
            Order::Call(number, args) => raw::call(number, args).map_err(Errno::from_raw).into(),
            Order::Ioctl { fd, request, mut arg } => {
                crate::sys::ioctl_with(fd, request, &mut arg).map(|value| value as u64).into()
            }
            Order::Stop => bail!("there is nothing to stop"),
        };
        link.send(&answer, None)?;
    }
}

fn load_until_stopped(link: &Link, address: usize, want: u32) -> Result<Answer> {
    let mut loads = Loads::default();
    while !link.has_message()? {
        for _ in 0..100 {
            match fault::load32(address) {
                Ok(value) if value == want => loads.good += 1,
                Err(fault) if fault.is_bus_error() => loads.faults += 1,
                _ => loads.wrong += 1,
            }
        }
    }
    link.receive::<Order>()?;
    Ok(Answer::Loads(loads))
}
