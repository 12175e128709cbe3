// SPDX-License-Identifier: GPL-2.0

//! The gate between faults and whatever takes memory away.
//!
//! A fault holds the gate shared from its permission check until the entry is in place. Code that
//! takes memory away holds it exclusively while it publishes the new state. After that, no fault
//! can still act on the old state, and what is mapped already can be zapped.
//!
//! Nobody sleeps or is preempted while it holds the gate. Otherwise a client that the scheduler
//! starves, and that faults, would make everybody wait until it runs again.
//!
//! Faults do not take the core's `memory_lock`. A hot reset only trylocks it, so processes that do
//! nothing but fault would make it fail. Whatever disables memory passes the gate instead:
//!
//! - a config write or a low power call that may: a [`Change`] keeps faults out during the core's
//!   function;
//! - a reset, whoever asks for it: between `reset_begins` and `reset_ends`;
//! - an error of the link: see [`link`];
//! - the last close: it takes back the proof that the device is open.

use crate::pure::link::{
    self,
    Link, //
};
use kernel::{
    prelude::*,
    sync::atomic::{
        Atomic,
        Full,
        Relaxed, //
    },
    time::{
        delay::fsleep,
        Delta, //
    }, //
};
use kernel_ext::{
    new_rwlock,
    new_wait_queue,
    rwlock::{
        ReadGuard,
        RwLock,
        RwSemaphore,
        Sleeping,
        Spinning,
        WriteGuard, //
    },
    vfio_pci_core::{
        OpenCore,
        Opened, //
    },
    wait::{
        Wait,
        WaitQueue, //
    }, //
};

/// How long a change leaves the gate open first if a fault has lost against changes repeatedly.
const GRACE: Delta = Delta::from_millis(1);

/// The gate of a device.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    state: RwLock<State>,
    /// Tasks that wait until the gate lets them in.
    #[pin]
    waiters: WaitQueue,
    /// How many these are. A task counts itself before it looks at `state`.
    waiting: Atomic<u32>,
    /// Whether `state` has something that a change may have to mend: the device is asleep, or its
    /// link does not work. Changes with `state` locked for writing.
    impaired: Atomic<u32>,
    /// Changes come one after the other.
    #[pin]
    turn: RwSemaphore<()>,
    /// Whether a fault has found the gate closed again and again since the last change began.
    starved: Atomic<u32>,
}

struct State {
    /// How many resets are under way.
    resets: u32,
    /// The task that makes a change.
    changing: Option<Task>,
    link: Link,
    /// Whether the owner has put the device into D3hot. The core powers it up for the reset of a
    /// sibling, and restores it only later. If that reset cannot begin, accesses fail until the
    /// next config write.
    asleep: bool,
    /// There while the device is open.
    opened: Option<Opened>,
}

/// The address of a task, for comparison.
type Task = usize;

fn current_task() -> Task {
    // CAST: For comparison only.
    current!().as_ptr() as usize
}

impl State {
    /// Whether faults have to wait.
    fn is_closed(&self) -> bool {
        self.resets != 0 || self.changing.is_some() || self.link == Link::Recovering
    }

    /// Whether the current task has to wait.
    #[inline(always)]
    fn keeps_out(&self) -> bool {
        self.is_closed() && !self.is_own_change()
    }

    /// Whether the current task makes a change itself, and nothing else is under way. The core
    /// reads the arguments from user memory before it changes anything, and these may lie in a
    /// mapping of the device. The core zaps what that maps.
    #[cold]
    fn is_own_change(&self) -> bool {
        self.changing == Some(current_task()) && self.resets == 0 && self.link != Link::Recovering
    }
}

/// The gate, held shared: memory is not taken away before this is dropped. Not to sleep under.
pub(crate) struct Inside<'a> {
    state: ReadGuard<'a, State, Spinning>,
}

impl Inside<'_> {
    /// The proof that the device is open, if it is, its link works and it is not asleep.
    #[inline(always)]
    pub(crate) fn opened(&self) -> Option<&OpenCore> {
        match (&self.state.opened, self.state.link) {
            (Some(opened), Link::Works) if !self.state.asleep => Some(opened),
            _ => None,
        }
    }
}

/// The gate, held exclusively: no fault is under way. Not to sleep under.
pub(crate) struct Shut<'a> {
    _state: WriteGuard<'a, State, Spinning>,
}

