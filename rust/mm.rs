// SPDX-License-Identifier: GPL-2.0

//! Mappings of an exporter's device memory into processes.
//!
//! Every mapping made here has a dma-buf file of exporter `T` as its `vm_file`; that is how a fault
//! finds the exporter. A mapping that was made through a device fd also keeps that fd's file open,
//! as `vm_private_data`. All of them are `VM_IO`, and `VM_PFNMAP` or `VM_MIXEDMAP`: see
//! [`Followers`].
//!
//! The state of a `struct vm_area_struct` is a type, and each type tells what is locked:
//!
//! - [`BarMapping`]: being set up by `mmap()` of a device fd; `mmap_lock` is held for writing.
//! - [`NewMapping`]: the same, with a dma-buf of `T` as its file.
//! - [`Fault`](fault::Fault): part of the address space is stable while one address is resolved,
//!   by the `mmap_lock` or by the lock of the VMA.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use crate::{
    bindings,
    compat,
    dma_buf::{
        DmaBuf,
        Exported,
        Exporter, //
    },
    fault, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};

/// How the CPU accesses mapped device memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CacheMode {
    /// `pgprot_noncached()`
    Noncached,
    /// `pgprot_writecombine()`
    WriteCombining,
}

/// What may follow the page frames of a mapping, to reach the memory past its page table entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Followers {
    /// Also containers of type1, which do not notice when the entries are removed: `VM_PFNMAP`.
    All,
    /// What MMU notifiers reach, such as KVM: `VM_MIXEDMAP`.
    Notified,
}

/// Whether [`CacheMode::WriteCombining`] is something else than [`CacheMode::Noncached`] here: an
/// x86 CPU needs a page attribute table for it.
pub fn has_write_combining() -> bool {
    // SAFETY: Has no preconditions.
    unsafe { bindings::kernel_ext_has_write_combining() }
}

/// The `vm_operations_struct` of the mappings of exporter `T` that are of one kind.
pub struct VmOps<T> {
    ops: bindings::vm_operations_struct,
    mode: CacheMode,
    followers: Followers,
    _exporter: PhantomData<T>,
}

// SAFETY: Never written.
unsafe impl<T> Sync for VmOps<T> {}

impl<T: Exporter> VmOps<T> {
    /// Makes the table; for a `static`.
    ///
    /// Faults are tried with higher orders first, if the kernel can have entries of these in such
    /// mappings, with that cache mode: see [`Block::insert`](fault::Block::insert).
    pub const fn build(mode: CacheMode, followers: Followers) -> Self {
        let mut ops: bindings::vm_operations_struct = pin_init::zeroed();
        ops.open = Some(open::<T>);
        ops.close = Some(close::<T>);
        ops.fault = Some(fault::fault::<T>);
        ops.map_pages = Some(fault::map_pages);
        let keeps_mode =
            matches!(mode, CacheMode::Noncached) || bindings::KERNEL_EXT_TRACKS_CACHE_MODES == 0;
        // Without blocks, `fork()` has no entries to remove: see `empty_original`.
        let may_have_blocks = compat::BLOCKS_ARE_SAFE || matches!(followers, Followers::All);
        if keeps_mode && may_have_blocks && cfg!(CONFIG_ARCH_SUPPORTS_PMD_PFNMAP) {
            ops.huge_fault = Some(fault::huge_fault::<T>);
        }
        Self {
            ops,
            mode,
            followers,
            _exporter: PhantomData,
        }
    }
}

/// `vm_operations_struct.open`: the mapping was copied, by fork or by a split.
///
/// # Safety
///
/// Called by the memory management for a VMA that [`PlacedMapping::install`] set up.
unsafe extern "C" fn open<T: Exporter>(vma: *mut bindings::vm_area_struct) {
    // SAFETY: By the requirements of this function.
    unsafe { empty_original(vma) };
    // SAFETY: The file of such a mapping is one of a dma-buf of `T`, and the mapping holds it.
    T::mapping_added(unsafe { Exported::from_file((*vma).vm_file) });
    // SAFETY: By the invariant of `NewMapping`: a file of which the original holds a reference, or
    // null.
    let device_file = unsafe { (*vma).vm_private_data }.cast::<bindings::file>();
    if !device_file.is_null() {
        // SAFETY: As above.
        unsafe { bindings::get_file(device_file) };
    }
}

