// SPDX-License-Identifier: GPL-2.0

//! `vfio_device_ops` of a variant driver: its own operations, and the core's for the rest.
//!
//! C header: [`include/linux/vfio.h`](srctree/include/linux/vfio.h)

use super::{
    Device,
    MemoryChange,
    Operations, //
};
use crate::{
    bindings,
    compat::with_iommufd,
    mm::BarMapping,
    uaccess,
    uapi,
    vfio::{
        FeatureCall,
        Position, //
    },
    vfio_pci_core::{
        Bar,
        OpenCore,
        Opened, //
    }, //
};
use core::marker::PhantomData;
use kernel::{
    error::{
        from_result,
        to_result, //
    },
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// The operations of the devices of driver `T`, and the name under which it registers. For a
/// `static`: devices may outlive the registration.
pub struct Ops<T> {
    pub(crate) name: &'static CStr,
    pub(crate) table: bindings::vfio_device_ops,
    _driver: PhantomData<T>,
}

// SAFETY: Never written.
unsafe impl<T> Sync for Ops<T> {}

impl<T: Operations> Ops<T> {
    /// Makes the table. Virtual functions of the devices get the driver of that name.
    pub const fn build(name: &'static CStr) -> Self {
        Self {
            name,
            table: table::<T>(name),
            _driver: PhantomData,
        }
    }
}

const fn table<T: Operations>(name: &'static CStr) -> bindings::vfio_device_ops {
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

/// The device and its core in an operation that the VFIO core calls on an open device only.
///
/// # Safety
///
/// `vdev` is a device of driver `T` that is open for `'a`.
unsafe fn open<'a, T>(vdev: *mut bindings::vfio_device) -> (&'a Device<T>, &'a OpenCore) {
    // SAFETY: By the requirements of this function.
    let device = unsafe { Device::from_raw(vdev) };
    // CAST: The VFIO device is the first member of the core's.
    // SAFETY: As above.
    (device, unsafe { OpenCore::from_raw(vdev.cast()) })
}

/// Calls a function of the core that may change whether the device's memory is enabled.
///
/// The function reads its arguments, `len` bytes at `args`, before it changes anything. Faults must
/// not have to wait as long as user memory takes, so it is brought in first.
fn changing<T: Operations>(
    device: &Device<T>,
    open: &OpenCore,
    change: MemoryChange,
    (args, len): (UserPtr, usize),
    call: impl FnOnce() -> isize,
) -> Result<isize> {
    uaccess::prefault(args, len.min(MOST_ARGUMENTS));
    let guard = T::suspend(device, change)?;
    let result = call();
    if guard.is_some() {
        T::changed(device, open, change, result >= 0);
    }
    Ok(result)
}

/// More than the arguments of any such function take, bytes: the config space has 4 KiB.
const MOST_ARGUMENTS: usize = 4096;

/// `vfio_device_ops.open_device`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn open_device<T: Operations>(vdev: *mut bindings::vfio_device) -> c_int {
    from_result(|| {
        let core = vdev.cast::<bindings::vfio_pci_core_device>();
        // SAFETY: The VFIO core opens a registered device.
        to_result(unsafe { bindings::vfio_pci_core_enable(core) })?;
        // SAFETY: As above; enabled just now.
        unsafe { bindings::vfio_pci_core_finish_enable(core) };
        // SAFETY: Enabled just now; `close_device` takes the values back first.
        let opened = [(); 2].map(|()| unsafe { Opened::new(core) });
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
///
/// # Panics
///
/// If the driver keeps what `open_device` gave to it: that would be used after this.
unsafe extern "C" fn close_device<T: Operations>(vdev: *mut bindings::vfio_device) {
    // SAFETY: The VFIO core closes a device that it has opened.
    let device = unsafe { Device::<T>::from_raw(vdev) };
    let is_own = |opened: Opened| core::ptr::eq(opened.as_ptr(), device.core().as_ptr());
    let are_back = T::close_device(device).is_some_and(|opened| opened.into_iter().all(is_own));
    assert!(are_back, "the driver has kept the device open");
    // SAFETY: The values are gone, so nothing relies on the device being open.
    unsafe { bindings::vfio_pci_core_close_device(vdev) };
}

/// `vfio_device_ops.ioctl`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn ioctl<T: Operations>(
    vdev: *mut bindings::vfio_device,
    cmd: c_uint,
    arg: c_ulong,
) -> c_long {
    // SAFETY: The device is open.
    let (device, open) = unsafe { open::<T>(vdev) };
    from_result(|| {
        if let Some(result) = T::ioctl(device, cmd, UserPtr::from_addr(arg)) {
            return result;
        }
        // SAFETY: The arguments are those that we got.
        let call = || unsafe { bindings::vfio_pci_core_ioctl(vdev, cmd, arg) };
        match cmd {
            uapi::IOCTL_RESET => changing(
                device,
                open,
                MemoryChange::Reset,
                (UserPtr::from_addr(arg), 0),
                call,
            ),
            uapi::IOCTL_HOT_RESET => {
                let args = UserPtr::from_addr(arg);
                // The first word says how many bytes there are.
                let len = UserSlice::new(args, 4).reader().read::<u32>()? as usize;
                changing(device, open, MemoryChange::Reset, (args, len), call)
            }
            _ => Ok(call()),
        }
    })
}

/// `vfio_device_ops.device_feature`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn device_feature<T: Operations>(
    vdev: *mut bindings::vfio_device,
    flags: u32,
    arg: *mut c_void,
    argsz: usize,
) -> c_int {
    // SAFETY: The device is open.
    let (device, open) = unsafe { open::<T>(vdev) };
    let call = FeatureCall::new(flags, UserPtr::from_ptr(arg), argsz);
    from_result(|| {
        if let Some(result) = T::feature(device, open, call) {
            return result;
        }
        let feature = T::core_feature(call.number());
        let flags = flags & !uapi::FEATURE_MASK | feature;
        // SAFETY: The arguments are those that we got, but for the feature.
        let call = || unsafe { bindings::vfio_pci_core_ioctl_feature(vdev, flags, arg, argsz) };
        // A probe has no effect, and the core refuses all other operations of these features.
        let sets = flags & uapi::FEATURE_OPERATIONS == uapi::FEATURE_SET;
        match feature {
            uapi::FEATURE_LOW_POWER_ENTRY | uapi::FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP if sets => {
                // CAST: An errno, or an fd.
                let args = (UserPtr::from_ptr(arg), argsz);
                let result = changing(device, open, MemoryChange::LowPower, args, || {
                    call() as isize
                })?;
                // CAST: It was one before.
                Ok(result as c_int)
            }
            uapi::FEATURE_LOW_POWER_EXIT if sets => {
                let result = call();
                if result == 0 {
                    T::low_power_ended(device);
                }
                Ok(result)
            }
            _ => Ok(call()),
        }
    })
}

/// `vfio_device_ops.write`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn write<T: Operations>(
    vdev: *mut bindings::vfio_device,
    buf: *const c_char,
    count: usize,
    pos: *mut bindings::loff_t,
) -> isize {
    from_result(|| {
        // SAFETY: The VFS passes a valid position; it is not negative.
        let position = Position::of_file(unsafe { *pos } as u64);
        // SAFETY: The arguments are those that we got.
        let call = || unsafe { bindings::vfio_pci_core_write(vdev, buf, count, pos) };
        if position.region != CONFIG_REGION {
            return Ok(call());
        }
        let offset = position.offset;
        // SAFETY: The device is open.
        let (device, open) = unsafe { open::<T>(vdev) };
        changing(
            device,
            open,
            MemoryChange::ConfigWrite { offset, count },
            (UserPtr::from_ptr(buf.cast_mut().cast()), count),
            call,
        )
    })
}

/// `VFIO_PCI_CONFIG_REGION_INDEX`
const CONFIG_REGION: u64 = bindings::VFIO_PCI_CONFIG_REGION_INDEX as u64;

/// `vfio_device_ops.mmap`
///
/// # Safety
///
/// Called by the VFIO core for a device of driver `T`.
unsafe extern "C" fn mmap<T: Operations>(
    vdev: *mut bindings::vfio_device,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    from_result(|| {
        // SAFETY: The device is open, and the VMA is being set up.
        to_result(unsafe { bindings::vfio_pci_core_mmap(vdev, vma) })?;
        // SAFETY: The VMA is being set up.
        let position = Position::of_page(unsafe { (*vma).vm_pgoff });
        // CAST: The target is 64 bit.
        if let Some(bar) = Bar::new(position.region as usize) {
            // SAFETY: The device is open.
            let (device, open) = unsafe { open::<T>(vdev) };
            // SAFETY: The core has set it up as a mapping of this BAR.
            T::mmap_bar(device, open, bar, unsafe { BarMapping::from_raw(vma) })?;
        }
        Ok(0)
    })
}
