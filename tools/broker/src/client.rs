// SPDX-License-Identifier: GPL-2.0
//! The client's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use vfio_dmabuf::channel::{receive_buffer, Label};
use vfio_dmabuf::{Buffer, Error};

use crate::protocol::{self, Request};

/// A connection to a broker. When it is dropped, the slice goes back.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Connects to the broker at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENOENT`, `ECONNREFUSED`: nobody is there.
    pub fn connect(path: &Path) -> Result<Client, Error> {
        protocol::call(path).map(Client)
    }

    /// Asks for a slice, and waits until there is one. From then on the broker wants to hear a
    /// [beat](Client::beat) more often than once in each of its heartbeats.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], [`Error::Message`]: the broker has closed the connection.
    pub fn slice(&self) -> Result<(Buffer, Label), Error> {
        protocol::say(&self.0, Request::Slice)?;
        receive_buffer(&self.0)
    }

    /// Says that this process is alive.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EPIPE`: the broker has closed the connection, the slice is revoked.
    pub fn beat(&self) -> Result<(), Error> {
        protocol::say(&self.0, Request::Beat)
    }
}

impl AsFd for Client {
    /// The connection; readable when the broker has closed it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks the broker at `path` to reset the device, and waits until that is done.
///
/// # Errors
///
/// [`Error::Os`], as for [`Device::reset`](vfio_dmabuf::Device::reset).
pub fn reset(path: &Path) -> Result<(), Error> {
    let socket = protocol::call(path)?;
    protocol::say(&socket, Request::Reset)?;
    match protocol::hear_answer(&socket)? {
        0 => Ok(()),
        errno => {
            let errno = Errno::from_raw_os_error(i32::from(errno));
            Err(protocol::refused("reset, by the broker")(errno))
        }
    }
}
