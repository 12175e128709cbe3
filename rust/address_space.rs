// SPDX-License-Identifier: GPL-2.0

//! The address space that all mappings of a VFIO device live in.
//!
//! The VFIO core gives each device an inode of its own and puts the `i_mapping` of that inode under
//! every device fd. One `unmap_mapping_range()` then reaches every mapping of the device.
//!
//! C header: [`include/linux/fs.h`](srctree/include/linux/fs.h)

use crate::bindings;
use core::ptr::NonNull;
use kernel::page::PAGE_SHIFT;

/// A reference to the address space of a VFIO device, which may be gone.
///
/// The inode is on a pseudo file system that the VFIO core unmounts with its last device. An inode
/// must not outlive its superblock, so the reference keeps that active, too.
///
/// # Invariants
///
/// Owns a reference to `inode`, and an active one to its superblock.
pub struct AddressSpace {
    inode: NonNull<bindings::inode>,
}

// SAFETY: The references may be dropped on any thread.
unsafe impl Send for AddressSpace {}
// SAFETY: `unmap_mapping_range()` has its own locks, and the pointer to `i_mapping` is constant.
unsafe impl Sync for AddressSpace {}

impl AddressSpace {
    /// Takes the references.
    ///
    /// # Safety
    ///
    /// The caller has a reference to `inode`, and keeps its superblock active during the call.
    pub(crate) unsafe fn new(inode: *mut bindings::inode) -> Self {
        // SAFETY: By the requirements of this function the count is not 0.
        unsafe { bindings::ihold(inode) };
        // SAFETY: As above.
        unsafe { bindings::atomic_inc(&raw mut (*(*inode).i_sb).s_active) };
        // INVARIANT: Taken just now.
        Self {
            // SAFETY: A valid inode is not null.
            inode: unsafe { NonNull::new_unchecked(inode) },
        }
    }

    /// What `file.f_mapping` is to be for a file whose mappings belong here.
    #[inline]
    pub(crate) fn as_ptr(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariant; constant.
        unsafe { (*self.inode.as_ptr()).i_mapping }
    }

    /// Removes the page table entries of all mappings of a part of the address space.
    ///
    /// `unmap_mapping_range()`. `first` and `count` are pages. A `count` of 0 removes nothing. New
    /// faults are not kept out: the caller closes the gate first.
    pub fn zap(&self, first: usize, count: usize) {
        if count == 0 {
            // To the C function that means: up to the end.
            return;
        }
        // CAST: What does not fit is beyond any mapping.
        let start = (first << PAGE_SHIFT) as bindings::loff_t;
        let len = (count << PAGE_SHIFT) as bindings::loff_t;
        // SAFETY: By the type invariant the address space is valid.
        unsafe { bindings::unmap_mapping_range(self.as_ptr(), start, len, 1) };
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        let inode = self.inode.as_ptr();
        // SAFETY: By the type invariant; the superblock of an inode does not change.
        let superblock = unsafe { (*inode).i_sb };
        // SAFETY: By the type invariant.
        unsafe { bindings::iput(inode) };
        // SAFETY: By the type invariant. The inode went first.
        unsafe { bindings::deactivate_super(superblock) };
    }
}
