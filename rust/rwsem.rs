// SPDX-License-Identifier: GPL-2.0

//! Read-write semaphores that C code owns.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use crate::bindings;
use core::marker::PhantomData;
use kernel::types::{
    NotThreadSafe,
    Opaque, //
};

/// A `struct rw_semaphore` inside a C object.
///
/// # Invariants
///
/// The semaphore is initialised.
#[repr(transparent)]
pub(crate) struct RwSemaphore(Opaque<bindings::rw_semaphore>);

impl RwSemaphore {
    /// Makes a reference of a pointer into a C object.
    ///
    /// # Safety
    ///
    /// `ptr` points at an initialised semaphore that stays so for `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::rw_semaphore) -> &'a Self {
        // CAST: `Self` is a transparent wrapper.
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }

    /// Takes the semaphore for reading; sleeps until no writer has it. `down_read()`.
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_read(self.0.get()) };
        // INVARIANT: Taken just now.
        ReadGuard {
            sem: self,
            _not_send: NotThreadSafe,
        }
    }

    /// Takes the semaphore for writing; sleeps until nobody else has it. `down_write()`.
    pub(crate) fn write(&self) -> WriteGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_write(self.0.get()) };
        // INVARIANT: Taken just now.
        WriteGuard {
            sem: self,
            _not_send: NotThreadSafe,
        }
    }
}

/// A semaphore held for reading until dropped.
///
/// # Invariants
///
/// The current task holds the semaphore for reading.
pub struct ReadGuard<'a> {
    sem: &'a RwSemaphore,
    _not_send: PhantomData<*mut ()>,
}

impl Drop for ReadGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_read(self.sem.0.get()) };
    }
}

/// A semaphore held for writing until dropped.
///
/// # Invariants
///
/// The current task holds the semaphore for writing.
pub struct WriteGuard<'a> {
    sem: &'a RwSemaphore,
    _not_send: PhantomData<*mut ()>,
}

impl Drop for WriteGuard<'_> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_write(self.sem.0.get()) };
    }
}
