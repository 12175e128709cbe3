// SPDX-License-Identifier: GPL-2.0

//! The directory of modules in sysfs.
//!
//! C header: [`include/linux/module.h`](srctree/include/linux/module.h)

use crate::bindings;
use core::{
    mem::MaybeUninit,
    ptr, //
};
use kernel::{
    error::to_result,
    prelude::*,
    str::CStr,
    types::Opaque, //
};

/// Reserves the name of a module that is not loaded: an empty directory of that name in
/// `/sys/module`.
///
/// While it exists, the kernel refuses to load a module of that name, and programs that look for
/// the directory take the module for loaded.
///
/// # Invariants
///
/// The kobject is initialised, and we own the reference with which it began.
pub struct NameReservation(Pin<KBox<Opaque<bindings::module_kobject>>>);

// SAFETY: A kobject belongs to no task: any task may put the reference and wait for the release.
unsafe impl Send for NameReservation {}
// SAFETY: A shared reference gives access to nothing.
unsafe impl Sync for NameReservation {}

impl NameReservation {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// `EBUSY`: a module of that name is loaded or built in.
    pub fn new(module: &'static ThisModule, name: &CStr) -> Result<Self> {
        // SAFETY: The kernel adds a module's own directory before it runs the module's code, and
        // removes it afterwards.
        let own = unsafe { &raw const (*module.as_ptr()).mkobj.kobj };
        // SAFETY: As above. Both are set once. All modules share them, and they are never freed.
        let (modules, ktype) = unsafe { ((*own).kset, (*own).ktype) };
        // SAFETY: `modules` is the set of all modules; `name` is NUL-terminated.
        let taken = unsafe { bindings::kset_find_obj(modules, name.as_char_ptr()) };
        if !taken.is_null() {
            // SAFETY: `kset_find_obj()` took the reference for us.
            unsafe { bindings::kobject_put(taken) };
            return Err(EBUSY);
        }
        let kobject = bindings::module_kobject {
            kobj: bindings::kobject {
                kset: modules,
                ..pin_init::zeroed()
            },
            mod_: module.as_ptr(),
            ..pin_init::zeroed()
        };
        let new = KBox::pin(Opaque::new(kobject), GFP_KERNEL)?;
        let raw = new.get();
        // SAFETY: In bounds of the allocation.
        let kobj = unsafe { &raw mut (*raw).kobj };
        // SAFETY: `kobj` is zeroed but for its set, and stays where it is until `drop` has waited
        // for its release. `ktype` is for a `kobject` in a `module_kobject`, which this is. The
        // strings are NUL-terminated, and the format takes the one that follows.
        let added = unsafe {
            bindings::kobject_init_and_add(
                kobj,
                ktype,
                ptr::null_mut(),
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: `kobject_init_and_add()` initialises it even if it fails.
        let this = Self(new);
        to_result(added)?;
        Ok(this)
    }
}

/// As `mod_kobject_put()` in `kernel/module/sysfs.c`.
impl Drop for NameReservation {
    fn drop(&mut self) {
        let mut released = MaybeUninit::<bindings::completion>::uninit();
        // SAFETY: `released` is valid for writes, and does not move.
        unsafe { bindings::init_completion(released.as_mut_ptr()) };
        let raw = self.0.get();
        // SAFETY: The release function of the type alone reads this, after the last reference is
        // gone. Ours is not yet.
        unsafe { (*raw).kobj_completion = released.as_mut_ptr() };
        // SAFETY: By the type invariant we own a reference, and do not use it again.
        unsafe { bindings::kobject_put(&raw mut (*raw).kobj) };
        // SAFETY: Initialised above. The release function completes it as the last thing that it
        // does, so both it and the kobject may go when this returns.
        unsafe { bindings::wait_for_completion(released.as_mut_ptr()) };
    }
}
