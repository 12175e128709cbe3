// SPDX-License-Identifier: GPL-2.0
//! What the guest programs share.
//!
//! * [`uapi`]: the kernel's interface, from the header itself
//! * [`pci`], [`module`]: PCI devices in sysfs, binding; loading and unloading drivers
//! * [`device`]: a VFIO device, opened through its group or its cdev; [`power`]: its power states
//! * [`feature`]: `VFIO_DEVICE_FEATURE` calls, well-formed and hostile; [`raw`]: any system call
//! * [`buffer`]: dma-bufs: export, revoke, name; [`others`]: files that are not buffers
//! * [`arch`]: what differs between architectures
//! * [`mm`], [`arena`]: mappings, as addresses; [`fault`]: loads and stores that survive a SIGBUS
//! * [`worker`]: a child process that runs a function, on which CPUs ([`scheduling`]);
//!   [`peer`]: one that follows orders;
//!   [`call`]: one that makes a system call; [`link`]: typed messages with fds
//! * [`maps`], [`ptes`]: what the kernel says about a process's mappings and page table entries
//! * [`testmod`]: the test module's importers; [`pause`], [`windows`]: threads that it stops in the
//!   kernel; [`engine`]: a device that does DMA; [`fence`]: a fence that a test signals
//! * [`uffd`]: memory that a test provides on a page fault; [`user`], [`cgroup`]: processes without
//!   privileges, and how much memory they use; [`meminfo`]: how much the kernel uses
//! * [`failnth`]: allocations and copies that fail on request; [`kmsg`]: marks in the kernel log
//! * [`host`]: requests to the host of this machine; [`timeout`]: limits on slow machines
//! * [`prelude`]: what most programs use; [`readme`]: the programs that the README shows
//!
//! All `unsafe` code of the guest programs is in this crate. A mapping is handled by its address
//! and accessed through [`fault`] only, never by a Rust reference: device memory may change or
//! vanish at any time.

pub mod arch;
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
pub mod meminfo;
pub mod mm;
pub mod module;
pub mod others;
pub mod pause;
pub mod pci;
pub mod peer;
pub mod power;
pub mod prelude;
pub mod ptes;
pub mod raw;
pub mod readme;
pub mod scheduling;
pub mod testmod;
pub mod timeout;
pub mod uapi;
pub mod uffd;
pub mod user;
pub mod waiting;
pub mod windows;
pub mod worker;

mod sys;

pub use nix::errno::Errno;

/// Bytes of a page: `PAGES` names the kernel, see `make help`.
pub const PAGE: u64 = if option_env!("PAGES").is_some() { 64 << 10 } else { 4096 };
/// Bytes of the block that one entry of the second level maps, in place of a page table.
pub const BLOCK: u64 = PAGE / 8 * PAGE;
