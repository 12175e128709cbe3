// SPDX-License-Identifier: GPL-2.0
//! Memory whose pages this program provides on demand (`userfaultfd`): an access, also one by the
//! kernel in the middle of a system call, waits until then.

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};

use crate::prelude::*;
use crate::sys::ioctl_with;

/// Bytes of `struct uffd_msg`, and where in it the address of a page fault is.
const MESSAGE: usize = 32;
const ADDRESS: usize = 16;

/// Such memory.
#[derive(Debug)]
pub struct Userfault {
    fd: OwnedFd,
    area: Mapping,
}

impl Userfault {
    /// `pages` pages, none of which is there.
    pub fn new(pages: u64) -> Result<Userfault> {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let fd = raw::call(libc::SYS_userfaultfd, [flags as u64, 0, 0, 0, 0, 0]);
        let fd = raw::own(fd.map_err(Errno::from_raw).context("userfaultfd")? as RawFd);
        let mut api = uapi::uffdio_api { api: uapi::UFFD_API.into(), ..Default::default() };
        ioctl_with(fd.as_raw_fd(), uapi::UFFDIO_API, &mut api).context("UFFDIO_API")?;

        let area = Mapping::anonymous(pages * PAGE)?;
        let range = uapi::uffdio_range { start: area.address() as u64, len: area.size() };
        let mode = uapi::UFFDIO_REGISTER_MODE_MISSING.into();
        let mut register = uapi::uffdio_register { range, mode, ..Default::default() };
        ioctl_with(fd.as_raw_fd(), uapi::UFFDIO_REGISTER, &mut register)
            .context("UFFDIO_REGISTER")?;
        Ok(Userfault { fd, area })
    }

    /// The fd's number.
    pub fn raw(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// The memory.
    pub fn area(&self) -> &Mapping {
        &self.area
    }

    /// Whether somebody touches a page that is not there, which takes a while.
    pub fn is_touched(&self) -> Result<bool> {
        let limit = scaled(Duration::from_secs(5)).as_millis();
        Ok(self.wait(limit.try_into()?)?.is_some())
    }

    /// Waits until somebody touches a page that is not there; gives its offset, or `None` when
    /// nobody does so for `millis` milliseconds.
    pub fn wait(&self, millis: u16) -> Result<Option<u64>> {
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(millis))? == 0 {
            return Ok(None);
        }
        let mut message = [0u8; MESSAGE];
        let got = nix::unistd::read(&self.fd, &mut message).context("read of a userfaultfd")?;
        ensure!(got == MESSAGE && u32::from(message[0]) == uapi::UFFD_EVENT_PAGEFAULT);
        let address = u64::from_ne_bytes(message[ADDRESS..ADDRESS + 8].try_into()?);
        Ok(Some((address - self.area.address() as u64) & !(PAGE - 1)))
    }

    /// Puts a page of zeroes at `offset`; faults that wait for it continue.
    pub fn fill(&self, offset: u64) -> Result<(), Errno> {
        let start = self.area.address() as u64 + offset;
        let range = uapi::uffdio_range { start, len: PAGE };
        let mut zero = uapi::uffdio_zeropage { range, ..Default::default() };
        ioctl_with(self.fd.as_raw_fd(), uapi::UFFDIO_ZEROPAGE, &mut zero).map(drop)
    }

    /// Takes the page at `offset` away again.
    pub fn empty(&self, offset: u64) -> Result<(), Errno> {
        mm::advise(self.area.address() + offset as usize, PAGE, libc::MADV_DONTNEED)
    }
}
