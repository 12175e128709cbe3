// SPDX-License-Identifier: GPL-2.0

//! Waiting until something comes true, with any kind of patience.
//!
//! The `CondVar` of the `kernel` crate has no wait that ends by time only.
//!
//! C header: [`include/linux/wait.h`](srctree/include/linux/wait.h)

use crate::{
    bindings,
    errno::ETIME, //
};
use core::ptr;
use kernel::{
    prelude::*,
    sync::LockClassKey,
    task::{
        TASK_INTERRUPTIBLE,
        TASK_NORMAL,
        TASK_UNINTERRUPTIBLE, //
    },
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
    types::Opaque, //
};

/// How long to wait.
#[derive(Clone, Copy)]
pub enum Patience {
    /// Until it is true.
    Forever,
    /// Until it is true or the waiting task gets a signal.
    UntilSignal,
    /// Until it is true or that moment has come, whatever signals there are.
    Until(Instant<Monotonic>),
}

impl Patience {
    /// Patience for so many milliseconds from now on.
    pub fn milliseconds(msecs: u32) -> Self {
        Self::Until(Instant::now() + Delta::from_millis(msecs.into()))
    }

    /// How much is left.
    pub(crate) fn left(self) -> Jiffies {
        let Self::Until(end) = self else {
            // `MAX_SCHEDULE_TIMEOUT`
            return c_long::MAX as c_ulong;
        };
        let left = (end - Instant::now()).as_micros_ceil().max(0);
        msecs_to_jiffies(u32::try_from((left + 999) / 1000).unwrap_or(u32::MAX))
    }

    /// Whether a signal ends it.
    pub(crate) fn ends_by_signal(self) -> bool {
        matches!(self, Self::UntilSignal)
    }
}

/// Tasks that wait for something. `wait_queue_head_t`
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: A wait queue has its own lock, and no thread of its own.
unsafe impl Send for WaitQueue {}
// SAFETY: As above.
unsafe impl Sync for WaitQueue {}

/// Makes a [`WaitQueue`] with a lock class of its own.
#[macro_export]
macro_rules! new_wait_queue {
    ($name:literal) => {
        $crate::wait::WaitQueue::new(kernel::optional_name!($name), kernel::static_lock_class!())
    };
}

impl WaitQueue {
    /// See [`new_wait_queue!`](crate::new_wait_queue).
    pub fn new(name: &'static CStr, key: Pin<&'static LockClassKey>) -> impl PinInit<Self> {
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and stays where it is; the others are static.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Lets all look whether it is true now, which it was made before.
    pub fn wake_all(&self) {
        // SAFETY: Initialised by `new`. 0 wakes all.
        unsafe { bindings::__wake_up(self.head.get(), TASK_NORMAL, 0, ptr::null_mut()) };
    }

    /// Waits until `is_true` says so. It is asked at least once, and may sleep.
    ///
    /// # Errors
    ///
    /// `EINTR`: a signal came, and `patience` is [`Patience::UntilSignal`]. `ETIME`: too late.
    pub fn wait(&self, patience: Patience, is_true: impl FnMut() -> bool) -> Result {
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: To be initialised.
        unsafe { bindings::init_wait_entry(entry.get(), 0) };
        // SAFETY: Initialised just now, and in no queue.
        unsafe { (*entry.get()).func = Some(bindings::woken_wake_function) };
        // SAFETY: Both are initialised, and the entry stays where it is until it is out again.
        unsafe { bindings::add_wait_queue(self.head.get(), entry.get()) };
        let result = sleep_until(&entry, patience, is_true);
        // SAFETY: It was added above.
        unsafe { bindings::remove_wait_queue(self.head.get(), entry.get()) };
        result
    }
}

/// The loop of [`WaitQueue::wait`], with `entry` in the queue.
fn sleep_until(
    entry: &Opaque<bindings::wait_queue_entry>,
    patience: Patience,
    mut is_true: impl FnMut() -> bool,
) -> Result {
    let state = if patience.ends_by_signal() {
        TASK_INTERRUPTIBLE
    } else {
        TASK_UNINTERRUPTIBLE
    };
    while !is_true() {
        let left = patience.left();
        if left == 0 {
            return Err(ETIME);
        }
        if patience.ends_by_signal() && current!().signal_pending() {
            return Err(EINTR);
        }
        // SAFETY: The entry is this task's, and in a queue.
        unsafe { bindings::wait_woken(entry.get(), state as c_uint, left as c_long) };
    }
    Ok(())
}
