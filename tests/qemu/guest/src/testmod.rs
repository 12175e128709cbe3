// SPDX-License-Identifier: GPL-2.0
//! The test module (`tests/modules`): its importer of dma-bufs and its data race. [`crate::ptes`]
//! and [`crate::pause`] have the rest.

use std::ffi::CStr;

use crate::fence::Fence;
use crate::mm::{self, Mapping};
use crate::prelude::*;
use crate::sys::{ioctl, ioctl_with};

/// The interface, from the file that the module is compiled with.
#[allow(dead_code)]
#[path = "../../../modules/uapi.rs"]
#[rustfmt::skip]
pub mod uapi;

pub use self::uapi::{Attach, Entry, Stats};

/// An importer that unmaps from its invalidate callback.
pub const UNMAPS_AT_ONCE: Attach = Attach {
    dmabuf_fd: -1,
    domain: 0,
    bus: 0,
    devfn: 0,
    flags: uapi::PEER_TO_PEER | uapi::REVOCABLE,
    policy: uapi::AT_ONCE,
    delay_ms: 0,
};

/// One that unmaps so many milliseconds after it was invalidated.
pub const fn unmaps_after(delay_ms: u32) -> Attach {
    Attach { policy: uapi::LATER, delay_ms, ..UNMAPS_AT_ONCE }
}

/// One that ignores invalidations.
pub const NEVER_UNMAPS: Attach = Attach { policy: uapi::NEVER, ..UNMAPS_AT_ONCE };

/// One that unmaps from its invalidate callback, and tries there to map again.
pub const MAPS_AGAIN: Attach = Attach { policy: uapi::AGAIN, ..UNMAPS_AT_ONCE };

/// The test module itself, which lies beside the driver.
pub fn module() -> Module {
    Module::new(Module::driver().path().with_file_name("dmabuf-vfio-pci-test.ko"))
}

/// Opens a device of the test module, which is loaded if it has to.
pub(crate) fn open(name: &CStr) -> Result<File> {
    module().load()?;
    let path = Path::new("/dev").join(name.to_str()?);
    File::options().read(true).write(true).open(&path).with_context(|| path.display().to_string())
}

/// An importer; unmaps and detaches when dropped.
#[derive(Debug)]
pub struct Importer(File);

impl Importer {
    /// An importer without an attachment.
    pub fn new() -> Result<Importer> {
        Ok(Importer(open(uapi::IMPORTER)?))
    }

    /// Attaches the device at `pci` to `buffer`. Fd and address of `how` are ignored.
    pub fn attach(&self, buffer: &Buffer, pci: &Pci, how: Attach) -> Result<(), Errno> {
        let (domain, bus, devfn) = pci.numbers().ok_or(Errno::EINVAL)?;
        let mut arg = Attach { dmabuf_fd: buffer.raw(), domain, bus, devfn, ..how };
        self.call(uapi::ATTACH, &mut arg)
    }

    /// Maps for both directions; the pieces that the device sees, the first
    /// [`uapi::MAX_ENTRIES`] of them.
    pub fn map(&self) -> Result<Vec<Entry>, Errno> {
        self.map_for(uapi::BOTH_WAYS)
    }

    /// Maps for a direction.
    pub fn map_for(&self, direction: u32) -> Result<Vec<Entry>, Errno> {
        let mut arg = uapi::Map { direction, ..Default::default() };
        self.call(uapi::MAP, &mut arg)?;
        Ok(arg.entries[..uapi::MAX_ENTRIES.min(arg.count as usize)].to_vec())
    }

    /// Maps the first page of the dma-buf into this process, by `mmap()` of the importer's own fd.
    pub fn mmap(&self) -> Result<Mapping, Errno> {
        Mapping::new(&self.0, PAGE, mm::RW, 0)
    }

    /// Unmaps.
    pub fn unmap(&self) -> Result<(), Errno> {
        ioctl(self.0.as_raw_fd(), uapi::UNMAP, 0).map(drop)
    }

    /// Adds a fence to the dma-buf that it is attached to, with a usage: `uapi::USAGE_*`.
    pub fn add_fence(&self, fence: &Fence, usage: u32) -> Result<(), Errno> {
        self.add_fence_with(fence, usage, uapi::FENCE_PLAIN)
    }

    /// Adds a fence with other manners, `uapi::FENCE_*`, that is signalled with this one.
    pub fn add_fence_with(&self, fence: &Fence, usage: u32, manners: u32) -> Result<(), Errno> {
        let mut arg = uapi::Fence { sync_file: fence.raw(), usage, manners };
        self.call(uapi::ADD_FENCE, &mut arg)
    }

    /// Detaches.
    pub fn detach(&self) -> Result<(), Errno> {
        ioctl(self.0.as_raw_fd(), uapi::DETACH, 0).map(drop)
    }

    /// Counts what happened since the attach.
    pub fn stats(&self) -> Result<Stats, Errno> {
        let mut stats = Stats::default();
        self.call(uapi::STATS, &mut stats)?;
        Ok(stats)
    }

    fn call<T>(&self, request: u32, arg: &mut T) -> Result<(), Errno> {
        ioctl_with(self.0.as_raw_fd(), request, arg).map(drop)
    }
}

/// A device that the kernel takes for another one, until this is dropped.
#[derive(Debug)]
pub struct Disguise {
    _file: File,
}

impl Disguise {
    /// Gives the device at `pci` other ids.
    pub fn of(pci: &Pci, Id(vendor, device): Id) -> Result<Disguise> {
        let file = open(uapi::DISGUISES)?;
        let (domain, bus, devfn) = pci.numbers().context("address")?;
        let (vendor, device) = (vendor.into(), device.into());
        let mut arg = uapi::Disguise { domain, bus, devfn, vendor, device };
        ioctl_with(file.as_raw_fd(), uapi::DISGUISE, &mut arg)?;
        Ok(Disguise { _file: file })
    }
}

/// The region of a BAR that another owner has, until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

impl Claim {
    /// Claims that of BAR `bar` of the device at `pci`.
    pub fn of(pci: &Pci, bar: u32) -> Result<Claim> {
        let file = open(uapi::CLAIMS)?;
        let (domain, bus, devfn) = pci.numbers().context("address")?;
        let mut arg = uapi::Claim { domain, bus, devfn, bar };
        ioctl_with(file.as_raw_fd(), uapi::CLAIM, &mut arg)?;
        Ok(Claim { _file: file })
    }
}

/// `CLOCK_MONOTONIC`, in the unit of [`Stats`].
pub fn now() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: fills `time`; it cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Has data races with other racers.
#[derive(Debug)]
pub struct Racer(File);

impl Racer {
    /// Opens one.
    pub fn new() -> Result<Racer> {
        Ok(Racer(open(uapi::RACE)?))
    }

    /// Changes a number that all racers share, so many times, without a lock.
    pub fn change(&self, times: usize) -> Result<(), Errno> {
        ioctl(self.0.as_raw_fd(), uapi::CHANGE, times).map(drop)
    }
}
