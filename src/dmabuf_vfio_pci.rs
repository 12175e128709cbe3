// SPDX-License-Identifier: GPL-2.0

//! `dmabuf-vfio-pci`: revocable slices of a PCI device's BARs for other processes.
//!
//! A VFIO PCI variant driver. The C core (`vfio_pci_core`) handles config space, interrupts,
//! resets, power and the IOMMU. This crate owns one thing: how a BAR reaches an address space, that
//! of a process or of another device. Every such path goes through a [`buffer`], a dma-buf over
//! ranges of one BAR, and can be cut at once.
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `driver.rs` | the VFIO operations of this driver, and the code that handles each |
//! | `device.rs` | a device with the driver's data, and its last close |
//! | `features.rs` | the features of a device: export, revoke, attribute, info |
//! | `memory.rs` | what the buffers of a device share; resets and link errors |
//! | `buffer.rs` | one buffer: exporting, mapping and revoking it, and its importers |
//! | `fault.rs` | faults on mappings of a buffer |
//! | `registry.rs` | the buffers of a device and their windows in its offset space |
//! | `gate.rs` | keeps faults out while memory is taken away |
//! | `importers.rs` | the devices that import buffers; invalidating and draining their mappings |
//! | `listing.rs` | the buffers of a device in debugfs |
//! | `parameters.rs` | the module parameters |
//! | `pure/` | arithmetic, transitions, decoding; KUnit compiles them a second time |
//!
//! All unsafe code is in the crate `kernel_ext` (`rust/`). Three paths explain the driver:
//!
//! - *Export*: `feature()` of `driver.rs` calls `features::export()`, which decodes the request and
//!   reserves an fd. `Buffer::export()` takes a window from the registry and makes the dma-buf.
//! - *Fault*: `Buffer::resolve()` enters the gate. It checks that the device is open, that memory
//!   is enabled and that the buffer is live. Then it maps pages or a large entry. If the gate is
//!   closed, `Buffer::wait()` sleeps without the locks of the fault, and the fault is retried.
//! - *Revoke*: `Buffer::revoke()` shuts the gate to publish the new state, zaps the window, and
//!   drains the importers.
//!
//! # Glossary
//!
//! - *BAR*: a memory region of a PCI device. *Range*: a page-aligned part of one.
//! - *Buffer*: ranges of one BAR laid end to end, behind a dma-buf. User space *exports* one as an
//!   fd. Each BAR also has a *hidden* buffer over all of it, under the mappings of the device fd.
//! - *Offset space*: the space in which the page offsets of all mappings of a device count. All
//!   files of the device share its address space (`f_mapping`). BAR `i` starts at `i << 40` bytes.
//! - *Window*: the place of an exported buffer in the offset space, where no BAR is.
//! - *Zap*: to remove the page table entries of a part of the offset space in all processes.
//! - *Gate*: a spinning lock that a fault holds shared from its permission check until its entry
//!   is in place. Code that takes memory away holds it exclusively (*shuts* it) while it publishes
//!   the new state. The gate is *closed* while memory is away for a time; faults then wait.
//! - *Change*: a config write or a low power call, in which the core may disable or enable memory.
//!   The gate is closed for the other tasks meanwhile.
//! - *Importer*: the driver of another device that has attached to a buffer. To *invalidate* is to
//!   ask importers to unmap; to *drain* is to invalidate and then wait until they have.
//! - *Suspension*: a period in which no importer can map any buffer of the device.
//! - *Revoke*: to make a buffer unreachable, for good or (*temporarily*) while memory is disabled.
//! - *Memory attribute*: how CPUs access a mapping: uncached or write-combining.
//!
//! # Lock order
//!
//! 1. the gate's `turn`, for a change
//! 2. `mmap_lock`, or the lock of a VMA in a fault
//! 3. `memory_lock` of the core, which only the core takes
//! 4. [`importers::Importers`]: the list of imported buffers; the registry's hidden buffers, under
//!    which a dma-buf may be made (with the list of all dma-bufs, whose readers lock reservations)
//! 5. the reservation lock of a dma-buf
//! 6. the importers' proof that the device is open
//! 7. the registry's windows
//! 8. `i_mmap_rwsem` (inside a zap)
//! 9. the [gate](gate::Gate), under which nobody sleeps or is preempted
//! 10. page table locks
//!
//! The core holds `memory_lock` through slow resets, and a hot reset only trylocks it. This driver
//! therefore never takes it: faults and revocation meet at the gate.
//!
//! A fault that finds the gate closed drops `mmap_lock` or the lock of its VMA (`VM_FAULT_RETRY`)
//! before it waits, so it never blocks other users of the address space. The exception is a caller
//! that does not allow a retry: its fault waits with the lock held, and only a fatal signal ends
//! the wait. The gate is open for the task that makes a change, because its arguments may lie in
//! its own mapping of the device.
//!
//! No lock of this driver but `turn` is held while user memory is accessed. A wait for importers
//! holds no lock of this driver. It is interruptible before an operation that can still fail, has a
//! deadline in a reset that cannot, and is uninterruptible in the last close. In such a reset the
//! core may hold `memory_lock`.
//!
//! # Lifetimes
//!
//! - What buffers share is a [`memory::Memory`]: the gate, the registry, the importers, and a
//!   reference to the address space. Each buffer holds a reference to it, and so does the device.
//! - The file of a dma-buf owns its buffer and a reference to this module. It keeps the device
//!   neither open nor bound, and holds no reference to `struct vfio_device`: VFIO acts upon a
//!   device until the last of those is gone.
//! - The device is reachable while it is open only, as `OpenCore`: inside the gate, under the
//!   importers' proof, and in calls through a device fd.
//! - `Memory` owns the hidden dma-bufs, from the first `mmap()` of each BAR until the device is
//!   closed.
//! - The registry knows the exported buffers by window and holds no reference to their files. The
//!   release of a dma-buf removes its buffer from the registry.
//! - A mapping through a device fd holds a reference to that file, and so keeps the device open.
//! - A mapping of an exported buffer holds a reference to the dma-buf only.
//!
//! # Where to change what
//!
//! - *A new feature*: its number, payload and kernel-doc in `include/uapi/linux/vfio_dmabuf.h`; the
//!   type of the payload in `rust/uapi.rs`; a line in `feature()` of `driver.rs`; the work in
//!   `features.rs` and the decoding in `pure/request.rs`. User space:
//!   `tools/vfio-dmabuf/src/{uapi,device}.rs`. Tests: a case in
//!   `tests/qemu/suite/src/cases/feature.rs`, a call in `tests/qemu/fuzz`, an operation in
//!   `tests/qemu/soak`.
//! - *A new event that takes memory away*: a method of the trait `Operations` in
//!   `rust/vfio/pci.rs`; the call of it in `rust/vfio/pci/ops.rs` (VFIO) or `rust/pci.rs` (PCI);
//!   the method in `driver.rs`; its work in `memory.rs`. When the event begins, in this order:
//!   close the gate, zap `0..BAR_SPACE`, suspend the importers. When it ends: open the gate, then
//!   resume the importers, which may map from their callback. A state that outlasts the event
//!   belongs in `pure/link.rs` or in the state of the gate. Tests: a case in `memory.rs` for every
//!   BAR and window, one in `importers_reset.rs`, a race in `race_faults.rs`, and an operation of
//!   the soak with its rule in the model.
//! - *A new device in the test machine*: a line at the end of `TEST_DEVICES` in
//!   `scripts/vm/suite.py` (`Job.devices` in `scripts/vm/machine.py` explains the syntax), its id
//!   in `tests/qemu/guest/src/pci.rs`, and helpers for cases in `tests/qemu/suite/src/fixture.rs`.
//!   A case names its devices in `cases!`. It is skipped where one is missing.
//! - *A new make target*: its name in `plain` or `debian` and a line of help in the `Makefile`; a
//!   row of `TARGETS` in `scripts/vm/run.py` (function, kernel, parts to build, time limit), and
//!   its name in `X86_ONLY` there if it needs x86. A new part to build goes into
//!   `scripts/build.sh`. A target that proves something goes into `scripts/everything`.

