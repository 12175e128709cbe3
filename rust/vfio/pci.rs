// SPDX-License-Identifier: GPL-2.0

//! A VFIO PCI device with the data of a variant driver, and what such a driver implements.
//!
//! [`Operations`] has the calls in which this kind of driver takes part. All others, and the core's
//! part of these, are the core's own functions: see [`ops`].
//!
//! C header: [`include/linux/vfio_pci_core.h`](srctree/include/linux/vfio_pci_core.h)

use crate::{
    bindings,
    compat::raw_try_init,
    debugfs::Dir,
    mm::BarMapping,
    vfio::FeatureCall,
    vfio_pci_core::{
        Bar,
        Core,
        OpenCore,
        Opened, //
    }, //
};
use core::{
    mem::align_of,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::{
        aref::AlwaysRefCounted,
        Arc, //
    },
    uaccess::UserPtr, //
};

pub mod ops;

/// A call of user space in which the core may disable the device's memory, or enable it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryChange {
    /// A write to the config space.
    ConfigWrite {
        /// Where it starts, bytes.
        offset: u64,
        /// How long it is, bytes.
        count: usize,
    },
    /// An ioctl that resets the device, alone or with others.
    Reset,
    /// A feature that lets the device sleep.
    LowPower,
}

/// What is wrong with the link to a device. `pci_channel_state_t`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinkError {
    /// The error has done no harm; accesses go on (`pci_channel_io_normal`).
    NonFatal,
    /// The kernel is about to reset the link, and the device with it, without
    /// [`Operations::reset_prepare`] (`pci_channel_io_frozen`).
    Fatal,
    /// The kernel has given up its recovery (`pci_channel_io_perm_failure`).
    NotRecovered,
}

/// What the core does differently with a device, by members of `struct vfio_pci_core_device`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// INTx is not masked by the command register (PCI 2.3).
    pub nointxmask: bool,
    /// The user gets no VGA resources.
    pub disable_vga: bool,
    /// The device stays in D0 while nobody uses it.
    pub disable_idle_d3: bool,
}

impl Settings {
    /// Makes them those of a new device.
    fn apply(self, core: &mut bindings::vfio_pci_core_device) {
        core.set_nointxmask(self.nointxmask);
        core.set_disable_vga(self.disable_vga);
        core.set_disable_idle_d3(self.disable_idle_d3);
    }
}

