// SPDX-License-Identifier: GPL-2.0

//! Finding a PCI device by its address, and what a driver takes it for.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use core::ptr::NonNull;
use kernel::{
    bindings,
    container_of,
    device::Device,
    error::to_result,
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
    let pdev = as_pci(device);
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

/// `device` is what [`find`] gave.
fn as_pci(device: &Device) -> *mut bindings::pci_dev {
    let dev = core::ptr::from_ref(device)
        .cast::<bindings::device>()
        .cast_mut();
    // SAFETY: The device is that of a `struct pci_dev`, to which we have a reference.
    unsafe { container_of!(dev, bindings::pci_dev, dev) }
}

/// The region of a BAR, as its owner has it; given back when dropped.
///
/// # Invariants
///
/// The device is a PCI device, and we have claimed the region of its BAR `bar`.
pub(crate) struct Region {
    device: ARef<Device>,
    bar: u32,
}

impl Region {
    /// Claims it. `pci_request_selected_regions()`
    ///
    /// `device` is what [`find`] gave.
    pub(crate) fn claim(device: ARef<Device>, bar: u32) -> Result<Self> {
        if bar >= bindings::PCI_STD_NUM_BARS {
            return Err(EINVAL);
        }
        let (pdev, name) = (as_pci(&device), c"dmabuf-vfio-pci-test".as_char_ptr());
        // SAFETY: The device is there, and the name static.
        to_result(unsafe { bindings::pci_request_selected_regions(pdev, 1 << bar, name) })?;
        // INVARIANT: Claimed just now.
        Ok(Self { device, bar })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_release_selected_regions(as_pci(&self.device), 1 << self.bar) };
    }
}
