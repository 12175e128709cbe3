// SPDX-License-Identifier: GPL-2.0
//! The conductor: a session of processes on devices in a known state, and the comparison of what
//! they do with what the model says.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
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
use crate::model::{Expect, Model};
use crate::op::{Op, Outcome, Proc, Step, Target, PROCS};

/// How long a process may take for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);
/// The most operations that a process is sent at once.
const BATCH: usize = 128;

/// Where the next step comes from.
pub trait Source {
    /// The next one, given what the machine is like; `None` at the end.
    fn next(&mut self, model: &Model) -> Option<Step>;
}

/// A list.
pub struct Replay<'a>(pub std::slice::Iter<'a, Step>);

impl Source for Replay<'_> {
    fn next(&mut self, _model: &Model) -> Option<Step> {
        self.0.next().cloned()
    }
}

/// What did not come out as the model says.
#[derive(Debug)]
pub struct Mismatch {
    /// The steps up to it, which is the last.
    pub steps: Vec<Step>,
    /// What came.
    pub got: String,
    /// What should have come.
    pub want: String,
}

/// What a session came to.
pub struct Played {
    /// Operations whose outcome was compared.
    pub operations: u64,
    /// Accesses during races. They are no operations.
    pub accesses: u64,
    /// The one that was wrong.
    pub mismatch: Option<Mismatch>,
}

/// A process, as the conductor sees it.
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

/// Where sessions take place.
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
    // Whatever came of it.
    session.players.into_iter().flatten().try_for_each(Player::end)?;
    let mut played = result?;
    let driver = Module::driver();
    let references = driver.references()?;
    if references != 0 && played.mismatch.is_none() {
        bail!("all processes are gone, and {} has {references} references", driver.name());
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
            let of_one = step.as_ref().is_some_and(|step| step.op.is_of_one_process());
            let goes_on = match (&step, steps.last()) {
                (Some(step), Some(last)) => of_one && step.by == last.by && batch.len() < BATCH,
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
            if !of_one {
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

    /// Does the last of `steps`, for which there are expectations, and compares.
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
        if let Op::Race { op, who, targets } = &steps[0].op {
            return Ok(vec![self.race(by, op, *who, targets)?]);
        }
        match steps[0].op {
            Op::Pass { fd, to, slot } => {
                self.order(by, &Order::Give(fd), None)?;
                let (_, fd) = self.answer(by)?;
                let fd = fd.context("an fd was lost on the way")?;
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
            Op::Rebind { unit } => self.hardware.rebind(unit)?,
            _ => {
                let ops = steps.iter().map(|step| step.op.clone()).collect();
                self.order(by, &Order::Do(ops), None)?;
                let (Answer::Did(outcomes), _) = self.answer(by)? else { bail!("no outcomes") };
                return Ok(outcomes);
            }
        }
        Ok(vec![Outcome::OK])
    }

    /// An operation, and accesses by another process or by another thread of the same one.
    fn race(&mut self, by: Proc, op: &Op, who: Proc, targets: &[Target]) -> Result<Outcome> {
        self.flag.set(false);
        if who == by && op.is_of_one_process() {
            self.order(by, &Order::Race(op.clone(), targets.to_vec()), None)?;
            let (Answer::Did(mut outcomes), _) = self.answer(by)? else { bail!("no outcome") };
            let outcome = outcomes.pop().context("no outcome")?;
            if let Outcome::Race { seen, .. } = &outcome {
                self.accesses += seen.iter().map(|seen| seen.count).sum::<u64>();
            }
            return Ok(outcome);
        }
        self.order(who, &Order::Hammer(targets.to_vec()), None)?;
        self.answer(who)?;
        let outcome = self.perform(&[Step { by, op: op.clone() }]);
        // A process does it by itself, and earlier.
        self.flag.set(true);
        self.order(who, &Order::Stop, None)?;
        let (Answer::Saw(seen), _) = self.answer(who)? else { bail!("nothing seen") };
        self.accesses += seen.iter().map(|seen| seen.count).sum::<u64>();
        let outcome = Box::new(outcome?.pop().context("no outcome")?);
        Ok(Outcome::Race { outcome, seen })
    }

    fn end(&mut self, by: Proc) -> Result<()> {
        self.players[usize::from(by)].take().map_or(Ok(()), Player::end)
    }

    fn start(&mut self, by: Proc) -> Result<()> {
        let (ours, theirs) = Link::pair()?;
        ours.set_limit(ANSWER_LIMIT)?;
        let mut ours = Some(ours);
        let pid = worker::start_away(|| {
            // So that all see when the conductor is gone.
            self.players = Default::default();
            ours = None;
            let agent = Agent::new(self.hardware, theirs, self.flag);
            let done = agent.and_then(|mut agent| agent.obey());
            // Ends with an error when the conductor is gone.
            let _ = done;
        })?;
        let link = ours.context("this is the original")?;
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
        self.players[usize::from(by)].as_ref().context("a process that is gone")
    }
}
