// SPDX-License-Identifier: GPL-2.0
//! Open files that are no buffers of the device: of every kind that a kernel may take for one.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;

use nix::sys::epoll::{Epoll, EpollCreateFlags};
use nix::sys::eventfd::EventFd;
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::SignalFd;

use crate::prelude::*;

/// How many of [`others`] are dma-bufs. They are the first.
pub const DMA_BUFS: usize = 3;

/// Another device, open, with what there is of it.
pub struct Elsewhere {
    device: Device,
    buffer: Buffer,
    for_iommufd: Buffer,
}

impl Elsewhere {
    /// The first device of a kind, which nobody has opened.
    pub fn new(id: Id) -> Result<Elsewhere> {
        let device = Device::open(&Pci::nth(id, 0)?, Via::Group)?;
        let buffer = Buffer::export(&device, 0, 0, PAGE).context("export")?;
        let mut call = Export::new(0, &[Range(0, PAGE)]).call();
        call.flags = feature::GET | uapi::VFIO_DMABUF_IOMMUFD;
        let for_iommufd = Buffer::by_call(&device, &mut call).context("export for iommufd")?;
        Ok(Elsewhere { device, buffer, for_iommufd })
    }

    /// Device, group and container.
    fn of_vfio(&self) -> Result<Vec<OwnedFd>> {
        let holders = self.device.holders.iter().map(AsFd::as_fd);
        holders.chain([self.device.as_fd()]).map(|fd| Ok(fd.try_clone_to_owned()?)).collect()
    }
}

/// One of each kind; `buffer` is a buffer of the device.
pub fn others(buffer: &Buffer, elsewhere: &Elsewhere) -> Result<Vec<OwnedFd>> {
    let (from, to) = nix::unistd::pipe()?;
    let path = format!("/proc/self/fd/{}", buffer.raw());
    let o_path = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)?;
    let (a, b) = std::os::unix::net::UnixStream::pair()?;
    let mut others: Vec<OwnedFd> = vec![
        Buffer::from_system_heap(PAGE)?.into(),
        elsewhere.buffer.dup()?.into(),
        elsewhere.for_iommufd.dup()?.into(),
        from,
        to,
        Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0,
        EventFd::new()?.into(),
        memfd_create("other", MFdFlags::MFD_CLOEXEC)?,
        File::options().read(true).write(true).open("/dev/null")?.into(),
        File::open("/proc/self/maps")?.into(),
        File::open("/sys")?.into(),
        o_path.into(),
        a.into(),
        b.into(),
        OwnedFd::from(SignalFd::new(&SigSet::empty())?),
        by_call(libc::SYS_timerfd_create, libc::CLOCK_MONOTONIC as u64).context("timerfd")?,
        by_call(libc::SYS_userfaultfd, libc::O_CLOEXEC as u64).context("userfaultfd")?,
        by_call(libc::SYS_pidfd_open, std::process::id().into()).context("pidfd")?,
    ];
    others.extend(elsewhere.of_vfio()?);
    // Not every kernel has it.
    if Path::new("/dev/iommu").exists() {
        others.push(File::options().read(true).write(true).open("/dev/iommu")?.into());
    }
    Ok(others)
}

/// The fd that a system call makes of a number.
fn by_call(number: i64, argument: u64) -> std::io::Result<OwnedFd> {
    let fd = raw::call(number, [argument, 0, 0, 0, 0, 0]);
    fd.map(|fd| raw::own(fd as i32)).map_err(std::io::Error::from_raw_os_error)
}
