// SPDX-License-Identifier: GPL-2.0

//! What the VFIO PCI core knows of a device.
//!
//! - [`Core`]: the device between its `init` and its `release`, open or not.
//! - [`OpenCore`]: the same while the device is open: it has its config space and its BARs.
//! - [`Opened`]: what keeps it open. The driver gets two per open and gives them back to close.
//! - [`MemoryEnabled`]: proof that an open device decodes accesses to its BARs.
//! - [`PfnRange`]: page frames of a BAR of such a device; nothing else can be mapped.
//!
//! C header: [`include/linux/vfio_pci_core.h`](srctree/include/linux/vfio_pci_core.h)

use crate::{
    address_space::AddressSpace,
    bindings, //
};
use core::{
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    types::Opaque, //
};

/// `PCI_D3hot`, which has a type of its own in C.
const PCI_D3HOT: c_int = 3;

/// How many BARs a PCI function has.
pub const NUM_BARS: usize = bindings::PCI_STD_NUM_BARS as usize;

/// Pages of the VFIO device fd's offset space that each region occupies
/// (`VFIO_PCI_INDEX_TO_OFFSET(1) >> PAGE_SHIFT`).
pub const REGION_PAGES: usize = 1 << (bindings::VFIO_PCI_OFFSET_SHIFT as usize - PAGE_SHIFT);

/// The index of a BAR. Nothing else can index the arrays of the core:
///
/// ```
/// const FIRST: Bar = Bar::ALL[0];
/// ```
///
/// ```compile_fail,E0423
/// const NINTH: Bar = Bar(8);
/// ```
///
/// # Invariants
///
/// Below [`NUM_BARS`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bar(usize);

impl Bar {
    /// All BARs, in order.
    pub const ALL: [Self; NUM_BARS] = [Self(0), Self(1), Self(2), Self(3), Self(4), Self(5)];

    /// The BAR with that index; `None` if a function has no so many.
    #[inline]
    pub fn new(index: usize) -> Option<Self> {
        // INVARIANT: Checked.
        (index < NUM_BARS).then_some(Self(index))
    }

    /// The index.
    #[inline]
    pub fn index(self) -> usize {
        self.0
    }
}

/// The memory of a BAR.
#[derive(Clone, Copy)]
pub struct BarMemory {
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

/// A `struct vfio_pci_core_device` between its `init` and its `release`.
///
/// # Invariants
///
/// It has a reference to its PCI device.
#[repr(transparent)]
pub struct Core(Opaque<bindings::vfio_pci_core_device>);

// SAFETY: What the methods touch is constant as long as the value exists, or is a flag that the
// kernel itself reads without a lock.
unsafe impl Send for Core {}
// SAFETY: As above.
unsafe impl Sync for Core {}

impl Core {
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::vfio_pci_core_device {
        self.0.get()
    }

    #[inline]
    pub(crate) fn pdev(&self) -> *mut bindings::pci_dev {
        // SAFETY: Set once, by `vfio_pci_core_init_dev()`.
        unsafe { (*self.as_ptr()).pdev }
    }

    /// How much of the device fd's offset space the BAR takes, pages; 0 when there is no such BAR.
    pub fn bar_pages(&self, bar: Bar) -> usize {
        let pages = self.resource(bar).len.div_ceil(PAGE_SIZE as u64);
        // CAST: A BAR is far below 2^63 pages, and the target is 64 bit.
        pages as usize
    }

    #[inline]
    fn resource(&self, bar: Bar) -> BarMemory {
        // SAFETY: By the type invariants. Resources are constant while a driver is bound.
        let (start, end) = unsafe {
            let resource = &raw const (*self.pdev()).resource[bar.index()];
            ((*resource).start, (*resource).end)
        };
        // As `pci_resource_len()`, in the arithmetic of C.
        let len = if end == 0 {
            0
        } else {
            end.wrapping_sub(start).wrapping_add(1)
        };
        BarMemory { start, len }
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
        // SAFETY: A NUL-terminated string that lives as long as the PCI device.
        unsafe { CStr::from_char_ptr(name) }
    }

