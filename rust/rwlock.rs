// SPDX-License-Identifier: GPL-2.0

//! Data that many may read at a time, or one may write.
//!
//! Tasks that wait for an [`RwSemaphore`] sleep. Tasks that wait for an [`RwLock`] spin, and none
//! that has one sleeps or is preempted: whoever waits does so for the code under the lock, and not
//! for the scheduler to let a task of another user go on.
//!
//! C headers: [`include/linux/rwsem.h`](srctree/include/linux/rwsem.h),
//! [`include/linux/rwlock.h`](srctree/include/linux/rwlock.h)

use crate::bindings;
use core::{
    cell::UnsafeCell,
    marker::PhantomData,
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

/// Data under an `rwlock_t`. Not to sleep under.
pub type RwLock<T> = Lock<T, Spinning>;
/// Data under a `struct rw_semaphore`.
pub type RwSemaphore<T> = Lock<T, Sleeping>;

/// A kind of lock.
///
/// # Safety
///
/// Between `write` and `write_unlock` nobody else has the lock, and between `read` and
/// `read_unlock` nobody has it for writing.
pub unsafe trait Backend {
    /// The lock of the kernel.
    type Raw;

    /// # Safety
    ///
    /// `raw` is valid for writes and pinned.
    unsafe fn init(raw: *mut Self::Raw, name: &'static CStr, key: Pin<&'static LockClassKey>);
    /// # Safety
    ///
    /// `raw` is initialised.
    unsafe fn read(raw: *mut Self::Raw);
    /// # Safety
    ///
    /// The current task has the lock for reading.
    unsafe fn read_unlock(raw: *mut Self::Raw);
    /// # Safety
    ///
    /// `raw` is initialised.
    unsafe fn write(raw: *mut Self::Raw);
    /// # Safety
    ///
    /// The current task has the lock for writing.
    unsafe fn write_unlock(raw: *mut Self::Raw);
}

/// See [`RwLock`].
pub struct Spinning;

// SAFETY: `rwlock_t` is such a lock.
unsafe impl Backend for Spinning {
    type Raw = bindings::rwlock_t;

    unsafe fn init(raw: *mut Self::Raw, name: &'static CStr, key: Pin<&'static LockClassKey>) {
        // SAFETY: By the requirements of this function; the name and the key are static.
        unsafe { bindings::kernel_ext_rwlock_init(raw, name.as_char_ptr(), key.as_ptr()) };
    }

    #[inline(always)]
    unsafe fn read(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::kernel_ext_read_lock(raw) };
    }

    #[inline(always)]
    unsafe fn read_unlock(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::kernel_ext_read_unlock(raw) };
    }

    unsafe fn write(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::kernel_ext_write_lock(raw) };
    }

    unsafe fn write_unlock(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::kernel_ext_write_unlock(raw) };
    }
}

/// See [`RwSemaphore`].
pub struct Sleeping;

// SAFETY: `struct rw_semaphore` is such a lock.
unsafe impl Backend for Sleeping {
    type Raw = bindings::rw_semaphore;

    unsafe fn init(raw: *mut Self::Raw, name: &'static CStr, key: Pin<&'static LockClassKey>) {
        // SAFETY: By the requirements of this function; the name and the key are static.
        unsafe { bindings::__init_rwsem(raw, name.as_char_ptr(), key.as_ptr()) };
    }

    unsafe fn read(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::down_read(raw) };
    }

    unsafe fn read_unlock(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::up_read(raw) };
    }

    unsafe fn write(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::down_write(raw) };
    }

    unsafe fn write_unlock(raw: *mut Self::Raw) {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::up_write(raw) };
    }
}

/// Data that any number of tasks may read at a time, or one may write.
///
/// # Invariants
///
/// `raw` is initialised.
#[pin_data]
pub struct Lock<T, B: Backend> {
    #[pin]
    raw: Opaque<B::Raw>,
    data: UnsafeCell<T>,
    _backend: PhantomData<B>,
}

