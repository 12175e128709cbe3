// SPDX-License-Identifier: GPL-2.0

//! The device operations of a VFIO PCI variant driver.
//!
//! [`Driver`] has the operations in which this kind of driver takes part. All others, and the
//! core's part of these, are the core's own functions.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

use crate::{
    bindings,
    compat::with_iommufd,
    debugfs::Dir,
    mm::BarMapping,
    uapi,
    vfio_pci_core::{
        Core,
        Device,
        Opened,
        NUM_BARS,
        REGION_PAGES, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    sync::Arc,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// A call of `VFIO_DEVICE_FEATURE`, checked by the VFIO core so far as it goes without knowing the
/// feature.
#[derive(Clone, Copy)]
pub struct FeatureCall {
    /// Feature number and `VFIO_DEVICE_FEATURE_*` operation bits.
    pub flags: u32,
    arg: UserPtr,
    /// Size of the payload, bytes.
    pub argsz: usize,
}

impl FeatureCall {
    /// The payload in user memory.
    pub fn payload(&self) -> UserSlice {
        UserSlice::new(self.arg, self.argsz)
    }
}

/// A call of user space in which the core may switch the device's memory off, or put it on again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MemoryChange {
    /// A write to the config space: `offset` and `count` are bytes.
    ConfigWrite {
        /// Where it starts.
        offset: u64,
        /// How long it is.
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
    /// The kernel recovers. It may reset the link, and the device with it, without
    /// [`Driver::reset_prepare`].
    Recovering,
    /// The kernel has given up.
    Lost,
}

/// A VFIO PCI variant driver; the implementing type is the driver's data of one device.
pub trait Driver: Sized + Send + Sync + 'static {
    /// Name of the driver, which its directory in debugfs has, under whatever name it registers.
    const NAME: &'static CStr;

    /// Makes the data of a new device.
    fn new(core: &Core) -> impl PinInit<Self, Error>;

    /// The device was bound; `debugfs` is the driver's directory.
    fn bound(device: &Device<Self>, debugfs: &Arc<Dir>);

    /// The device is about to be unbound, for which the core waits until it is no more in use.
    ///
    /// The PCI device is locked from here on until [`Driver::unbound`] is over, so that the kernel
    /// does not tell before how the recovery from an error goes on.
    fn unbinding(device: &Device<Self>);

    /// The device is no more in use, and is being unbound.
    fn unbound(device: &Device<Self>);

    /// What [`Driver::bracket`] gives; dropped when the core's function has returned.
    type Bracket<'a>;

    /// The core's function for `change` is about to be called; on an error it is not.
    ///
    /// No lock is held.
    fn bracket(device: &Device<Self>, change: MemoryChange) -> Result<Option<Self::Bracket<'_>>>;

    /// The function is about to be reset, by whomever.
    ///
    /// The PCI device is locked. The core's `memory_lock` may be held for writing, or not.
    fn reset_prepare(device: &Device<Self>);

    /// The reset is over. Locks as for [`Driver::reset_prepare`].
    fn reset_done(device: &Device<Self>);

    /// No access gets through to the device. Its user is told after this.
    ///
    /// The PCI device is locked, and so is the list of devices on the bus, which the core takes
    /// with `memory_lock` held: that must not be taken.
    fn link_error(device: &Device<Self>, error: LinkError);

    /// The link works again. Locks as for [`Driver::link_error`], which need not have been called.
    fn link_back(device: &Device<Self>);

    /// The first device fd is being opened; the core has opened the device.
    fn open_device(device: &Device<Self>, opened: Opened);

    /// The last device fd and the last mapping through one are gone; the core closes next.
    ///
    /// Gives back what [`Driver::open_device`] got.
    fn close_device(device: &Device<Self>) -> Option<Opened>;

    /// A BAR is being mapped through a device fd; the core has checked and accepted it.
    ///
    /// The `mmap_lock` is held for writing.
    fn mmap_bar(device: &Device<Self>, index: usize, mapping: BarMapping<'_>) -> Result;

    /// `VFIO_DEVICE_FEATURE`; `None` hands the call to the core.
    fn feature(device: &Device<Self>, call: FeatureCall) -> Option<Result<c_int>>;

    /// The number under which the core has a feature that was handed to it.
    fn core_feature(number: u32) -> u32;

    /// Another ioctl on a device fd; `None` hands it to the core.
    fn ioctl(device: &Device<Self>, cmd: u32, arg: UserPtr) -> Option<Result<isize>>;
}

/// The operations of the devices of driver `T`, and the name under which it registers. For a
/// `static`: devices may outlive the registration.
pub struct Ops<T> {
    pub(crate) name: &'static CStr,
    pub(crate) table: bindings::vfio_device_ops,
    _driver: PhantomData<T>,
}

// SAFETY: Never written.
unsafe impl<T> Sync for Ops<T> {}

impl<T: Driver> Ops<T> {
    /// Makes the table. Virtual functions of the devices get the driver of that name.
    pub const fn build(name: &'static CStr) -> Self {
        Self {
            name,
            table: table::<T>(name),
            _driver: PhantomData,
        }
    }
}

const fn table<T: Driver>(name: &'static CStr) -> bindings::vfio_device_ops {
    with_iommufd(bindings::vfio_device_ops {
        name: kernel::str::as_char_ptr_in_const_context(name).cast_mut(),
        init: Some(Device::<T>::init),
        release: Some(Device::<T>::release),
        open_device: Some(open_device::<T>),
        close_device: Some(close_device::<T>),
        ioctl: Some(ioctl::<T>),
        device_feature: Some(device_feature::<T>),
        mmap: Some(mmap::<T>),
        read: Some(bindings::vfio_pci_core_read),
        write: Some(write::<T>),
        get_region_info_caps: Some(bindings::vfio_pci_ioctl_get_region_info),
        request: Some(bindings::vfio_pci_core_request),
        match_: Some(bindings::vfio_pci_core_match),
        match_token_uuid: Some(bindings::vfio_pci_core_match_token_uuid),
        bind_iommufd: None,
        unbind_iommufd: None,
        attach_ioas: None,
        detach_ioas: None,
        pasid_attach_ioas: None,
        pasid_detach_ioas: None,
        dma_unmap: None,
    })
}

/// `vfio_device_ops.open_device`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn open_device<T: Driver>(vdev: *mut bindings::vfio_device) -> c_int {
    from_result(|| {
        let core = vdev.cast::<bindings::vfio_pci_core_device>();
        // SAFETY: The VFIO core opens a registered device.
        to_result(unsafe { bindings::vfio_pci_core_enable(core) })?;
        // SAFETY: As above; enabled just now.
        unsafe { bindings::vfio_pci_core_finish_enable(core) };
        // SAFETY: Enabled just now; `close_device` takes the token back first.
        let opened = unsafe { Opened::new(core) };
        // SAFETY: The device is open.
        T::open_device(unsafe { Device::from_raw(vdev) }, opened);
        Ok(0)
    })
}

/// `vfio_device_ops.close_device`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn close_device<T: Driver>(vdev: *mut bindings::vfio_device) {
    // SAFETY: The VFIO core closes a device that it has opened.
    let opened = T::close_device(unsafe { Device::from_raw(vdev) });
    // Better a device that stays open than one that is used after this.
    if kernel::warn_on!(opened.is_none()) {
        return;
    }
    // SAFETY: The token is back, so nobody relies on the device being open.
    unsafe { bindings::vfio_pci_core_close_device(vdev) };
}

