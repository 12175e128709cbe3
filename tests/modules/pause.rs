// SPDX-License-Identifier: GPL-2.0

//! Pauses on request: a task that enters a given function stops there until it is let go.
//!
//! One pause per open file. See [`uapi::ARM`].

use crate::{
    ioctl::{
        self,
        *, //
    },
    sys::{
        kprobe::{
            is_atomic,
            Probe,
            Trampoline, //
        },
        time, //
    },
    uapi, //
};
use kernel::{
    miscdevice::MiscDeviceOptions,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed,
            Release, //
        },
        Arc,
        Mutex, //
    },
    task::Task,
    time::{
        delay::fsleep,
        Delta, //
    }, //
};
use kernel_ext::errno::ENOTCONN;

/// The device of the pauses, and what they leave behind.
#[pin_data]
pub(crate) struct Registration {
    #[pin]
    _device: MiscDeviceRegistration<Pauser>,
    /// Goes last: no file is open by then.
    _trampoline: Trampoline,
}

/// Registers the device.
pub(crate) fn register() -> impl PinInit<Registration, Error> {
    let options = MiscDeviceOptions { name: uapi::PAUSE };
    try_pin_init!(Registration {
        _device <- MiscDeviceRegistration::register(options),
        _trampoline: Trampoline,
    })
}

/// The time at the entry of a function that one task is kept in.
pub(crate) struct Window {
    /// The thread to stop, or 0 for any.
    task: i32,
    limit_ms: u32,
    /// `uapi::PAUSE_*`. Each is followed by the next.
    state: Atomic<u32>,
    /// The task that is or was stopped, until it has hit the probe again.
    stopped: Atomic<usize>,
    released: Atomic<u32>,
    timed_out: Atomic<u32>,
    atomic: Atomic<u32>,
    calls: Atomic<u32>,
}

impl Window {
    fn new(task: i32, limit_ms: u32) -> Self {
        Self {
            task,
            limit_ms,
            state: Atomic::new(uapi::PAUSE_ARMED),
            stopped: Atomic::new(0),
            released: Atomic::new(0),
            timed_out: Atomic::new(0),
            atomic: Atomic::new(0),
            calls: Atomic::new(0),
        }
    }

    /// The current task enters the function: whether it is to stop. In an exception handler.
    pub(crate) fn hit(&self) -> bool {
        let me = Task::current_raw() as usize;
        if self.stopped.load(Relaxed) == me {
            // It comes from the pause.
            self.stopped.store(0, Relaxed);
            return false;
        }
        if self.task != 0 && self.task != current!().pid() {
            return false;
        }
        self.calls.add(1, Relaxed);
        let first = self.step(uapi::PAUSE_ARMED, uapi::PAUSE_INSIDE);
        if first {
            self.stopped.store(me, Relaxed);
        }
        first
    }

    /// Keeps the current task until it is let go, or for the time that was set as the limit.
    ///
    /// It sleeps if it may, and spins if it holds a lock that forbids it.
    pub(crate) fn pause(&self) {
        let atomic = is_atomic();
        self.atomic.store(atomic.into(), Relaxed);
        let end = time::now() + u64::from(self.limit_ms) * 1_000_000;
        while self.released.load(Acquire) == 0 {
            if time::now() >= end {
                self.timed_out.store(1, Relaxed);
                break;
            }
            if atomic {
                core::hint::spin_loop();
            } else {
                fsleep(Delta::from_millis(1));
            }
        }
        self.step(uapi::PAUSE_INSIDE, uapi::PAUSE_OVER);
    }

    /// Lets the task go; none will stop after this.
    fn release(&self) {
        self.released.store(1, Release);
        self.step(uapi::PAUSE_ARMED, uapi::PAUSE_OVER);
    }

    /// Lets the task go and waits until it has gone.
    pub(crate) fn close(&self) {
        self.release();
        while self.state.load(Acquire) != uapi::PAUSE_OVER {
            fsleep(Delta::from_millis(1));
        }
    }

    fn step(&self, from: u32, to: u32) -> bool {
        self.state.cmpxchg(from, to, Full).is_ok()
    }

    fn stats(&self) -> uapi::PauseStats {
        uapi::PauseStats {
            state: self.state.load(Acquire),
            calls: self.calls.load(Relaxed),
            timed_out: self.timed_out.load(Relaxed),
            atomic: self.atomic.load(Relaxed),
        }
    }
}

/// An open file.
#[pin_data]
pub(crate) struct Pauser {
    #[pin]
    probe: Mutex<Option<Probe>>,
}

impl Pauser {
    fn arm(&self, arg: &uapi::Arm) -> Result {
        let function = CStr::from_bytes_until_nul(&arg.function).map_err(|_| EINVAL)?;
        let mut probe = self.probe.lock();
        if probe.is_some() {
            return Err(EBUSY);
        }
        let window = Arc::new(Window::new(arg.task, arg.limit_ms), GFP_KERNEL)?;
        *probe = Some(Probe::new(function, window)?);
        Ok(())
    }

    fn with_window<R>(&self, f: impl FnOnce(&Window) -> R) -> Result<R> {
        let probe = self.probe.lock();
        Ok(f(probe.as_ref().ok_or(ENOTCONN)?.window()))
    }
}

#[vtable]
impl MiscDevice for Pauser {
    type Ptr = Pin<KBox<Self>>;

    fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Pin<KBox<Self>>> {
        KBox::try_pin_init(
            try_pin_init!(Self { probe <- new_mutex!(None, "Pauser::probe") }),
            GFP_KERNEL,
        )
    }

    fn ioctl(pauser: Pin<&Self>, _file: &File, cmd: u32, arg: usize) -> Result<isize> {
        match cmd {
            uapi::ARM => pauser.arm(&ioctl::read(arg)?)?,
            uapi::RELEASE => pauser.with_window(Window::release)?,
            uapi::PAUSE_STATS => ioctl::write(arg, &pauser.with_window(Window::stats)?)?,
            _ => return Err(ENOTTY),
        }
        Ok(0)
    }
}