/// Removes the entries of a mapping that `fork()` is about to copy, if it may have large ones. Both
/// processes fault anew.
///
/// `copy_huge_pmd()` reads an entry, and writes it to the child's table later without looking
/// again: one that was zapped meanwhile would come back to life in the child.
///
/// # Safety
///
/// Called by `vm_operations_struct.open`, for a VMA that is being made.
unsafe fn empty_original(copy: *mut bindings::vm_area_struct) {
    // SAFETY: By the requirements of this function; a copy has the operations of the original.
    let (may_be_huge, mm) = unsafe { ((*(*copy).vm_ops).huge_fault.is_some(), (*copy).vm_mm) };
    // SAFETY: The current task has its `mm` while it changes an address space.
    let own = unsafe { (*bindings::get_current()).mm };
    // A part of a mapping that is being split has the same `mm`.
    if !may_be_huge || mm == own {
        return;
    }
    // SAFETY: By the requirements of this function.
    let (start, end) = unsafe { bounds(copy) };
    if end - start < PAGE_SIZE << fault::PMD_ORDER {
        return;
    }
    // SAFETY: `fork()` holds the `mmap_lock` of the original for writing.
    let original = unsafe { bindings::find_vma(own, start) };
    if original.is_null() {
        return;
    }
    // SAFETY: A VMA, as the lock is held.
    let has_same_bounds = unsafe { bounds(original) } == (start, end);
    // SAFETY: As above; a VMA that is being made has its file.
    let has_same_file = unsafe { (*original).vm_file == (*copy).vm_file };
    if has_same_bounds && has_same_file {
        // SAFETY: As above. `fork()` has locked the VMA, so no fault makes an entry again.
        unsafe { compat::zap_special_vma_range(original, start, end - start) };
    }
}

/// The first address of a mapping, and the one after its last.
///
/// # Safety
///
/// `vma` is valid, and its bounds are stable.
#[inline(always)]
pub(crate) unsafe fn bounds(vma: *mut bindings::vm_area_struct) -> (usize, usize) {
    // SAFETY: By the requirements of this function.
    let bounds = unsafe { &(*vma).__bindgen_anon_1.__bindgen_anon_1 };
    (bounds.vm_start, bounds.vm_end)
}

/// `vm_operations_struct.close`: the mapping goes away.
///
/// # Safety
///
/// Called by the memory management for a VMA that [`PlacedMapping::install`] set up.
unsafe extern "C" fn close<T: Exporter>(vma: *mut bindings::vm_area_struct) {
    // SAFETY: As in `open`: the reference of the mapping is dropped after this.
    T::mapping_removed(unsafe { Exported::from_file((*vma).vm_file) });
    // SAFETY: See `open`.
    let device_file = unsafe { (*vma).vm_private_data }.cast::<bindings::file>();
    if !device_file.is_null() {
        // SAFETY: The mapping owns one reference. What the last one sets off is deferred by
        // `fput()` until no lock is held.
        unsafe { bindings::fput(device_file) };
    }
}

/// A mapping of a BAR that `mmap()` of a device fd is setting up.
///
/// One that is dropped stays the core's, as `vfio_pci_core_mmap()` left it. One that is adopted is
/// installed, and is the driver's no more:
///
/// ```
/// fn once<T: Exporter>(bar: BarMapping<'_>, file: &DmaBuf<T>, ops: &'static VmOps<T>) -> Result {
///     bar.adopt_and_install(file, ops)
/// }
/// ```
///
/// ```compile_fail,E0382
/// fn twice<T: Exporter>(bar: BarMapping<'_>, file: &DmaBuf<T>, ops: &'static VmOps<T>) -> Result {
///     bar.adopt_and_install(file, ops)?;
///     bar.adopt_and_install(file, ops)
/// }
/// ```
///
/// # Invariants
///
/// The VMA has the file of a VFIO PCI device fd, was accepted by `vfio_pci_core_mmap()`, and is not
/// yet visible to anybody; `mmap_lock` is held for writing.
pub struct BarMapping<'a>(NonNull<bindings::vm_area_struct>, PhantomData<&'a ()>);

