// SPDX-License-Identifier: GPL-2.0
//! The owner's side.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{accept_with, SocketFlags};
use rustix::process::{pidfd_open, PidfdFlags};
use vfio_dmabuf::channel::{send_buffer, Label};
use vfio_dmabuf::{Access, Buffer, Device, Error};

use crate::protocol::{self, refused, Received, Request};

/// The most connections, with or without a slice.
const MAX_CLIENTS: usize = 1024;

/// The most packets that are read from one client per turn.
const MAX_PACKETS: usize = 16;

/// The longest wait of a turn, so that the caller can act between turns.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The slices to hand out.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The BAR.
    pub bar: u32,
    /// Start of the first slice in bytes, a multiple of the page size.
    pub first: u64,
    /// Size of each slice in bytes, a multiple of the page size.
    pub size: u64,
    /// Number of slices.
    pub count: usize,
    /// The longest silence of a client that has a slice.
    pub heartbeat: Duration,
    /// Whether to fill a slice with zeroes before a client gets it. For slices that are memory.
    pub clear: bool,
}

/// The reason why a slice was revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The client closed the connection, or ended.
    Disconnected,
    /// The client ended, but another process still holds its connection.
    Exited,
    /// The client was silent for too long.
    TimedOut,
    /// The client sent an invalid packet.
    BadRequest,
}

/// An action of the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client got a slice.
    Granted {
        /// The process that opened the connection.
        pid: i32,
        /// The slice.
        slice: usize,
    },
    /// A slice was revoked. No process reaches it.
    Revoked {
        /// The process that opened the connection.
        pid: i32,
        /// The slice.
        slice: usize,
        /// The reason.
        reason: Reason,
    },
    /// The device was reset.
    Reset {
        /// 0, or the errno.
        errno: i32,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Granted { pid, slice } => write!(f, "granted {slice} to {pid}"),
            Event::Revoked { pid, slice, reason } => {
                write!(f, "revoked {slice} of {pid}: {reason:?}")
            }
            Event::Reset { errno } => write!(f, "reset: errno {errno}"),
        }
    }
}

/// What a client holds.
#[derive(Debug)]
enum Share {
    /// Nothing; the client has not asked for a slice.
    Nothing,
    /// Nothing; the client waits in the queue.
    Queued,
    /// A slice. The broker keeps the fd to revoke it.
    Slice { number: usize, buffer: Buffer, deadline: Instant },
}

/// A connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// A pidfd: readable once the process has ended, even if a child holds the connection.
    process: OwnedFd,
    pid: i32,
    share: Share,
}

/// An owner that hands out slices.
#[derive(Debug)]
pub struct Broker {
    device: Device,
    config: Config,
    listener: OwnedFd,
    /// By order of arrival.
    clients: BTreeMap<u64, Client>,
    next: u64,
    queue: VecDeque<u64>,
    free: VecDeque<usize>,
}

impl Broker {
    /// Serves slices of `device` at the socket `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EINVAL`: the slices do not fit into the BAR.
    pub fn new(device: Device, config: Config, path: &Path) -> Result<Broker, Error> {
        let length = config.size.checked_mul(config.count as u64);
        let end = length.and_then(|length| length.checked_add(config.first));
        let size = device.bar_size(config.bar)?;
        if config.size == 0 || end.is_none_or(|end| end > size) {
            let tried = format!("{} slices of {:#x} bytes of {size:#x}", config.count, config.size);
            return Err(refused(tried)(Errno::INVAL));
        }
        Ok(Broker {
            device,
            config,
            listener: protocol::listen_at(path)?,
            clients: BTreeMap::new(),
            next: 0,
            queue: VecDeque::new(),
            free: (0..config.count).collect(),
        })
    }

    /// Waits for events, half a second at most, and handles them. Call it in a loop.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: an error of the device or of the listening socket. Misbehaving clients are
    /// not errors.
    pub fn turn(&mut self) -> Result<Vec<Event>, Error> {
        let (pending, ready) = self.wait()?;
        let mut events = Vec::new();
        let mut leaving = Vec::new();
        for (id, exited) in ready {
            match self.read_requests(id, &mut events) {
                Err(reason) => leaving.push((id, reason)),
                Ok(()) if exited => leaving.push((id, Reason::Exited)),
                Ok(()) => {}
            }
        }
        let now = Instant::now();
        for (&id, client) in &self.clients {
            if matches!(client.share, Share::Slice { deadline, .. } if deadline < now) {
                leaving.push((id, Reason::TimedOut));
            }
        }
        for (id, reason) in leaving {
            self.disconnect(id, reason, &mut events)?;
        }
        if pending {
            self.accept_clients();
        }
        self.serve_queue(&mut events)?;
        Ok(events)
    }

