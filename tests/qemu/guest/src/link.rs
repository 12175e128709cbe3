// SPDX-License-Identifier: GPL-2.0
//! Messages between processes, of any type that serde knows, perhaps with an fd, over a UNIX
//! socket.

use std::fmt::Debug;
use std::io::{IoSlice, IoSliceMut};

use nix::cmsg_space;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{
    accept, bind, connect, listen, recvmsg, sendmsg, setsockopt, socket, socketpair, sockopt,
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr,
};
use nix::sys::time::TimeVal;
use serde::de::DeserializeOwned;
use serde::Serialize;

use crate::prelude::*;

/// The longest message, bytes.
const LONGEST: usize = 32 << 10;

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
        let fd = accept(door.as_raw_fd()).context("no connection")?;
        Ok(Link(raw::own(fd)))
    }

    /// Calls the process that serves `path`; tries until `limit` is over.
    pub fn call(path: &Path, limit: Duration) -> Result<Link> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
        let address = UnixAddr::new(path)?;
        let step = Duration::from_millis(20);
        let mut left = scaled(limit);
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

    /// Sends a message, and a copy of `fd`.
    pub fn send<T: Serialize>(&self, message: &T, fd: Option<RawFd>) -> Result<()> {
        let bytes = postcard::to_stdvec(message)?;
        ensure!(bytes.len() < LONGEST, "a message of {} bytes", bytes.len());
        let fds: Vec<RawFd> = fd.into_iter().collect();
        let control = [ControlMessage::ScmRights(&fds)];
        let control = if fds.is_empty() { &control[..0] } else { &control[..] };
        let flags = MsgFlags::MSG_NOSIGNAL;
        // The end of the connection is a message of no bytes: none of ours is.
        let parts = [IoSlice::new(&[0]), IoSlice::new(&bytes)];
        sendmsg::<UnixAddr>(self.0.as_raw_fd(), &parts, control, flags, None).context("send")?;
        Ok(())
    }

    /// Receives a message, and the fd that came with it.
    pub fn receive<T: DeserializeOwned>(&self) -> Result<(T, Option<OwnedFd>)> {
        let mut bytes = [0; LONGEST];
        let mut space = cmsg_space!([RawFd; 1]);
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let message = recvmsg::<UnixAddr>(self.0.as_raw_fd(), &mut parts, Some(&mut space), flags)
            .context("no answer from the other process")?;
        let mut fd = None;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                fd = fds.first().map(|&fd| raw::own(fd));
            }
        }
        let count = message.bytes;
        ensure!(count > 0, "the other process is gone");
        Ok((postcard::from_bytes(&bytes[1..count])?, fd))
    }

    /// Receives a message that must be `want`, and the fd that came with it.
    pub fn expect<T: DeserializeOwned + PartialEq + Debug>(
        &self,
        want: T,
    ) -> Result<Option<OwnedFd>> {
        let (message, fd) = self.receive::<T>()?;
        ensure!(message == want, "message {message:?} came, {want:?} was expected");
        Ok(fd)
    }

    /// Whether a message waits to be received.
    pub fn has_message(&self) -> Result<bool> {
        let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
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
    let limit = scaled(limit);
    TimeVal::new(limit.as_secs() as i64, i64::from(limit.subsec_micros()))
}
