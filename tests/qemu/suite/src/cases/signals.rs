// SPDX-License-Identifier: GPL-2.0
//! Signals that come while a system call waits for importers, before it has done anything.
//!
//! A write to the config space, a reset and low-power entry wait until importers have unmapped. A
//! signal ends the wait. The system call then starts again by itself, unless a handler without
//! SA_RESTART ran: programs that are stopped, continued or traced do not repeat a `pwrite()`.

use guest::call;
use nix::sys::ptrace;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use super::importers_reset::clear_command;
use super::race_waits::pending;
use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "a signal before an operation begins: it restarts, or EINTR if sigaction says so": [
            config_write_outlasts_sigstop =>
                memory_is(&outlasts_sigstop(writing()?)?.device, false),
            config_write_outlasts_a_debugger =>
                memory_is(&outlasts_a_debugger(writing()?)?.device, false),
            config_write_outlasts_a_handler_with_sa_restart,
            config_write_of_a_killed_process_does_not_happen,
            config_write_that_waits_for_another_can_be_killed,
            vfio_reset_outlasts_sigstop =>
                outlasts_sigstop(Waiting::start(Rig::new()?, Device::reset)?).map(drop),
            vfio_reset_outlasts_a_debugger =>
                outlasts_a_debugger(Waiting::start(Rig::new()?, Device::reset)?).map(drop),
        ],
        "REVOKE interrupted: EINTR, in force, call again; stalls nothing else": [
            stopped_revoke_says_that_it_was_interrupted,
        ];
    Setup::Bound(&[BOCHS, EDU, EDU]) =>
        "a signal before an operation begins: it restarts, or EINTR if sigaction says so": [
            low_power_entry_outlasts_sigstop => sleeps(&outlasts_sigstop(entering_low_power()?)?),
            low_power_entry_outlasts_a_debugger =>
                sleeps(&outlasts_a_debugger(entering_low_power()?)?),
            interrupted_low_power_entry_does_not_happen,
        ];
}

/// A system call that waits for an importer.
///
/// Dropped in this order: the last close of the device would wait for the importer.
struct Waiting {
    call: Call,
    importer: Importer,
    rig: Rig,
}

impl Waiting {
    /// Starts `operation` in a child.
    fn start(rig: Rig, operation: impl FnOnce(&Device) -> Result<(), Errno>) -> Result<Waiting> {
        let importer = rig.mapped(NEVER_UNMAPS)?;
        let call = waiting(|| operation(&rig.device))?;
        Ok(Waiting { call, importer, rig })
    }

    /// Checks that it waits still, or again: it has not happened, and has not failed.
    fn goes_on(&mut self) -> Result<()> {
        self.call.hangs_for(WHILE)?;
        self.rig.has_status("while it waits", uapi::VFIO_DMABUF_STATUS_LIVE)
    }

    /// Lets the importer unmap, and the call do its work.
    fn finish(self) -> Result<Rig> {
        check::works("unmap", self.importer.unmap())?;
        check::works("the call", self.call.finish()?)?;
        Ok(self.rig)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.call.pid())
    }

    fn state(&self) -> Result<String> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let (_, fields) = stat.rsplit_once(") ").unwrap_or_default();
        Ok(fields.chars().take(1).collect())
    }

    /// Stops its process and lets that go on, by signals.
    fn stop_and_continue(&self) -> Result<()> {
        kill(self.pid(), Signal::SIGSTOP)?;
        wait_for("the process to stop", || Ok(self.state()? == "T"))?;
        Ok(kill(self.pid(), Signal::SIGCONT)?)
    }

    /// Attaches to its process as a debugger does, and detaches.
    fn attach_and_detach(&self) -> Result<()> {
        ptrace::attach(self.pid())?;
        waitpid(self.pid(), None)?;
        Ok(ptrace::detach(self.pid(), None)?)
    }
}

/// How often a call is held up: a call that starts again can be held up again.
const ROUNDS: u32 = 3;

