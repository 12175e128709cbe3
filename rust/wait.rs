// SPDX-License-Identifier: GPL-2.0

//! Waiting: what ends a wait early ([`Wait`]), and a queue of waiting tasks ([`WaitQueue`]).
//!
//! The `CondVar` of the `kernel` crate has neither a killable wait nor one that only a deadline
//! ends.
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
    task::TASK_NORMAL,
    time::{
        msecs_to_jiffies,
        Delta,
        Instant,
        Jiffies,
        Monotonic, //
    },
    types::Opaque, //
};

/// What ends a wait before its condition holds.
#[derive(Clone, Copy)]
pub enum Wait {
    /// Nothing.
    Uninterruptible,
    /// Any signal that the task does not block.
    Interruptible,
    /// A signal that kills the task.
    Killable,
    /// This moment; signals do not.
    Deadline(Instant<Monotonic>),
}

impl Wait {
    /// A deadline so many milliseconds from now.
    pub fn milliseconds(msecs: u32) -> Self {
        Self::Deadline(Instant::now() + Delta::from_millis(msecs.into()))
    }

    /// The time until the deadline: 0 once it has passed, `MAX_SCHEDULE_TIMEOUT` without one.
    pub(crate) fn timeout(self) -> Jiffies {
        let Self::Deadline(deadline) = self else {
            return c_long::MAX as c_ulong;
        };
        let left = (deadline - Instant::now()).as_micros_ceil().max(0);
        msecs_to_jiffies(u32::try_from((left + 999) / 1000).unwrap_or(u32::MAX))
    }

    /// The state in which the task sleeps.
    fn task_state(self) -> c_uint {
        match self {
            Self::Uninterruptible | Self::Deadline(_) => bindings::TASK_UNINTERRUPTIBLE,
            Self::Interruptible => bindings::TASK_INTERRUPTIBLE,
            Self::Killable => bindings::TASK_KILLABLE,
        }
    }

    /// Whether the wait has to end now.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal that ends it is pending. `ETIME`: the deadline has passed.
    fn check(self) -> Result {
        if self.timeout() == 0 {
            return Err(ETIME);
        }
        // SAFETY: The function reads the signals of the current task, which any task may do.
        if unsafe { bindings::kernel_ext_signal_pending_state(self.task_state()) } {
            return Err(ERESTARTSYS);
        }
        Ok(())
    }
}

/// A queue of tasks that wait for a condition. `wait_queue_head_t`
///
/// # Invariants
///
/// `head` is initialised.
#[pin_data]
pub struct WaitQueue {
    #[pin]
    head: Opaque<bindings::wait_queue_head>,
}

// SAFETY: The queue belongs to no task, and whoever drops it has the only reference: each entry
// borrows the queue in `wait`.
unsafe impl Send for WaitQueue {}
// SAFETY: `head.lock` serialises all that the methods do to the queue.
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
        // INVARIANT: Initialised here.
        pin_init!(Self {
            // SAFETY: `slot` is valid for writes and pinned; the name and the key are static.
            head <- Opaque::ffi_init(|slot| unsafe {
                bindings::__init_waitqueue_head(slot, name.as_char_ptr(), key.as_ptr())
            }),
        })
    }

    /// Makes all waiting tasks test their condition again. What the condition depends on was
    /// changed before.
    pub fn wake_all(&self) {
        // SAFETY: By the type invariant. 0 wakes all.
        unsafe { bindings::__wake_up(self.head.get(), TASK_NORMAL, 0, ptr::null_mut()) };
    }

    /// Sleeps until `condition` is true, which is tested at least once and may sleep itself.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal has ended the wait. `ETIME`: the deadline has passed.
    pub fn wait(&self, wait: Wait, mut condition: impl FnMut() -> bool) -> Result {
        if condition() {
            return Ok(());
        }
        let entry = Opaque::<bindings::wait_queue_entry>::uninit();
        // SAFETY: `entry` is valid for writes; the function sets every field.
        unsafe { bindings::init_wait_entry(entry.get(), 0) };
        // SAFETY: Initialised just now, and not in a queue yet.
        unsafe { (*entry.get()).func = Some(bindings::woken_wake_function) };
        // SAFETY: The queue is initialised by the type invariant and the entry just now. The entry
        // does not move, and is removed before this function returns.
        unsafe { bindings::add_wait_queue(self.head.get(), entry.get()) };
        let result = loop {
            if condition() {
                break Ok(());
            }
            if let Err(error) = wait.check() {
                break Err(error);
            }
            // CAST: `MAX_SCHEDULE_TIMEOUT` is the largest.
            let timeout = wait.timeout() as c_long;
            // SAFETY: The entry is in a queue, with `woken_wake_function()`, and
            // `init_wait_entry()` made it the current task's.
            unsafe { bindings::wait_woken(entry.get(), wait.task_state(), timeout) };
        };
        // SAFETY: The entry was added to this queue above.
        unsafe { bindings::remove_wait_queue(self.head.get(), entry.get()) };
        result
    }
}