    /// Where the capability is in the config space, bytes.
    pub fn capability(&self, capability: Capability) -> Option<u64> {
        // SAFETY: By the type invariant.
        let offset = unsafe { bindings::pci_find_capability(self.pdev(), capability as c_int) };
        (offset != 0).then_some(offset.into())
    }

    /// Whether the device answers to reads of its config space. `pci_device_is_present()`
    pub fn is_present(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { bindings::pci_device_is_present(self.pdev()) }
    }

    /// Whether memory is enabled in the device itself, whatever its owner sees of the register.
    pub fn decodes_memory(&self) -> bool {
        let mut command = 0;
        // SAFETY: By the type invariant.
        let failed = unsafe {
            bindings::pci_read_config_word(
                self.pdev(),
                bindings::PCI_COMMAND as c_int,
                &mut command,
            )
        };
        // SAFETY: As above. Virtual functions have no such bit.
        let has_no_bit = unsafe { (*self.pdev()).no_command_memory() } != 0;
        // A device that does not answer reads as all ones.
        let answers = failed == 0 && command != u16::MAX;
        has_no_bit || answers && u32::from(command) & bindings::PCI_COMMAND_MEMORY != 0
    }

    /// Whether the owner lets the device sleep (`VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY`).
    #[inline]
    pub fn is_in_low_power(&self) -> bool {
        // SAFETY: A flag in a storage unit of its own.
        unsafe { (&raw const (*self.as_ptr()).pm_runtime_engaged).read_volatile() }
    }

    /// The address space that all mappings of the device live in, which may outlive the device.
    pub fn address_space(&self) -> AddressSpace {
        // SAFETY: The device holds its inode, and pins the file system, until it is released.
        unsafe { AddressSpace::new((*self.as_ptr()).vdev.inode) }
    }
}

/// A [`Core`] whose device is open.
///
/// # Invariants
///
/// `vfio_pci_core_enable()` succeeded, and `vfio_pci_core_disable()` is not called as long as a
/// reference exists.
#[repr(transparent)]
pub struct OpenCore(Core);

impl Deref for OpenCore {
    type Target = Core;

    #[inline]
    fn deref(&self) -> &Core {
        &self.0
    }
}

impl OpenCore {
    /// # Safety
    ///
    /// The type invariants hold for `core` during `'a`.
    pub(crate) unsafe fn from_raw<'a>(core: *mut bindings::vfio_pci_core_device) -> &'a Self {
        // CAST: `Self` is a transparent wrapper.
        // SAFETY: By the requirements of this function.
        unsafe { &*core.cast() }
    }

    /// Whether a BAR is memory that processes may map and that the core has claimed.
    #[inline]
    fn is_mappable(&self, bar: Bar) -> bool {
        // SAFETY: By the type invariants this does not change.
        unsafe { (*self.as_ptr()).bar_mmap_supported[bar.index()] }
    }

    /// The memory of a BAR.
    ///
    /// # Errors
    ///
    /// `ENODEV` when it is no memory, smaller than a page with neighbours, or when the core could
    /// not claim it.
    pub fn bar(&self, bar: Bar) -> Result<BarMemory> {
        // SAFETY: By the type invariants this does not change.
        let map = unsafe { (*self.as_ptr()).barmap[bar.index()] };
        if !self.is_mappable(bar) || map.is_null() || from_err_ptr(map).is_err() {
            return Err(ENODEV);
        }
        Ok(self.resource(bar))
    }

    /// Proof that the device decodes accesses to its BARs: memory enabled, in D0, not in low power.
    ///
    /// What disables memory closes the gate first, so the proof holds inside the gate.
    #[inline]
    pub fn memory_enabled(&self) -> Option<MemoryEnabled<'_>> {
        let enabled = !self.is_in_low_power()
            // SAFETY: The device is open. The function reads two words that change without a lock.
            && unsafe { bindings::__vfio_pci_memory_enabled(self.as_ptr()) };
        enabled.then_some(MemoryEnabled(self))
    }

    /// Whether the device is in D3hot because its owner has asked for that.
    ///
    /// In low power the kernel chooses the state. It raises the device first, and leaves it in D0
    /// when low power ends.
    pub fn is_asleep(&self) -> bool {
        // SAFETY: By the type invariants. The core may write the word meanwhile.
        let state = unsafe { (&raw const (*self.pdev()).current_state).read_volatile() };
        !self.is_in_low_power() && state >= PCI_D3HOT
    }
}

