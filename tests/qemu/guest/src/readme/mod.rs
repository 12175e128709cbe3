// SPDX-License-Identifier: GPL-2.0
//! The programs that the README shows, for a case of the suite to run. `make check` compares them
//! with the README.

pub mod slice;

/// `slice.c`
pub mod c {
    use std::ffi::c_int;
    use std::io::{Error, Result};
    use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

    extern "C" {
        fn export_slice(device: c_int, bar: u32, offset: u64, length: u64) -> c_int;
        fn revoke_slice(device: c_int, slice: c_int) -> c_int;
    }

    /// `export_slice()`
    pub fn export(device: BorrowedFd<'_>, bar: u32, offset: u64, length: u64) -> Result<OwnedFd> {
        // SAFETY: A system call with a payload of its own.
        match unsafe { export_slice(device.as_raw_fd(), bar, offset, length) } {
            -1 => Err(Error::last_os_error()),
            // SAFETY: The kernel made the fd for us.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    }

    /// `revoke_slice()`
    pub fn revoke(device: BorrowedFd<'_>, slice: BorrowedFd<'_>) -> Result<()> {
        // SAFETY: A system call with a payload of its own.
        match unsafe { revoke_slice(device.as_raw_fd(), slice.as_raw_fd()) } {
            -1 => Err(Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
