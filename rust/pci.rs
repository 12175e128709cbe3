// SPDX-License-Identifier: GPL-2.0

//! Registration of a PCI driver that VFIO can use.
//!
//! `kernel::pci` cannot carry one: it has no `driver_managed_dma`, without which VFIO groups cannot
//! be claimed, no `err_handler`, and it owns the driver data, which here must be the
//! `vfio_pci_core_device`.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use crate::{
    bindings,
    debugfs::Dir, //
};
use core::marker::PhantomData;
use kernel::{
    container_of,
    error::to_result,
    prelude::*,
    str::CStr,
    sync::Arc,
    types::Opaque, //
};

/// An entry of an ID table. The table ends with an all-zero one.
pub(crate) type DeviceId = bindings::pci_device_id;

/// Matches every device, but only when user space named this driver in `driver_override`.
///
/// `PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID)`. No `MODULE_DEVICE_TABLE` goes with
/// it: a wildcard `vfio_pci:` alias would compete with that of the in-tree vfio-pci.
pub(crate) static OVERRIDE_ONLY: [DeviceId; 2] = [
    DeviceId {
        vendor: PCI_ANY_ID,
        device: PCI_ANY_ID,
        subvendor: PCI_ANY_ID,
        subdevice: PCI_ANY_ID,
        class: 0,
        class_mask: 0,
        driver_data: 0,
        override_only: bindings::PCI_ID_F_VFIO_DRIVER_OVERRIDE,
    },
    pin_init::zeroed(),
];
const PCI_ANY_ID: u32 = !0;

/// What the PCI core calls in a driver.
///
/// # Safety
///
/// The functions do what the PCI core expects of the like-named members of `struct pci_driver` and
/// `struct pci_error_handlers`.
pub unsafe trait Driver {
    /// Name of the driver, which its directory in debugfs has under whatever name it registers.
    const NAME: &'static CStr;
    /// `pci_driver.err_handler`
    const ERROR_HANDLERS: &'static bindings::pci_error_handlers;

    /// `pci_driver.probe`
    ///
    /// # Safety
    ///
    /// Called by the PCI core for a device without a driver.
    unsafe extern "C" fn probe(
        pdev: *mut bindings::pci_dev,
        id: *const bindings::pci_device_id,
    ) -> c_int;
    /// `pci_driver.remove`
    ///
    /// # Safety
    ///
    /// Called by the PCI core once for a device for which `probe` succeeded.
    unsafe extern "C" fn remove(pdev: *mut bindings::pci_dev);
    /// `pci_driver.sriov_configure`
    ///
    /// # Safety
    ///
    /// Called by the PCI core with the device locked, after `probe` succeeded and before `remove`.
    unsafe extern "C" fn sriov_configure(pdev: *mut bindings::pci_dev, count: c_int) -> c_int;
}

/// A registered PCI driver; unregisters when dropped, which unbinds every device first.
///
/// # Invariants
///
/// `driver` is registered.
#[pin_data(PinnedDrop)]
pub struct Registration<T> {
    // In writable memory: the VFIO PCI core sets `driver.pm`.
    #[pin]
    driver: Opaque<bindings::pci_driver>,
    /// The driver's directory in debugfs.
    debugfs: Arc<Dir>,
    /// For its devices.
    vfio_ops: &'static bindings::vfio_device_ops,
    _driver: PhantomData<T>,
}

// SAFETY: Unregistering may happen on another thread.
unsafe impl<T> Send for Registration<T> {}
// SAFETY: `&Registration` offers nothing.
unsafe impl<T> Sync for Registration<T> {}

impl<T: Driver> Registration<T> {
    /// Registers the driver of `module` under a name. `pci_register_driver()`.
    pub(crate) fn new_in(
        module: &'static ThisModule,
        name: &'static CStr,
        vfio_ops: &'static bindings::vfio_device_ops,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before devices are bound.
            debugfs: Dir::new(T::NAME)?,
            vfio_ops,
            // INVARIANT: Registered, or the initializer fails.
            driver <- Opaque::try_ffi_init(move |slot: *mut bindings::pci_driver| {
                let driver = bindings::pci_driver {
                    name: name.as_char_ptr(),
                    id_table: OVERRIDE_ONLY.as_ptr(),
                    probe: Some(T::probe),
                    remove: Some(T::remove),
                    sriov_configure: Some(T::sriov_configure),
                    err_handler: T::ERROR_HANDLERS,
                    driver_managed_dma: true,
                    ..pin_init::zeroed()
                };
                // SAFETY: The initializer may write to `slot`.
                unsafe { slot.write(driver) };
                // SAFETY: `slot` is pinned and stays valid until `drop` has unregistered it; by
                // the safety requirements of `Driver` the functions are what they should be.
                to_result(unsafe {
                    bindings::__pci_register_driver(slot, module.as_ptr(), T::NAME.as_char_ptr())
                })
            }),
            _driver: PhantomData,
        })
    }

    /// The driver's directory in debugfs.
    ///
    /// # Safety
    ///
    /// `pdev` is bound to this driver, or is being bound or unbound, for as long as `'a`.
    pub(crate) unsafe fn debugfs<'a>(pdev: *mut bindings::pci_dev) -> &'a Arc<Dir> {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::of(pdev) };
        // SAFETY: Unregistering waits until the device is unbound. `debugfs` was made first.
        unsafe { &(*this).debugfs }
    }

    /// The VFIO operations of the driver's devices.
    ///
    /// # Safety
    ///
    /// `pdev` is bound to this driver, or is being bound or unbound.
    pub(crate) unsafe fn vfio_ops(
        pdev: *mut bindings::pci_dev,
    ) -> &'static bindings::vfio_device_ops {
        // SAFETY: By the requirements of this function.
        let this = unsafe { Self::of(pdev) };
        // SAFETY: As in `debugfs`.
        unsafe { (*this).vfio_ops }
    }

    /// The registration, which may be half way.
    ///
    /// # Safety
    ///
    /// `pdev` is bound to this driver, or is being bound or unbound.
    unsafe fn of(pdev: *mut bindings::pci_dev) -> *const Self {
        // SAFETY: By the requirements of this function.
        let driver = unsafe { (*pdev).driver };
        // SAFETY: The driver is the one that `new_in` registered, inside of a `Self`.
        unsafe { container_of!(Opaque::cast_from(driver), Self, driver) }
    }
}

#[pinned_drop]
impl<T> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_unregister_driver(self.driver.get()) };
    }
}
