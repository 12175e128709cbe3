// SPDX-License-Identifier: GPL-2.0

//! Faults on the mappings of an exporter's device memory.
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
    mm::bounds,
    page_table::{
        self,
        LockedTable, //
    },
    trace,
    vfio_pci_core::PfnRange,
    wait::Wait, //
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

/// What became of a fault. `vm_fault_t`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The page table entry is there (`VM_FAULT_NOPAGE`).
    Mapped,
    /// Somebody was in the way; the access is to be tried again (`VM_FAULT_NOPAGE`).
    Retry,
    /// A smaller order may work (`VM_FAULT_FALLBACK`). With order 0: [`Outcome::SigBus`].
    Fallback,
    /// The access fails (`VM_FAULT_SIGBUS`).
    SigBus,
    /// No memory for page tables (`VM_FAULT_OOM`).
    OutOfMemory,
    /// The memory may be back after [`Exporter::wait`]; the access is to be tried again then
    /// (`VM_FAULT_RETRY`).
    Unavailable,
}

impl Outcome {
    /// What a function that did not map says.
    #[cold]
    fn of_failure(raw: bindings::vm_fault_t) -> Self {
        match raw {
            bindings::vm_fault_reason_VM_FAULT_OOM => Outcome::OutOfMemory,
            bindings::vm_fault_reason_VM_FAULT_FALLBACK => Outcome::Fallback,
            _ => Outcome::SigBus,
        }
    }

    fn as_raw(self) -> bindings::vm_fault_t {
        match self {
            Outcome::Mapped | Outcome::Retry => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Outcome::Unavailable => bindings::vm_fault_reason_VM_FAULT_RETRY,
            Outcome::Fallback => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            Outcome::SigBus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Outcome::OutOfMemory => bindings::vm_fault_reason_VM_FAULT_OOM,
        }
    }
}

/// `vm_operations_struct.map_pages`: maps nothing; `fault` maps as many pages as it likes.
///
/// Without this function the kernel would drop the lock of the VMA before each `fault`, and try
/// again with `mmap_lock` (`vmf_can_call_fault()`).
///
/// # Safety
///
/// Called by the memory management.
pub(crate) unsafe extern "C" fn map_pages(
    _vmf: *mut bindings::vm_fault,
    _start: c_ulong,
    _end: c_ulong,
) -> bindings::vm_fault_t {
    0
}

/// `vm_operations_struct.fault`
///
/// # Safety
///
/// Called by the memory management for a VMA that
/// [`PlacedMapping::install`](crate::mm::PlacedMapping::install) set up.
pub(crate) unsafe extern "C" fn fault<T: Exporter>(
    vmf: *mut bindings::vm_fault,
) -> bindings::vm_fault_t {
    // SAFETY: As for `resolve`.
    match unsafe { resolve::<T>(vmf, 0) } {
        // The kernel does not expect it here.
        bindings::vm_fault_reason_VM_FAULT_FALLBACK => Outcome::SigBus.as_raw(),
        outcome => outcome,
    }
}

/// `vm_operations_struct.huge_fault`
///
/// # Safety
///
/// As for [`fault`].
pub(crate) unsafe extern "C" fn huge_fault<T: Exporter>(
    vmf: *mut bindings::vm_fault,
    order: c_uint,
) -> bindings::vm_fault_t {
    match order {
        // SAFETY: As for `resolve`.
        PMD_ORDER => unsafe { resolve::<T>(vmf, PMD_ORDER) },
        #[cfg(CONFIG_ARCH_SUPPORTS_PUD_PFNMAP)]
        // SAFETY: As above.
        PUD_ORDER => unsafe { resolve::<T>(vmf, PUD_ORDER) },
        _ => Outcome::Fallback.as_raw(),
    }
}

/// Resolves a fault. Inlined, so that each caller has the code for its order.
///
/// # Safety
///
/// As for [`fault`].
#[inline(always)]
unsafe fn resolve<T: Exporter>(vmf: *mut bindings::vm_fault, order: u32) -> bindings::vm_fault_t {
    if trace::buffer_fault_enabled() {
        // SAFETY: By the requirements of this function.
        return unsafe { resolve_traced::<T>(vmf, order) };
    }
    // SAFETY: As above.
    let (exported, fault) = unsafe { faulting::<T>(vmf, order) };
    match T::fault(exported, &fault) {
        // SAFETY: As above. `exported` and `fault` are not used any more.
        Outcome::Unavailable => unsafe { wait::<T>(vmf) },
        outcome => outcome.as_raw(),
    }
}