/// `vfio_device_ops.ioctl`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn ioctl<T: Driver>(
    vdev: *mut bindings::vfio_device,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The device is open.
    let device = unsafe { Device::<T>::from_raw(vdev) };
    from_result(|| {
        if let Some(result) = T::ioctl(device, cmd, UserPtr::from_addr(arg)) {
            return result;
        }
        let _bracket = match cmd {
            uapi::IOCTL_RESET | uapi::IOCTL_HOT_RESET => T::bracket(device, MemoryChange::Reset)?,
            _ => None,
        };
        // SAFETY: The arguments are those that we got.
        Ok(unsafe { bindings::vfio_pci_core_ioctl(vdev, cmd, arg) })
    })
}

/// `vfio_device_ops.device_feature`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn device_feature<T: Driver>(
    vdev: *mut bindings::vfio_device,
    flags: u32,
    arg: *mut c_void,
    argsz: usize,
) -> c_int {
    // SAFETY: The device is open.
    let device = unsafe { Device::<T>::from_raw(vdev) };
    let call = FeatureCall {
        flags,
        arg: UserPtr::from_ptr(arg),
        argsz,
    };
    from_result(|| {
        if let Some(result) = T::feature(device, call) {
            return result;
        }
        let feature = T::core_feature(flags & uapi::FEATURE_MASK);
        let _bracket = match feature {
            uapi::FEATURE_LOW_POWER_ENTRY | uapi::FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP => {
                T::bracket(device, MemoryChange::LowPower)?
            }
            _ => None,
        };
        let flags = flags & !uapi::FEATURE_MASK | feature;
        // SAFETY: The arguments are those that we got, but for the feature.
        Ok(unsafe { bindings::vfio_pci_core_ioctl_feature(vdev, flags, arg, argsz) })
    })
}

/// `vfio_device_ops.write`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn write<T: Driver>(
    vdev: *mut bindings::vfio_device,
    buf: *const c_char,
    count: usize,
    pos: *mut bindings::loff_t,
) -> isize {
    from_result(|| {
        // SAFETY: The VFS passes a valid position; it is not negative.
        let position = unsafe { *pos } as u64;
        let _bracket = if position >> bindings::VFIO_PCI_OFFSET_SHIFT == CONFIG_REGION {
            let offset = position & !(CONFIG_REGION << bindings::VFIO_PCI_OFFSET_SHIFT);
            // SAFETY: The device is open.
            let device = unsafe { Device::<T>::from_raw(vdev) };
            T::bracket(device, MemoryChange::ConfigWrite { offset, count })?
        } else {
            None
        };
        // SAFETY: The arguments are those that we got.
        Ok(unsafe { bindings::vfio_pci_core_write(vdev, buf, count, pos) })
    })
}

/// `VFIO_PCI_CONFIG_REGION_INDEX`
const CONFIG_REGION: u64 = bindings::VFIO_PCI_CONFIG_REGION_INDEX as u64;

/// `vfio_device_ops.mmap`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn mmap<T: Driver>(
    vdev: *mut bindings::vfio_device,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    from_result(|| {
        // SAFETY: The device is open, and the VMA is being set up.
        to_result(unsafe { bindings::vfio_pci_core_mmap(vdev, vma) })?;
        // SAFETY: The VMA is being set up.
        let index = unsafe { (*vma).vm_pgoff } / REGION_PAGES;
        if index < NUM_BARS {
            // SAFETY: The device is open.
            let device = unsafe { Device::<T>::from_raw(vdev) };
            // SAFETY: The core has set it up as a mapping of this BAR.
            T::mmap_bar(device, index, unsafe { BarMapping::from_raw(vma) })?;
        }
        Ok(0)
    })
}