// SAFETY: Without references to the lock nobody holds it, and then it belongs to no task; `data`
// goes along.
unsafe impl<T: Send, B: Backend> Send for Lock<T, B> {}
// SAFETY: The lock serialises access to `data`: readers of several tasks share it (`Sync`), and a
// writer may take it out or put it in (`Send`).
unsafe impl<T: Send + Sync, B: Backend> Sync for Lock<T, B> {}

/// Makes a [`Lock`](crate::rwlock::Lock) with a name and a lock class for lockdep.
#[macro_export]
macro_rules! new_rwlock {
    ($data:expr, $name:literal) => {
        $crate::rwlock::Lock::new(
            $data,
            kernel::optional_name!($name),
            kernel::static_lock_class!(),
        )
    };
}

impl<T, B: Backend> Lock<T, B> {
    /// See [`new_rwlock!`](crate::new_rwlock).
    pub fn new(
        data: T,
        name: &'static CStr,
        key: Pin<&'static LockClassKey>,
    ) -> impl PinInit<Self> {
        // INVARIANT: Initialised here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned.
            raw <- Opaque::ffi_init(|slot| unsafe { B::init(slot, name, key) }),
            data: UnsafeCell::new(data),
            _backend: PhantomData,
        })
    }

    /// Takes the lock for reading; waits until there is no writer.
    #[inline(always)]
    pub fn read(&self) -> ReadGuard<'_, T, B> {
        // SAFETY: By the type invariant.
        unsafe { B::read(self.raw.get()) };
        // INVARIANT: Taken just now.
        ReadGuard(self, NotThreadSafe)
    }

    /// Takes the lock for writing; waits until nobody has it.
    #[inline]
    pub fn write(&self) -> WriteGuard<'_, T, B> {
        // SAFETY: By the type invariant.
        unsafe { B::write(self.raw.get()) };
        // INVARIANT: Taken just now.
        WriteGuard(self, NotThreadSafe)
    }
}

impl<T> RwSemaphore<T> {
    /// As [`Lock::write`]. `down_write_killable()`
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the task was killed.
    pub fn write_killable(&self) -> Result<WriteGuard<'_, T, Sleeping>> {
        // SAFETY: By the type invariant.
        if unsafe { bindings::down_write_killable(self.raw.get()) } != 0 {
            return Err(ERESTARTSYS);
        }
        // INVARIANT: Taken just now.
        Ok(WriteGuard(self, NotThreadSafe))
    }
}

/// A [`Lock`] held for reading until dropped.
///
/// # Invariants
///
/// The current task holds the lock for reading.
pub struct ReadGuard<'a, T, B: Backend>(&'a Lock<T, B>, NotThreadSafe);

impl<T, B: Backend> Deref for ReadGuard<'_, T, B> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant there is no writer.
        unsafe { &*self.0.data.get() }
    }
}

impl<T, B: Backend> Drop for ReadGuard<'_, T, B> {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { B::read_unlock(self.0.raw.get()) };
    }
}

/// A [`Lock`] held for writing until dropped.
///
/// # Invariants
///
/// The current task holds the lock for writing.
pub struct WriteGuard<'a, T, B: Backend>(&'a Lock<T, B>, NotThreadSafe);

impl<T, B: Backend> Deref for WriteGuard<'_, T, B> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: By the type invariant no other guard exists; `&self` keeps `deref_mut` out.
        unsafe { &*self.0.data.get() }
    }
}

impl<T, B: Backend> DerefMut for WriteGuard<'_, T, B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: By the type invariant no other guard exists; `&mut self` keeps other references
        // through this one out.
        unsafe { &mut *self.0.data.get() }
    }
}

impl<T, B: Backend> Drop for WriteGuard<'_, T, B> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { B::write_unlock(self.0.raw.get()) };
    }
}