impl BarMapping<'_> {
    /// # Safety
    ///
    /// The type invariants hold for `vma` during the lifetime of the new value.
    pub(crate) unsafe fn from_raw(vma: *mut bindings::vm_area_struct) -> Self {
        // INVARIANT: By the requirements of this function.
        // SAFETY: A valid VMA is not null.
        Self(unsafe { NonNull::new_unchecked(vma) }, PhantomData)
    }

    /// Where the mapping starts in the address space, pages: what `mmap()` was given.
    pub fn page_offset(&self) -> usize {
        // SAFETY: The VMA is ours.
        unsafe { (*self.0.as_ptr()).vm_pgoff }
    }

    /// Makes the mapping one of `dma_buf`, at the offset that it has. It goes on keeping the device
    /// open.
    ///
    /// # Errors
    ///
    /// `EINVAL`: the dma-buf has not the address space of the device fd, `ops` are not for
    /// [`Followers::All`], as the core has set the mapping up, or see [`NewMapping::place`]. The
    /// mapping is then to be refused.
    pub fn adopt_and_install<T: Exporter>(
        self,
        dma_buf: &DmaBuf<T>,
        ops: &'static VmOps<T>,
    ) -> Result {
        let vma = self.0.as_ptr();
        let file = dma_buf.file();
        // SAFETY: Both files are open, and their `f_mapping` does not change any more.
        let has_same_space = unsafe { (*(*vma).vm_file).f_mapping == (*file).f_mapping };
        if !has_same_space || ops.followers != Followers::All {
            return Err(EINVAL);
        }
        let mapping = NewMapping::<T> {
            vma: self.0,
            _exporter: PhantomData,
        };
        let page_offset = self.page_offset();
        mapping.check(page_offset)?;
        // SAFETY: `dma_buf` holds a reference.
        unsafe { bindings::get_file(file) };
        // SAFETY: The VMA is ours. The reference to the old file moves to `vm_private_data`, and
        // the new one to `vm_file`.
        unsafe { (*vma).vm_private_data = (*vma).vm_file.cast() };
        // SAFETY: As above.
        unsafe { (*vma).vm_file = file };
        // INVARIANT: `mapping` has a file of a dma-buf of `T` now.
        mapping.set_up(ops, page_offset);
        Ok(())
    }
}

/// A mapping that is being set up, with a dma-buf of exporter `T` as its file.
///
/// # Invariants
///
/// `vma` has the file of a dma-buf of `T`; it is not yet visible to anybody; `mmap_lock` is held
/// for writing. `vm_private_data` is null, or a file to which the VMA owns a reference.
pub struct NewMapping<'a, T> {
    vma: NonNull<bindings::vm_area_struct>,
    _exporter: PhantomData<fn(&'a T) -> &'a T>,
}

/// Proof that a [`NewMapping`] was installed: an [`Exporter`] cannot leave one half made.
///
/// ```
/// fn mmap<'a, T: Exporter>(
///     new: NewMapping<'a, T>,
///     ops: &'static VmOps<T>,
/// ) -> Result<Installed<'a>> {
///     Ok(new.place(0)?.install(ops))
/// }
/// ```
///
/// It cannot be installed where it was not checked to fit, and another mapping is no proof:
///
/// ```compile_fail,E0599
/// fn unchecked<'a, T: Exporter>(new: NewMapping<'a, T>, ops: &'static VmOps<T>) -> Installed<'a> {
///     new.install(ops)
/// }
/// ```
///
/// ```compile_fail,none
/// fn of_another<'a, 'b, T>(other: Installed<'b>, _: NewMapping<'a, T>) -> Installed<'a> {
///     other
/// }
/// ```
pub struct Installed<'a>(PhantomData<fn(&'a ()) -> &'a ()>);

impl<'a, T: Exporter> NewMapping<'a, T> {
    /// # Safety
    ///
    /// The type invariants hold for `vma`, but for `vm_private_data`, during `'a`.
    pub(crate) unsafe fn from_raw(vma: *mut bindings::vm_area_struct) -> Self {
        // SAFETY: The VMA is ours.
        unsafe { (*vma).vm_private_data = core::ptr::null_mut() };
        // INVARIANT: By the requirements of this function.
        Self {
            // SAFETY: A valid VMA is not null.
            vma: unsafe { NonNull::new_unchecked(vma) },
            _exporter: PhantomData,
        }
    }