/// [`resolve`] with the tracepoint enabled. Out of line, so that the other keeps nothing for it.
///
/// # Safety
///
/// As for [`fault`].
#[cold]
#[inline(never)]
unsafe fn resolve_traced<T: Exporter>(
    vmf: *mut bindings::vm_fault,
    order: u32,
) -> bindings::vm_fault_t {
    // SAFETY: By the requirements of this function.
    let (exported, fault) = unsafe { faulting::<T>(vmf, order) };
    let outcome = T::fault(exported, &fault);
    let page = fault.block().map(|block| block.page_offset());
    // CAST: There are few outcomes.
    trace::buffer_fault(exported.device_name(), page, order, outcome as u32);
    match outcome {
        // SAFETY: As above. `exported` and `fault` are not used any more.
        Outcome::Unavailable => unsafe { wait::<T>(vmf) },
        outcome => outcome.as_raw(),
    }
}

/// Waits until a fault may be tried again; if possible without the lock that the fault holds, so
/// that nobody who changes the address space waits along with it.
///
/// The caller of the fault looks for signals when it is told to try again without that lock, and
/// only then. Of these, user space takes any; an access by the kernel would be made again with the
/// signal still pending, so its wait ends at death only.
///
/// # Safety
///
/// As for [`fault`]. The VMA, its file and what depends on them may be gone afterwards.
#[cold]
#[inline(never)]
unsafe fn wait<T: Exporter>(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
    // SAFETY: By the requirements of this function.
    let flags = unsafe { (*vmf).flags };
    let has = |flag| flags & flag != 0;
    if has(bindings::fault_flag_FAULT_FLAG_RETRY_NOWAIT) {
        // With the lock held, as the caller expects.
        return Outcome::Unavailable.as_raw();
    }
    // The file keeps the exporter, the device and this module, when the mapping does so no more.
    // SAFETY: The file of such a mapping is one of a dma-buf of `T`; the mapping has a reference.
    let dma_buf = unsafe { DmaBuf::<T>::from_file((*(*vmf).__bindgen_anon_1.vma).vm_file) };
    if !has(bindings::fault_flag_FAULT_FLAG_ALLOW_RETRY) {
        // The caller tries again of its own accord.
        return match T::wait(&dma_buf, Wait::Killable, true) {
            Ok(()) => Outcome::Retry.as_raw(),
            Err(_) => Outcome::SigBus.as_raw(),
        };
    }
    let kind = if has(bindings::fault_flag_FAULT_FLAG_USER) {
        Wait::Interruptible
    } else {
        Wait::Killable
    };
    // SAFETY: The fault holds its lock, and is told below that it does no more.
    unsafe { bindings::kernel_ext_release_fault_lock(vmf) };
    // What has ended the wait makes no difference.
    let again = has(bindings::fault_flag_FAULT_FLAG_TRIED);
    let _ = T::wait(&dma_buf, kind, again);
    Outcome::Unavailable.as_raw()
}

/// The fault, and the buffer that it is in.
///
/// # Safety
///
/// As for [`fault`]; the fault lasts for `'a`.
#[inline(always)]
unsafe fn faulting<'a, T: Exporter>(
    vmf: *mut bindings::vm_fault,
    order: u32,
) -> (&'a Exported<T>, Fault<'a>) {
    // SAFETY: The C side passes a valid fault of a mapping with a `VmOps<T>`.
    let fault = unsafe { Fault::from_raw(vmf, order) };
    // SAFETY: The file of such a mapping is one of a dma-buf of `T`, and the mapping holds a
    // reference to it.
    let exported = unsafe { Exported::from_file((*fault.vma()).vm_file) };
    (exported, fault)
}

/// An access to an address that has no page table entry.
///
/// # Invariants
///
/// `vmf` is valid; [`PlacedMapping::install`](crate::mm::PlacedMapping::install) set its VMA up.
pub struct Fault<'a> {
    vmf: NonNull<bindings::vm_fault>,
    order: u32,
    _life: PhantomData<&'a ()>,
}

