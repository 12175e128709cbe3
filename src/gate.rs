// SPDX-License-Identifier: GPL-2.0

//! The gate between faults and those who take memory away.
//!
//! A fault passes the gate from looking whether it may map until it has mapped. Who takes memory
//! away shuts the gate for the moment in which it says so: nobody is half way then, and who comes
//! later sees it. What is mapped already can be zapped after that.
//!
//! The core's `memory_lock` would do for a revoke, but not for a reset that user space starts
//! through sysfs: there the core does nothing at all, and whether `memory_lock` is held cannot be
//! known. And the core holds `memory_lock` all through slow resets, for which a revoke need not
//! wait.

use kernel::prelude::*;
use kernel_ext::{
    new_flag,
    new_rwlock,
    rwsem::{
        RwLock,
        RwLockReadGuard,
        RwLockWriteGuard, //
    },
    vfio_pci_core::Opened,
    wait::{
        Flag,
        Wait, //
    }, //
};

/// The gate of a device.
#[pin_data]
pub(crate) struct Gate {
    #[pin]
    state: RwLock<State>,
    /// [`State::is_away`], for those who wait. Changes with `state` locked for writing.
    #[pin]
    away: Flag,
}

struct State {
    /// How many resets are under way.
    resets: u32,
    link: Link,
    /// There while the device is open.
    opened: Option<Opened>,
}

/// The link to the device.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Works,
    /// After an error; the link may be about to be reset.
    Recovering,
    /// After an error, for good or until somebody resets the device.
    Lost,
}

impl State {
    /// Whether the device will be back soon.
    fn is_away(&self) -> bool {
        self.resets != 0 || self.link == Link::Recovering
    }
}

/// Inside the gate: nothing is taken away before this is dropped.
pub(crate) struct Inside<'a> {
    state: RwLockReadGuard<'a, State>,
}

impl Inside<'_> {
    /// The proof that the device is open, if it is and its link works; it stays so inside the gate.
    pub(crate) fn opened(&self) -> Option<&Opened> {
        self.state
            .opened
            .as_ref()
            .filter(|_| self.state.link == Link::Works)
    }
}

/// The gate is shut, and nobody inside.
pub(crate) struct Shut<'a> {
    state: RwLockWriteGuard<'a, State>,
}

impl Shut<'_> {
    /// The device is open from here on.
    pub(crate) fn set_opened(&mut self, opened: Opened) {
        self.state.opened = Some(opened);
    }

    /// The device is being closed: nobody inside finds it open after this.
    pub(crate) fn take_opened(&mut self) -> Option<Opened> {
        self.state.opened.take()
    }
}

impl Gate {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            state <- new_rwlock!(
                State {
                    resets: 0,
                    link: Link::Works,
                    opened: None,
                },
                "Gate::state"
            ),
            away <- new_flag!("Gate::away"),
        })
    }

    /// Goes in; `None` while a reset, or the recovery from an error, is under way.
    pub(crate) fn enter(&self) -> Option<Inside<'_>> {
        let state = self.state.read();
        (!state.is_away()).then_some(Inside { state })
    }

    /// Waits until nobody is inside, and keeps everybody out.
    pub(crate) fn shut(&self) -> Shut<'_> {
        Shut {
            state: self.state.write(),
        }
    }

    /// Nobody gets in from here on until [`Gate::reset_ends`], and nobody is inside.
    pub(crate) fn reset_begins(&self) {
        let mut state = self.state.write();
        state.resets = state.resets.saturating_add(1);
        self.tell_waiting(&state);
    }

    /// Lets everybody in again, after the last of the resets.
    pub(crate) fn reset_ends(&self) {
        let mut state = self.state.write();
        state.resets = state.resets.saturating_sub(1);
        self.tell_waiting(&state);
    }

    /// The link has an error: nobody gets in from here on, and nobody is inside. `false` if that
    /// was so before.
    pub(crate) fn recovery_begins(&self) -> bool {
        self.change_link(&[Link::Works], Link::Recovering)
    }

    /// The kernel has given up: who waits is let in, and finds the device out of reach.
    pub(crate) fn recovery_fails(&self) {
        let any = [Link::Works, Link::Recovering, Link::Lost];
        self.change_link(&any, Link::Lost);
    }

    /// The device is being unbound in the middle of a recovery, if there is one: nobody will tell
    /// how that ends, and who waits for it may be the one to close the device.
    pub(crate) fn recovery_is_abandoned(&self) {
        self.change_link(&[Link::Recovering], Link::Lost);
    }

    /// The link works again; `false` if it always has.
    pub(crate) fn recovery_ends(&self) -> bool {
        self.change_link(&[Link::Recovering, Link::Lost], Link::Works)
    }

    /// The device was reset, after which a lost link works again; `false` if it was not lost.
    ///
    /// Not while the kernel is about to reset the link itself.
    pub(crate) fn loss_ends(&self) -> bool {
        self.change_link(&[Link::Lost], Link::Works)
    }

    /// Changes the state of the link if it is one of `from` before; tells whether it was.
    fn change_link(&self, from: &[Link], to: Link) -> bool {
        let mut state = self.state.write();
        let changes = from.contains(&state.link);
        if changes {
            state.link = to;
            self.tell_waiting(&state);
        }
        changes
    }

    fn tell_waiting(&self, state: &State) {
        self.away.set(state.is_away());
    }

    /// Waits until neither a reset nor a recovery is under way.
    ///
    /// # Errors
    ///
    /// Something else has ended the wait.
    pub(crate) fn wait(&self, wait: Wait) -> Result {
        self.away.wait(wait)
    }
}
