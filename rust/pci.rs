// SPDX-License-Identifier: GPL-2.0

//! The PCI side of a VFIO variant driver: registration, binding, and the PCI core's callbacks for
//! resets and errors.
//!
//! `kernel::pci` cannot carry one: it has no `driver_managed_dma`, without which VFIO groups cannot
//! be claimed, no `err_handler`, and it owns the driver data, which here must be the
//! `vfio_pci_core_device`.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use crate::{
    bindings,
    debugfs::Dir,
    vfio::pci::{
        ops::Ops,
        Device,
        LinkError,
        Operations, //
    }, //
};
use core::mem::size_of;
use kernel::{
    container_of,
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    prelude::*,
    str::CStr,
    sync::Arc,
    types::Opaque, //
};

/// Matches every device, but only when user space named this driver in `driver_override`.
///
/// `PCI_DRIVER_OVERRIDE_DEVICE_VFIO(PCI_ANY_ID, PCI_ANY_ID)`. No `MODULE_DEVICE_TABLE` goes with
/// it: a wildcard `vfio_pci:` alias would compete with that of the in-tree vfio-pci.
static OVERRIDE_ONLY: [bindings::pci_device_id; 2] = [
    bindings::pci_device_id {
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

/// A registered VFIO PCI driver; unregisters when dropped, which unbinds every device first.
///
/// # Invariants
///
/// `driver` is registered.
#[pin_data(PinnedDrop)]
pub struct Registration<T: Operations> {
    // In writable memory: the VFIO PCI core sets `driver.pm`.
    #[pin]
    driver: Opaque<bindings::pci_driver>,
    /// The driver's directory in debugfs.
    debugfs: Arc<Dir>,
    /// For its devices.
    ops: &'static Ops<T>,
}

// SAFETY: Unregistering may happen on another thread.
unsafe impl<T: Operations> Send for Registration<T> {}
// SAFETY: `&Registration` offers nothing.
unsafe impl<T: Operations> Sync for Registration<T> {}

impl<T: Operations> Registration<T> {
    /// Registers the driver of `module` under the name of `ops`, with a directory `name` in
    /// debugfs. `pci_register_driver()`
    ///
    /// # Errors
    ///
    /// `EBUSY`: another driver has the name.
    pub fn new(
        module: &'static ThisModule,
        name: &'static CStr,
        ops: &'static Ops<T>,
    ) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            // Before devices are bound.
            debugfs: Dir::new(name)?,
            ops,
            // INVARIANT: Registered, or the initializer fails.
            driver <- Opaque::try_ffi_init(move |slot: *mut bindings::pci_driver| {
                let driver = bindings::pci_driver {
                    name: ops.name.as_char_ptr(),
                    id_table: OVERRIDE_ONLY.as_ptr(),
                    probe: Some(Self::probe),
                    remove: Some(Self::remove),
                    sriov_configure: Some(sriov_configure::<T>),
                    err_handler: const { &error_handlers::<T>() },
                    driver_managed_dma: true,
                    ..pin_init::zeroed()
                };
                // SAFETY: The initializer may write to `slot`.
                unsafe { slot.write(driver) };
                // SAFETY: `slot` is pinned and stays valid until `drop` has unregistered it.
                to_result(unsafe {
                    bindings::__pci_register_driver(slot, module.as_ptr(), name.as_char_ptr())
                })
            }),
        })
    }

    /// The registration, which may be half way: `driver` comes last.
    ///
    /// # Safety
    ///
    /// `pdev` is bound to this driver, or is being bound or unbound, for as long as `'a`.
    unsafe fn parts<'a>(pdev: *mut bindings::pci_dev) -> (&'a Arc<Dir>, &'static Ops<T>) {
        // SAFETY: By the requirements of this function.
        let driver = unsafe { (*pdev).driver };
        // SAFETY: The driver is the one that `new` registered, inside of a `Self`.
        let this: *const Self = unsafe { container_of!(Opaque::cast_from(driver), Self, driver) };
        // SAFETY: Unregistering waits until the device is unbound. The two were made first.
        unsafe { (&(*this).debugfs, (*this).ops) }
    }

    /// `pci_driver.probe`
    ///
    /// # Safety
    ///
    /// Called by the PCI core for a device that is being bound to this driver.
    unsafe extern "C" fn probe(
        pdev: *mut bindings::pci_dev,
        _id: *const bindings::pci_device_id,
    ) -> c_int {
        from_result(|| {
            // SAFETY: By the requirements of this function.
            let (debugfs, ops) = unsafe { Self::parts(pdev) };
            // CAST: The wrapper is transparent.
            // SAFETY: `pdev` is being probed.
            T::check(unsafe { &*pdev.cast() })?;
            // SAFETY: `pdev` is being probed.
            let dev = unsafe { &raw mut (*pdev).dev };
            // SAFETY: `init` fills an allocation of that size.
            let vdev = from_err_ptr(unsafe {
                bindings::_vfio_alloc_device(size_of::<Device<T>>(), dev, &ops.table)
            })?;
            // CAST: The VFIO device is the first member of the core's.
            let core = vdev.cast::<bindings::vfio_pci_core_device>();
            // SAFETY: The core wants its device as the driver data.
            unsafe { bindings::dev_set_drvdata(dev, core.cast()) };
            // SAFETY: `core` was initialised by `Device::init`.
            to_result(unsafe { bindings::vfio_pci_core_register_device(core) })
                // SAFETY: Drops the reference of `_vfio_alloc_device()`; not registered.
                .inspect_err(|_| unsafe { bindings::put_device(&raw mut (*vdev).device) })?;
            // SAFETY: Made above; `remove` drops the reference.
            T::bound(unsafe { Device::from_raw(vdev) }, debugfs);
            Ok(0)
        })
    }

    /// `pci_driver.remove`
    ///
    /// # Safety
    ///
    /// Called by the PCI core once for a device for which `probe` succeeded.
    unsafe extern "C" fn remove(pdev: *mut bindings::pci_dev) {
        // SAFETY: `probe` succeeded.
        let core = unsafe { core_of(pdev) };
        // SAFETY: This is the reference of `probe`.
        let device = unsafe { Device::<T>::from_raw(&raw mut (*core).vdev) };
        T::unbinding(device);
        // SAFETY: Registered by `probe`; waits until the device is closed.
        unsafe { bindings::vfio_pci_core_unregister_device(core) };
        T::unbound(device);
        // SAFETY: Drops the reference of `_vfio_alloc_device()`.
        unsafe { bindings::put_device(&raw mut (*core).vdev.device) };
    }
}

