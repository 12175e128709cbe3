// SPDX-License-Identifier: GPL-2.0
//! A system call that may take its time, made by a child process.

use nix::sys::signal::{kill, sigaction, SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::sys::wait::{waitpid, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

use crate::prelude::*;
use crate::timeout::scaled_delay;
use crate::waiting::is_asleep;
use crate::worker::start_child;

/// How long a call may go on after what it waits for has happened.
const LIMIT: Duration = Duration::from_secs(20);

/// A call under way.
#[derive(Debug)]
pub struct Call {
    pid: Pid,
    result: Option<Result<(), Errno>>,
}

impl Call {
    /// Lets a child, with copies of all that this process has, make the call.
    pub fn start(call: impl FnOnce() -> Result<(), Errno>) -> Result<Call> {
        let pid = start_child(|| {
            handle_interruptions(SaFlags::empty());
            call().map_or_else(|errno| errno as i32, |()| 0)
        })?;
        Ok(Call { pid, result: None })
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Whether it is over.
    pub fn is_over(&mut self) -> Result<bool> {
        if self.result.is_none() {
            self.result = match waitpid(self.pid, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::StillAlive => None,
                WaitStatus::Exited(_, 0) => Some(Ok(())),
                WaitStatus::Exited(_, errno) => Some(Err(Errno::from_raw(errno))),
                status => bail!("process {}: {status:?}", self.pid),
            };
        }
        Ok(self.result.is_some())
    }

    /// Checks that it comes to wait for something, and does so for at least `time`.
    pub fn hangs_for(&mut self, time: Duration) -> Result<()> {
        wait_until(LIMIT, "the call to wait", || {
            ensure!(!self.is_over()?, "it did not wait: {:?}", self.result);
            Ok(is_asleep(self.pid()))
        })?;
        let deadline = Instant::now() + scaled_delay(time);
        while Instant::now() < deadline {
            ensure!(!self.is_over()?, "it did not wait: {:?}", self.result);
            sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for what comes of it.
    pub fn finish(mut self) -> Result<Result<(), Errno>> {
        wait_until(LIMIT, "the end of the call", || self.is_over())?;
        Ok(self.result.unwrap_or(Ok(())))
    }

    /// Checks that its process ends, killed.
    pub fn was_killed(&mut self) -> Result<()> {
        let status = waitpid(self.pid, None)?;
        self.result = Some(Err(Errno::EINTR));
        ensure!(matches!(status, WaitStatus::Signaled(_, Signal::SIGKILL, _)), "{status:?}");
        Ok(())
    }

    /// Interrupts it with a signal that has a handler, and waits for what comes of it.
    pub fn interrupt(mut self) -> Result<Result<(), Errno>> {
        // A signal that comes before the call waits interrupts nothing.
        wait_until(LIMIT, "the end of the interrupted call", || {
            if self.is_over()? {
                return Ok(true);
            }
            kill(self.pid, Signal::SIGUSR1)?;
            sleep(Duration::from_millis(20));
            Ok(false)
        })?;
        self.finish()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.result.is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = waitpid(self.pid, None);
        }
    }
}

extern "C" fn ignore(_signal: i32) {}

/// SIGUSR1 interrupts the system calls of this process from here on, which then start again.
pub fn restart_interrupted() {
    handle_interruptions(SaFlags::SA_RESTART);
}

/// Gives SIGUSR1 a handler in this process.
fn handle_interruptions(flags: SaFlags) {
    let action = SigAction::new(SigHandler::Handler(ignore), flags, SigSet::empty());
    // SAFETY: the handler does nothing.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.expect("sigaction takes SIGUSR1");
}
