// SPDX-License-Identifier: GPL-2.0

//! What the test module offers to the guest programs.
//!
//! The only description of it: compiled into the module, and a second time into the guest crate
//! (`tests/qemu/guest/src/testmod.rs`). All sizes and addresses are bytes.

use core::mem::size_of;

/// `/dev/` name of the importer: one attachment of a dma-buf per open file.
///
/// Closing the file undoes what is left: it unmaps and detaches.
pub const IMPORTER: &core::ffi::CStr = c"dmabuf-test-importer";

/// `/dev/` name of the reader of page table entries.
pub const PTES: &core::ffi::CStr = c"dmabuf-test-ptes";

/// `/dev/` name of the pauser: one pause per open file, which ends when the file is closed.
pub const PAUSE: &core::ffi::CStr = c"dmabuf-test-pause";

/// `/dev/` name of the data race, which a kernel with KCSAN must find.
pub const RACE: &core::ffi::CStr = c"dmabuf-test-race";

/// `/dev/` name of the disguise, which ends when the file is closed.
pub const DISGUISES: &core::ffi::CStr = c"dmabuf-test-disguise";

/// `/dev/` name of the owner of a BAR's region, which gives it back when the file is closed.
pub const CLAIMS: &core::ffi::CStr = c"dmabuf-test-claim";

/// Name of a PCI driver, for `driver_override`: after each error of the link it asks the kernel for
/// a reset.
pub const RESETTER: &core::ffi::CStr = c"dmabuf-test-reset";

/// Attaches a device to a dma-buf. Argument: [`Attach`].
///
/// Errors: `EBUSY`: the file has an attachment; `ENXIO`: no such importing device; `EINVAL`:
/// unknown flag or policy; `EBADF`, `EINVAL`: not a dma-buf; and what `dma_buf_dynamic_attach()`
/// says.
pub const ATTACH: u32 = iow::<Attach>(0);
/// Maps the dma-buf for the device. Argument: [`Map`].
///
/// Errors: `ENOTCONN`: no attachment; `EBUSY`: it is mapped; `EINVAL`: unknown direction; `EDOM`:
/// the mapping claims to have `struct page`s; and what `dma_buf_map_attachment()` says.
pub const MAP: u32 = iowr::<Map>(1);
/// Unmaps it. No argument. Errors: `ENOTCONN`: no attachment; `EALREADY`: it is not mapped.
pub const UNMAP: u32 = io(2);
/// Unmaps it if it is mapped, and detaches. No argument. Error: `ENOTCONN`: no attachment.
pub const DETACH: u32 = io(3);
/// Counts what happened to the attachment. Argument: [`Stats`]. Works without an attachment.
pub const STATS: u32 = ior::<Stats>(4);
/// Adds the fence of a sync file to the reservation object of the dma-buf. Argument: [`Fence`].
///
/// Errors: `ENOTCONN`: no attachment; `EINVAL`: unknown usage, or not a sync file.
pub const ADD_FENCE: u32 = iow::<Fence>(5);
/// Reads a page table entry. Argument: [`Pte`].
///
/// Errors: `ESRCH`: no such process; `EFAULT`: nothing is mapped there; `ENXIO`: what is mapped
/// there is no device memory (`VM_IO`).
pub const READ_PTE: u32 = iowr::<Pte>(8);
/// Stops the next thread that enters a function until [`RELEASE`]. Argument: [`Arm`].
///
/// It sleeps, so the function must be one that may; with the locks that its callers hold.
///
/// Errors: `EBUSY`: done before with this file; `EINVAL`: no name; and what `register_kprobe()`
/// says:
/// `ENOENT`, `EINVAL`: no such function, or not one that can have a probe.
pub const ARM: u32 = iow::<Arm>(16);
/// Lets the thread continue; no thread stops after this. No argument. Error: `ENOTCONN`: not armed.
pub const RELEASE: u32 = io(17);
/// Reads the state of the pause. Argument: [`PauseStats`]. Error: `ENOTCONN`: not armed.
pub const PAUSE_STATS: u32 = ior::<PauseStats>(18);
/// Changes a number that all callers share, without a lock. Argument: how often.
pub const CHANGE: u32 = io(24);
/// Claims the region of a BAR, as a driver of another device does. Argument: [`Claim`].
///
/// Errors: `EBUSY`: was done with this file, or the region has an owner; `ENXIO`: no such device;
/// `EINVAL`: no such BAR.
pub const CLAIM: u32 = iow::<Claim>(33);
/// Lets the kernel take a PCI device for one with other ids. Argument: [`Disguise`].
///
/// Errors: `EBUSY`: was done with this file; `ENXIO`: no such device; `EINVAL`: no such ids.
pub const DISGUISE: u32 = iow::<Disguise>(32);