impl Fault<'_> {
    /// # Safety
    ///
    /// The type invariants hold.
    unsafe fn from_raw(vmf: *mut bindings::vm_fault, order: u32) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            // SAFETY: A valid fault is not null.
            vmf: unsafe { NonNull::new_unchecked(vmf) },
            order,
            _life: PhantomData,
        }
    }

    fn vma(&self) -> *mut bindings::vm_area_struct {
        // SAFETY: By the type invariant.
        unsafe { self.vmf.as_ref().__bindgen_anon_1.vma }
    }

    /// Whether the access is a store.
    #[inline(always)]
    fn is_write(&self) -> bool {
        // SAFETY: By the type invariant.
        unsafe { self.vmf.as_ref().flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0 }
    }

    /// The order to resolve the fault with: 2^order pages, naturally aligned.
    #[inline(always)]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// The start of the block of [`Fault::order`] around the address that was accessed, bytes.
    #[inline(always)]
    fn start(&self) -> usize {
        // SAFETY: By the type invariant.
        let address = unsafe { self.vmf.as_ref().__bindgen_anon_1.address };
        address & !((PAGE_SIZE << self.order) - 1)
    }

    /// The block of [`Fault::order`] around the address that was accessed.
    ///
    /// `None` when the mapping does not have all of the block.
    #[inline(always)]
    pub fn block(&self) -> Option<Block<'_>> {
        let start = self.start();
        // SAFETY: By the type invariant; the bounds are stable during a fault.
        let (vm_start, vm_end) = unsafe { bounds(self.vma()) };
        // SAFETY: As above.
        let vm_pgoff = unsafe { (*self.vma()).vm_pgoff };
        // User addresses are far from the end of the machine word.
        let end = start.wrapping_add(PAGE_SIZE << self.order);
        if start < vm_start || end > vm_end {
            return None;
        }
        // INVARIANT: Checked.
        Some(Block {
            fault: self,
            page_offset: vm_pgoff + ((start - vm_start) >> PAGE_SHIFT),
        })
    }
}

/// The block of 2^order pages around an address that was accessed.
///
/// # Invariants
///
/// The mapping has all of it.
pub struct Block<'a> {
    fault: &'a Fault<'a>,
    page_offset: usize,
}

impl<'a> Block<'a> {
    /// Where it starts in the address space of the device, pages.
    #[inline(always)]
    pub fn page_offset(&self) -> usize {
        self.page_offset
    }

    /// The order of the fault.
    #[inline(always)]
    pub fn order(&self) -> u32 {
        self.fault.order
    }

    /// The page table for the address; made, if there is none.
    ///
    /// `None` unless the order is 0; also when a block is mapped there, or was when the fault
    /// began: that takes another fault.
    #[inline]
    pub fn page_table(&self) -> Option<PageTable<'a>> {
        if self.fault.order != 0 {
            return None;
        }
        let vmf = self.fault.vmf.as_ptr();
        // SAFETY: By the type invariant of `Fault`, whose order is 0: `pmd` is set.
        let pmd = unsafe { (*vmf).pmd };
        // SAFETY: The table that the entry is in stays during a fault.
        let mut there = unsafe { page_table::is_there(pmd) };
        if !there {
            // SAFETY: By the type invariant of `Fault`.
            let mm = unsafe { (*self.fault.vma()).vm_mm };
            // SAFETY: As above; the kernel frees what is left there.
            let table = unsafe { &mut (*vmf).prealloc_pte };
            // SAFETY: As above.
            there = unsafe { page_table::populate(mm, pmd, table) };
        }
        there.then_some(PageTable(self.fault))
    }

    /// Whether a block of the fault's order, which is above 0, is mapped already.
    #[inline(always)]
    fn is_mapped(&self) -> bool {
        let vmf = self.fault.vmf.as_ptr();
        if self.fault.order == PMD_ORDER {
            // SAFETY: By the type invariant of `Fault`; the table of the entry stays during a
            // fault.
            unsafe { bindings::kernel_ext_pmd_leaf((*vmf).pmd) }
        } else {
            // SAFETY: As above.
            unsafe { bindings::kernel_ext_pud_leaf((*vmf).pud) }
        }
    }

    /// Maps the block to `pfns` with one entry. For orders above 0.
    ///
    /// On x86 the kernel picks the cache mode that its page attribute table has for the PFN, which
    /// is uncached. Mappings with another one have no faults of these orders there.
    ///
    /// A write to a block whose entry is not writable (soft-dirty) falls back to pages: the kernel
    /// would warn if the entry is another one by the time that it looks (`MADV_DONTNEED`).
    #[inline(always)]
    pub fn insert(&self, pfns: PfnRange<'_>) -> Outcome {
        let order = self.fault.order;
        let pfn = pfns.first();
        let vmf = self.fault.vmf.as_ptr();
        // SAFETY: By the type invariant of `Fault`; the mapping holds its file.
        let is_own = unsafe { pfns.is_reached_by_zaps_of((*self.fault.vma()).vm_file) };
        if pfns.count() != 1 << order || pfn & (pfns.count() - 1) != 0 || !is_own {
            return Outcome::Fallback;
        }
        if self.fault.is_write() && self.is_mapped() {
            return Outcome::Fallback;
        }
        let raw = if order == PMD_ORDER {
            // SAFETY: The VMA is one for PFNs and has all of the block, by the type invariants.
            unsafe { compat::vmf_insert_pfn_pmd(vmf, pfn, false) }
        } else if order == PUD_ORDER {
            // SAFETY: As above.
            unsafe { compat::vmf_insert_pfn_pud(vmf, pfn, false) }
        } else {
            return Outcome::Fallback;
        };
        if raw == bindings::vm_fault_reason_VM_FAULT_NOPAGE {
            Outcome::Mapped
        } else {
            Outcome::of_failure(raw)
        }
    }
}

