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

use crate::protocol::{self, refused, Heard, Request};

/// How many connections there may be, slices or not.
const MAX_CLIENTS: usize = 1024;

/// How many packets of a client are read before the others have their turn.
const PACKETS: usize = 16;

/// The longest wait, so that whoever runs the broker gets a word in.
const LONGEST: Duration = Duration::from_millis(500);

/// What is handed out.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The BAR.
    pub bar: u32,
    /// Where the first slice begins, bytes, a multiple of the page size.
    pub first: u64,
    /// How long each slice is, likewise.
    pub size: u64,
    /// How many there are.
    pub count: usize,
    /// How long a client that has a slice may be silent.
    pub heartbeat: Duration,
    /// Whether slices are memory, to be filled with zeroes before a client gets them.
    pub clear: bool,
}

/// Why a slice came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has closed the connection, or ended.
    Left,
    /// It has ended, though somebody still has its connection.
    Died,
    /// It was silent for too long.
    Late,
    /// It said what means nothing.
    Nonsense,
}

/// What the broker did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A client got a slice.
    Granted {
        /// The process that opened the connection.
        pid: i32,
        /// The slice.
        slice: usize,
    },
    /// A slice was revoked. Nobody reaches it.
    Revoked {
        /// The process that had it.
        pid: i32,
        /// The slice.
        slice: usize,
        /// Why.
        why: Why,
    },
    /// The device was reset.
    Reset {
        /// 0, or what the kernel answered.
        errno: i32,
    },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::Granted { pid, slice } => write!(f, "granted {slice} to {pid}"),
            Event::Revoked { pid, slice, why } => write!(f, "revoked {slice} of {pid}: {why:?}"),
            Event::Reset { errno } => write!(f, "reset: errno {errno}"),
        }
    }
}

/// What a client has.
#[derive(Debug)]
enum Share {
    /// Nothing, and it did not ask.
    Nothing,
    /// It waits in the queue.
    Waits,
    /// A slice. The fd is kept to revoke it by.
    Slice { number: usize, buffer: Buffer, deadline: Instant },
}

/// A connection.
#[derive(Debug)]
struct Client {
    socket: OwnedFd,
    /// Readable once the process has ended, even if a child of it holds the connection.
    process: OwnedFd,
    pid: i32,
    share: Share,
}

/// An owner that hands out slices.
#[derive(Debug)]
pub struct Broker {
    device: Device,
    config: Config,
    door: OwnedFd,
    /// By the order of coming.
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
    /// [`Error::Os`]; `EINVAL`: the BAR does not have so many slices.
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
            door: protocol::serve(path)?,
            clients: BTreeMap::new(),
            next: 0,
            queue: VecDeque::new(),
            free: (0..config.count).collect(),
        })
    }

    /// Waits until something happens, half a second at most, and does what it asks for. Call it
    /// again and again.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: of the device or of the socket itself. What a client does is no error.
    pub fn turn(&mut self) -> Result<Vec<Event>, Error> {
        let (knocked, ready) = self.wait()?;
        let mut events = Vec::new();
        let mut gone = Vec::new();
        for (id, died) in ready {
            match self.listen(id, &mut events) {
                Err(why) => gone.push((id, why)),
                Ok(()) if died => gone.push((id, Why::Died)),
                Ok(()) => {}
            }
        }
        let now = Instant::now();
        for (&id, client) in &self.clients {
            if matches!(client.share, Share::Slice { deadline, .. } if deadline < now) {
                gone.push((id, Why::Late));
            }
        }
        for (id, why) in gone {
            self.part_with(id, why, &mut events)?;
        }
        if knocked {
            self.open_door();
        }
        self.serve_queue(&mut events)?;
        Ok(events)
    }

    /// Waits. Returns whether somebody knocked, and which clients have something to say, or died.
    fn wait(&self) -> Result<(bool, Vec<(u64, bool)>), Error> {
        let deadlines = self.clients.values().filter_map(|client| match client.share {
            Share::Slice { deadline, .. } => Some(deadline),
            _ => None,
        });
        let now = Instant::now();
        let left =
            deadlines.min().map_or(LONGEST, |deadline| deadline.saturating_duration_since(now));
        // A millisecond more: at the deadline itself nobody is late yet.
        let left = left.min(LONGEST) + Duration::from_millis(1);
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos()) };

        let mut fds = vec![PollFd::new(&self.door, PollFlags::IN)];
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

    /// Hears what a client has to say, up to a limit.
    fn listen(&mut self, id: u64, events: &mut Vec<Event>) -> Result<(), Why> {
        let Some(client) = self.clients.get_mut(&id) else { return Ok(()) };
        for _ in 0..PACKETS {
            match (protocol::hear(&client.socket), &mut client.share) {
                (Heard::Nothing, _) => return Ok(()),
                (Heard::Closed, _) => return Err(Why::Left),
                (Heard::Request(Request::Beat), Share::Slice { deadline, .. }) => {
                    *deadline = Instant::now() + self.config.heartbeat;
                }
                (Heard::Request(Request::Beat), _) => {}
                (Heard::Request(Request::Slice), share @ Share::Nothing) => {
                    *share = Share::Waits;
                    self.queue.push_back(id);
                }
                (Heard::Request(Request::Reset), _) => {
                    let errno = self.device.reset().err().and_then(|error| error.errno());
                    let errno = errno.map_or(0, |errno| errno.raw_os_error());
                    events.push(Event::Reset { errno });
                    protocol::answer(&client.socket, errno as u8).map_err(|_| Why::Left)?;
                }
                (Heard::Request(Request::Slice) | Heard::Nonsense, _) => return Err(Why::Nonsense),
            }
        }
        Ok(())
    }

    /// Closes a connection, and takes its slice back before that.
    fn part_with(&mut self, id: u64, why: Why, events: &mut Vec<Event>) -> Result<(), Error> {
        let Some(client) = self.clients.remove(&id) else { return Ok(()) };
        self.queue.retain(|&waiting| waiting != id);
        if let Share::Slice { number, buffer, .. } = client.share {
            self.device.revoke(&buffer)?;
            self.free.push_back(number);
            events.push(Event::Revoked { pid: client.pid, slice: number, why });
        }
        Ok(())
    }

    /// Lets in who waits at the door.
    fn open_door(&mut self) {
        while let Ok(socket) = accept_with(&self.door, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            if self.clients.len() >= MAX_CLIENTS {
                continue; // drops the connection
            }
            let Ok(peer) = socket_peercred(&socket) else { continue };
            // If the process ended just now and its number is another's already, the connection
            // is closed, and that is noticed, too.
            let Ok(process) = pidfd_open(peer.pid, PidfdFlags::empty()) else { continue };
            let pid = peer.pid.as_raw_nonzero().get();
            self.clients.insert(self.next, Client { socket, process, pid, share: Share::Nothing });
            self.next += 1;
        }
    }

    /// Gives free slices to those who wait.
    fn serve_queue(&mut self, events: &mut Vec<Event>) -> Result<(), Error> {
        while let (Some(&id), Some(&number)) = (self.queue.front(), self.free.front()) {
            self.queue.pop_front();
            let buffer = self.make(number)?;
            let address = self.device.address();
            let label = Label { address, bar: self.config.bar as u8, number: number as u64 };
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if send_buffer(client.socket.as_fd(), &buffer, &label).is_err() {
                // It left while it waited. It may have got the fd.
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

    /// A new buffer over a slice.
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
