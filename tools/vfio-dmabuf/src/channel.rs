// SPDX-License-Identifier: GPL-2.0
//! Buffers over UNIX sockets.
//!
//! A message is one fd (`SCM_RIGHTS`) and 32 bytes that describe it:
//!
//! | bytes | content, little-endian |
//! |---|---|
//! | 0–3 | `"vdb1"`, the format |
//! | 4–7 | domain of the device |
//! | 8, 9, 10 | bus, device, function |
//! | 11 | BAR |
//! | 12–15 | 0 |
//! | 16–23 | size of the buffer, bytes |
//! | 24–31 | a number of the sender's choice |
//!
//! The receiver checks that the fd is a dma-buf of the stated size. It cannot verify device, BAR
//! and number: it trusts the sender for those. Any type of UNIX socket works if nothing else is
//! sent on it between the parts of a message.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::{retry_on_intr, Errno};
use rustix::net::{
    recvmsg, send, sendmsg, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};

use crate::buffer::Buffer;
use crate::error::{Error, MessageError, Tried};
use crate::pci::PciAddress;

const FORMAT: [u8; 4] = *b"vdb1";

/// Length of a message, bytes.
pub const LENGTH: usize = 32;

/// The sender's description of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// The device.
    pub address: PciAddress,
    /// The BAR.
    pub bar: u8,
    /// A number that sender and receiver agree on, for example that of the slice.
    pub number: u64,
}

/// Sends a buffer. The receiver gets an fd of its own; the sender keeps this one.
///
/// # Errors
///
/// [`Error::Os`]; `EPIPE`: the peer has closed the connection; `EAGAIN`: the socket is nonblocking
/// and full.
pub fn send_buffer(socket: impl AsFd, buffer: &Buffer, label: &Label) -> Result<(), Error> {
    let bytes = encode(label, buffer.size()?);
    let fds = [buffer.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS).tried("message with a buffer");
    }
    let parts = [IoSlice::new(&bytes)];
    let mut sent = retry_on_intr(|| sendmsg(&socket, &parts, &mut control, SendFlags::NOSIGNAL))
        .tried("sendmsg of a buffer")?;
    while sent < LENGTH {
        sent += retry_on_intr(|| send(&socket, &bytes[sent..], SendFlags::NOSIGNAL))
            .tried("send of a buffer")?;
    }
    Ok(())
}

/// Receives a buffer.
///
/// # Errors
///
/// [`Error::Message`]: the connection was closed, or the message is invalid; all received fds are
/// closed. [`Error::Os`]; `EAGAIN`: nothing arrived at a nonblocking socket, or before its timeout.
pub fn receive_buffer(socket: impl AsFd) -> Result<(Buffer, Label), Error> {
    let mut bytes = [0; LENGTH];
    let mut fds = Vec::new();
    let mut done = 0;
    let mut cut = false;
    while done < LENGTH {
        let (length, flags) = receive_some(&socket, &mut bytes[done..], &mut fds)?;
        if length == 0 {
            return Err(
                if done == 0 { MessageError::Closed } else { MessageError::Malformed }.into()
            );
        }
        cut |= flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC);
        done += length;
    }
    let (label, size) = decode(&bytes).ok_or(MessageError::Malformed)?;
    let fd = match (fds.pop(), fds.len(), cut) {
        (Some(fd), 0, false) => fd,
        _ => return Err(MessageError::Fds.into()),
    };
    let buffer = Buffer::from_fd(fd).map_err(|_| MessageError::NotABuffer)?;
    match buffer.size()? == size {
        true => Ok((buffer, label)),
        false => Err(MessageError::Size.into()),
    }
}

/// One recvmsg(). Adds the received fds to `fds`.
fn receive_some(
    socket: impl AsFd,
    bytes: &mut [u8],
    fds: &mut Vec<OwnedFd>,
) -> Result<(usize, ReturnFlags), Error> {
    // Room for more than one fd, so that a second one is noticed.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(bytes)];
    let got = retry_on_intr(|| recvmsg(&socket, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC))
        .tried("recvmsg of a buffer")?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    Ok((got.bytes, got.flags))
}