    /// Waits. Returns whether connections are pending, and the clients that have sent packets or
    /// have exited.
    fn wait(&self) -> Result<(bool, Vec<(u64, bool)>), Error> {
        let deadlines = self.clients.values().filter_map(|client| match client.share {
            Share::Slice { deadline, .. } => Some(deadline),
            _ => None,
        });
        let now = Instant::now();
        let left =
            deadlines.min().map_or(MAX_WAIT, |deadline| deadline.saturating_duration_since(now));
        // One millisecond more: a client times out only after its deadline.
        let left = left.min(MAX_WAIT) + Duration::from_millis(1);
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };

        let mut fds = vec![PollFd::new(&self.listener, PollFlags::IN)];
        for client in self.clients.values() {
            fds.push(PollFd::new(&client.socket, PollFlags::IN));
            fds.push(PollFd::new(&client.process, PollFlags::IN));
        }
        match poll(&mut fds, Some(&limit)) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok((false, Vec::new())),
            Err(errno) => return Err(refused("poll")(errno)),
        }
        let happened = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let pairs = self.clients.keys().zip(fds[1..].chunks_exact(2));
        let ready = pairs
            .filter(|(_, pair)| pair.iter().any(happened))
            .map(|(&id, pair)| (id, happened(&pair[1])));
        Ok((happened(&fds[0]), ready.collect()))
    }

    /// Reads and handles the requests of a client, up to a limit.
    fn read_requests(&mut self, id: u64, events: &mut Vec<Event>) -> Result<(), Reason> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        for _ in 0..MAX_PACKETS {
            match (protocol::receive(&client.socket), &mut client.share) {
                (Received::Nothing, _) => return Ok(()),
                (Received::Closed, _) => return Err(Reason::Disconnected),
                (Received::Request(Request::Beat), Share::Slice { deadline, .. }) => {
                    *deadline = Instant::now() + self.config.heartbeat;
                }
                (Received::Request(Request::Beat), _) => {}
                (Received::Request(Request::Slice), share @ Share::Nothing) => {
                    *share = Share::Queued;
                    self.queue.push_back(id);
                }
                (Received::Request(Request::Reset), _) => {
                    let errno = self.device.reset().err().and_then(|error| error.errno());
                    let errno = errno.map_or(0, |errno| errno.raw_os_error());
                    events.push(Event::Reset { errno });
                    protocol::send_reply(&client.socket, errno as u8)
                        .map_err(|_| Reason::Disconnected)?;
                }
                (Received::Request(Request::Slice) | Received::Invalid, _) => {
                    return Err(Reason::BadRequest)
                }
            }
        }
        Ok(())
    }

    /// Revokes the slice of a client, then closes its connection.
    fn disconnect(
        &mut self,
        id: u64,
        reason: Reason,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let Some(client) = self.clients.remove(&id) else { return Ok(()) };
        self.queue.retain(|&waiting| waiting != id);
        if let Share::Slice { number, buffer, .. } = client.share {
            self.device.revoke(&buffer)?;
            self.free.push_back(number);
            events.push(Event::Revoked { pid: client.pid, slice: number, reason });
        }
        Ok(())
    }

    /// Accepts pending connections.
    fn accept_clients(&mut self) {
        while let Ok(socket) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            if self.clients.len() >= MAX_CLIENTS {
                continue; // drops the connection
            }
            let Ok(peer) = socket_peercred(&socket) else { continue };
            // If the process has ended and its pid was reused, the connection is closed, which the
            // next turn notices.
            let Ok(process) = pidfd_open(peer.pid, PidfdFlags::empty()) else { continue };
            let pid = peer.pid.as_raw_nonzero().get();
            self.clients.insert(self.next, Client { socket, process, pid, share: Share::Nothing });
            self.next += 1;
        }
    }

    /// Hands free slices to the clients in the queue.
    fn serve_queue(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        while let (Some(&id), Some(&number)) = (self.queue.front(), self.free.front()) {
            self.queue.pop_front();
            let buffer = self.make(number)?;
            let address = self.device.address();
            let label = Label { address, bar: self.config.bar as u8, number: number as u64 };
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if send_buffer(client.socket.as_fd(), &buffer, &label).is_err() {
                // The client left while it waited, but it may have received the fd.
                self.device.revoke(&buffer)?;
                self.clients.remove(&id);
                continue;
            }
            self.free.pop_front();
            let deadline = Instant::now() + self.config.heartbeat;
            client.share = Share::Slice { number, buffer, deadline };
            events.push(Event::Granted { pid: client.pid, slice: number });
        }
        Ok(())
    }

    /// Exports a new buffer over a slice.
    fn make(&self, number: usize) -> Result<Buffer, Error> {
        let Config { bar, first, size, clear, .. } = self.config;
        let buffer = self.device.export(bar).range(first + number as u64 * size, size).create()?;
        if clear {
            let zeroes = vec![0_u64; size as usize / 8];
            buffer.map(Access::ReadWrite)?.write_slice(0, &zeroes)?;
        }
        Ok(buffer)
    }
}