#[pinned_drop]
impl<T: Operations> PinnedDrop for Registration<T> {
    fn drop(self: Pin<&mut Self>) {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_unregister_driver(self.driver.get()) };
    }
}

/// The core's device of a PCI device that our driver has bound.
///
/// # Safety
///
/// `probe` succeeded for `pdev`, and `remove` has not returned.
unsafe fn core_of(pdev: *mut bindings::pci_dev) -> *mut bindings::vfio_pci_core_device {
    // SAFETY: By the requirements of this function.
    unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) }.cast()
}

/// `pci_driver.sriov_configure`
///
/// # Safety
///
/// Called by the PCI core with the device locked, after `probe` succeeded and before `remove`.
unsafe extern "C" fn sriov_configure<T: Operations>(
    pdev: *mut bindings::pci_dev,
    count: c_int,
) -> c_int {
    from_result(|| {
        T::may_make_virtual_functions()?;
        // SAFETY: `probe` succeeded, and `remove` was not called.
        let core = unsafe { core_of(pdev) };
        // SAFETY: Registered by `probe`; the caller has locked the device.
        let result = unsafe { bindings::vfio_pci_core_sriov_configure(core, count) };
        // SAFETY: As above.
        T::raised(unsafe { Device::from_raw(&raw mut (*core).vdev) });
        Ok(result)
    })
}

/// The table for driver `T`.
///
/// A reset that somebody asks for is between `reset_prepare` and `reset_done`. One by which the
/// kernel recovers from an error comes after `error_detected`; `resume` follows if that has worked,
/// `error_detected` again if not.
const fn error_handlers<T: Operations>() -> bindings::pci_error_handlers {
    bindings::pci_error_handlers {
        error_detected: Some(error_detected::<T>),
        mmio_enabled: None,
        slot_reset: Some(slot_reset::<T>),
        reset_prepare: Some(reset_prepare::<T>),
        reset_done: Some(reset_done::<T>),
        resume: Some(resume::<T>),
        cor_error_detected: None,
    }
}

/// The device to name in a log line. The PCI core writes those about resets only for drivers that
/// do not hear of them.
///
/// # Safety
///
/// `pdev` is valid for `'a`.
unsafe fn as_device<'a>(pdev: *mut bindings::pci_dev) -> &'a kernel::device::Device {
    // CAST: The wrapper is transparent.
    // SAFETY: By the requirements of this function.
    unsafe { &*pdev.cast::<kernel::pci::Device>() }.as_ref()
}

/// `pci_error_handlers.reset_prepare`: called before any reset of the function but the one on
/// close.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn reset_prepare<T: Operations>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    let device = unsafe { Device::<T>::bound_to(pdev) };
    // SAFETY: As above.
    dev_warn!(unsafe { as_device(pdev) }, "resetting\n");
    if let Some(device) = device {
        T::reset_prepare(device);
    }
}

/// `pci_error_handlers.reset_done`: follows each `reset_prepare`, whether the reset worked or not.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn reset_done<T: Operations>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    let device = unsafe { Device::<T>::bound_to(pdev) };
    if let Some(device) = device {
        T::reset_done(device);
    }
    // SAFETY: As above.
    dev_warn!(unsafe { as_device(pdev) }, "reset done\n");
}

/// `pci_error_handlers.error_detected`: the link to the device, or the device, has an error.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn error_detected<T: Operations>(
    pdev: *mut bindings::pci_dev,
    state: bindings::pci_channel_state_t,
) -> bindings::pci_ers_result_t {
    let error = match state {
        bindings::pci_channel_io_normal => LinkError::NonFatal,
        bindings::pci_channel_io_frozen => LinkError::Fatal,
        _ => LinkError::NotRecovered,
    };
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::link_error(device, error);
    }
    // SAFETY: The arguments are those that we got.
    unsafe { bindings::vfio_pci_core_aer_err_detected(pdev, state) }
}

/// `pci_error_handlers.slot_reset`: the link was reset because another driver has asked for it,
/// after an error that was not fatal. The device has lost its addresses.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn slot_reset<T: Operations>(
    pdev: *mut bindings::pci_dev,
) -> bindings::pci_ers_result_t {
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::link_error(device, LinkError::Fatal);
    }
    bindings::pci_ers_result_PCI_ERS_RESULT_RECOVERED
}

/// `pci_error_handlers.resume`: the recovery from an error is over, and has worked.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn resume<T: Operations>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::link_back(device);
    }
}
