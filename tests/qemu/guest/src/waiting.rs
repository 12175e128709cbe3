// SPDX-License-Identifier: GPL-2.0
//! Whether and where a thread sleeps in the kernel, by its stack.

use std::sync::mpsc::channel;
use std::thread::{Scope, ScopedJoinHandle};

use nix::unistd::gettid;

use crate::prelude::*;
use crate::testmod;

/// How long a thread takes at most to come to its wait.
const LIMIT: Duration = Duration::from_secs(20);

/// Whether `thread` sleeps in the kernel. False if it is gone.
pub fn is_asleep(thread: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall"));
    text.is_ok_and(|text| !text.starts_with("running"))
}

/// Whether `thread` sleeps in a function of the driver or in a function that the driver called, and
/// not in a pause.
pub fn is_in_driver(thread: i32) -> bool {
    let [driver, pauses] =
        [Module::driver(), testmod::module()].map(|of| format!("[{}]", of.name()));
    let stack = fs::read_to_string(format!("/proc/{thread}/stack")).unwrap_or_default();
    is_asleep(thread) && stack.contains(&driver) && !stack.contains(&pauses)
}

/// A thread of a scope, whose waits the case can observe.
#[derive(Debug)]
pub struct Waiter<'scope, T> {
    thread: ScopedJoinHandle<'scope, T>,
    id: i32,
}

impl<'scope, T: Send + 'scope> Waiter<'scope, T> {
    /// Starts a thread that does `work`.
    pub fn start(
        scope: &'scope Scope<'scope, '_>,
        work: impl FnOnce() -> T + Send + 'scope,
    ) -> Result<Self> {
        let (tell, id) = channel();
        let thread = scope.spawn(move || {
            let _ = tell.send(gettid().as_raw());
            work()
        });
        Ok(Waiter { thread, id: id.recv()? })
    }

    /// Whether its work is done.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits until it sleeps in the driver; fails if its work ends instead.
    pub fn waits_in_driver(&self) -> Result<()> {
        self.waits(is_in_driver)
    }

    /// Waits until it sleeps anywhere in the kernel; fails if its work ends instead.
    pub fn waits_in_kernel(&self) -> Result<()> {
        self.waits(is_asleep)
    }

    fn waits(&self, there: impl Fn(i32) -> bool) -> Result<()> {
        wait_until(LIMIT, "the thread to wait", || {
            ensure!(!self.is_finished(), "it did not wait");
            Ok(there(self.id))
        })
    }

    /// What its work returns.
    pub fn finish(self) -> Result<T> {
        self.thread.join().map_err(|_| anyhow!("panic of a thread"))
    }
}
