// SPDX-License-Identifier: GPL-2.0
//! What broker and clients say to each other, on a UNIX socket that keeps packets apart
//! (`SOCK_SEQPACKET`).
//!
//! A client sends packets of one byte, a [`Request`]. To [`Request::Slice`] the broker answers with
//! a message of [`vfio_dmabuf::channel`] as soon as it has a slice; the number in it is that of the
//! slice. To [`Request::Reset`] it answers with one byte: 0, or the errno. It says nothing else,
//! and closes the connection when the slice is revoked.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    bind, connect, listen, recv, send, socket_with, AddressFamily, RecvFlags, SendFlags,
    SocketAddrUnix, SocketFlags, SocketType,
};
use vfio_dmabuf::Error;

/// A packet of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Give me a slice; once for each connection.
    Slice,
    /// I am alive.
    Beat,
    /// Reset the device.
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

/// What came of listening to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A request.
    Request(Request),
    /// Nothing, for now.
    Nothing,
    /// Something that is no request.
    Nonsense,
    /// The connection is closed.
    Closed,
}

/// An error that names what was tried on a socket.
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

/// A socket at `path`, at which clients may ask; one that is left over there is replaced.
///
/// # Errors
///
/// [`Error::Os`].
pub fn serve(path: &Path) -> Result<OwnedFd, Error> {
    let (socket, address) = socket(path, SocketFlags::NONBLOCK)?;
    let tried = || refused(format!("listen at {}", path.display()));
    // Somebody who still listens there is not to be pushed away.
    if call(path).is_ok() {
        return Err(tried()(Errno::ADDRINUSE));
    }
    let _ = std::fs::remove_file(path);
    bind(&socket, &address).map_err(tried())?;
    listen(&socket, 128).map_err(tried())?;
    Ok(socket)
}

/// A connection to the broker at `path`.
///
/// # Errors
///
/// [`Error::Os`]; `ENOENT`, `ECONNREFUSED`: nobody is there.
pub fn call(path: &Path) -> Result<OwnedFd, Error> {
    let (socket, address) = socket(path, SocketFlags::empty())?;
    retry_on_intr(|| connect(&socket, &address))
        .map_err(refused(format!("connect to {}", path.display())))?;
    Ok(socket)
}

/// Sends a request.
///
/// # Errors
///
/// [`Error::Os`]; `EPIPE`: the broker has closed the connection.
pub fn say(socket: impl AsFd, request: Request) -> Result<(), Error> {
    send_byte(socket, request.byte())
}

/// Sends the answer to a reset.
///
/// # Errors
///
/// [`Error::Os`].
pub fn answer(socket: impl AsFd, errno: u8) -> Result<(), Error> {
    send_byte(socket, errno)
}

fn send_byte(socket: impl AsFd, byte: u8) -> Result<(), Error> {
    retry_on_intr(|| send(&socket, &[byte], SendFlags::NOSIGNAL)).map_err(refused("send"))?;
    Ok(())
}

/// Receives the answer to a reset.
///
/// # Errors
///
/// [`Error::Os`]; `EPIPE`: the broker has closed the connection.
pub fn hear_answer(socket: impl AsFd) -> Result<u8, Error> {
    let mut byte = [0];
    let got = retry_on_intr(|| recv(&socket, &mut byte[..], RecvFlags::empty()));
    match got.map_err(refused("recv"))? {
        (_, 1) => Ok(byte[0]),
        _ => Err(refused("recv")(Errno::PIPE)),
    }
}

/// Listens to a client, without waiting.
pub fn hear(socket: impl AsFd) -> Heard {
    let mut packet = [0; 2];
    match retry_on_intr(|| recv(&socket, &mut packet[..], RecvFlags::DONTWAIT)) {
        Ok((_, 0)) => Heard::Closed,
        Ok((length, _)) => {
            Request::from_packet(&packet[..length]).map_or(Heard::Nonsense, Heard::Request)
        }
        Err(Errno::AGAIN) => Heard::Nothing,
        Err(_) => Heard::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(name: &str) -> (OwnedFd, OwnedFd, std::path::PathBuf) {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let door = serve(&path).unwrap();
        let near = call(&path).unwrap();
        let far = rustix::net::accept(&door).unwrap();
        assert!(serve(&path).is_err_and(|error| error.errno() == Some(Errno::ADDRINUSE)));
        drop(door);
        (near, far, path)
    }

    #[test]
    fn requests_are_heard_as_they_were_said() {
        let (near, far, path) = connection("requests");
        assert_eq!(hear(&far), Heard::Nothing);
        for request in [Request::Slice, Request::Beat, Request::Reset] {
            say(&near, request).unwrap();
            assert_eq!(hear(&far), Heard::Request(request));
        }
        for nonsense in [&b"x"[..], b"bb", b"b\0\0\0"] {
            send(&near, nonsense, SendFlags::empty()).unwrap();
            assert_eq!(hear(&far), Heard::Nonsense);
        }
        answer(&far, 5).unwrap();
        assert_eq!(hear_answer(&near).unwrap(), 5);
        drop(near);
        assert_eq!(hear(&far), Heard::Closed);
        assert_eq!(say(&far, Request::Beat).unwrap_err().errno(), Some(Errno::PIPE));
        // Nobody listens any more: the path is free for the next.
        serve(&path).unwrap();
        std::fs::remove_file(path).unwrap();
    }
}
