// SPDX-License-Identifier: GPL-2.0
//! System calls with any arguments, as a hostile program makes them.

use std::os::fd::{FromRawFd, OwnedFd};

/// Makes system call `number`. Gives what it returned, or the number of the error: also one that
/// no program should ever see.
///
/// Any number may stand for an address but one of memory that Rust owns: the kernel checks what it
/// is given. A call that would change Rust's own memory or fds (munmap, close) is not meant.
pub fn call(number: i64, args: [u64; 6]) -> Result<u64, i32> {
    let [a, b, c, d, e, f] = args;
    // SAFETY: the kernel checks all arguments; callers keep Rust's own memory out of it.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        value => Ok(value as u64),
    }
}

/// ioctl() of any fd with any argument.
pub fn ioctl(fd: i32, request: u32, arg: u64) -> Result<u64, i32> {
    call(libc::SYS_ioctl, [fd as u64, request.into(), arg, 0, 0, 0])
}

/// Closes an fd that a system call made for this program.
pub fn close(fd: i32) -> Result<(), i32> {
    call(libc::SYS_close, [fd as u64, 0, 0, 0, 0, 0]).map(drop)
}

/// Owns an fd that a system call made for this program.
pub fn own(fd: i32) -> OwnedFd {
    // SAFETY: callers pass an fd that a call just returned to them alone.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
