// SPDX-License-Identifier: GPL-2.0
//! The conductor: starts processes on devices in a known state, has them perform operations, and
//! compares the outcomes with those of the model.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::thread;
use std::time::Duration;

use anyhow::{bail, ensure, Context, Result};
use guest::link::Link;
use guest::module::Module;
use guest::worker;
use nix::sys::signal::{kill, Signal};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

use crate::agent::{Agent, Answer, Order};
use crate::hammer::Flag;
use crate::hardware::Hardware;
use crate::machine::Func;
use crate::model::{Expect, Model};
use crate::op::{Accessor, Op, Outcome, Proc, Seen, Slot, Step, Target, PROCS};

/// The longest time that a process may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The most operations that a process is sent at once.
const BATCH: usize = 128;
/// How long an unbind must wait for a device that is open.
const UNBIND_WAIT: Duration = Duration::from_millis(30);

/// How long an operation must wait for an importer.
const IMPORTER_WAIT: Duration = Duration::from_millis(20);

/// A source of steps.
pub trait Source {
    /// The next step, given the state of the machine; `None` at the end.
    fn next(&mut self, model: &Model) -> Option<Step>;
}

/// A list of steps.
pub struct Replay<'a>(pub std::slice::Iter<'a, Step>);

impl Source for Replay<'_> {
    fn next(&mut self, _model: &Model) -> Option<Step> {
        self.0.next().cloned()
    }
}

/// An outcome that differs from that of the model.
#[derive(Debug)]
pub struct Mismatch {
    /// The steps up to the one that failed.
    pub steps: Vec<Step>,
    /// Its outcome.
    pub got: String,
    /// The outcome that the model expects.
    pub want: String,
}

/// The result of a session.
pub struct Played {
    /// The number of operations whose outcome was compared.
    pub operations: u64,
    /// The number of accesses during races, which are not operations.
    pub accesses: u64,
    /// The first wrong outcome.
    pub mismatch: Option<Mismatch>,
}

/// The conductor's end of a process.
struct Player {
    pid: i32,
    link: Link,
}

/// Processes on devices.
struct Session<'a> {
    hardware: &'a Hardware,
    flag: Flag,
    accesses: u64,
    players: [Option<Player>; PROCS],
}

/// What all sessions share.
pub struct Table {
    pub hardware: Hardware,
    pub flag: Flag,
}

/// Plays the steps of `source` on devices in a fresh state.
pub fn play(table: &Table, source: &mut impl Source) -> Result<Played> {
    let Table { hardware, flag } = table;
    hardware.prepare()?;
    let mut session = Session { hardware, flag: *flag, accesses: 0, players: Default::default() };
    let result = session.play(source);
    // Also after an error.
    session.players.into_iter().flatten().try_for_each(Player::end)?;
    let mut played = result?;
    let driver = Module::driver();
    let references = driver.references()?;
    if references != 0 && played.mismatch.is_none() {
        bail!("all processes have ended, but {} has {references} references", driver.name());
    }
    played.operations += 1;
    Ok(played)
}

impl Player {
    fn end(self) -> Result<()> {
        let pid = Pid::from_raw(self.pid);
        kill(pid, Signal::SIGKILL)?;
        waitpid(pid, None).with_context(|| format!("wait for process {pid}"))?;
        Ok(())
    }
}

