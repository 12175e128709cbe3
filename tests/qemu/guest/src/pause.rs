// SPDX-License-Identifier: GPL-2.0
//! Pauses in the kernel, made by the test module: a thread stops where it enters a function, so
//! that others can do what they like meanwhile.

use std::fmt::Debug;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{ensure, Context, Result};
use nix::errno::Errno;
use nix::unistd::gettid;

use crate::call::Call;
use crate::module::Module;
use crate::patience::patient;
use crate::sys::{ioctl, ioctl_with};
use crate::testmod::{self, uapi};

/// How long a thread stops if nobody lets it go, unless a case wants it shorter.
const LIMIT: Duration = Duration::from_secs(20);

/// One pause, of one thread. Ends when dropped.
#[derive(Debug)]
pub struct Pause(File);

impl Pause {
    /// A pause that is not for anybody yet.
    pub fn new() -> Result<Pause> {
        Ok(Pause(testmod::open(uapi::PAUSE)?))
    }

    /// Stops `thread` where it next enters `function` (a name in `/proc/kallsyms`).
    pub fn of(thread: i32, function: &str) -> Result<Pause> {
        let pause = Pause::new()?;
        pause.arm(thread, function, LIMIT).with_context(|| format!("probe {function}"))?;
        Ok(pause)
    }

    /// Stops the calling thread there.
    pub fn arm_here(&self, function: &str) -> Result<(), Errno> {
        self.arm(gettid().as_raw(), function, LIMIT)
    }

    /// Stops a thread there for a time at most.
    pub fn arm(&self, thread: i32, function: &str, limit: Duration) -> Result<(), Errno> {
        let mut arg = uapi::Arm {
            function: [0; uapi::MAX_FUNCTION],
            task: thread,
            limit_ms: patient(limit).as_millis() as u32,
        };
        let room = arg.function.get_mut(..function.len()).ok_or(Errno::ENAMETOOLONG)?;
        room.copy_from_slice(function.as_bytes());
        ioctl_with(self.0.as_raw_fd(), uapi::ARM, &mut arg).map(drop)
    }

    /// Lets a child make a call that stops in `function`, and waits until it has.
    pub fn call(function: &str, call: impl FnOnce() -> Result<(), Errno>) -> Result<(Pause, Call)> {
        let pause = Pause::new()?;
        let mut made = Call::start(|| {
            pause.arm_here(function)?;
            call()
        })?;
        while !pause.is_inside()? {
            ensure!(!made.is_over()?, "it did not stop in {function}: {:?}", made.finish()?);
            sleep(Duration::from_millis(1));
        }
        Ok((pause, made))
    }

    /// Another handle on it.
    pub fn share(&self) -> Result<Pause> {
        Ok(Pause(self.0.try_clone()?))
    }

    /// Waits until the thread has stopped.
    pub fn wait(&self) -> Result<()> {
        let deadline = Instant::now() + patient(LIMIT);
        while !self.is_inside()? {
            ensure!(Instant::now() < deadline, "nobody came: {:?}", self.stats());
            sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Checks that the thread is still where it stopped.
    pub fn holds(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.state == uapi::PAUSE_INSIDE, "the pause is over: {stats:?}");
        Ok(())
    }

    /// Checks that nobody has come yet.
    pub fn is_ahead(&self) -> Result<()> {
        let stats = self.stats()?;
        ensure!(stats.state == uapi::PAUSE_ARMED, "somebody came already: {stats:?}");
        Ok(())
    }

    /// Checks that the thread is still there, and lets it go.
    pub fn end(self) -> Result<()> {
        self.release()
    }

    /// As [`Pause::end`], for a pause that others use too.
    pub fn release(&self) -> Result<()> {
        self.holds()?;
        Ok(ioctl(self.0.as_raw_fd(), uapi::RELEASE, 0).map(drop)?)
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
        ioctl_with(self.0.as_raw_fd(), uapi::PAUSE_STATS, &mut stats)?;
        Ok(stats)
    }
}

/// What the driver calls to lock a mutex: a helper where that is a macro in C, as with lockdep.
pub fn mutex_lock() -> Result<&'static str> {
    let text = fs::read_to_string("/proc/kallsyms")?;
    let is_function = text.lines().any(|line| line.ends_with(" T mutex_lock"));
    Ok(if is_function { "mutex_lock" } else { "rust_helper_mutex_lock" })
}

/// The one function of the driver under test that has `part` in its name, which is mangled:
/// `7dma_buf6attach` for `dma_buf::attach`.
pub fn of_driver(part: &str) -> Result<String> {
    let module = format!("[{}]", Module::driver().name());
    let text = fs::read_to_string("/proc/kallsyms")?;
    let functions = text.lines().filter_map(|line| {
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            // Some kernels pad functions, and name the padding.
            [_, "t" | "T", name, of] if of == module && !name.starts_with("__pfx_") => Some(name),
            _ => None,
        }
    });
    let found: Vec<&str> = functions.filter(|name| name.contains(part)).collect();
    ensure!(found.len() == 1, "functions of the driver with {part} in their names: {found:?}");
    Ok(found[0].to_string())
}

/// Checks that `done`, on a thread of its own, ends while somebody stands in `pause`.
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
