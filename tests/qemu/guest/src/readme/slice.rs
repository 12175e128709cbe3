// SPDX-License-Identifier: GPL-2.0
//! A slice of a BAR, with the crate `libc` and nothing else.
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const VFIO_DEVICE_FEATURE: libc::Ioctl = 0x3b75; // _IO(';', 100 + 17)
const GET_DMA_BUF: u32 = (1 << 16) | 11; // VFIO_DEVICE_FEATURE_DMA_BUF
const SET_REVOKE: u32 = (1 << 17) | 0xff0d; // VFIO_DMABUF_REVOKE
const FLAG_BUFFER: u32 = 1 << 27; // VFIO_DMABUF_BUFFER

#[repr(C)]
struct Export {
    argsz: u32,
    feature: u32,
    region_index: u32,
    open_flags: u32,
    flags: u32,
    nr_ranges: u32,
    ranges: [(u64, u64); 1],
}

#[repr(C)]
struct Revoke {
    argsz: u32,
    feature: u32,
    dmabuf_fd: i32,
}

fn call<T>(device: BorrowedFd<'_>, payload: &mut T) -> Result<i32> {
    // SAFETY: The payload starts with its size, and the kernel accesses no more than that.
    match unsafe { libc::ioctl(device.as_raw_fd(), VFIO_DEVICE_FEATURE, payload) } {
        -1 => Err(Error::last_os_error()),
        result => Ok(result),
    }
}

/// Exports `length` bytes at `offset` of a BAR; `device` is the VFIO device fd.
pub fn export(device: BorrowedFd<'_>, bar: u32, offset: u64, length: u64) -> Result<OwnedFd> {
    let fd = call(
        device,
        &mut Export {
            argsz: size_of::<Export>() as u32,
            feature: GET_DMA_BUF,
            region_index: bar,
            open_flags: (libc::O_RDWR | libc::O_CLOEXEC) as u32,
            flags: FLAG_BUFFER,
            nr_ranges: 1,
            ranges: [(offset, length)],
        },
    )?;
    // SAFETY: The kernel has just returned this fd, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Revokes a slice. After this returns, no process and no other device reaches it.
pub fn revoke(device: BorrowedFd<'_>, slice: BorrowedFd<'_>) -> Result<()> {
    let mut payload = Revoke {
        argsz: size_of::<Revoke>() as u32,
        feature: SET_REVOKE,
        dmabuf_fd: slice.as_raw_fd(),
    };
    call(device, &mut payload).map(drop)
}
