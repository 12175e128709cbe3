// SPDX-License-Identifier: GPL-2.0
//! Programs that inherit a slice and nothing else.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::Command;

use crate::buffer::Buffer;
use crate::error::{Error, Tried};
use crate::sys;

/// The environment variable that has the number of the inherited fd.
pub const VARIABLE: &str = "VFIO_DMABUF_FD";

/// Lets the program that `command` starts inherit `buffer`, whose fd has the number that
/// [`VARIABLE`] says, and besides it standard input, output and error only: every other fd of this
/// process is closed, whether it says so or not.
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
/// [`Error::Os`], `EMFILE`. What goes wrong in the child is an error of starting the command.
pub fn inherit(command: &mut Command, buffer: &Buffer) -> Result<(), Error> {
    let fd = OwnedFd::from(buffer.try_clone()?);
    command.env(VARIABLE, fd.as_raw_fd().to_string());
    sys::inherit_only(command, fd);
    Ok(())
}

/// The buffer that this process has inherited, by [`VARIABLE`].
///
/// # Errors
///
/// [`Error::WrongFd`]: there is no such variable, or the fd is not a dma-buf.
pub fn inherited() -> Result<Buffer, Error> {
    let text = std::env::var(VARIABLE).unwrap_or_default();
    let number: RawFd =
        text.parse().map_err(|_| Error::WrongFd("in the environment (VFIO_DMABUF_FD)"))?;
    inherited_as(number)
}

/// The buffer that this process has inherited as fd `number`, whatever told it the number. The
/// number stays open: this is another fd.
///
/// # Errors
///
/// [`Error::Os`], `EBADF`: nothing is open under that number. [`Error::WrongFd`]: it is not a
/// dma-buf.
pub fn inherited_as(number: RawFd) -> Result<Buffer, Error> {
    let fd = sys::duplicate_number(number).tried(format_args!("dup of fd {number}"))?;
    Buffer::from_fd(fd)
}