/// A VFIO PCI variant driver; the implementing type is the driver's data of one device.
pub trait Operations: Sized + Send + Sync + 'static {
    /// Decides whether the driver takes a device that is being probed.
    ///
    /// # Errors
    ///
    /// What the probe fails with.
    fn check(pci: &kernel::pci::Device) -> Result;

    /// What the core is to do differently with a new device.
    fn settings() -> Settings;

    /// Decides whether user space may make virtual functions of a device.
    ///
    /// # Errors
    ///
    /// What the write to `sriov_numvfs` fails with.
    fn may_make_virtual_functions() -> Result;

    /// Makes the data of a new device.
    fn new(core: &Core) -> impl PinInit<Self, Error>;

    /// The device was bound; `debugfs` is the driver's directory.
    fn bound(device: &Device<Self>, debugfs: &Arc<Dir>);

    /// The device is about to be unbound. The core first waits until it is no longer in use.
    ///
    /// The PCI device is locked from here on until [`Operations::unbound`] has returned, so the
    /// kernel does not tell earlier how the recovery from an error goes on.
    fn unbinding(device: &Device<Self>);

    /// The device is no longer in use, and is being unbound.
    fn unbound(device: &Device<Self>);

    /// What [`Operations::suspend`] returns; dropped when the core's function has returned.
    type SuspendGuard<'a>;

    /// The core's function for `change` is about to be called; on an error it is not.
    ///
    /// No lock is held.
    fn suspend(
        device: &Device<Self>,
        change: MemoryChange,
    ) -> Result<Option<Self::SuspendGuard<'_>>>;

    /// The core's function for `change` has returned; `worked` tells whether without an error.
    ///
    /// The guard of [`Operations::suspend`] still exists.
    fn changed(device: &Device<Self>, open: &OpenCore, change: MemoryChange, worked: bool);

    /// The core may have raised the device to D0.
    fn raised(device: &Device<Self>);

    /// The user has ended the low power state, or it had ended before.
    fn low_power_ended(device: &Device<Self>);

    /// The function is about to be reset.
    ///
    /// The PCI device is locked. The core's `memory_lock` may be held for writing, or not.
    fn reset_prepare(device: &Device<Self>);

    /// The reset has ended, or has failed. Locks as for [`Operations::reset_prepare`].
    fn reset_done(device: &Device<Self>);

    /// The link to the device has an error. The device's user is told after this.
    ///
    /// The PCI device is locked, and so is the list of devices on the bus, which the core takes
    /// with `memory_lock` held: that must not be taken.
    fn link_error(device: &Device<Self>, error: LinkError);

    /// The link works again. Locks as for [`Operations::link_error`], which need not have been
    /// called.
    fn link_back(device: &Device<Self>);

    /// The first device fd is being opened; the core has opened the device.
    fn open_device(device: &Device<Self>, opened: [Opened; 2]);

    /// The last device fd and the last mapping through one are gone; the core closes next.
    ///
    /// Gives back what [`Operations::open_device`] got.
    fn close_device(device: &Device<Self>) -> Option<[Opened; 2]>;

    /// A BAR is being mapped through a device fd; the core has checked and accepted it.
    ///
    /// The `mmap_lock` is held for writing.
    fn mmap_bar(
        device: &Device<Self>,
        open: &OpenCore,
        bar: Bar,
        mapping: BarMapping<'_>,
    ) -> Result;

    /// `VFIO_DEVICE_FEATURE`; `None` hands the call to the core.
    fn feature(device: &Device<Self>, open: &OpenCore, call: FeatureCall) -> Option<Result<c_int>>;

    /// The number under which the core has a feature that was handed to it.
    fn core_feature(number: u32) -> u32;

    /// Another ioctl on a device fd; `None` hands it to the core.
    fn ioctl(device: &Device<Self>, cmd: u32, arg: UserPtr) -> Option<Result<isize>>;
}

/// A VFIO PCI device with the data of its driver: one allocation that begins with the core's part.
/// `struct vfio_device` counts the references to it.
///
/// # Invariants
///
/// `core` is a `vfio_pci_core_device` between `init` and `release`, inside a `struct vfio_device`
/// allocation of the size of `Self`; `data` is initialised and pinned.
#[repr(C)]
pub struct Device<T> {
    core: Core,
    data: T,
}

impl<T> Deref for Device<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

impl<T> Device<T> {
    /// What the core knows of the device, open or not.
    #[inline]
    pub fn core(&self) -> &Core {
        &self.core
    }

    /// The device behind a pointer that the VFIO core passes to a device operation.
    ///
    /// # Safety
    ///
    /// `vdev` belongs to a `Device<T>` that stays valid for `'a`.
    pub(crate) unsafe fn from_raw<'a>(vdev: *mut bindings::vfio_device) -> &'a Self {
        // CAST: `vdev` is the first member of `core`, which is the first member of `Self`.
        // SAFETY: By the requirements of this function.
        unsafe { &*vdev.cast() }
    }

    /// The device that our driver has bound, if `probe` got that far.
    ///
    /// # Safety
    ///
    /// `pdev` is bound to the driver of `T` and stays so for `'a`.
    pub(crate) unsafe fn bound_to<'a>(pdev: *mut bindings::pci_dev) -> Option<&'a Self> {
        // SAFETY: `pdev` is valid.
        let data = unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) };
        // CAST: `probe` sets the core's device, which is the first member.
        // SAFETY: Null, or a device that `remove` has not put yet.
        unsafe { data.cast::<Self>().as_ref() }
    }

    fn vfio_device(&self) -> *mut bindings::vfio_device {
        // SAFETY: In bounds of the allocation.
        unsafe { &raw mut (*self.core.as_ptr()).vdev }
    }
}

