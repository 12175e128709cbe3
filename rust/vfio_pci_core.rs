// SPDX-License-Identifier: GPL-2.0

//! A VFIO PCI device of the core, with the data of a variant driver behind it.
//!
//! [`Core`] is what the C core knows of the device. [`Device`] is one allocation that begins with
//! it and goes on with the driver's own data; `struct vfio_device` counts the references to it.
//!
//! C header: [`include/linux/vfio_pci_core.h`](srctree/include/linux/vfio_pci_core.h)

use crate::{
    bindings,
    compat::raw_try_init,
    errors,
    pci,
    rwsem::{
        ReadGuard,
        RwSemaphore, //
    },
    vfio,
    wait::Wait, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        from_result,
        to_result, //
    },
    page::PAGE_SHIFT,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

/// How many BARs a PCI function has.
pub const NUM_BARS: usize = 6;

/// Pages of the VFIO device fd's offset space that each region occupies
/// (`VFIO_PCI_INDEX_TO_OFFSET(1) >> PAGE_SHIFT`).
pub const REGION_PAGES: usize = 1 << (bindings::VFIO_PCI_OFFSET_SHIFT as usize - PAGE_SHIFT);

/// A `struct vfio_pci_core_device` between its `init` and its `release`.
///
/// # Invariants
///
/// It has a reference to its PCI device.
#[repr(transparent)]
pub struct Core(Opaque<bindings::vfio_pci_core_device>);

// SAFETY: What the methods touch is constant while the device is bound or open, or is protected by
// `memory_lock`.
unsafe impl Send for Core {}
// SAFETY: As above.
unsafe impl Sync for Core {}

/// A BAR of memory that the core has claimed.
#[derive(Clone, Copy)]
pub struct Bar {
    /// Physical address of the first byte.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// A PCI capability, by its ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Capability {
    /// Power management.
    Pm = bindings::PCI_CAP_ID_PM,
    /// PCI Express.
    Express = bindings::PCI_CAP_ID_EXP,
    /// Advanced features.
    Af = bindings::PCI_CAP_ID_AF,
}

impl Core {
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::vfio_pci_core_device {
        self.0.get()
    }

    fn pdev(&self) -> *mut bindings::pci_dev {
        // SAFETY: Set once, by `vfio_pci_core_init_dev()`.
        unsafe { (*self.as_ptr()).pdev }
    }

    /// The BAR with that index.
    ///
    /// # Errors
    ///
    /// `ENODEV` when there is none, when it is no memory or smaller than a page with neighbours, or
    /// when the core could not claim it. To be called while the device is open.
    pub fn bar(&self, index: usize) -> Result<Bar> {
        if index >= NUM_BARS {
            return Err(ENODEV);
        }
        // SAFETY: Constant while the device is open; the index is in bounds.
        let mappable = unsafe { (*self.as_ptr()).bar_mmap_supported[index] };
        // SAFETY: As above.
        let map = unsafe { (*self.as_ptr()).barmap[index] };
        if !mappable || map.is_null() || from_err_ptr(map).is_err() {
            return Err(ENODEV);
        }
        Ok(self.resource(index))
    }

    /// How much of the device fd's offset space the BAR takes, pages; 0 when there is no such BAR.
    pub fn bar_pages(&self, index: usize) -> usize {
        let pages = self.resource(index).len.div_ceil(1 << PAGE_SHIFT);
        // CAST: A BAR is far below 2^63 pages, and the target is 64 bit.
        pages as usize
    }

    fn resource(&self, index: usize) -> Bar {
        // SAFETY: By the type invariant; indices past its resources read as empty.
        let start = unsafe { bindings::pci_resource_start(self.pdev(), index as c_int) };
        // SAFETY: As above.
        let len = unsafe { bindings::pci_resource_len(self.pdev(), index as c_int) };
        Bar { start, len }
    }

    /// The number in the name of the VFIO device: 3 for `/dev/vfio/devices/vfio3`.
    pub fn vfio_index(&self) -> u32 {
        // SAFETY: Constant since the device was allocated.
        unsafe { (*self.as_ptr()).vdev.index }
    }

    /// The PCI address, `DDDD:BB:DD.F`.
    pub fn pci_name(&self) -> &CStr {
        // SAFETY: By the type invariant; the name does not change.
        let name = unsafe { bindings::dev_name(&(*self.pdev()).dev) };
        // SAFETY: A NUL-terminated string that lives as long as the device.
        unsafe { CStr::from_char_ptr(name) }
    }

    #[inline]
    fn memory_lock(&self) -> &RwSemaphore {
        // SAFETY: Initialised by `vfio_pci_core_init_dev()`, lives as long as `self`.
        unsafe { RwSemaphore::from_raw(&raw mut (*self.as_ptr()).memory_lock) }
    }

