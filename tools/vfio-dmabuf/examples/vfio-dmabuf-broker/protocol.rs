// SPDX-License-Identifier: GPL-2.0
//! The packets between broker and clients, on a UNIX socket of type `SOCK_SEQPACKET`.
//!
//! A client sends packets of one byte, a [`Request`]. The broker answers [`Request::Slice`] with a
//! message of [`vfio_dmabuf::channel`] as soon as a slice is free; the number in it is that of the
//! slice. It answers [`Request::Reset`] with one byte: 0, or the errno. It sends nothing else, and
//! closes the connection when the slice is revoked.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    bind, connect, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use vfio_dmabuf::Error;

/// A packet from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for a slice; allowed once per connection.
    Slice,
    /// Reports that the client is alive.
    Beat,
    /// Asks for a reset of the device.
    Reset,
}

impl Request {
    fn byte(self) -> u8 {
        match self {
            Request::Slice => b's',
            Request::Beat => b'b',
            Request::Reset => b'r',
        }
    }

    fn from_packet(packet: &[u8]) -> Option<Request> {
        let all = [Request::Slice, Request::Beat, Request::Reset];
        all.into_iter().find(|request| packet == [request.byte()])
    }
}

/// The result of receiving from a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// A request.
    Request(Request),
    /// Nothing has arrived.
    Nothing,
    /// A packet that is not a request.
    Invalid,
    /// The connection is closed.
    Closed,
}

/// Makes an error that names the failed call.
pub fn refused(tried: impl Into<String>) -> impl FnOnce(Errno) -> Error {
    move |errno| Error::Os { tried: tried.into(), errno, meaning: None }
}

fn socket(path: &Path, flags: SocketFlags) -> Result<(OwnedFd, SocketAddrUnix), Error> {
    let name = path.display().to_string();
    let address = SocketAddrUnix::new(path).map_err(refused(name))?;
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
    Ok((socket.map_err(refused("socket"))?, address))
}

/// Listens at `path`. Replaces a stale socket.
///
/// # Errors
///
/// [`Error::Os`]; `EADDRINUSE`: another broker listens there.
pub fn listen_at(path: &Path) -> Result<OwnedFd, Error> {
    let (socket, address) = socket(path, SocketFlags::NONBLOCK)?;
    let tried = || refused(format!("listen at {}", path.display()));
    // Do not replace the socket of a running broker.
    if connect_to(path).is_ok() {
        return Err(tried()(Errno::ADDRINUSE));
    }
    let _ = std::fs::remove_file(path);
    bind(&socket, &address).map_err(tried())?;
    listen(&socket, 128).map_err(tried())?;
    Ok(socket)
}

/// Connects to the broker at `path`.
///
/// # Errors
///
/// [`Error::Os`]; `ENOENT`, `ECONNREFUSED`: no broker listens there.
pub fn connect_to(path: &Path) -> Result<OwnedFd, Error> {
    let (socket, address) = socket(path, SocketFlags::empty())?;
    retry_on_intr(|| connect(&socket, &address))
        .map_err(refused(format!("connect to {}", path.display())))?;
    Ok(socket)
}

/// Sends a request.
///
/// # Errors
///
/// [`Error::Os`]; `EPIPE`: the broker closed the connection.
pub fn send_request(socket: impl AsFd, request: Request) -> Result<(), Error> {
    send_byte(socket, request.byte())
}

/// Sends the reply to a reset.
///
/// # Errors
///
/// [`Error::Os`].
pub fn send_reply(socket: impl AsFd, errno: u8) -> Result<(), Error> {
    send_byte(socket, errno)
}

fn send_byte(socket: impl AsFd, byte: u8) -> Result<(), Error> {
    retry_on_intr(|| send(&socket, &[byte], SendFlags::NOSIGNAL)).map_err(refused("send"))?;
    Ok(())
}

/// Receives the reply to a reset.
///
/// # Errors
///
/// [`Error::Os`]; `EPIPE`: the broker closed the connection.
pub fn receive_reply(socket: impl AsFd) -> Result<u8, Error> {
    let mut byte = [0];
    let got = retry_on_intr(|| recv(&socket, &mut byte[..], RecvFlags::empty()));
    match got.map_err(refused("recv"))? {
        (_, 1) => Ok(byte[0]),
        _ => Err(refused("recv")(Errno::PIPE)),
    }
}

/// Receives from a client without blocking.
pub fn receive(socket: impl AsFd) -> Received {
    let mut packet = [0; 2];
    match retry_on_intr(|| recv(&socket, &mut packet[..], RecvFlags::DONTWAIT)) {
        Ok((_, 0)) => Received::Closed,
        Ok((length, _)) => {
            Request::from_packet(&packet[..length]).map_or(Received::Invalid, Received::Request)
        }
        Err(Errno::AGAIN) => Received::Nothing,
        Err(_) => Received::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(name: &str) -> (OwnedFd, OwnedFd, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let listener = listen_at(&path).unwrap();
        let near = connect_to(&path).unwrap();
        let far = rustix::net::accept(&listener).unwrap();
        assert!(listen_at(&path).is_err_and(|error| error.errno() == Some(Errno::ADDRINUSE)));
        drop(listener);
        (near, far, path)
    }

    #[test]
    fn requests_arrive_unchanged() {
        let (near, far, path) = connection("requests");
        assert_eq!(receive(&far), Received::Nothing);
        for request in [Request::Slice, Request::Beat, Request::Reset] {
            send_request(&near, request).unwrap();
            assert_eq!(receive(&far), Received::Request(request));
        }
        for invalid in [&b"x"[..], b"bb", b"b\0\0\0"] {
            send(&near, invalid, SendFlags::empty()).unwrap();
            assert_eq!(receive(&far), Received::Invalid);
        }
        send_reply(&far, 5).unwrap();
        assert_eq!(receive_reply(&near).unwrap(), 5);
        drop(near);
        assert_eq!(receive(&far), Received::Closed);
        assert_eq!(send_request(&far, Request::Beat).unwrap_err().errno(), Some(Errno::PIPE));
        // No broker listens any more, so the path can be reused.
        listen_at(&path).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