/// Keeps faults of other tasks out until dropped.
pub(crate) struct Change<'a> {
    gate: &'a Gate,
    /// Goes after `drop`.
    _turn: WriteGuard<'a, (), Sleeping>,
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.gate.update(|state| state.changing = None);
    }
}

impl Gate {
    pub(crate) fn new() -> impl PinInit<Self> {
        let state = State {
            resets: 0,
            changing: None,
            link: Link::Works,
            asleep: false,
            opened: None,
        };
        pin_init!(Self {
            state <- new_rwlock!(state, "Gate::state"),
            waiters <- new_wait_queue!("Gate::waiters"),
            waiting: Atomic::new(0),
            impaired: Atomic::new(0),
            turn <- new_rwlock!((), "Gate::turn"),
            starved: Atomic::new(0),
        })
    }

    /// Enters the gate; `None` if memory is about to be taken away, or is away for a while.
    #[inline(always)]
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let state = self.state.read();
        (!state.keeps_out()).then_some(Inside { state })
    }

    /// Waits until no fault is under way, and keeps faults out.
    pub(crate) fn shut(&self) -> Shut<'_> {
        Shut {
            _state: self.state.write(),
        }
    }

    /// The device is open from here on.
    pub(crate) fn set_opened(&self, opened: Opened) {
        let mut state = self.state.write();
        state.asleep = false;
        state.opened = Some(opened);
    }

    /// The device is being closed: no fault finds it open after this.
    pub(crate) fn take_opened(&self) -> Option<Opened> {
        self.state.write().opened.take()
    }

    /// Closes the gate for a call of the owner that may disable memory, one after the other.
    ///
    /// A fault that has lost against such calls repeatedly gets [`GRACE`] first.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: the task was killed while it waited for its turn.
    pub(crate) fn change(&self) -> Result<Change<'_>> {
        let turn = self.turn.write_killable()?;
        if self.starved.load(Relaxed) != 0 {
            self.starved.store(0, Relaxed);
            fsleep(GRACE);
        }
        self.update(|state| state.changing = Some(current_task()));
        Ok(Change {
            gate: self,
            _turn: turn,
        })
    }

    /// Closes the gate until [`Gate::reset_ends`].
    pub(crate) fn reset_begins(&self) {
        self.update(|state| state.resets = state.resets.saturating_add(1));
    }

    /// Opens the gate again, after the last of the resets.
    ///
    /// The function is in D0 then, whether the reset has worked or not.
    pub(crate) fn reset_ends(&self) {
        self.update(|state| {
            state.resets = state.resets.saturating_sub(1);
            state.asleep = false;
        });
    }

    /// Whether the device is asleep, or its link does not work.
    pub(crate) fn is_impaired(&self) -> bool {
        self.impaired.load(Relaxed) != 0
    }

    /// Looks whether the device is asleep, after the core may have changed that.
    pub(crate) fn look_asleep(&self) {
        self.update(|state| {
            state.asleep = state.opened.as_deref().is_some_and(OpenCore::is_asleep);
        });
    }

    /// Lets `event` happen to the link. Returns the states before and after it.
    pub(crate) fn link(&self, event: link::Event) -> (Link, Link) {
        self.update(|state| {
            let before = state.link;
            state.link = before.after(event);
            (before, state.link)
        })
    }

    /// Changes the state while no fault is under way, and tells waiters.
    fn update<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state.write();
        let was_closed = state.is_closed();
        let result = change(&mut state);
        let impaired = state.asleep || state.link != Link::Works;
        self.impaired.store(impaired.into(), Relaxed);
        drop(state);
        if was_closed && self.waiting.load(Relaxed) != 0 {
            self.waiters.wake_all();
        }
        result
    }

    /// Waits until the gate lets the current task in. `again` tells that the caller has waited for
    /// the same access before.
    ///
    /// # Errors
    ///
    /// Something else has ended the wait.
    pub(crate) fn wait(&self, wait: Wait, again: bool) -> Result {
        if again {
            self.starved.store(1, Relaxed);
        }
        self.waiting.fetch_add(1, Full);
        let result = self.waiters.wait(wait, || !self.state.read().keeps_out());
        self.waiting.fetch_sub(1, Relaxed);
        result
    }
}