    /// Keeps the state of the device's memory as it is: the core does not change it meanwhile.
    #[inline]
    pub fn hold_memory(&self) -> MemoryHold<'_> {
        MemoryHold {
            core: self,
            _guard: self.memory_lock().read(),
        }
    }

    /// As [`Core::hold_memory`], if nobody changes that state, or waits to.
    #[inline]
    pub fn try_hold_memory(&self) -> Option<MemoryHold<'_>> {
        Some(MemoryHold {
            core: self,
            _guard: self.memory_lock().try_read()?,
        })
    }

    /// Waits until nobody changes that state.
    ///
    /// # Errors
    ///
    /// As [`RwSemaphore::read_until`].
    pub fn wait_for_memory(&self, wait: Wait) -> Result {
        self.memory_lock().read_until(wait).map(drop)
    }

    /// Whether the device answers on its BARs: memory enabled, in D0, not in low power.
    ///
    /// Without [`Core::hold_memory`] the answer holds only as long as nobody changes it.
    #[inline]
    pub fn memory_answers(&self, opened: &Opened) -> bool {
        let core = self.as_ptr();
        if opened.0.as_ptr() != core {
            return false;
        }
        // SAFETY: A flag in a storage unit of its own; who must not miss a change holds the memory.
        let asleep = unsafe { (&raw const (*core).pm_runtime_engaged).read_volatile() };
        // SAFETY: The device is open, as `opened` proves. The function reads two words, of which
        // the same is true.
        !asleep && unsafe { bindings::__vfio_pci_memory_enabled(core) }
    }

    /// Where the capability is in the config space, bytes.
    pub fn capability(&self, capability: Capability) -> Option<u64> {
        // SAFETY: By the type invariant.
        let offset = unsafe { bindings::pci_find_capability(self.pdev(), capability as c_int) };
        (offset != 0).then_some(offset.into())
    }

    /// How peers reach the memory of a BAR; `None` without `CONFIG_PCI_P2PDMA`.
    ///
    /// To be called while the device is bound.
    pub(crate) fn p2p_provider(&self, bar: usize) -> Option<NonNull<bindings::p2pdma_provider>> {
        // SAFETY: Initialised by `vfio_pci_core_init_dev()`.
        NonNull::new(unsafe { bindings::pcim_p2pdma_provider(self.pdev(), bar as c_int) })
    }

    /// Removes the page table entries of all mappings of a part of the device's offset space.
    ///
    /// `unmap_mapping_range()`. `first` and `count` are pages; `count` is not 0. New faults are
    /// not kept out: that is the caller's business.
    pub fn zap(&self, first: usize, count: usize) {
        // CAST: Page offsets of this address space are below 2^63 >> PAGE_SHIFT.
        let start = (first << PAGE_SHIFT) as bindings::loff_t;
        let len = (count << PAGE_SHIFT) as bindings::loff_t;
        // SAFETY: The inode lives as long as the `vfio_device`.
        unsafe { bindings::unmap_mapping_range(self.address_space(), start, len, 1) };
    }

    /// The address space that all mappings of the device live in.
    pub(crate) fn address_space(&self) -> *mut bindings::address_space {
        // SAFETY: The inode lives as long as the `vfio_device`.
        unsafe { (*(*self.as_ptr()).vdev.inode).i_mapping }
    }
}

/// Proof that the core has a device open: it has its config space, and its BARs claimed.
///
/// The driver gets it when the device is opened, and the core does not close the device before the
/// driver has given it back.
pub struct Opened(NonNull<bindings::vfio_pci_core_device>);

// SAFETY: The pointer only tells which device it is for.
unsafe impl Send for Opened {}
// SAFETY: As above.
unsafe impl Sync for Opened {}

impl Opened {
    /// # Safety
    ///
    /// The core has enabled `core` and does not disable it before the token is gone.
    pub(crate) unsafe fn new(core: *mut bindings::vfio_pci_core_device) -> Self {
        // SAFETY: A valid device is not null.
        Self(unsafe { NonNull::new_unchecked(core) })
    }
}

/// Holds the state of the device's memory; see [`Core::hold_memory`].
pub struct MemoryHold<'a> {
    core: &'a Core,
    _guard: ReadGuard<'a>,
}

/// Proof that the device's memory answers, as long as the [`MemoryHold`] lasts.
pub struct MemoryEnabled<'a>(PhantomData<&'a ()>);

impl MemoryHold<'_> {
    /// The proof, if the device answers on its BARs; see [`Core::memory_answers`].
    #[inline]
    pub fn enabled(&self, opened: &Opened) -> Option<MemoryEnabled<'_>> {
        self.core
            .memory_answers(opened)
            .then_some(MemoryEnabled(PhantomData))
    }
}

/// A VFIO PCI device with the data of its driver.
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
    /// What the C core knows of the device.
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

