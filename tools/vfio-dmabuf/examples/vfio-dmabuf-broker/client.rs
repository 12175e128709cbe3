// SPDX-License-Identifier: GPL-2.0
//! The client's side.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use vfio_dmabuf::channel::{receive_buffer, Label};
use vfio_dmabuf::{Buffer, Error};

use crate::protocol::{self, Request};

/// A connection to a broker. Dropping it returns the slice.
#[derive(Debug)]
pub struct Client(OwnedFd);

impl Client {
    /// Connects to the broker at `path`.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENOENT`, `ECONNREFUSED`: no broker listens there.
    pub fn connect(path: &Path) -> Result<Client, Error> {
        protocol::connect_to(path).map(Client)
    }

    /// Asks for a slice and waits for one. From then on the client must send a [beat](Client::beat)
    /// in every heartbeat of the broker.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], [`Error::Message`]: the broker closed the connection.
    pub fn slice(&self) -> Result<(Buffer, Label), Error> {
        protocol::send_request(&self.0, Request::Slice)?;
        receive_buffer(&self.0)
    }

    /// Reports that this process is alive.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `EPIPE`: the broker closed the connection and revoked the slice.
    pub fn beat(&self) -> Result<(), Error> {
        protocol::send_request(&self.0, Request::Beat)
    }
}

impl AsFd for Client {
    /// The connection, which becomes readable when the broker closes it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Asks the broker at `path` to reset the device, and waits until it is done.
///
/// # Errors
///
/// [`Error::Os`], as for [`Device::reset`](vfio_dmabuf::Device::reset).
pub fn reset(path: &Path) -> Result<(), Error> {
    let socket = protocol::connect_to(path)?;
    protocol::send_request(&socket, Request::Reset)?;
    match protocol::receive_reply(&socket)? {
        0 => Ok(()),
        errno => {
            let errno = Errno::from_raw_os_error(i32::from(errno));
            Err(protocol::refused("reset, by the broker")(errno))
        }
    }
}