/// Keeps a device open. The core does not close it before the driver has given this back.
///
/// There are two for each open, one for code that sleeps and one for code that does not. The core
/// hands them out, and what one gives access to ends with it:
///
/// ```
/// fn pages(opened: &Opened) -> Option<PfnRange<'_>> {
///     opened.memory_enabled()?.pfns(Bar::ALL[0], 0, 1)
/// }
/// ```
///
/// ```compile_fail,E0515
/// fn pages_of_a_closed_device(opened: Opened) -> Option<PfnRange<'static>> {
///     opened.memory_enabled()?.pfns(Bar::ALL[0], 0, 1)
/// }
/// ```
///
/// ```compile_fail,E0507
/// fn another(opened: &Opened) -> Opened {
///     *opened
/// }
/// ```
///
/// # Invariants
///
/// Those of [`OpenCore`] hold for the pointer as long as the value exists.
pub struct Opened(NonNull<OpenCore>);

// SAFETY: `OpenCore` is `Sync`, and the value may be dropped on any thread.
unsafe impl Send for Opened {}
// SAFETY: As above.
unsafe impl Sync for Opened {}

impl Opened {
    /// # Safety
    ///
    /// The core has enabled `core` and does not disable it before the value is gone.
    pub(crate) unsafe fn new(core: *mut bindings::vfio_pci_core_device) -> Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: A valid device is not null.
        Self(unsafe { NonNull::new_unchecked(core.cast()) })
    }
}

impl Deref for Opened {
    type Target = OpenCore;

    #[inline]
    fn deref(&self) -> &OpenCore {
        // SAFETY: By the type invariants.
        unsafe { self.0.as_ref() }
    }
}

/// Proof that the memory of an open device is enabled.
pub struct MemoryEnabled<'a>(&'a OpenCore);

impl<'a> MemoryEnabled<'a> {
    /// The device.
    #[inline]
    pub(crate) fn core(&self) -> &'a OpenCore {
        self.0
    }

    /// `count` page frames from `first` on, at least one; `None` unless all of them are in the BAR.
    #[inline(always)]
    pub fn pfns(&self, bar: Bar, first: usize, count: usize) -> Option<PfnRange<'a>> {
        let resource = self.0.resource(bar);
        // CAST: PFNs fit the machine word.
        let start = (resource.start >> PAGE_SHIFT) as usize;
        // CAST: As above. The last page may be a partial one, without neighbours.
        let pages = resource.len.div_ceil(PAGE_SIZE as u64) as usize;
        let skipped = first.wrapping_sub(start);
        let inside = skipped < pages && count != 0 && count <= pages - skipped;
        // INVARIANT: Checked.
        (inside && self.0.is_mappable(bar)).then_some(PfnRange {
            first,
            count,
            core: self.0,
        })
    }
}

/// Page frames of a BAR that may be mapped at present. They come from the BAR only:
///
/// ```compile_fail,E0451
/// fn any_memory(core: &OpenCore) -> PfnRange<'_> {
///     PfnRange { first: 0, count: 1, core }
/// }
/// ```
///
/// # Invariants
///
/// They are of a mappable BAR of `core`, whose memory was enabled when it was asked.
#[derive(Clone, Copy)]
pub struct PfnRange<'a> {
    first: usize,
    count: usize,
    core: &'a OpenCore,
}

impl PfnRange<'_> {
    /// Whether `file` is one whose mappings are in the address space of the device.
    ///
    /// # Safety
    ///
    /// `file` is valid.
    #[inline(always)]
    pub(crate) unsafe fn is_reached_by_zaps_of(&self, file: *mut bindings::file) -> bool {
        // SAFETY: The device has its inode; `file` is valid.
        unsafe { (*file).f_mapping == (*(*self.core.as_ptr()).vdev.inode).i_mapping }
    }

    /// The first page frame.
    #[inline]
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// How many there are.
    #[inline]
    pub(crate) fn count(&self) -> usize {
        self.count
    }
}