impl<T: Operations> Device<T> {
    /// `vfio_device_ops.init`: the core's part, then the driver's data.
    ///
    /// # Safety
    ///
    /// Called by `_vfio_alloc_device()` for an allocation of the size of `Self`.
    unsafe extern "C" fn init(vdev: *mut bindings::vfio_device) -> c_int {
        // `_vfio_alloc_device()` allocates with no more than this alignment.
        const { assert!(align_of::<Self>() <= bindings::ARCH_KMALLOC_MINALIGN) };
        from_result(|| {
            // SAFETY: `vdev` begins a zeroed `vfio_pci_core_device`, which nobody else knows.
            T::settings().apply(unsafe { &mut *vdev.cast() });
            // SAFETY: `vdev` begins a zeroed `vfio_pci_core_device`.
            to_result(unsafe { bindings::vfio_pci_core_init_dev(vdev) })?;
            // SAFETY: `core` is initialised just now, and nobody else knows of it.
            let core = unsafe { &*vdev.cast::<Core>() };
            // `vfio_pci_core` keeps no reference, for it does not outlive the binding. A reference
            // to the VFIO device may, and the PCI device may be removed meanwhile.
            // SAFETY: It is being probed.
            unsafe { bindings::pci_dev_get(core.pdev()) };
            #[cfg(CONFIG_VFIO_PCI_DMABUF)]
            // SAFETY: As above.
            unsafe {
                (*core.as_ptr()).pci_ops = &PCI_OPS;
            }
            // SAFETY: In bounds of the allocation.
            let data = unsafe { &raw mut (*vdev.cast::<Self>()).data };
            // SAFETY: `data` is uninitialised memory for a `T` that does not move.
            unsafe { raw_try_init(data, T::new(core)) }
                // SAFETY: Undoes what was done above.
                .inspect_err(|_| unsafe { Self::release_core(vdev) })?;
            Ok(0)
        })
    }

    /// Undoes the core's part of `init`.
    ///
    /// # Safety
    ///
    /// Called once, after that part succeeded; nobody uses the device any more.
    unsafe fn release_core(vdev: *mut bindings::vfio_device) {
        // SAFETY: Initialised by `init`.
        let pdev = unsafe { &*vdev.cast::<Core>() }.pdev();
        // SAFETY: Undoes `vfio_pci_core_init_dev()`.
        unsafe { bindings::vfio_pci_core_release_dev(vdev) };
        // SAFETY: `init` took the reference.
        unsafe { bindings::pci_dev_put(pdev) };
    }

    /// `vfio_device_ops.release`: the last reference is gone.
    ///
    /// # Safety
    ///
    /// Called once, after `init` succeeded.
    unsafe extern "C" fn release(vdev: *mut bindings::vfio_device) {
        // SAFETY: In bounds of the allocation.
        let data = unsafe { &raw mut (*vdev.cast::<Self>()).data };
        // SAFETY: Initialised by `init`; nobody uses it any more.
        unsafe { core::ptr::drop_in_place(data) };
        // SAFETY: As above.
        unsafe { Self::release_core(vdev) };
    }
}

// SAFETY: `vfio_device.device` counts references to the whole allocation.
unsafe impl<T> AlwaysRefCounted for Device<T> {
    fn inc_ref(&self) {
        // SAFETY: `self` is a reference, so the count is not 0.
        unsafe { bindings::get_device(&raw mut (*self.vfio_device()).device) };
    }

    unsafe fn dec_ref(obj: NonNull<Self>) {
        // CAST: See `from_raw`.
        let vdev = obj.as_ptr().cast::<bindings::vfio_device>();
        // SAFETY: The caller gives up a reference.
        unsafe { bindings::put_device(&raw mut (*vdev).device) };
    }
}

/// Lets the core make dma-bufs of its own, for iommufd.
#[cfg(CONFIG_VFIO_PCI_DMABUF)]
static PCI_OPS: bindings::vfio_pci_device_ops = bindings::vfio_pci_device_ops {
    get_dmabuf_phys: Some(bindings::vfio_pci_core_get_dmabuf_phys),
};
