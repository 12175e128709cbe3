// SPDX-License-Identifier: GPL-2.0

//! Resets of a device, and errors of the link to it, as the PCI core tells drivers of them.
//!
//! A reset that somebody asks for is between `reset_prepare` and `reset_done`. One by which the
//! kernel recovers from an error comes after `error_detected`; `resume` follows if that has worked,
//! `error_detected` again if not. Where the channel is still `normal`, too: any driver below the
//! same port may vote for a reset, after ours was told.
//!
//! C header: [`include/linux/pci.h`](srctree/include/linux/pci.h)

use crate::{
    bindings,
    vfio::{
        self,
        LinkError, //
    },
    vfio_pci_core::Device, //
};

/// The table for driver `T`.
pub(crate) const fn handlers<T: vfio::Driver>() -> bindings::pci_error_handlers {
    bindings::pci_error_handlers {
        error_detected: Some(error_detected::<T>),
        mmio_enabled: None,
        slot_reset: None,
        reset_prepare: Some(reset_prepare::<T>),
        reset_done: Some(reset_done::<T>),
        resume: Some(resume::<T>),
        cor_error_detected: None,
    }
}

/// `pci_error_handlers.reset_prepare`: called before any reset of the function but the one on
/// close.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn reset_prepare<T: vfio::Driver>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::reset_prepare(device);
    }
}

/// `pci_error_handlers.reset_done`: follows each `reset_prepare`.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn reset_done<T: vfio::Driver>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::reset_done(device);
    }
}

/// `pci_error_handlers.error_detected`: the link to the device, or the device, has an error.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn error_detected<T: vfio::Driver>(
    pdev: *mut bindings::pci_dev,
    state: bindings::pci_channel_state_t,
) -> bindings::pci_ers_result_t {
    let error = match state {
        bindings::pci_channel_io_normal | bindings::pci_channel_io_frozen => LinkError::Recovering,
        _ => LinkError::Lost,
    };
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::link_error(device, error);
    }
    // SAFETY: The arguments are those that we got.
    unsafe { bindings::vfio_pci_core_aer_err_detected(pdev, state) }
}

/// `pci_error_handlers.resume`: the recovery from an error is over, and has worked.
///
/// # Safety
///
/// Called by the PCI core with the device locked, so that it stays bound.
unsafe extern "C" fn resume<T: vfio::Driver>(pdev: *mut bindings::pci_dev) {
    // SAFETY: By the requirements of this function.
    if let Some(device) = unsafe { Device::<T>::bound_to(pdev) } {
        T::link_back(device);
    }
}
