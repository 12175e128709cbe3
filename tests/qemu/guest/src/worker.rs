// SPDX-License-Identifier: GPL-2.0
//! A second process that runs a function; its exit status says whether that worked.

use std::io::{Read, Write};

use nix::sys::signal::{kill, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::{fork, getppid, pipe, ForkResult, Pid};

use crate::prelude::*;

/// A child that runs a function.
pub struct Worker {
    pid: Pid,
    over: bool,
}

impl Worker {
    /// Starts a child with copies of all that this process has.
    pub fn start(work: impl FnOnce() -> Result<()>) -> Result<Worker> {
        let pid = start_child(|| match work() {
            Ok(()) => 0,
            Err(error) => {
                eprintln!("worker: {error:#}");
                1
            }
        })?;
        Ok(Worker { pid, over: false })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Kills it, and waits until nothing is left of it. Until then it must have been at work.
    pub fn kill(mut self) -> Result<()> {
        kill(self.pid, Signal::SIGKILL)?;
        let status = waitpid(self.pid, None)?;
        self.over = true;
        let killed = matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _));
        ensure!(killed, "process {} had ended before: {status:?}", self.pid);
        Ok(())
    }

    /// Waits for its end, which must come within `limit` and be a good one.
    pub fn finish(mut self, limit: Duration) -> Result<()> {
        let pid = self.pid;
        wait_until(limit, &format!("the end of process {pid}"), || {
            let status = waitpid(pid, Some(WaitPidFlag::WNOHANG))?;
            self.over = status != WaitStatus::StillAlive;
            let fine = !self.over || matches!(status, WaitStatus::Exited(_, 0));
            ensure!(fine, "process {pid}: {status:?}");
            Ok(self.over)
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if !self.over {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

/// Starts a process with copies of all that this one has, which runs `work`; returns its id.
///
/// It is not a child of this process but of the next one above that is a subreaper
/// (`PR_SET_CHILD_SUBREAPER`), whose business it is to wait for it. It does not end with this
/// process.
pub fn start_away(work: impl FnOnce()) -> Result<i32> {
    let (ours, theirs) = pipe()?;
    // SAFETY: callers have one thread; both children leave by _exit(), so no destructor of the
    // parent's objects runs twice.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        drop(theirs);
        let mut pid = [0; 4];
        File::from(ours).read_exact(&mut pid)?;
        waitpid(child, None)?;
        return Ok(i32::from_ne_bytes(pid));
    }
    // SAFETY: as above.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            drop((ours, theirs));
            work();
        }
        Ok(ForkResult::Parent { child }) => {
            let _ = File::from(theirs).write_all(&child.as_raw().to_ne_bytes());
        }
        // The parent finds the pipe empty.
        Err(_) => {}
    }
    // SAFETY: ends the process, that is all.
    unsafe { libc::_exit(0) }
}

/// Forks a child that exits with the status that `work` returns. The kernel kills it when its
/// parent ends.
pub(crate) fn start_child(work: impl FnOnce() -> i32) -> Result<Pid> {
    let parent = Pid::this();
    // SAFETY: cases fork while they have one thread; the child leaves by _exit(), so no destructor
    // of the parent's objects runs twice.
    if let ForkResult::Parent { child } = unsafe { fork() }? {
        return Ok(child);
    }
    // SAFETY: sets a number of this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    let status = if getppid() == parent { work() } else { 1 };
    // SAFETY: ends the process, that is all.
    unsafe { libc::_exit(status) }
}
