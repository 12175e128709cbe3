// SPDX-License-Identifier: GPL-2.0
//! Fences that user space signals (`CONFIG_SW_SYNC`), for the devices that have not finished yet.

use crate::prelude::*;
use crate::sys::ioctl_with;

const SW_SYNC: &str = "/sys/kernel/debug/sync/sw_sync";

/// `struct sw_sync_create_fence_data`, which no header exports.
#[repr(C)]
struct Create {
    value: u32,
    name: [u8; 32],
    fence: i32,
}

/// `SW_SYNC_IOC_CREATE_FENCE`
const CREATE: u32 = (3 << 30) | ((size_of::<Create>() as u32) << 16) | ((b'W' as u32) << 8);
/// `SW_SYNC_IOC_INC`
const INC: u32 = (1 << 30) | (4 << 16) | ((b'W' as u32) << 8) | 1;

/// A fence. Signalled at the latest when dropped.
#[derive(Debug)]
pub struct Fence {
    timeline: File,
    sync_file: OwnedFd,
}

impl Fence {
    /// A fence that is not signalled; `None` if the kernel has no such thing.
    pub fn new() -> Result<Option<Fence>> {
        let timeline = match File::options().read(true).write(true).open(SW_SYNC) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).context(SW_SYNC),
        };
        let mut arg = Create { value: 1, name: [0; 32], fence: -1 };
        ioctl_with(timeline.as_raw_fd(), CREATE, &mut arg).context("SW_SYNC_IOC_CREATE_FENCE")?;
        Ok(Some(Fence { timeline, sync_file: raw::own(arg.fence) }))
    }

    /// Makes it one of the fences of `buffer`: a device that writes, and is not done.
    pub fn add_to(&self, buffer: &Buffer) -> Result<(), Errno> {
        let mut arg = uapi::dma_buf_import_sync_file {
            flags: uapi::DMA_BUF_SYNC_WRITE,
            fd: self.sync_file.as_raw_fd(),
        };
        ioctl_with(buffer.raw(), uapi::DMA_BUF_IOCTL_IMPORT_SYNC_FILE, &mut arg).map(drop)
    }

    /// The number of its sync file.
    pub fn raw(&self) -> RawFd {
        self.sync_file.as_raw_fd()
    }

    /// Signals it.
    pub fn signal(&self) -> Result<(), Errno> {
        ioctl_with(self.timeline.as_raw_fd(), INC, &mut 1u32).map(drop)
    }
}