fn encode(label: &Label, size: u64) -> [u8; LENGTH] {
    let PciAddress { domain, bus, device, function } = label.address;
    let mut bytes = [0; LENGTH];
    bytes[..4].copy_from_slice(&FORMAT);
    bytes[4..8].copy_from_slice(&domain.to_le_bytes());
    bytes[8..12].copy_from_slice(&[bus, device, function, label.bar]);
    bytes[16..24].copy_from_slice(&size.to_le_bytes());
    bytes[24..].copy_from_slice(&label.number.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8; LENGTH]) -> Option<(Label, u64)> {
    let word = |at: usize| bytes[at..at + 8].try_into().map(u64::from_le_bytes).ok();
    let domain = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
    let [bus, device, function, bar] = bytes[8..12].try_into().ok()?;
    let good =
        bytes[..4] == FORMAT && bytes[12..16] == [0; 4] && device < 32 && function < 8 && bar < 6;
    let address = PciAddress { domain, bus, device, function };
    good.then_some((Label { address, bar, number: word(24)? }, word(16)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{ftruncate, memfd_create, MemfdFlags};
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    fn label() -> Label {
        let address = PciAddress { domain: 0x1_0000, bus: 0xfe, device: 31, function: 7 };
        Label { address, bar: 5, number: u64::MAX - 1 }
    }

    fn message_error(result: Result<(Buffer, Label), Error>) -> MessageError {
        match result {
            Err(Error::Message(error)) => error,
            other => panic!("{other:?}"),
        }
    }

    /// Sends `bytes` and `count` fds that are not buffers.
    fn send_with(name: &str, socket: &UnixStream, bytes: &[u8], count: usize) {
        let file = memfd_create(name, MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 4096).unwrap();
        let fds = vec![file.as_fd(); count];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
    }

    /// The number of open fds of files of this name.
    fn open_fds(name: &str) -> usize {
        let fds = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let links = fds.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        links.filter(|link| link.to_string_lossy().contains(name)).count()
    }

    #[test]
    fn label_comes_back_as_it_was() {
        assert_eq!(decode(&encode(&label(), 1 << 40)), Some((label(), 1 << 40)));
    }

    #[test]
    fn every_field_that_must_have_a_value_is_checked() {
        for at in [0, 3, 12, 15] {
            let mut bytes = encode(&label(), 4096);
            bytes[at] ^= 1;
            assert_eq!(decode(&bytes), None, "byte {at}");
        }
        for (at, bad) in [(9, 32), (10, 8), (11, 6)] {
            let mut bytes = encode(&label(), 4096);
            bytes[at] = bad;
            assert_eq!(decode(&bytes), None, "byte {at}");
        }
    }

    #[test]
    fn what_is_no_message_is_refused_and_its_fds_are_closed() {
        let (near, far) = UnixStream::pair().unwrap();
        let good = encode(&label(), 4096);
        send_with("refused", &near, &[0; LENGTH], 1);
        assert_eq!(message_error(receive_buffer(&far)), MessageError::Malformed);
        for count in [0, 2, 4, 8] {
            send_with("refused", &near, &good, count);
            assert_eq!(message_error(receive_buffer(&far)), MessageError::Fds, "{count}");
        }
        send_with("refused", &near, &good, 1);
        assert_eq!(message_error(receive_buffer(&far)), MessageError::NotABuffer);
        assert_eq!(open_fds("refused"), 0);
    }

    #[test]
    fn a_message_in_pieces_is_put_together() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let good = encode(&label(), 4096);
        send_with("pieces", &near, &good[..5], 1);
        near.write_all(&good[5..]).unwrap();
        // The message is complete; only its fd is wrong.
        assert_eq!(message_error(receive_buffer(&far)), MessageError::NotABuffer);
    }

    #[test]
    fn a_closed_connection_is_told_from_half_a_message() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(near);
        assert_eq!(message_error(receive_buffer(&far)), MessageError::Closed);
        let (mut near, far) = UnixStream::pair().unwrap();
        near.write_all(b"vdb1").unwrap();
        drop(near);
        assert_eq!(message_error(receive_buffer(&far)), MessageError::Malformed);
    }
}
