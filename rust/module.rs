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

/// A directory in `/sys/module` as a module has one, but empty and of another name.
///
/// Some programs look for the directory to learn whether a module is loaded. While it is there,
/// the kernel refuses to load a module of that name.
///
/// # Invariants
///
/// The kobject is initialised, and its only lasting reference is ours.
pub struct Placeholder(Pin<KBox<Opaque<bindings::module_kobject>>>);

// SAFETY: The last reference may be dropped on another thread.
unsafe impl Send for Placeholder {}
// SAFETY: `&Placeholder` offers nothing.
unsafe impl Sync for Placeholder {}

impl Placeholder {
    /// Makes the directory.
    ///
    /// # Errors
    ///
    /// `EBUSY`: there is one, for the module is loaded or built in.
    pub fn new(module: &'static ThisModule, name: &CStr) -> Result<Self> {
        // SAFETY: A module has its own directory before its code runs.
        let own = unsafe { &raw const (*module.as_ptr()).mkobj.kobj };
        // SAFETY: As above. All modules have the same set and type, which are never freed.
        let (modules, ktype) = unsafe { ((*own).kset, (*own).ktype) };
        // SAFETY: A set of kobjects and a string.
        let taken = unsafe { bindings::kset_find_obj(modules, name.as_char_ptr()) };
        if !taken.is_null() {
            // SAFETY: Drops the reference that was just got.
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
        // SAFETY: `raw` stays where it is until `drop` has waited for its last reference.
        let kobj = unsafe { &raw mut (*raw).kobj };
        // SAFETY: Zeroed but for the set; the type goes with `struct module_kobject`.
        let added = unsafe {
            bindings::kobject_init_and_add(
                kobj,
                ktype,
                ptr::null_mut(),
                c"%s".as_char_ptr(),
                name.as_char_ptr(),
            )
        };
        // INVARIANT: Initialised, even if it could not be added.
        let this = Self(new);
        to_result(added)?;
        Ok(this)
    }
}

/// What `mod_kobject_put()` in `kernel/module/sysfs.c` does.
impl Drop for Placeholder {
    fn drop(&mut self) {
        let mut released = MaybeUninit::<bindings::completion>::uninit();
        // SAFETY: To be initialised.
        unsafe { bindings::init_completion(released.as_mut_ptr()) };
        let raw = self.0.get();
        // SAFETY: The type's release function completes it, which is waited for below.
        unsafe { (*raw).kobj_completion = released.as_mut_ptr() };
        // SAFETY: By the type invariant.
        unsafe { bindings::kobject_put(&raw mut (*raw).kobj) };
        // SAFETY: Initialised above.
        unsafe { bindings::wait_for_completion(released.as_mut_ptr()) };
    }
}
