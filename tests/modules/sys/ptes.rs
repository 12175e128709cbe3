// SPDX-License-Identifier: GPL-2.0

//! Page table entries of mappings of device memory.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use super::arch::memory_type;
use crate::uapi;
use core::ptr::NonNull;
use kernel::{
    bindings,
    mm::MmWithUser,
    prelude::*,
    sync::aref::ARef, //
};

/// Reads the entry for an address of a process, see [`uapi::READ_PTE`]. `follow_pfnmap_start()`
pub(crate) fn entry_at(pid: i32, address: usize) -> Result<uapi::Pte> {
    let mm = address_space(pid)?;
    let mm = mm.as_raw();
    // SAFETY: `address_space` gave us a reference, so there is a user.
    unsafe { bindings::mmap_read_lock(mm) };
    // SAFETY: Locked just now.
    let entry = unsafe { entry_locked(mm, address) };
    // SAFETY: Locked above.
    unsafe { bindings::mmap_read_unlock(mm) };
    entry
}

/// # Safety
///
/// `mm` is valid and its `mmap_lock` held.
unsafe fn entry_locked(mm: *mut bindings::mm_struct, address: usize) -> Result<uapi::Pte> {
    // SAFETY: By the requirements of this function.
    let vma = unsafe { bindings::vma_lookup(mm, address) };
    if vma.is_null() {
        return Err(EFAULT);
    }
    // SAFETY: The lock keeps the VMA.
    let flags = unsafe { (*vma).__bindgen_anon_2.vm_flags };
    if flags & bindings::VM_IO == 0 {
        return Err(ENXIO);
    }
    let mut args = bindings::follow_pfnmap_args {
        vma,
        address,
        ..pin_init::zeroed()
    };
    // SAFETY: The lock is held, and `address` is in the VMA.
    if unsafe { bindings::follow_pfnmap_start(&mut args) } != 0 {
        return Ok(uapi::Pte::default());
    }
    let size = (!args.addr_mask + 1) as u64;
    let entry = uapi::Pte {
        present: 1,
        pfn: args.pfn as u64,
        size,
        writable: args.writable.into(),
        memory_type: memory_type(size, args.pgprot.pgprot as u64),
        ..uapi::Pte::default()
    };
    // SAFETY: Started above.
    unsafe { bindings::follow_pfnmap_end(&mut args) };
    Ok(entry)
}

/// A reference to the address space of a process. `get_task_mm()`
fn address_space(pid: i32) -> Result<ARef<MmWithUser>> {
    if pid == 0 {
        return current!().mm().map(ARef::from).ok_or(ESRCH);
    }
    // SAFETY: Any number may be asked for.
    let pid = unsafe { bindings::find_get_pid(pid) };
    // SAFETY: Null is allowed.
    let task = unsafe { bindings::get_pid_task(pid, bindings::pid_type_PIDTYPE_PID) };
    // SAFETY: The reference of `find_get_pid()`; null is allowed.
    unsafe { bindings::put_pid(pid) };
    if task.is_null() {
        return Err(ESRCH);
    }
    // SAFETY: `get_pid_task()` gave us a reference.
    let mm = unsafe { bindings::get_task_mm(task) };
    // SAFETY: That reference.
    unsafe { bindings::put_task_struct(task) };
    let mm = NonNull::new(mm).ok_or(ESRCH)?;
    // CAST: `MmWithUser` is a transparent wrapper.
    // SAFETY: `get_task_mm()` gave us a reference to a user of it.
    Ok(unsafe { ARef::from_raw(mm.cast::<MmWithUser>()) })
}
