// SPDX-License-Identifier: GPL-2.0
//! Importers: the open files of the test module.

use guest::Errno;

use super::{Buffer, BufferId, Expect, Importer, ImporterId, Model};
use crate::op::{Op, Outcome, Policy, Proc, Slot, Step};

impl Importer {
    /// Invalidates its mapping without waiting for it.
    pub(super) fn invalidate(&mut self) {
        if self.pending {
            self.extra += 1;
        } else if self.mapped {
            self.hits += 1;
            self.pending = self.late;
            self.mapped = self.late;
        }
    }

    /// Invalidates its mapping and waits until it is gone.
    pub(super) fn drain(&mut self) {
        self.invalidate();
        self.pending = false;
        self.mapped = false;
    }
}

impl Model {
    /// Drains the importers of a buffer.
    pub(super) fn drain(&mut self, id: BufferId) {
        let importers = self.importers.iter_mut();
        importers.filter(|importer| importer.buffer == Some(id)).for_each(Importer::drain);
    }

    /// Importers that want to map again do so, for both directions, if they can.
    pub(super) fn resume_importers(&mut self) {
        for func in std::mem::take(&mut self.resumed) {
            for id in 0..self.importers.len() {
                let importer = &self.importers[id];
                let Some(buffer) = importer.buffer.filter(|_| importer.again) else { continue };
                let Buffer { func: of, read_only, .. } = *self.buffer(buffer);
                if of == func && !read_only && self.is_reachable(buffer) {
                    self.importers[id].mapped = true;
                }
            }
        }
    }

    /// The importer is there for the time of the operation only.
    pub(super) fn held_up(&mut self, by: Proc, op: &Op, holder: Proc, fd: Slot) -> Option<Expect> {
        // These wait for importers as long as it takes, or do not tell them.
        let may_wait = matches!(
            op,
            Op::Revoke { .. }
                | Op::Memory { .. }
                | Op::Power { .. }
                | Op::LowPower { enter: true, .. }
                | Op::Sleep { .. }
                | Op::Reset { .. }
                | Op::Flr { .. }
                | Op::Close { .. }
                | Op::Info { .. }
                | Op::Unmap { .. }
        );
        let buffer = self.proc(holder).fds[usize::from(fd)]?;
        let can_map = self.is_reachable(buffer) && !self.buffer(buffer).read_only;
        if !may_wait || !can_map || holder == by {
            return None;
        }
        let importer = Importer { buffer: Some(buffer), mapped: true, ..Importer::default() };
        self.importers.push(importer);
        let outcome = self.apply(&Step { by, op: op.clone() });
        let waits = self.importers.pop().is_some_and(|importer| importer.hits != 0);
        Some(Expect::HeldUp { outcome: Box::new(outcome?), waits })
    }

    pub(super) fn attach(
        &mut self,
        by: Proc,
        slot: Slot,
        fd: Slot,
        policy: Policy,
    ) -> Option<Expect> {
        let buffer = self.proc(by).fds[usize::from(fd)]?;
        // The process opens the file when it has none.
        let id = match self.proc(by).importers[usize::from(slot)] {
            Some(id) => id,
            None => {
                let id = self.importers.len() as ImporterId;
                self.importers.push(Importer::default());
                self.proc_mut(by).importers[usize::from(slot)] = Some(id);
                id
            }
        };
        let result = if self.importer(id).buffer.is_some() {
            Err(Errno::EBUSY)
        } else if matches!(policy, Policy::NoPeerToPeer | Policy::NotRevocable | Policy::Static) {
            Err(Errno::EOPNOTSUPP)
        } else if !self.is_reachable(buffer) {
            Err(Errno::ENODEV)
        } else {
            let (late, again) = (policy == Policy::Later, policy == Policy::Again);
            let buffer = Some(buffer);
            *self.importer_mut(id) = Importer { buffer, late, again, ..Importer::default() };
            Ok(())
        };
        // A failed attach resets the counters, too.
        if result.is_err() && result != Err(Errno::EBUSY) {
            *self.importer_mut(id) = Importer::default();
        }
        Expect::of(result)
    }

    fn importer_at(&self, by: Proc, slot: Slot) -> Option<ImporterId> {
        self.proc(by).importers[usize::from(slot)]
    }

    /// Returns the number of mapped bytes.
    pub(super) fn importer_map(&mut self, by: Proc, slot: Slot, reads: bool) -> Option<Expect> {
        let id = self.importer_at(by, slot)?;
        let importer = self.importer(id);
        // A second invalidation may have queued a second unmap, which a detach cancels.
        if importer.pending || importer.extra != 0 {
            return None;
        }
        let Some(buffer) = importer.buffer else {
            return Expect::fails(Errno::ENOTCONN);
        };
        if importer.mapped {
            return Expect::fails(Errno::EBUSY);
        }
        if !self.is_reachable(buffer) {
            return Expect::fails(Errno::ENODEV);
        }
        if self.buffer(buffer).read_only && !reads {
            return Expect::fails(Errno::EACCES);
        }
        self.importer_mut(id).mapped = true;
        let bytes = u64::from(self.buffer(buffer).pages) * guest::PAGE;
        Some(Expect::Is(Outcome::Done(bytes)))
    }

    pub(super) fn importer_unmap(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let id = self.importer_at(by, slot)?;
        let importer = self.importer_mut(id);
        if importer.pending {
            return None;
        }
        if importer.buffer.is_none() {
            return Expect::fails(Errno::ENOTCONN);
        }
        match std::mem::take(&mut importer.mapped) {
            true => Expect::ok(),
            false => Expect::fails(Errno::EALREADY),
        }
    }

    pub(super) fn detach(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let id = self.importer_at(by, slot)?;
        let importer = self.importer_mut(id);
        importer.mapped = false;
        importer.pending = false;
        match importer.buffer.take() {
            Some(_) => Expect::ok(),
            None => Expect::fails(Errno::ENOTCONN),
        }
    }

    pub(super) fn stats(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let importer = self.importer(self.importer_at(by, slot)?);
        let (attached, hits) = (importer.buffer.is_some(), importer.hits);
        let mapped = (!importer.pending).then_some(importer.mapped);
        Some(Expect::Importer { attached, mapped, hits: (hits, hits + importer.extra) })
    }

    /// Resets importers whose file is closed.
    pub(super) fn release_importers(&mut self) {
        for id in 0..self.importers.len() as ImporterId {
            let is_open = self.procs.iter().any(|proc| proc.importers.contains(&Some(id)));
            if !is_open {
                *self.importer_mut(id) = Importer::default();
            }
        }
    }
}
