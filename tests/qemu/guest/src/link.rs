// SPDX-License-Identifier: GPL-2.0
//! Messages between processes: a few words and perhaps an fd, over a UNIX socket.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use anyhow::{ensure, Context, Result};
use nix::cmsg_space;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    accept, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr,
};
use nix::sys::time::TimeVal;

use crate::patience::patient;

/// Words of a message.
pub const WORDS: usize = 6;

/// The longest message of [`Link::send_bytes`].
pub const MOST_BYTES: usize = 32 << 10;

/// The payload of a message.
pub type Words = [u64; WORDS];

/// One end of a connection. Messages keep their borders.
pub struct Link(OwnedFd);

impl Link {
    /// Both ends of a new connection.
    pub fn pair() -> Result<(Link, Link)> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        Ok((Link(a), Link(b)))
    }

    /// Makes a socket at `path` and waits for one caller.
    pub fn serve(path: &Path, limit: Duration) -> Result<Link> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let door = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        bind(door.as_raw_fd(), &UnixAddr::new(path)?)
            .with_context(|| path.display().to_string())?;
        setsockopt(&door, sockopt::ReceiveTimeout, &time_val(limit))?;
        listen(&door, Backlog::new(1)?)?;
        let fd = accept(door.as_raw_fd()).context("nobody came")?;
        // SAFETY: accept() returned it, and nobody else has it.
        Ok(Link(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Calls the process that serves `path`; tries until `limit` is over.
    pub fn call(path: &Path, limit: Duration) -> Result<Link> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let address = UnixAddr::new(path)?;
        let step = Duration::from_millis(20);
        let mut left = patient(limit);
        while let Err(errno) = connect(fd.as_raw_fd(), &address) {
            ensure!(!left.is_zero(), "connect {}: {errno}", path.display());
            std::thread::sleep(step);
            left = left.saturating_sub(step);
        }
        Ok(Link(fd))
    }

    /// From now on a receive that takes longer than `limit` is an error.
    pub fn set_limit(&self, limit: Duration) -> Result<()> {
        Ok(setsockopt(&self.0, sockopt::ReceiveTimeout, &time_val(limit))?)
    }

    /// Sends `words`, and a copy of `fd`.
    pub fn send(&self, words: Words, fd: Option<RawFd>) -> Result<()> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.send_bytes(&bytes, fd)
    }

    /// Receives a message.
    pub fn receive(&self) -> Result<(Words, Option<OwnedFd>)> {
        let mut bytes = [0u8; WORDS * 8];
        let (count, fd) = self.receive_into(&mut bytes)?;
        ensure!(count == WORDS * 8, "the other process is gone");
        let mut words = Words::default();
        for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(chunk.try_into()?);
        }
        Ok((words, fd))
    }

    /// Sends a message of any bytes, and a copy of `fd`. To be received by [`Link::receive_bytes`].
    pub fn send_bytes(&self, bytes: &[u8], fd: Option<RawFd>) -> Result<()> {
        ensure!(bytes.len() <= MOST_BYTES, "a message of {} bytes", bytes.len());
        let fds: Vec<RawFd> = fd.into_iter().collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &control[..0] } else { &control[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        let parts = [IoSlice::new(bytes)];
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &parts, control, flags, None).context("send")?;
        Ok(())
    }

    /// Receives a message of any bytes. `bytes` is scratch memory; the message is what comes back.
    pub fn receive_bytes<'a>(&self, bytes: &'a mut Vec<u8>) -> Result<(&'a [u8], Option<OwnedFd>)> {
        bytes.resize(MOST_BYTES, 0);
        let (count, fd) = self.receive_into(bytes)?;
        ensure!(count > 0, "the other process is gone");
        Ok((&bytes[..count], fd))
    }

    /// Receives a message; says how many bytes it has.
    fn receive_into(&self, bytes: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags)
            .context("no answer from the other process")?;
        let mut fd = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                // SAFETY: the kernel made these fds for this message, and nobody else has them.
                fd = fds.first().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
        Ok((message.bytes, fd))
    }

    /// Whether a message waits to be received.
    pub fn has_message(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    /// Sends nothing but `word`.
    pub fn say(&self, word: u64) -> Result<()> {
        self.send([word, 0, 0, 0, 0, 0], None)
    }

    /// Receives a message that starts with `word`.
    pub fn expect(&self, word: u64) -> Result<(Words, Option<OwnedFd>)> {
        let (words, fd) = self.receive()?;
        ensure!(words[0] == word, "message {} came, {word} was expected", words[0]);
        Ok((words, fd))
    }
}

impl From<OwnedFd> for Link {
    fn from(fd: OwnedFd) -> Link {
        Link(fd)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn time_val(limit: Duration) -> TimeVal {
    let limit = patient(limit);
    TimeVal::new(limit.as_secs() as i64, i64::from(limit.subsec_micros()))
}
