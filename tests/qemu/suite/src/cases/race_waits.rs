// SPDX-License-Identifier: GPL-2.0
//! Accesses that wait for the end of a reset: which signals end them, and what they block.
//!
//! An access by the kernel is part of a system call: a signal cannot be delivered before the access
//! is over, so the fault handler must check for a fatal one itself.

use guest::waiting::Waiter;
use nix::sys::signal::{kill, Signal};
use nix::unistd::Pid;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "an access waits for a reset: killable; interruptible from user mode; blocks nobody else": [
            load_that_waits_for_a_reset_can_be_killed => can_be_killed(load),
            load_that_waits_for_a_reset_takes_signals,
            munmap_does_not_wait_for_a_load_that_waits_for_a_reset,
            kernels_load_that_waits_for_a_reset_can_be_killed => can_be_killed(kernels_load),
            kernels_load_that_waits_for_a_reset_sleeps_through_signals,
            futex_that_waits_for_a_reset_can_be_killed => can_be_killed(futex),
            futex_that_waits_for_a_reset_works_when_that_is_over,
            load_that_waits_for_a_reset_keeps_a_buffer_that_nobody_else_has,
        ];
}

/// How long to watch a task that should sleep.
const WATCH: Duration = Duration::from_secs(1);

/// Stops a reset half way, in each way to ask for one; `act` lets it go on.
fn in_each_reset(act: impl Fn(&Mapping, &Pause) -> Result<()>) -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let buffer = export_edu(&device)?;
    for (name, reset) in resets(&device, &pci) {
        let mapping = buffer.map(0, PAGE)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        let (pause, reset) = Pause::call(windows::RESET, reset)?;
        act(&mapping, &pause).with_context(|| format!("in a {name} reset"))?;
        check::works("reset", reset.finish()?)?;
        check::value("afterwards", buffer.map(0, PAGE)?.load(ID_AT), ID)?;
    }
    Ok(())
}

/// Checks that SIGKILL ends an access at once.
fn can_be_killed(access: impl Fn(&Mapping) -> Result<(), Errno>) -> Result<()> {
    in_each_reset(|mapping, pause| {
        let mut call = waiting(|| access(mapping))?;
        kill(Pid::from_raw(call.pid()), Signal::SIGKILL)?;
        call.was_killed()?;
        pause.release().context("the access went on until the reset was over")
    })
}

fn load(mapping: &Mapping) -> Result<(), Errno> {
    mapping.load(ID_AT).map(drop).or(Err(Errno::EIO))
}

fn kernels_load(mapping: &Mapping) -> Result<(), Errno> {
    mm::load_by_kernel(mapping.address() + ID_AT as usize)
}

fn futex(mapping: &Mapping) -> Result<(), Errno> {
    mm::futex_set(mapping.address() + INVERTER as usize, 0x123)
}

/// The signals that a process was sent and has not taken yet.
pub(super) fn pending(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("ShdPnd:"));
    Ok(u64::from_str_radix(line.context("no ShdPnd")?.trim(), 16)?)
}

/// The CPU time that a process has used, in both modes.
fn cpu_time(pid: i32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    Ok(Duration::from_millis(10 * ticks.sum::<Result<u64, _>>()?))
}

fn load_that_waits_for_a_reset_takes_signals() -> Result<()> {
    in_each_reset(|mapping, pause| {
        let mut call = waiting(|| load(mapping))?;
        kill(Pid::from_raw(call.pid()), Signal::SIGUSR1)?;
        wait_for("the signal to be taken", || Ok(pending(call.pid())? == 0))?;
        pause.holds()?;
        call.hangs_for(WHILE)?;
        pause.release()?;
        check::works("the load", call.finish()?)
    })
}

fn kernels_load_that_waits_for_a_reset_sleeps_through_signals() -> Result<()> {
    in_each_reset(|mapping, pause| {
        let mut call = waiting(|| kernels_load(mapping))?;
        kill(Pid::from_raw(call.pid()), Signal::SIGUSR1)?;
        let before = cpu_time(call.pid())?;
        call.hangs_for(WATCH)?;
        let spent = cpu_time(call.pid())? - before;
        ensure!(spent < WATCH / 4, "it used {spent:?} of CPU time in {WATCH:?}");
        ensure!(pending(call.pid())? != 0, "there is no signal");
        pause.release()?;
        check::works("the load", call.finish()?)
    })
}

fn munmap_does_not_wait_for_a_load_that_waits_for_a_reset() -> Result<()> {
    in_each_reset(|mapping, pause| {
        std::thread::scope(|scope| {
            let at = mapping.address() + ID_AT as usize;
            let load = Waiter::start(scope, move || fault::load32(at))?;
            load.waits_in_driver().context("the load")?;
            let unmap = || mapping.unmap_part(0, PAGE);
            check::works("munmap", meanwhile(pause, "munmap", unmap)?.0)?;
            load.waits_in_driver().context("the load after munmap")?;
            pause.release()?;
            check::segv("the load of what is not mapped any more", load.finish()?)
        })
    })
}

fn futex_that_waits_for_a_reset_works_when_that_is_over() -> Result<()> {
    in_each_reset(|mapping, pause| {
        let call = waiting(|| futex(mapping))?;
        pause.release()?;
        check::works("the futex", call.finish()?)?;
        check::value("what it wrote", mapping.load(INVERTER), !0x123)
    })
}

/// What a fault waits for belongs to the buffer's device, which the buffer keeps.
fn load_that_waits_for_a_reset_keeps_a_buffer_that_nobody_else_has() -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let [reset, release] = [Pause::at(windows::RESET)?, Pause::of_any(windows::RELEASE)?];
    // A child would keep copies of the buffer: threads.
    std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            reset.arm_here()?;
            pci.reset()
        });
        reset.wait()?;
        let buffer = export_edu(&device)?;
        let mapping = buffer.map(0, PAGE)?;
        let at = mapping.address() + ID_AT as usize;
        let load = Waiter::start(scope, move || fault::load32(at))?;
        load.waits_in_driver().context("the load")?;
        drop(mapping);
        drop(buffer);
        load.waits_in_driver().context("the load after munmap and close")?;
        release.is_ahead().context("the fault waits, and its buffer is gone")?;
        reset.release()?;
        release.wait().context("the fault is over, and its buffer is still there")?;
        release.release()?;
        check::segv("the load of what is not mapped any more", load.finish()?)?;
        check::equal("reset", call.join().ok(), Some(Ok(())))
    })?;
    check::value("afterwards", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)
}
