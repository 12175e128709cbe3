// SPDX-License-Identifier: GPL-2.0

//! Finding a PCI device by its address.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    device::Device,
    prelude::*,
    sync::aref::ARef, //
};

/// A reference to the PCI device at an address. `pci_get_domain_bus_and_slot()`
pub(crate) fn find(domain: u32, bus: u32, devfn: u32) -> Option<ARef<Device>> {
    let domain = c_int::try_from(domain).ok()?;
    // SAFETY: Any numbers may be asked for.
    let pdev = unsafe { bindings::pci_get_domain_bus_and_slot(domain, bus, devfn) };
    let pdev = NonNull::new(pdev)?;
    // SAFETY: `pdev` is valid, and so is its device.
    let dev = unsafe { NonNull::new_unchecked(&raw mut (*pdev.as_ptr()).dev) };
    // CAST: `Device` is a transparent wrapper.
    // SAFETY: The reference to the PCI device is one to its device; it passes on.
    Some(unsafe { ARef::from_raw(dev.cast::<Device>()) })
}