/// [`Attach::flags`]: the importer can do without `struct page` (`allow_peer2peer`).
pub const PEER_TO_PEER: u32 = 1;
/// [`Attach::flags`]: the importer has `invalidate_mappings`.
pub const REVOCABLE: u32 = 2;
/// [`Attach::flags`]: attach without any `dma_buf_attach_ops`, as `dma_buf_attach()` does.
pub const STATIC: u32 = 4;
/// [`Attach::flags`]: the importing device is not a PCI device.
pub const NOT_PCI: u32 = 8;

/// [`Attach::policy`]: the importer unmaps from its invalidate callback.
pub const AT_ONCE: u32 = 0;
/// [`Attach::policy`]: it unmaps after [`Attach::delay_ms`], from a workqueue.
pub const LATER: u32 = 1;
/// [`Attach::policy`]: it never unmaps by itself.
pub const NEVER: u32 = 2;
/// [`Attach::policy`]: it unmaps from its invalidate callback, and tries there to map again.
pub const AGAIN: u32 = 3;

/// [`Map::direction`]: `DMA_BIDIRECTIONAL`.
pub const BOTH_WAYS: u32 = 0;
/// [`Map::direction`]: `DMA_TO_DEVICE`.
pub const TO_DEVICE: u32 = 1;
/// [`Map::direction`]: `DMA_FROM_DEVICE`.
pub const FROM_DEVICE: u32 = 2;

/// Argument of [`ATTACH`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Attach {
    /// In: the dma-buf.
    pub dmabuf_fd: i32,
    /// In: PCI domain of the importing device.
    pub domain: u32,
    /// In: its bus.
    pub bus: u32,
    /// In: its slot and function, as in `PCI_DEVFN()`.
    pub devfn: u32,
    /// In: [`PEER_TO_PEER`], [`REVOCABLE`], [`STATIC`], [`NOT_PCI`].
    pub flags: u32,
    /// In: [`AT_ONCE`], [`LATER`], [`NEVER`] or [`AGAIN`].
    pub policy: u32,
    /// In: for [`LATER`], milliseconds.
    pub delay_ms: u32,
}

/// A piece of a mapping.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Entry {
    /// DMA address.
    pub address: u64,
    /// Bytes.
    pub length: u64,
}

/// How many entries [`Map`] has room for.
pub const MAX_ENTRIES: usize = 16;

/// Argument of [`MAP`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Map {
    /// In: [`BOTH_WAYS`], [`TO_DEVICE`] or [`FROM_DEVICE`].
    pub direction: u32,
    /// Out: how many entries the mapping has.
    pub count: u32,
    /// Out: the first of them.
    pub entries: [Entry; MAX_ENTRIES],
}

/// Argument of [`STATS`]. Times are of `CLOCK_MONOTONIC`, nanoseconds; 0: has not happened.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Stats {
    /// Out: 1 if there is an attachment.
    pub attached: u32,
    /// Out: 1 if it is mapped.
    pub mapped: u32,
    /// Out: how often the exporter called `invalidate_mappings` since the attach.
    pub invalidations: u32,
    /// Out: how many of them found it mapped.
    pub hits: u32,
    /// Out: when the last of these was.
    pub hit_at: u64,
    /// Out: when it was last unmapped, by policy or by [`UNMAP`].
    pub unmapped_at: u64,
}

/// [`Fence::usage`]: `DMA_RESV_USAGE_KERNEL`.
pub const USAGE_KERNEL: u32 = 0;
/// [`Fence::usage`]: `DMA_RESV_USAGE_WRITE`.
pub const USAGE_WRITE: u32 = 1;
/// [`Fence::usage`]: `DMA_RESV_USAGE_READ`.
pub const USAGE_READ: u32 = 2;
/// [`Fence::usage`]: `DMA_RESV_USAGE_BOOKKEEP`.
pub const USAGE_BOOKKEEP: u32 = 3;

