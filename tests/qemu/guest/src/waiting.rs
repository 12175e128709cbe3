// SPDX-License-Identifier: GPL-2.0
//! Whether and where a thread sleeps in the kernel, by its stack.

use std::fs;
use std::sync::mpsc::{channel, Receiver};

use nix::unistd::gettid;

use crate::module::Module;

/// Whether `thread` sleeps in the kernel. False if it is gone.
pub fn is_asleep(thread: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall"));
    text.is_ok_and(|text| !text.starts_with("running"))
}

/// Whether `thread` sleeps in a function of the driver or in a function that the driver called.
pub fn is_in_driver(thread: i32) -> bool {
    let of_driver = format!("[{}]", Module::driver().name());
    let text = fs::read_to_string(format!("/proc/{thread}/stack"));
    is_asleep(thread) && text.is_ok_and(|text| text.contains(&of_driver))
}

/// Wraps `work` so that it first sends the id of the thread that runs it.
pub fn with_thread_id<T>(work: impl FnOnce() -> T) -> (impl FnOnce() -> T, Receiver<i32>) {
    let (tell, thread) = channel();
    let work = move || {
        let _ = tell.send(gettid().as_raw());
        work()
    };
    (work, thread)
}