impl Session<'_> {
    fn play(&mut self, source: &mut impl Source) -> Result<Played> {
        (0..PROCS as Proc).try_for_each(|by| self.start(by))?;
        let mut model = Model::new(self.hardware.places.clone());
        let mut steps: Vec<Step> = Vec::new();
        let mut batch: Vec<Expect> = Vec::new();
        loop {
            let step = source.next(&model);
            let expect = step.as_ref().map(|step| model.apply(step));
            if expect == Some(None) {
                continue;
            }
            let in_one = step.as_ref().is_some_and(|step| step.op.runs_in_one_process());
            let goes_on = match (&step, steps.last()) {
                (Some(step), Some(last)) => in_one && step.by == last.by && batch.len() < BATCH,
                _ => false,
            };
            if !goes_on && !batch.is_empty() {
                if let Some(mismatch) = self.run(&steps, &batch)? {
                    return Ok(self.played(mismatch.steps.len(), Some(mismatch)));
                }
                batch.clear();
            }
            let (Some(step), Some(Some(expect))) = (step, expect) else {
                return Ok(self.played(steps.len(), None));
            };
            steps.push(step);
            batch.push(expect);
            if !in_one {
                if let Some(mismatch) = self.run(&steps, &batch)? {
                    return Ok(self.played(mismatch.steps.len(), Some(mismatch)));
                }
                batch.clear();
            }
        }
    }

    fn played(&self, operations: usize, mismatch: Option<Mismatch>) -> Played {
        Played { operations: operations as u64, accesses: self.accesses, mismatch }
    }

    /// Performs the last steps, those with an expectation, and compares the outcomes.
    fn run(&mut self, steps: &[Step], expected: &[Expect]) -> Result<Option<Mismatch>> {
        let (before, now) = steps.split_at(steps.len() - expected.len());
        let outcomes = self.perform(now).with_context(|| {
            let shown: Vec<String> = now.iter().map(Step::to_string).collect();
            format!("after {} operations, one of:\n{}", before.len(), shown.join("\n"))
        })?;
        ensure!(outcomes.len() == expected.len(), "{} answers", outcomes.len());
        for (index, (got, want)) in outcomes.iter().zip(expected).enumerate() {
            if !want.allows(got) {
                let steps = steps[..=before.len() + index].to_vec();
                let (got, want) = (got.to_string(), want.to_string());
                return Ok(Some(Mismatch { steps, got, want }));
            }
        }
        Ok(None)
    }

    fn perform(&mut self, steps: &[Step]) -> Result<Vec<Outcome>> {
        let by = steps[0].by;
        if let Op::Race { op, crowd } = &steps[0].op {
            return Ok(vec![self.race(by, op, crowd)?]);
        }
        if let Op::Together { steps, then } = &steps[0].op {
            return Ok(vec![self.together(steps, then)?]);
        }
        if let Op::HeldUp { op, holder, fd } = &steps[0].op {
            return Ok(vec![self.held_up(by, op, *holder, *fd)?]);
        }
        match steps[0].op {
            Op::Pass { fd, to, slot } => {
                self.order(by, &Order::Give(fd), None)?;
                let (_, fd) = self.answer(by)?;
                let fd = fd.context("no fd came")?;
                self.order(to, &Order::Take(slot), Some(fd.as_raw_fd()))?;
                self.answer(to)?;
            }
            Op::Fork { to } => {
                self.end(to)?;
                let (ours, theirs) = Link::pair()?;
                ours.set_limit(ANSWER_LIMIT)?;
                self.order(by, &Order::Fork, Some(theirs.as_fd().as_raw_fd()))?;
                let (Answer::Done(pid), _) = self.answer(by)? else { bail!("no new process") };
                self.players[usize::from(to)] = Some(Player { pid, link: ours });
            }
            Op::Kill => {
                self.end(by)?;
                self.start(by)?;
            }
            Op::SysfsReset { func } => {
                return Ok(vec![Outcome::of(self.hardware.func(func).reset(), |()| 0)]);
            }
            Op::Unbind { func } => self.hardware.func(func).unbind()?,
            Op::UnbindOpen { func } => return Ok(vec![self.unbind_open(by, func)?]),
            Op::Bind { func } => self.hardware.bind(func)?,
            Op::Replug { func } => self.hardware.replug(func)?,
            Op::VirtualFunctions { func, on } => self.hardware.set_virtual_functions(func, on)?,
            Op::LinkError { func, fatal } => {
                let recovered = self.hardware.link_error(func, fatal)?;
                // The model expects 1 if the kernel must give up.
                return Ok(vec![Outcome::Done(u64::from(!recovered))]);
            }
            _ => {
                let ops = steps.iter().map(|step| step.op.clone()).collect();
                self.order(by, &Order::Do(ops), None)?;
                let (Answer::Did(outcomes), _) = self.answer(by)? else { bail!("no outcomes") };
                return Ok(outcomes);
            }
        }
        Ok(vec![Outcome::OK])
    }

    /// Unbinds a function that `by` has open. The unbind must wait until `by` has closed it.
    fn unbind_open(&self, by: Proc, func: Func) -> Result<Outcome> {
        let pci = self.hardware.func(func);
        thread::scope(|scope| {
            let unbind = scope.spawn(|| pci.unbind());
            thread::sleep(UNBIND_WAIT);
            let waits = !unbind.is_finished();
            self.order(by, &Order::Do(vec![Op::Close { func }]), None)?;
            self.answer(by)?;
            unbind.join().expect("unbinding does not panic")?;
            // The model expects 0.
            Ok(Outcome::Done(u64::from(!waits)))
        })
    }

    /// Performs operations at once, and then others.
    fn together(&self, steps: &[Step], then: &[Step]) -> Result<Outcome> {
        self.flag.set(false);
        for step in steps {
            self.order(step.by, &Order::AtOnce(step.op.clone()), None)?;
            self.answer(step.by)?;
        }
        self.flag.set(true);
        let mut outcomes = Vec::new();
        for step in steps {
            let (Answer::Did(outcome), _) = self.answer(step.by)? else { bail!("no outcome") };
            outcomes.extend(outcome);
        }
        for step in then {
            self.order(step.by, &Order::Do(vec![step.op.clone()]), None)?;
            let (Answer::Did(outcome), _) = self.answer(step.by)? else { bail!("no outcome") };
            outcomes.extend(outcome);
        }
        Ok(Outcome::Together(outcomes))
    }

    /// Performs an operation while an importer of `holder` has a buffer mapped.
    fn held_up(&self, by: Proc, op: &Op, holder: Proc, fd: Slot) -> Result<Outcome> {
        self.order(holder, &Order::Hold(fd), None)?;
        self.answer(holder)?;
        self.order(by, &Order::Do(vec![op.clone()]), None)?;
        thread::sleep(IMPORTER_WAIT);
        let waited = !self.player(by)?.link.has_message()?;
        self.order(holder, &Order::Release, None)?;
        self.answer(holder)?;
        let (Answer::Did(mut outcomes), _) = self.answer(by)? else { bail!("no outcome") };
        let outcome = Box::new(outcomes.pop().context("no outcome")?);
        Ok(Outcome::HeldUp { outcome, waited })
    }

    /// Performs an operation while each of `crowd` accesses memory. The process that performs the
    /// operation uses another thread for its accesses.
    fn race(&mut self, by: Proc, op: &Op, crowd: &[Accessor]) -> Result<Outcome> {
        self.flag.set(false);
        let has_thread = |who: Proc| who == by && op.runs_in_one_process();
        let alone = || crowd.iter().filter(|accessor| !has_thread(accessor.by));
        for Accessor { by: who, targets } in alone() {
            self.order(*who, &Order::Hammer(targets.clone()), None)?;
        }
        alone().try_for_each(|accessor| self.answer(accessor.by).map(drop))?;

        let thread = crowd.iter().find(|accessor| has_thread(accessor.by));
        let (outcome, mut own) = match thread {
            Some(accessor) => self.race_in_one_process(by, op, &accessor.targets)?,
            None => {
                let outcomes = self.perform(&[Step { by, op: op.clone() }])?;
                (outcomes.into_iter().next().context("no outcome")?, Vec::new())
            }
        };
        // The process that performs the operation sets it too, and earlier.
        self.flag.set(true);
        let mut seen = Vec::new();
        for who in crowd.iter().map(|accessor| accessor.by) {
            if has_thread(who) {
                seen.append(&mut own);
                continue;
            }
            self.order(who, &Order::Stop, None)?;
            let (Answer::Saw(mut more), _) = self.answer(who)? else { bail!("no accesses") };
            seen.append(&mut more);
        }
        self.accesses += seen.iter().map(|seen| seen.count).sum::<u64>();
        Ok(Outcome::Race { outcome: Box::new(outcome), seen })
    }

    /// The outcome of an operation, and the accesses of another thread of the process.
    fn race_in_one_process(
        &self,
        by: Proc,
        op: &Op,
        targets: &[Target],
    ) -> Result<(Outcome, Vec<Seen>)> {
        self.order(by, &Order::Race(op.clone(), targets.to_vec()), None)?;
        let (Answer::Did(mut outcomes), _) = self.answer(by)? else { bail!("no outcome") };
        match outcomes.pop() {
            Some(Outcome::Race { outcome, seen }) => Ok((*outcome, seen)),
            _ => bail!("no race"),
        }
    }

    fn end(&mut self, by: Proc) -> Result<()> {
        self.players[usize::from(by)].take().map_or(Ok(()), Player::end)
    }

    fn start(&mut self, by: Proc) -> Result<()> {
        let (ours, theirs) = Link::pair()?;
        ours.set_limit(ANSWER_LIMIT)?;
        let mut ours = Some(ours);
        let pid = worker::start_away(|| {
            // Drops the copies of the conductor's sockets: all processes must see it close them.
            self.players = Default::default();
            ours = None;
            let agent = Agent::new(self.hardware, theirs, self.flag);
            let done = agent.and_then(|mut agent| agent.obey());
            // Fails when the conductor closes the socket.
            let _ = done;
        })?;
        let link = ours.context("the conductor goes on")?;
        self.players[usize::from(by)] = Some(Player { pid, link });
        Ok(())
    }

    fn order(&self, to: Proc, order: &Order, fd: Option<i32>) -> Result<()> {
        self.player(to)?.link.send(order, fd)
    }

    fn answer(&self, of: Proc) -> Result<(Answer, Option<OwnedFd>)> {
        let player = self.player(of)?;
        player.link.receive().with_context(|| format!("process {of} ({})", player.pid))
    }

    fn player(&self, by: Proc) -> Result<&Player> {
        self.players[usize::from(by)].as_ref().context("the process has ended")
    }
}