/// Argument of [`ADD_FENCE`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Fence {
    /// In: the sync file.
    pub sync_file: i32,
    /// In: `USAGE_*`.
    pub usage: u32,
    /// In: `FENCE_*`.
    pub manners: u32,
}

/// [`Fence::manners`]: the fence of the sync file itself.
pub const FENCE_PLAIN: u32 = 0;
/// [`Fence::manners`]: one that is signalled with it, once somebody has enabled signaling.
pub const FENCE_LAZY: u32 = 1;
/// [`Fence::manners`]: as [`FENCE_LAZY`], and its driver ends every wait with `EDEADLK`.
pub const FENCE_REFUSING: u32 = 2;

/// Argument of [`READ_PTE`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Pte {
    /// In: virtual address.
    pub address: u64,
    /// In: the process; 0 is the caller.
    pub pid: i32,
    /// Out: 1 if there is an entry; all that follows is 0 if not.
    pub present: u32,
    /// Out: the page frame of `address`.
    pub pfn: u64,
    /// Out: how many bytes the entry maps.
    pub size: u64,
    /// Out: 1 if it can be written through.
    pub writable: u32,
    /// Out: how the CPU treats what the entry maps: `MEMORY_*`.
    pub memory_type: u32,
}

/// [`Pte::memory_type`]: that of `pgprot_noncached()`. On x86 UC- (uncached, unless an MTRR says
/// write-combining), on arm64 Device-nGnRnE.
pub const MEMORY_UNCACHED: u32 = 1;
/// [`Pte::memory_type`]: that of `pgprot_writecombine()`. On x86 WC, on arm64 Normal-NC.
pub const MEMORY_WRITE_COMBINING: u32 = 2;
/// [`Pte::memory_type`]: any other.
pub const MEMORY_OTHER: u32 = 0;

/// Argument of [`CLAIM`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Claim {
    /// In: PCI domain of the device.
    pub domain: u32,
    /// In: its bus.
    pub bus: u32,
    /// In: its slot and function, as in `PCI_DEVFN()`.
    pub devfn: u32,
    /// In: the BAR.
    pub bar: u32,
}

/// Argument of [`DISGUISE`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Disguise {
    /// In: PCI domain of the device.
    pub domain: u32,
    /// In: its bus.
    pub bus: u32,
    /// In: its slot and function, as in `PCI_DEVFN()`.
    pub devfn: u32,
    /// In: the vendor id that it is to have.
    pub vendor: u32,
    /// In: the device id.
    pub device: u32,
}

/// Room for the name of a function and its NUL.
pub const MAX_FUNCTION: usize = 256;

/// Argument of [`ARM`].
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Arm {
    /// In: the function, as in `/proc/kallsyms`.
    pub function: [u8; MAX_FUNCTION],
    /// In: which thread is to stop, by its id; 0 is any.
    pub task: i32,
    /// In: for how long at most, milliseconds.
    pub limit_ms: u32,
}

/// Argument of [`PAUSE_STATS`].
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct PauseStats {
    /// Out: `PAUSE_*`.
    pub state: u32,
    /// Out: how often the function was called, by the thread in question, since [`ARM`].
    pub calls: u32,
    /// Out: 1 if the pause came to its limit.
    pub timed_out: u32,
    /// Out: 1 if the thread has stopped while it held a lock under which it may not sleep.
    pub atomic: u32,
}

/// [`PauseStats::state`]: no thread has come yet.
pub const PAUSE_ARMED: u32 = 0;
/// [`PauseStats::state`]: a thread has stopped.
pub const PAUSE_INSIDE: u32 = 1;
/// [`PauseStats::state`]: it continued, or was released before it came.
pub const PAUSE_OVER: u32 = 2;

const TYPE: u32 = 0xdb;

/// `_IO()`
const fn io(nr: u32) -> u32 {
    (TYPE << 8) | nr
}

/// `_IOW()`
const fn iow<T>(nr: u32) -> u32 {
    (1 << 30) | ((size_of::<T>() as u32) << 16) | io(nr)
}

/// `_IOR()`
const fn ior<T>(nr: u32) -> u32 {
    (2 << 30) | ((size_of::<T>() as u32) << 16) | io(nr)
}

/// `_IOWR()`
const fn iowr<T>(nr: u32) -> u32 {
    iow::<T>(nr) | ior::<T>(nr)
}
