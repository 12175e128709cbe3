// SPDX-License-Identifier: GPL-2.0
//! Programs that inherit a slice and nothing else.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Command;

use crate::buffer::Buffer;
use crate::error::{Error, Tried};
use crate::sys;

/// The environment variable with the number of the inherited fd.
pub const VARIABLE: &str = "VFIO_DMABUF_FD";

/// Lets the program that `command` starts inherit `buffer`, standard input, output and error, and
/// no other fd. [`VARIABLE`] has the number of the buffer's fd. Every other fd of this process is
/// closed, with or without `FD_CLOEXEC`.
///
/// ```no_run
/// use std::process::Command;
/// use vfio_dmabuf::{command, Device};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let device = Device::open("0000:01:00.0".parse()?)?;
/// let slice = device.export(0).range(0, 4096).create()?;
/// let mut client = Command::new("./client");
/// command::inherit(&mut client, &slice)?;
/// let status = client.status()?;
/// device.revoke(&slice)?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// [`Error::Os`], `EMFILE`. A failure in the child is an error of `Command::spawn()`.
pub fn inherit(command: &mut Command, buffer: &Buffer) -> Result<(), Error> {
    let fd = OwnedFd::from(buffer.try_clone()?);
    command.env(VARIABLE, fd.as_raw_fd().to_string());
    sys::inherit_only(command, fd);
    Ok(())
}

/// The buffer that this process has inherited, according to [`VARIABLE`].
///
/// # Errors
///
/// [`Error::WrongFd`]: the variable is not set, or the fd is not a dma-buf.
pub fn inherited() -> Result<Buffer, Error> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let number: RawFd =
        text.parse().map_err(|_| Error::WrongFd("in the environment (VFIO_DMABUF_FD)"))?;
    inherited_as(number)
}

/// The buffer that this process has inherited as fd `number`. Returns a duplicate; `number` stays
/// open.
///
/// # Errors
///
/// [`Error::Os`], `EBADF`: the fd is not open. [`Error::WrongFd`]: it is not a dma-buf.
pub fn inherited_as(number: RawFd) -> Result<Buffer, Error> {
    let fd = sys::duplicate_number(number).tried(format_args!("dup of fd {number}"))?;
    Buffer::from_fd(fd)
}