#![deny(unsafe_code)]

use kernel::prelude::*;
use kernel_ext::{
    modinfo,
    module::NameReservation,
    pci, //
};

mod buffer;
mod device;
mod driver;
mod fault;
mod features;
mod gate;
mod importers;
mod listing;
mod memory;
mod parameters;
mod pure;
mod registry;

/// What the driver is called, whatever name it registers under.
const NAME: &CStr = c"dmabuf-vfio-pci";

#[pin_data]
struct DmabufVfioPci {
    #[pin]
    _driver: pci::Registration<device::DeviceData>,
    /// Goes after the driver.
    _reserved: Option<NameReservation>,
}

impl kernel::InPlaceModule for DmabufVfioPci {
    fn init(module: &'static ThisModule) -> impl PinInit<Self, Error> {
        let as_vfio_pci = parameters::as_vfio_pci.value();
        if parameters::disable_denylist.value() {
            pr_warn!("device denylist disabled.\n");
        }
        try_pin_init!(Self {
            _reserved: driver::reserve_module_name(module, as_vfio_pci)?,
            _driver <- pci::Registration::new(module, NAME, driver::ops(as_vfio_pci)),
        })
    }
}

module! {
    type: DmabufVfioPci,
    name: "dmabuf_vfio_pci",
    authors: ["The dmabuf-vfio-pci authors"],
    description: "VFIO PCI driver that shares BAR slices as revocable dma-bufs",
    license: "GPL",
    imports_ns: ["DMA_BUF"],
}

// The version of the packages, too (scripts/debian/changelog, tools/Cargo.toml).
modinfo!("version", "0.1.0");
