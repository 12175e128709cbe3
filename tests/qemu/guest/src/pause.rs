// SPDX-License-Identifier: GPL-2.0
//! Pauses in the kernel, made by the test module: a thread stops where it enters a function, while
//! the case does something else.

use std::fmt::Debug;

use nix::unistd::gettid;

use crate::call::Call;
use crate::prelude::*;
use crate::scheduling;
use crate::sys::{ioctl, ioctl_with};
use crate::testmod::{self, uapi};
use crate::windows::Window;

/// How long a thread stops at most, unless a case sets a shorter limit.
const LIMIT: Duration = Duration::from_secs(20);

/// One pause, of one thread. Ends when dropped.
#[derive(Debug)]
pub struct Pause {
    file: File,
    function: String,
    /// For threads that spin there.
    cpu: Option<usize>,
}

impl Pause {
    /// A pause in this window, of no thread yet.
    pub fn at(window: Window) -> Result<Pause> {
        let file = testmod::open(uapi::PAUSE)?;
        let cpu = match window.spins() {
            Some(from_end) => Some(scheduling::reserve(from_end)?),
            None => None,
        };
        Ok(Pause { file, function: window.function()?, cpu })
    }

    /// Stops `thread` when it next comes to the window.
    pub fn of(thread: i32, window: Window) -> Result<Pause> {
        let pause = Pause::at(window)?;
        pause.arm(thread, LIMIT).with_context(|| format!("probe {}", pause.function))?;
        Ok(pause)
    }

    /// Stops whichever thread next comes to the window.
    pub fn of_any(window: Window) -> Result<Pause> {
        Pause::of(0, window)
    }

    /// Stops the calling thread there.
    pub fn arm_here(&self) -> Result<(), Errno> {
        self.arm(gettid().as_raw(), LIMIT)
    }

    /// Stops a thread there for a time at most.
    pub fn arm(&self, thread: i32, limit: Duration) -> Result<(), Errno> {
        let mut arg = uapi::Arm {
            function: [0; uapi::MAX_FUNCTION],
            task: thread,
            limit_ms: scaled(limit).as_millis() as u32,
        };
        let room = arg.function.get_mut(..self.function.len()).ok_or(Errno::ENAMETOOLONG)?;
        room.copy_from_slice(self.function.as_bytes());
        if let Some(cpu) = self.cpu.filter(|_| thread != 0) {
            scheduling::stay_on(thread, cpu)?;
        }
        ioctl_with(self.file.as_raw_fd(), uapi::ARM, &mut arg).map(drop)
    }

    /// Lets a child make a call that stops in the window, and waits until it has.
    pub fn call(window: Window, call: impl FnOnce() -> Result<(), Errno>) -> Result<(Pause, Call)> {
        let pause = Pause::at(window)?;
        let mut made = Call::start(|| {
            pause.arm_here()?;
            call()
        })?;
        wait_until(LIMIT, "the call to stop", || {
            ensure!(!made.is_over()?, "it did not stop in {window:?}");
            pause.is_inside()
        })?;
        Ok((pause, made))
    }

    /// Another handle on it.
    pub fn share(&self) -> Result<Pause> {
        let file = self.file.try_clone()?;
        Ok(Pause { file, function: self.function.clone(), cpu: self.cpu })
    }

    /// Waits until the thread has stopped.
    pub fn wait(&self) -> Result<()> {
        wait_until(LIMIT, "a thread to stop", || self.is_inside())
            .with_context(|| format!("{}: {:?}", self.function, self.stats()))
    }

    /// Waits until the thread has stopped, and lets it continue.
    pub fn pass(self) -> Result<()> {
        self.wait()?;
        self.end()
    }

    /// Checks that the thread is still where it stopped.
    pub fn holds(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.state == uapi::PAUSE_INSIDE, "the pause is over: {stats:?}");
        Ok(())
    }

    /// Checks that the thread holds a lock under which nobody sleeps or is preempted.
    pub fn is_atomic(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.atomic == 1, "the thread may sleep: {stats:?}");
        Ok(())
    }

    /// Checks that no thread has come yet.
    pub fn is_ahead(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.state == uapi::PAUSE_ARMED, "a thread came already: {stats:?}");
        Ok(())
    }

    /// Checks that the thread is still there, and lets it continue.
    pub fn end(self) -> Result<()> {
        self.release()
    }

    /// As [`Pause::end`], for a pause that others use too.
    pub fn release(&self) -> Result<()> {
        self.holds()?;
        Ok(ioctl(self.file.as_raw_fd(), uapi::RELEASE, 0).map(drop)?)
    }

    fn is_inside(&self) -> Result<bool> {
        match self.stats() {
            Ok(stats) => Ok(stats.state == uapi::PAUSE_INSIDE),
            // Not armed yet.
            Err(Errno::ENOTCONN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    fn stats(&self) -> Result<uapi::PauseStats, Errno> {
        let mut stats = uapi::PauseStats::default();
        ioctl_with(self.file.as_raw_fd(), uapi::PAUSE_STATS, &mut stats)?;
        Ok(stats)
    }
}

/// Runs `done` in another thread; checks that it ends while a thread is stopped in `pause`.
pub fn meanwhile<T: Send + Debug>(
    pause: &Pause,
    what: &str,
    done: impl FnOnce() -> T + Send,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(done);
        thread.join()
    });
    let took = start.elapsed();
    pause.holds().with_context(|| format!("{what} took {took:?} and waited"))?;
    let result = result.map_err(|_| anyhow::anyhow!("{what}: panic"))?;
    Ok((result, took))
}
