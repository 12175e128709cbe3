// SPDX-License-Identifier: GPL-2.0

//! `dmabuf-vfio-pci`: slices of a PCI device's BARs for other processes, to be taken back at will.
//!
//! A VFIO PCI variant driver. The C core (`vfio_pci_core`) does config space, interrupts, resets,
//! power and the IOMMU. This crate owns one thing: how a BAR gets into an address space. Every way
//! there goes through a [`buffer`], a dma-buf over ranges of one BAR, and can be cut at once.
//!
//! # Where things are
//!
//! | file | what |
//! |---|---|
//! | `driver.rs` | the VFIO operations: what of them is ours, and where it goes |
//! | `device.rs` | the features of user space on a device: export, revoke, attribute, info |
//! | `buffer.rs` | one buffer: mapping it, faults on it, revoking it |
//! | `registry.rs` | the buffers of a device and their places in its offset space |
//! | `gate.rs` | what keeps faults from mapping memory that is being taken away |
//! | `importers.rs` | the devices that import buffers, and how their mappings are taken away |
//! | `listing.rs` | the buffers of a device in debugfs |
//! | `parameters.rs` | the module parameters |
//! | all others | pure: arithmetic, transitions, decoding; KUnit compiles them a second time |
//!
//! All unsafe code is in the crate `kernel_ext` (`rust/`).
//!
//! # Glossary
//!
//! - *BAR*: a memory region of a PCI device. *Range*: a page-aligned part of one.
//! - *Buffer*: ranges of one BAR laid end to end, behind a dma-buf. User space *exports* one as an
//!   fd. Each BAR also has a *hidden* one, over all of it, under the mappings of the device fd.
//! - *Offset space*: what the page offsets of a device's mappings count in. All files of the device
//!   share it (`f_mapping`). BAR `i` is at `i << 40` bytes; each exported buffer has a *window*
//!   where no BAR is.
//! - *Zap*: to remove the page table entries of a part of the offset space, in all processes.
//! - *Revoke*: to take a buffer away, for good or (*temporarily*) while the device's memory is off.
//! - *Memory attribute*: how CPUs access a mapping: uncached or write-combining.
//!
//! # Lock order
//!
//! 1. `mmap_lock`, or the lock of a VMA in a fault
//! 2. `memory_lock` of the core: faults hold it for reading, the core for writing
//! 3. [`importers::Importers`]: the list of imported buffers; the registry's hidden buffers, under
//!    which a dma-buf may be made (with the list of all dma-bufs, whose readers lock reservations)
//! 4. the reservation lock of a dma-buf
//! 5. the [gate](gate::Gate)
//! 6. the registry's windows
//! 7. `i_mmap_rwsem`, page table locks (inside a zap)
//!
//! `memory_lock` is never taken with `mmap_lock` held for writing (the `mmap()` path) nor with a
//! reservation lock held, for the core holds it through slow resets; nor where the kernel recovers
//! from an error of the link, with the devices of a bus locked. A fault only tries to take it: who
//! has to wait, for that lock or at the gate, gives the first one back, if the kernel allows that,
//! so that nobody who changes the address space waits along. No lock of ours is held while user
//! memory is accessed. Who waits for importers holds no lock, but in a reset that cannot be put
//! off, where the core may hold `memory_lock`: there the wait has a limit.
//!
//! # Lifetimes
//!
//! - A dma-buf (its file) owns its buffer, a reference to the device *struct* and one to this
//!   module. It does not keep the device open or bound.
//! - The device owns the hidden dma-bufs from the first `mmap()` of each BAR until it is closed,
//!   and weakly, by window, the exported ones: their last file reference takes them out.
//! - A mapping through a device fd keeps that file, and so the device, open.

#![deny(unsafe_code)]

use kernel::prelude::*;
use kernel_ext::{
    modinfo,
    module::NameReservation,
    pci, //
};

mod buffer;
mod config_space;
mod denylist;
mod device;
mod driver;
mod fault_around;
mod feature;
mod gate;
mod importers;
mod link;
mod listing;
mod memattr;
mod memory;
mod parameters;
mod range;
mod registry;
mod state;
mod windows;

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
