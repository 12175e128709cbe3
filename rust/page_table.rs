// SPDX-License-Identifier: GPL-2.0

//! The page table that a fault needs: finding it, making it, and filling it.
//!
//! `pmd_install()` and `pte_offset_map_lock()` are not exported. `apply_to_page_range()` is, but it
//! warns where a block is mapped, and a process can make that happen: `madvise(MADV_DONTNEED)`
//! frees an empty page table (`CONFIG_PT_RECLAIM`) while another thread's fault is under way, and a
//! third thread then maps a block.
//!
//! C header: [`include/linux/pgtable.h`](srctree/include/linux/pgtable.h)

use crate::bindings;
use kernel::page::PAGE_SIZE;

/// Whether the entry points at a page table. That may change at any time.
///
/// # Safety
///
/// `pmd` is an entry of a page table that stays.
#[inline]
pub(crate) unsafe fn is_there(pmd: *mut bindings::pmd_t) -> bool {
    // SAFETY: By the requirements of this function.
    unsafe { bindings::kernel_ext_pmd_is_table(pmd) }
}

/// Makes `table` the page table of an entry that has none, and takes it out of `table`. Returns
/// whether the entry points at a table then: another fault may have mapped a block.
///
/// Faults on one address may have different orders: `prctl(PR_SET_THP_DISABLE)` comes between
/// them, or a zap.
///
/// # Safety
///
/// `pmd` is an entry of a page table that stays, of `mm`; `table` is an empty table of `mm` that
/// the caller owns, or null.
pub(crate) unsafe fn populate(
    mm: *mut bindings::mm_struct,
    pmd: *mut bindings::pmd_t,
    table: &mut bindings::pgtable_t,
) -> bool {
    if table.is_null() {
        return false;
    }
    // SAFETY: By the requirements of this function.
    let lock = unsafe { bindings::kernel_ext_pmd_lock(mm, pmd) };
    // SAFETY: As above.
    if unsafe { bindings::kernel_ext_pmd_none(pmd) } {
        // SAFETY: The entry is locked, and `table` is the caller's own.
        unsafe { bindings::kernel_ext_pmd_populate(mm, pmd, *table) };
        *table = core::ptr::null_mut();
    }
    // SAFETY: Locked above.
    unsafe { bindings::spin_unlock(lock) };
    // SAFETY: By the requirements of this function.
    unsafe { bindings::kernel_ext_pmd_has_table(bindings::kernel_ext_pmd_read(pmd)) }
}

/// A page table that is locked, and not freed, until this is dropped.
///
/// # Invariants
///
/// `entry` is the entry for an address in a table whose lock is `lock`; both are held, and so is
/// the RCU read lock.
pub(crate) struct LockedTable {
    entry: *mut bindings::pte_t,
    lock: *mut bindings::spinlock_t,
}

impl LockedTable {
    /// Locks the page table that `pmd` points at. `None` if it points at none.
    ///
    /// # Safety
    ///
    /// `pmd` is the entry for `address` of a page table that stays, of `mm`.
    pub(crate) unsafe fn new(
        mm: *mut bindings::mm_struct,
        pmd: *mut bindings::pmd_t,
        address: usize,
    ) -> Option<Self> {
        loop {
            // SAFETY: Released by `drop`, or below.
            unsafe { bindings::rcu_read_lock() };
            // SAFETY: By the requirements of this function.
            let mut seen = unsafe { bindings::kernel_ext_pmd_read(pmd) };
            // SAFETY: A copy.
            if !unsafe { bindings::kernel_ext_pmd_has_table(seen) } {
                // SAFETY: Taken above.
                unsafe { bindings::rcu_read_unlock() };
                return None;
            }
            // SAFETY: `seen` points at a table, which RCU keeps.
            let entry = unsafe { bindings::kernel_ext_pte_offset(&mut seen, address) };
            // SAFETY: As above.
            let lock = unsafe { bindings::kernel_ext_pte_lockptr(mm, &mut seen) };
            // SAFETY: The lock lives as long as the table.
            unsafe { bindings::spin_lock(lock) };
            // INVARIANT: Locked just now.
            let this = Self { entry, lock };
            // SAFETY: By the requirements of this function, and a copy.
            if unsafe { bindings::kernel_ext_pmd_same(pmd, seen) } {
                return Some(this);
            }
            // The table was taken out before it was locked: look again.
        }
    }

    /// Maps `count` page frames from `pfn` on, with the cache mode of `vma`, an entry each from the
    /// locked one on, `dirty` or not. Entries that exist are left alone.
    ///
    /// # Safety
    ///
    /// The table has so many entries from the locked one on. They are for `address` and the pages
    /// after it, which are in `vma`. `vma` may map these page frames.
    pub(crate) unsafe fn insert(
        &self,
        vma: *mut bindings::vm_area_struct,
        address: usize,
        pfn: usize,
        count: usize,
        dirty: bool,
    ) {
        for page in 0..count {
            // SAFETY: By the requirements of this function.
            let entry = unsafe { self.entry.add(page) };
            let address = address + page * PAGE_SIZE;
            // SAFETY: By the type invariants the table is locked.
            if unsafe { bindings::kernel_ext_pte_none(entry) } {
                let pfn = pfn + page;
                // SAFETY: As above.
                unsafe { bindings::kernel_ext_set_special_pte(vma, address, entry, pfn, dirty) };
            }
        }
    }
}

impl Drop for LockedTable {
    fn drop(&mut self) {
        // SAFETY: By the type invariants.
        unsafe { bindings::spin_unlock(self.lock) };
        // SAFETY: As above.
        unsafe { bindings::rcu_read_unlock() };
    }
}
