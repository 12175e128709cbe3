// SPDX-License-Identifier: GPL-2.0

//! Read-write semaphores: those in C objects, and [`RwLock`] for data in Rust.
//!
//! C header: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h)

use crate::{
    bindings,
    errno::ETIME,
    wait::Wait, //
};
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
pub(crate) struct RwSemaphore {
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

    /// A semaphore in a C object.
    ///
    /// # Safety
    ///
    /// `ptr` points at an initialised semaphore that stays so for `'a`.
    pub(crate) unsafe fn from_raw<'a>(ptr: *mut bindings::rw_semaphore) -> &'a Self {
        // CAST: `Self` is a transparent wrapper.
        // SAFETY: By the requirements of this function.
        unsafe { &*ptr.cast() }
    }

    /// Takes the semaphore for reading; sleeps until there is no writer. `down_read()`
    #[inline]
    pub(crate) fn read(&self) -> ReadGuard<'_> {
        // SAFETY: By the type invariant.
        unsafe { bindings::down_read(self.inner.get()) };
        // INVARIANT: Taken just now.
        ReadGuard(self, NotThreadSafe)
    }

    /// Takes the semaphore for reading if no writer has it or is queued. `down_read_trylock()`
    #[inline]
    pub(crate) fn try_read(&self) -> Option<ReadGuard<'_>> {
        // SAFETY: By the type invariant.
        let taken = unsafe { bindings::down_read_trylock(self.inner.get()) } != 0;
        // INVARIANT: Taken just now.
        taken.then(|| ReadGuard(self, NotThreadSafe))
    }

    /// Takes the semaphore for reading; sleeps until there is no writer, or until `wait` ends.
    ///
    /// A semaphore has no timed wait: with a deadline, this tries once and does not sleep.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal has ended the wait. `ETIME`: not free, and there is a deadline.
    pub(crate) fn read_until(&self, wait: Wait) -> Result<ReadGuard<'_>> {
        let sem = self.inner.get();
        let failed = match wait {
            Wait::Uninterruptible => return Ok(self.read()),
            Wait::Deadline(_) => return self.try_read().ok_or(ETIME),
            // SAFETY: By the type invariant.
            Wait::Interruptible => unsafe { bindings::down_read_interruptible(sem) },
            // SAFETY: By the type invariant.
            Wait::Killable => unsafe { bindings::down_read_killable(sem) },
        };
        if failed != 0 {
            return Err(ERESTARTSYS);
        }
        // INVARIANT: Taken just now.
        Ok(ReadGuard(self, NotThreadSafe))
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
pub(crate) struct ReadGuard<'a>(&'a RwSemaphore, NotThreadSafe);

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
