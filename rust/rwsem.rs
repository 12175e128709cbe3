// SPDX-License-Identifier: GPL-2.0

//! Read-write semaphores: those inside C objects, and [`RwLock`] for data of our own.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    ops::{
        Deref,
        DerefMut, //
    }, //
};
use kernel::{
    prelude::*,
    sync::LockClassKey,
    types::{
        NotThreadSafe,
        Opaque, //
    }, //
};

/// A `struct rw_semaphore`.
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

    /// Takes the semaphore for reading; sleeps until no writer has it. `down_read()`
    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_read(self.0.get()) };
        // INVARIANT: Taken just now.
        ReadGuard {
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
pub(crate) struct ReadGuard<'a> {
    sem: &'a RwSemaphore,
    _not_send: NotThreadSafe,
}

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_read(self.sem.0.get()) };
    }
}

/// Data that many may read at a time, or one may write.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,
    data: UnsafeCell<T>,
}

// SAFETY: The data moves along with the lock.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: Readers share the data (`Sync`), a writer may replace it from another thread (`Send`).
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// Makes a lock; `name` and `key` are for lockdep.
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: The slot is pinned, and `key` is static.
            sem <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock for reading. `down_read()`
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::down_read(self.sem.get()) };
        // INVARIANT: Taken just now.
        RwLockReadGuard(self, NotThreadSafe)
    }

    /// Takes the lock for writing. `down_write()`
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        // SAFETY: Initialised by `new`.
        unsafe { bindings::down_write(self.sem.get()) };
        // INVARIANT: Taken just now.
        RwLockWriteGuard(self, NotThreadSafe)
    }
}

/// An [`RwLock`] held for reading until dropped.
///
/// # Invariants
///
/// The current task holds the lock for reading.
pub struct RwLockReadGuard<'a, T>(&'a RwLock<T>, NotThreadSafe);

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant nobody writes.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> Drop for RwLockReadGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_read(self.0.sem.get()) };
    }
}

/// An [`RwLock`] held for writing until dropped.
///
/// # Invariants
///
/// The current task holds the lock for writing.
pub struct RwLockWriteGuard<'a, T>(&'a RwLock<T>, NotThreadSafe);

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant nobody else has access.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant nobody else has access.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T> Drop for RwLockWriteGuard<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_write(self.0.sem.get()) };
    }
}

/// Makes an [`RwLock`] with a name and a lock class for lockdep.
#[macro_export]
macro_rules! new_rwlock {
    ($data:expr, $name:literal) => {
        $crate::rwsem::RwLock::new(
            $data,
            kernel::optional_name!($name),
            kernel::static_lock_class!(),
        )
    };
}
