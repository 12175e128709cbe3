// SPDX-License-Identifier: GPL-2.0

//! Data that many may read at a time, or one may write.
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

/// Data that any number of tasks may read at a time, or one may write. `struct rw_semaphore`
///
/// # Invariants
///
/// `sem` is initialised.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    sem: Opaque<bindings::rw_semaphore>,
    data: UnsafeCell<T>,
}

// SAFETY: Without references to the lock nobody holds the semaphore, which then belongs to no task;
// `data` goes along.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: The semaphore serialises access to `data`: readers of several tasks share it (`Sync`),
// and a writer may take it out or put it in (`Send`).
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

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

impl<T> RwLock<T> {
    /// See [`new_rwlock!`](crate::new_rwlock).
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: Initialised here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned; the name and the key are static.
            sem <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock for reading; sleeps until there is no writer. `down_read()`
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_read(self.sem.get()) };
        // INVARIANT: Taken just now.
        RwLockReadGuard(self, NotThreadSafe)
    }

    /// Takes the lock for writing; sleeps until nobody has it. `down_write()`
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_write(self.sem.get()) };
        // INVARIANT: Taken just now.
        RwLockWriteGuard(self, NotThreadSafe)
    }

    /// As [`RwLock::write`]. `down_write_killable()`
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the task was killed.
    pub fn write_killable(&self) -> Result<RwLockWriteGuard<'_, T>> {
        // SAFETY: By the type invariant.
        if unsafe { bindings::down_write_killable(self.sem.get()) } != 0 {
            return Err(ERESTARTSYS);
        }
        // INVARIANT: Taken just now.
        Ok(RwLockWriteGuard(self, NotThreadSafe))
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

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant there is no writer.
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

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant no other guard exists; `&self` keeps `deref_mut` out.
        unsafe { &*self.0.data.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant no other guard exists; `&mut self` keeps other references
        // through this one out.
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