impl<T: vfio::Driver> Device<T> {
    /// `vfio_device_ops.init`: the core's part, then the driver's data.
    ///
    /// # Safety
    ///
    /// Called by `_vfio_alloc_device()` for an allocation of the size of `Self`.
    pub(crate) unsafe extern "C" fn init(vdev: *mut bindings::vfio_device) -> c_int {
        from_result(|| {
            // SAFETY: `vdev` begins a zeroed `vfio_pci_core_device`.
            to_result(unsafe { bindings::vfio_pci_core_init_dev(vdev) })?;
            // SAFETY: `core` is initialised just now, and nobody else knows of it.
            let core = unsafe { &*vdev.cast::<Core>() };
            // `vfio_pci_core` keeps no reference, for it does not outlive the binding. We do, and
            // the PCI device may be removed meanwhile.
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
    pub(crate) unsafe extern "C" fn release(vdev: *mut bindings::vfio_device) {
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

/// The PCI side of a VFIO variant driver.
pub struct PciGlue<T>(PhantomData<T>);

// SAFETY: The functions do what the C variant drivers and vfio-pci do; see there.
unsafe impl<T: vfio::Driver> pci::Driver for PciGlue<T> {
    const NAME: &'static CStr = T::NAME;
    const ERROR_HANDLERS: &'static bindings::pci_error_handlers = &errors::handlers::<T>();

    unsafe extern "C" fn probe(
        pdev: *mut bindings::pci_dev,
        _id: *const bindings::pci_device_id,
    ) -> c_int {
        from_result(|| {
            // SAFETY: `pdev` is being probed.
            let dev = unsafe { &raw mut (*pdev).dev };
            let size = core::mem::size_of::<Device<T>>();
            // SAFETY: `pdev` is being bound to this driver.
            let ops = unsafe { pci::Registration::<Self>::vfio_ops(pdev) };
            // SAFETY: `init` fills an allocation of that size.
            let vdev = unsafe { bindings::_vfio_alloc_device(size, dev, ops) };
            let vdev = from_err_ptr(vdev)?;
            // CAST: The VFIO device is the first member of the core's.
            let core = vdev.cast::<bindings::vfio_pci_core_device>();
            // SAFETY: The core wants its device as the driver data.
            unsafe { bindings::dev_set_drvdata(dev, core.cast()) };
            // SAFETY: `core` was initialised by `Device::init`.
            to_result(unsafe { bindings::vfio_pci_core_register_device(core) })
                // SAFETY: Drops the reference of `_vfio_alloc_device()`; not registered.
                .inspect_err(|_| unsafe { bindings::put_device(&raw mut (*vdev).device) })?;
            // SAFETY: `pdev` is being bound to this driver.
            let debugfs = unsafe { pci::Registration::<Self>::debugfs(pdev) };
            // SAFETY: Made above; `remove` drops the reference.
            T::bound(unsafe { Device::from_raw(vdev) }, debugfs);
            Ok(0)
        })
    }

    unsafe extern "C" fn remove(pdev: *mut bindings::pci_dev) {
        // SAFETY: `probe` succeeded.
        let core = unsafe { core_of(pdev) };
        // SAFETY: We hold the reference of `probe`.
        let device = unsafe { Device::from_raw(&raw mut (*core).vdev) };
        T::unbinding(device);
        // SAFETY: Registered by `probe`; waits until the device is closed.
        unsafe { bindings::vfio_pci_core_unregister_device(core) };
        T::unbound(device);
        // SAFETY: Drops the reference of `_vfio_alloc_device()`.
        unsafe { bindings::put_device(&raw mut (*core).vdev.device) };
    }

    unsafe extern "C" fn sriov_configure(pdev: *mut bindings::pci_dev, count: c_int) -> c_int {
        // SAFETY: `probe` succeeded, and `remove` was not called.
        let core = unsafe { core_of(pdev) };
        // SAFETY: Registered by `probe`; the caller has locked the device.
        unsafe { bindings::vfio_pci_core_sriov_configure(core, count) }
    }
}

/// The core's device of a PCI device that our driver has bound.
///
/// # Safety
///
/// `probe` succeeded for `pdev`, and `remove` is not over.
unsafe fn core_of(pdev: *mut bindings::pci_dev) -> *mut bindings::vfio_pci_core_device {
    // SAFETY: By the requirements of this function.
    unsafe { bindings::dev_get_drvdata(&raw mut (*pdev).dev) }.cast()
}

/// A registered VFIO PCI driver.
pub type Registration<T> = pci::Registration<PciGlue<T>>;

/// Registers the driver `T` of `module` on the PCI bus, under the name that goes with `ops`.
///
/// # Errors
///
/// `EBUSY`: another driver has the name.
pub fn register<T: vfio::Driver>(
    module: &'static ThisModule,
    ops: &'static vfio::Ops<T>,
) -> impl PinInit<Registration<T>, Error> {
    Registration::<T>::new_in(module, ops.name, &ops.table)
}

/// A reference to a device that keeps its memory, but not the device open or bound.
pub type DeviceRef<T> = ARef<Device<T>>;
