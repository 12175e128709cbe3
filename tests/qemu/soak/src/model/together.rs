// SPDX-License-Identifier: GPL-2.0
//! Operations that run at once: what they do comes in some order.
//!
//! Some operations do two things. A revoke puts the buffer out of reach, and ends when no importer
//! has it. What may disable memory keeps everybody out first, and lets them in when it is done.

use super::{Expect, Model};
use crate::machine::Func;
use crate::op::{Op, Step};

/// How far an operation is.
#[derive(Clone)]
enum Stage {
    New,
    Begun,
    /// A revoke has begun, with this outcome.
    Revoking(Expect),
    Done(Expect),
}

/// The function that the operation keeps everybody from while it runs.
fn suspends(op: &Op) -> Option<Func> {
    match *op {
        Op::Memory { func, .. }
        | Op::Power { func, .. }
        | Op::Reset { func }
        | Op::Flr { func } => Some(func),
        _ => None,
    }
}

/// Whether the operation may run beside others. The core fails resets that meet at a lock.
fn may_run(op: &Op) -> bool {
    let is_simple = matches!(
        op,
        Op::Revoke { .. }
            | Op::Info { .. }
            | Op::GetMemattr { .. }
            | Op::SetMemattr { .. }
            | Op::Export { .. }
            | Op::Map { .. }
            | Op::MapBar { .. }
            | Op::Attach { .. }
            | Op::ImporterMap { .. }
    );
    is_simple || suspends(op).is_some()
}

impl Model {
    /// All orders must be possible and lead to the same state.
    pub(super) fn together(&mut self, steps: &[Step], then: &[Step]) -> Option<Expect> {
        let is_reset = |step: &&Step| matches!(step.op, Op::Reset { .. } | Op::Flr { .. });
        let alone = |step: &Step| steps.iter().filter(|other| other.by == step.by).count() == 1;
        let fits = (2..=3).contains(&steps.len())
            && steps.iter().all(|step| alone(step) && may_run(&step.op))
            && steps.iter().filter(is_reset).count() <= 1;
        if !fits {
            return None;
        }
        let late = self.told_repeatedly(steps)?;
        let mut ends = Vec::new();
        self.try_orders(steps, &vec![Stage::New; steps.len()], &mut ends)?;
        let mut orders: Vec<Vec<Expect>> = Vec::new();
        let mut last: Option<Model> = None;
        for (mut model, mut outcomes) in ends {
            for &(importer, times) in &late {
                model.importers[importer].extra += times;
            }
            for step in then {
                outcomes.push(model.apply(step).unwrap_or(Expect::Anything));
            }
            // What was exported is gone.
            model.buffers.truncate(self.buffers.len());
            if last.as_ref().is_some_and(|last| *last != model) {
                return None;
            }
            last = Some(model);
            if !orders.contains(&outcomes) {
                orders.push(outcomes);
            }
        }
        *self = last?;
        Some(Expect::Together(orders))
    }

    /// The importers that unmap a while after an invalidation, and how often another one may come
    /// meanwhile. `None`: one of them is to map at the same time.
    fn told_repeatedly(&self, steps: &[Step]) -> Option<Vec<(usize, u32)>> {
        let tells =
            |step: &&Step| matches!(step.op, Op::Revoke { .. }) || suspends(&step.op).is_some();
        let times = steps.iter().filter(tells).count().saturating_sub(1) as u32;
        let is_late = |step: &Step| match step.op {
            Op::ImporterMap { importer, .. } => {
                let id = self.proc(step.by).importers[usize::from(importer)];
                id.is_some_and(|id| self.importer(id).late)
            }
            _ => false,
        };
        if times > 0 && steps.iter().any(is_late) {
            return None;
        }
        let late = self.importers.iter().enumerate().filter(|(_, of)| of.late && of.mapped);
        Some(late.map(|(at, _)| (at, times)).filter(|_| times > 0).collect())
    }

    /// Adds the states and outcomes of all orders in which the steps can go on. `None`: some step
    /// is impossible.
    fn try_orders(
        &self,
        steps: &[Step],
        stages: &[Stage],
        ends: &mut Vec<(Model, Vec<Expect>)>,
    ) -> Option<()> {
        let done = |stage: &Stage| match stage {
            Stage::Done(outcome) => Some(outcome.clone()),
            _ => None,
        };
        if let Some(outcomes) = stages.iter().map(done).collect() {
            ends.push((self.clone(), outcomes));
            return Some(());
        }
        for (at, step) in steps.iter().enumerate() {
            if done(&stages[at]).is_some() {
                continue;
            }
            let mut model = self.clone();
            let mut stages = stages.to_vec();
            stages[at] = model.go_on(step, &stages[at])?;
            model.try_orders(steps, &stages, ends)?;
        }
        Some(())
    }

    /// Does the next thing of a step.
    fn go_on(&mut self, step: &Step, stage: &Stage) -> Option<Stage> {
        let by = step.by;
        let func = suspends(&step.op);
        Some(match (&step.op, stage) {
            (Op::Revoke { func, fd, .. }, Stage::New) => {
                let outcome = self.apply(step)?;
                match self.buffer_of(by, *func, *fd)? {
                    Ok(id) if outcome == Expect::ok()? => {
                        self.buffer_mut(id).revoking += 1;
                        Stage::Revoking(outcome)
                    }
                    _ => Stage::Done(outcome),
                }
            }
            (Op::Revoke { func, fd, .. }, Stage::Revoking(outcome)) => {
                let id = self.buffer_of(by, *func, *fd)?.ok()?;
                self.buffer_mut(id).revoking -= 1;
                Stage::Done(outcome.clone())
            }
            (_, Stage::New) if func.is_some_and(|func| self.has_handle(by, func)) => {
                let func = func?;
                self.wake(func);
                self.suspend(func);
                self.func_mut(func).suspensions += 1;
                Stage::Begun
            }
            (_, Stage::Begun) => {
                self.func_mut(func?).suspensions -= 1;
                Stage::Done(self.apply(step)?)
            }
            _ => Stage::Done(self.apply(step)?),
        })
    }
}
