// SPDX-License-Identifier: GPL-2.0

//! Finding a PCI device by its address, and what a driver takes it for.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    container_of,
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

/// What kind of device it is.
#[derive(Clone, Copy)]
pub(crate) struct Ids {
    pub(crate) vendor: u16,
    pub(crate) device: u16,
}

/// Changes what the kernel takes a PCI device for; gives what that was before.
///
/// `device` is what [`find`] gave.
pub(crate) fn set_ids(device: &Device, ids: Ids) -> Ids {
    let dev = core::ptr::from_ref(device)
        .cast::<bindings::device>()
        .cast_mut();
    // SAFETY: The device is that of a `struct pci_dev`, to which we have a reference.
    let pdev = unsafe { container_of!(dev, bindings::pci_dev, dev) };
    // SAFETY: As above. Whoever reads these meanwhile is part of the test.
    let (vendor, device) = unsafe { (&raw mut (*pdev).vendor, &raw mut (*pdev).device) };
    let before = Ids {
        // SAFETY: As above.
        vendor: unsafe { vendor.read() },
        // SAFETY: As above.
        device: unsafe { device.read() },
    };
    // SAFETY: As above.
    unsafe { vendor.write(ids.vendor) };
    // SAFETY: As above.
    unsafe { device.write(ids.device) };
    before
}