    fn vma(&self) -> *mut bindings::vm_area_struct {
        self.vma.as_ptr()
    }

    /// Offset in the file, pages.
    pub fn page_offset(&self) -> usize {
        // SAFETY: The VMA is ours.
        unsafe { (*self.vma()).vm_pgoff }
    }

    /// Chooses page `page_offset` of the address space as the place of the mapping.
    ///
    /// # Errors
    ///
    /// `EINVAL`: it is not `MAP_SHARED`, does not end within the address space, or is one for page
    /// frames already (`VM_PFNMAP` and `VM_MIXEDMAP` exclude each other). `EACCES`: it may
    /// become writable, and the dma-buf is not open for writing. The kernel sees to that for a
    /// mapping of the dma-buf's own fd, but not for one that an importer's driver hands on
    /// (`dma_buf_mmap()`).
    pub fn place(self, page_offset: usize) -> Result<PlacedMapping<'a, T>> {
        self.check(page_offset)?;
        // SAFETY: The VMA is ours.
        if unsafe { bindings::kernel_ext_has_pfns(self.vma()) } {
            return Err(EINVAL);
        }
        Ok(PlacedMapping(self, page_offset))
    }

    /// Whether it is `MAP_SHARED`. (`VM_SHARED` is not set for a read-only file.)
    fn is_shared(&self) -> bool {
        // The constant is not to be had in Rust: it has the value of `VM_MAYEXEC` in Linux 7.2.
        // SAFETY: The VMA is ours.
        unsafe { bindings::kernel_ext_is_shared(self.vma()) }
    }

    fn check(&self, page_offset: usize) -> Result {
        // SAFETY: The VMA is ours.
        let (start, end) = unsafe { bounds(self.vma()) };
        let fits = page_offset
            .checked_add((end - start) >> PAGE_SHIFT)
            .is_some_and(|end| end <= usize::MAX >> PAGE_SHIFT);
        if !self.is_shared() || !fits {
            return Err(EINVAL);
        }
        // SAFETY: The VMA is ours and has a file.
        if unsafe { bindings::kernel_ext_exceeds_file(self.vma()) } {
            return Err(EACCES);
        }
        Ok(())
    }

    /// The rest of [`PlacedMapping::install`].
    fn set_up(self, ops: &'static VmOps<T>, page_offset: usize) {
        let vma = self.vma();
        // SAFETY: The VMA is ours; it is a mapping of `T`, as `ops` expects.
        unsafe { (*vma).vm_ops = &ops.ops };
        // SAFETY: The VMA is ours.
        unsafe { (*vma).vm_pgoff = page_offset };
        match ops.mode {
            // SAFETY: The VMA is ours.
            CacheMode::Noncached => unsafe { bindings::kernel_ext_set_noncached(vma) },
            // SAFETY: The VMA is ours.
            CacheMode::WriteCombining => unsafe { bindings::kernel_ext_set_write_combining(vma) },
        }
        match ops.followers {
            // SAFETY: The VMA is ours, and `mmap_lock` is held for writing.
            Followers::All => unsafe { bindings::kernel_ext_set_pfnmap_flags(vma) },
            // SAFETY: As above.
            Followers::Notified => unsafe { bindings::kernel_ext_set_mixedmap_flags(vma) },
        }
        // SAFETY: By the type invariant.
        T::mapping_added(unsafe { Exported::from_file((*vma).vm_file) });
    }
}

/// A [`NewMapping`] that is known to fit in its place in the address space.
pub struct PlacedMapping<'a, T>(NewMapping<'a, T>, usize);

impl<'a, T: Exporter> PlacedMapping<'a, T> {
    /// Makes it a mapping of device memory, of the kind of `ops`.
    pub fn install(self, ops: &'static VmOps<T>) -> Installed<'a> {
        self.0.set_up(ops, self.1);
        Installed(PhantomData)
    }
}