fn outlasts(mut waiting: Waiting, disturb: fn(&Waiting) -> Result<()>) -> Result<Rig> {
    for _ in 0..ROUNDS {
        disturb(&waiting)?;
        waiting.goes_on()?;
    }
    waiting.finish()
}

fn outlasts_sigstop(waiting: Waiting) -> Result<Rig> {
    outlasts(waiting, Waiting::stop_and_continue)
}

fn outlasts_a_debugger(waiting: Waiting) -> Result<Rig> {
    outlasts(waiting, Waiting::attach_and_detach)
}

fn memory_is(device: &Device, on: bool) -> Result<()> {
    let command = device.config16(uapi::PCI_COMMAND.into())?;
    let bit = command & uapi::PCI_COMMAND_MEMORY as u16;
    ensure!((bit != 0) == on, "PCI_COMMAND is {command:#x}");
    Ok(())
}

fn config_write_outlasts_a_handler_with_sa_restart() -> Result<()> {
    let mut waiting = Waiting::start(Rig::new()?, |device| {
        call::restart_interrupted();
        clear_command(device)
    })?;
    for _ in 0..ROUNDS {
        kill(waiting.pid(), Signal::SIGUSR1)?;
        let pid = waiting.call.pid();
        wait_for("the signal to be taken", || Ok(pending(pid)? == 0))?;
        waiting.goes_on()?;
    }
    memory_is(&waiting.finish()?.device, false)
}

fn writing() -> Result<Waiting> {
    Waiting::start(Rig::new()?, clear_command)
}

fn config_write_of_a_killed_process_does_not_happen() -> Result<()> {
    let mut waiting = writing()?;
    kill(waiting.pid(), Signal::SIGKILL)?;
    waiting.call.was_killed()?;
    memory_is(&waiting.rig.device, true)?;
    check::works("unmap", waiting.importer.unmap())?;
    memory_is(&waiting.rig.device, true)
}

fn config_write_that_waits_for_another_can_be_killed() -> Result<()> {
    let device = open_edu()?;
    let on = || device.set_memory(true).or(Err(Errno::EIO));
    let (pause, first) = Pause::call(windows::CONFIG_WRITE, on)?;
    let mut second = waiting(|| clear_command(&device))?;
    kill(Pid::from_raw(second.pid()), Signal::SIGKILL)?;
    second.was_killed()?;
    pause.end()?;
    check::works("the first write", first.finish()?)?;
    memory_is(&device, true)
}

/// A REVOKE is in force before it waits. What is left of it is the wait, which its caller may want
/// to give up.
fn stopped_revoke_says_that_it_was_interrupted() -> Result<()> {
    let (rig, importer) = Rig::new_mapped(NEVER_UNMAPS)?;
    let call = waiting_revoke(&rig)?;
    let waiting = Waiting { call, importer, rig };
    waiting.stop_and_continue()?;
    check::errno("REVOKE", waiting.call.finish()?, Errno::EINTR)?;
    waiting.rig.has_status("after EINTR", uapi::VFIO_DMABUF_STATUS_REVOKED)?;
    check::works("unmap", waiting.importer.unmap())?;
    check::works("REVOKE", buffer::revoke(&waiting.rig.device, &waiting.rig.buffer))
}

fn entering_low_power() -> Result<Waiting> {
    Waiting::start(Rig::with(nth(BOCHS, 0)?)?, Device::enter_low_power)
}

fn sleeps(rig: &Rig) -> Result<()> {
    rig.has_status("in low power", uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP)?;
    check::works("LOW_POWER_EXIT", rig.device.leave_low_power())
}

fn interrupted_low_power_entry_does_not_happen() -> Result<()> {
    let Waiting { rig, importer, call } = entering_low_power()?;
    check::errno("LOW_POWER_ENTRY", call.interrupt()?, Errno::EINTR)?;
    rig.has_status("after EINTR", uapi::VFIO_DMABUF_STATUS_LIVE)?;
    check::works("unmap", importer.unmap())?;
    // Low power can still be entered.
    check::works("LOW_POWER_ENTRY", rig.device.enter_low_power())?;
    sleeps(&rig)
}
