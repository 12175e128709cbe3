// SPDX-License-Identifier: GPL-2.0
//! System calls that no crate wraps.

use std::os::fd::RawFd;

use nix::errno::Errno;

/// `ioctl(fd, request, arg)` with an argument that is a number.
pub fn ioctl(fd: RawFd, request: u32, arg: usize) -> Result<i32, Errno> {
    // SAFETY: the kernel checks `arg` as user memory; it is a plain number to this process, and
    // callers that pass an address own what is there.
    Errno::result(unsafe { libc::ioctl(fd, u64::from(request), arg) })
}

/// `ioctl(fd, request, &mut arg)` with a structure that the kernel reads and may write.
pub fn ioctl_with<T>(fd: RawFd, request: u32, arg: &mut T) -> Result<i32, Errno> {
    ioctl(fd, request, std::ptr::from_mut(arg) as usize)
}
