// SPDX-License-Identifier: GPL-2.0
//! What the guest programs share.
//!
//! * [`uapi`]: the kernel's interface, from the header itself
//! * [`pci`], [`module`]: devices in sysfs, binding; loading and unloading of drivers
//! * [`device`]: a VFIO device, opened through its group or its character device
//! * [`power`]: power states and resets of it
//! * [`feature`]: `VFIO_DEVICE_FEATURE` calls, well-formed and hostile
//! * [`buffer`]: dma-bufs: export, revoke, name
//! * [`mm`]: mappings, as addresses; [`arena`]: at addresses of one's choice; [`fault`]: loads
//!   and stores that survive a SIGBUS
//! * [`link`], [`peer`]: messages with fds over a UNIX socket; a second process on a string;
//!   [`worker`]: a second process with a mind of its own
//! * [`maps`], [`ptes`]: what the kernel says about a process's mappings and page tables
//! * [`testmod`]: the test module: importers of any manners, page table entries of any process;
//!   [`pause`]: its pauses in the kernel; [`engine`]: a device that does DMA; [`fence`]: one that
//!   is not done yet; [`call`]: a system call that hangs
//! * [`uffd`]: memory that comes when it is told to; [`user`], [`cgroup`]: processes without
//!   privileges, and what they use
//! * [`failnth`]: allocations and copies that fail on request; [`kmsg`]: marks in the kernel log
//! * [`host`]: what comes from outside of the machine
//! * [`raw`]: system calls with any arguments; [`patience`]: how long to wait on slow machines
//!
//! All `unsafe` code of the guest programs is in this crate. A mapping is handled by its address
//! and touched through [`fault`] only, never by a Rust reference: device memory may change or
//! vanish at any time.

pub mod arena;
pub mod buffer;
pub mod call;
pub mod cgroup;
pub mod device;
pub mod engine;
pub mod failnth;
pub mod fault;
pub mod feature;
pub mod fence;
pub mod host;
pub mod kmsg;
pub mod link;
pub mod maps;
pub mod mm;
pub mod module;
pub mod patience;
pub mod pause;
pub mod pci;
pub mod peer;
pub mod power;
pub mod ptes;
pub mod raw;
pub mod testmod;
pub mod uapi;
pub mod uffd;
pub mod user;
pub mod waiting;
pub mod windows;
pub mod worker;

mod sys;

pub use nix::errno::Errno;

/// Bytes of a page.
pub const PAGE: u64 = 4096;
