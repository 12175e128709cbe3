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

/// A `struct rw_semaphore`.
///
/// # Invariants
///
/// The semaphore is initialised.
#[pin_data]
#[repr(transparent)]
struct RwSemaphore {
    #[pin]
    inner: Opaque<bindings::rw_semaphore>,
}

impl RwSemaphore {
    /// Makes a semaphore; `name` and `key` are for lockdep.
    fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        // INVARIANT: Initialised here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned; the name and the key are static.
            inner <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_rwsem(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Takes the semaphore for reading; sleeps until there is no writer. `down_read()`
    #[inline]
    fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_read(self.inner.get()) };
        // INVARIANT: Taken just now.
        ReadGuard(self, NotThreadSafe)
    }

    /// Takes the semaphore for writing; sleeps until nobody has it. `down_write()`
    #[inline]
    fn write(&self) -> WriteGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_write(self.inner.get()) };
        // INVARIANT: Taken just now.
        WriteGuard(self, NotThreadSafe)
    }
}

/// A semaphore held for reading until dropped.
///
/// # Invariants
///
/// The current task holds the semaphore for reading.
struct ReadGuard<'a>(&'a RwSemaphore, NotThreadSafe);

impl Drop for ReadGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_read(self.0.inner.get()) };
    }
}

/// A semaphore held for writing until dropped.
///
/// # Invariants
///
/// The current task holds the semaphore for writing.
struct WriteGuard<'a>(&'a RwSemaphore, NotThreadSafe);

impl Drop for WriteGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::up_write(self.0.inner.get()) };
    }
}

/// Data that any number of tasks may read at a time, or one may write.
#[pin_data]
pub struct RwLock<T> {
    #[pin]
    sem: RwSemaphore,
    data: UnsafeCell<T>,
}

// SAFETY: Without references to the lock nobody holds the semaphore, which then belongs to no task;
// `data` goes along.
unsafe impl<T: Send> Send for RwLock<T> {}
// SAFETY: The semaphore serialises access to `data`: readers of several tasks share it (`Sync`), and
// a writer may take it out or put it in (`Send`).
unsafe impl<T: Send + Sync> Sync for RwLock<T> {}

impl<T> RwLock<T> {
    /// Makes a lock; `name` and `key` are for lockdep.
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        pin_init!(Self {
            sem <- RwSemaphore::new(name, key),
            data: UnsafeCell::new(data),
        })
    }

    /// Takes the lock for reading. `down_read()`
    #[inline]
    pub fn read(&self) -> RwLockReadGuard<'_, T> {
        let _held = self.sem.read();
        // INVARIANT: `self.sem` was taken just now.
        RwLockReadGuard {
            data: &self.data,
            _held,
        }
    }

    /// Takes the lock for writing. `down_write_killable()`
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the task was killed.
    pub fn write_killable(&self) -> Result<RwLockWriteGuard<'_, T>> {
        // SAFETY: By the type invariant.
        if unsafe { bindings::down_write_killable(self.sem.inner.get()) } != 0 {
            return Err(ERESTARTSYS);
        }
        // INVARIANT: Taken just now.
        Ok(RwLockWriteGuard {
            data: &self.data,
            _held: WriteGuard(&self.sem, NotThreadSafe),
        })
    }

    /// Takes the lock for writing. `down_write()`
    #[inline]
    pub fn write(&self) -> RwLockWriteGuard<'_, T> {
        let _held = self.sem.write();
        // INVARIANT: `self.sem` was taken just now.
        RwLockWriteGuard {
            data: &self.data,
            _held,
        }
    }
}

/// An [`RwLock`] held for reading until dropped.
///
/// # Invariants
///
/// `data` is of the lock whose semaphore is held.
pub struct RwLockReadGuard<'a, T> {
    data: &'a UnsafeCell<T>,
    _held: ReadGuard<'a>,
}

impl<T> Deref for RwLockReadGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the semaphore is held for reading, so there is no writer.
        unsafe { &*self.data.get() }
    }
}

/// An [`RwLock`] held for writing until dropped.
///
/// # Invariants
///
/// `data` is of the lock whose semaphore is held.
pub struct RwLockWriteGuard<'a, T> {
    data: &'a UnsafeCell<T>,
    _held: WriteGuard<'a>,
}

impl<T> Deref for RwLockWriteGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: By the type invariant the semaphore is held for writing, so nobody else has
        // access; `&self` keeps `deref_mut` out.
        unsafe { &*self.data.get() }
    }
}

impl<T> DerefMut for RwLockWriteGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant the semaphore is held for writing, so nobody else has
        // access; `&mut self` keeps other references through this guard out.
        unsafe { &mut *self.data.get() }
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
