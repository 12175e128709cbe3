// SPDX-License-Identifier: GPL-2.0
//! Whether a thread waits for something, and where: what the kernel says of its stack.

use std::fs;
use std::sync::mpsc::{channel, Receiver};

use nix::unistd::gettid;

use crate::module::Module;

/// Whether `thread` is asleep in the kernel. Of one that is gone, too, this is no.
pub fn is_asleep(thread: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{thread}/syscall"));
    text.is_ok_and(|text| !text.starts_with("running"))
}

/// Whether `thread` is asleep in a function of the driver, or in what that has called.
pub fn is_in_driver(thread: i32) -> bool {
    let of_driver = format!("[{}]", Module::driver().name());
    let text = fs::read_to_string(format!("/proc/{thread}/stack"));
    is_asleep(thread) && text.is_ok_and(|text| text.contains(&of_driver))
}

/// `work`, which first says in which thread it is.
pub fn told<T>(work: impl FnOnce() -> T) -> (impl FnOnce() -> T, Receiver<i32>) {
    let (tell, thread) = channel();
    let work = move || {
        let _ = tell.send(gettid().as_raw());
        work()
    };
    (work, thread)
}