/// Order of the block that a PMD entry maps.
pub const PMD_ORDER: u32 = bindings::KERNEL_EXT_PMD_SHIFT - PAGE_SHIFT as u32;
/// Order of the block that a PUD entry maps.
pub const PUD_ORDER: u32 = bindings::KERNEL_EXT_PUD_SHIFT - PAGE_SHIFT as u32;

pub use compat::BLOCKS_ARE_SAFE;

/// The page table for the address of a fault of order 0. It was there a moment ago.
///
/// It ends with the fault, and maps page frames of an open device only:
///
/// ```
/// fn map(block: Block<'_>, pfns: PfnRange<'_>) -> Result {
///     block.page_table().ok_or(EAGAIN)?.insert(0, pfns)
/// }
/// ```
///
/// ```compile_fail,E0308
/// fn map_any(block: Block<'_>, pfn: usize) -> Result {
///     block.page_table().ok_or(EAGAIN)?.insert(0, pfn)
/// }
/// ```
///
/// ```compile_fail,none
/// fn keep(block: Block<'_>) -> Option<PageTable<'static>> {
///     block.page_table()
/// }
/// ```
pub struct PageTable<'a>(&'a Fault<'a>);

impl PageTable<'_> {
    /// How many pages there are from the faulting one to the end of the mapping, or of the page
    /// table if that comes first.
    #[inline]
    pub fn pages_left(&self) -> usize {
        // SAFETY: By the type invariant of `Fault`; the bounds are stable during a fault.
        let (_, vm_end) = unsafe { bounds(self.0.vma()) };
        let start = self.0.start();
        // User addresses are far from the end of the machine word.
        let table_end = (start | ((PAGE_SIZE << PMD_ORDER) - 1)) + 1;
        (vm_end.min(table_end) - start) >> PAGE_SHIFT
    }

    /// Maps `pfns` with an entry each, from `skip` pages after the faulting one on.
    ///
    /// The entries have the mapping's own cache mode. After a store they are dirty: without that, a
    /// CPU that does not set the bit itself would fault once more for each. Entries that exist are
    /// left alone.
    ///
    /// # Errors
    ///
    /// `EINVAL` when that is not within [`PageTable::pages_left`], or when the memory is that of
    /// another device; `EAGAIN` when the table is gone.
    #[inline]
    pub fn insert(&self, skip: usize, pfns: PfnRange<'_>) -> Result {
        let end = skip.checked_add(pfns.count()).ok_or(EINVAL)?;
        if end > self.pages_left() {
            return Err(EINVAL);
        }
        let vma = self.0.vma();
        // SAFETY: By the type invariant of `Fault`; the mapping holds its file.
        if unsafe { !pfns.is_reached_by_zaps_of((*vma).vm_file) } {
            return Err(EINVAL);
        }
        let address = self.0.start() + (skip << PAGE_SHIFT);
        // SAFETY: By the type invariant of `Fault`.
        let (mm, pmd) = unsafe { ((*vma).vm_mm, self.0.vmf.as_ref().pmd) };
        // SAFETY: `pmd` is the entry for all pages up to the end of the table, and the table that
        // it is in stays during a fault.
        let table = unsafe { LockedTable::new(mm, pmd, address) }.ok_or(EAGAIN)?;
        // SAFETY: Within `pages_left`, the pages are in the VMA and in the table.
        unsafe { table.insert(vma, address, pfns.first(), pfns.count(), self.0.is_write()) };
        Ok(())
    }
}
