// SPDX-License-Identifier: GPL-2.0
//! Importers: the open files of the test module.

use guest::Errno;

use super::{BufferId, Expect, Importer, ImporterId, Model};
use crate::op::{Manners, Outcome, Proc, Slot};

impl Model {
    /// Takes a buffer away from its importers.
    pub(super) fn expel(&mut self, id: BufferId) {
        for importer in &mut self.importers {
            if importer.buffer == Some(id) && importer.mapped {
                importer.mapped = false;
                importer.hits += 1;
            }
        }
    }

    pub(super) fn attach(
        &mut self,
        by: Proc,
        slot: Slot,
        fd: Slot,
        manners: Manners,
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
        } else if matches!(manners, Manners::NoPeerToPeer | Manners::NotRevocable) {
            Err(Errno::EOPNOTSUPP)
        } else if !self.is_reachable(buffer) {
            Err(Errno::ENODEV)
        } else {
            *self.importer_mut(id) = Importer { buffer: Some(buffer), mapped: false, hits: 0 };
            Ok(())
        };
        // A failed attach has begun to count anew.
        if result.is_err() && result != Err(Errno::EBUSY) {
            self.importer_mut(id).hits = 0;
        }
        Expect::of(result)
    }

    fn importer_at(&self, by: Proc, slot: Slot) -> Option<ImporterId> {
        self.proc(by).importers[usize::from(slot)]
    }

    /// Gives the bytes that are mapped.
    pub(super) fn importer_map(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let id = self.importer_at(by, slot)?;
        let importer = self.importer(id);
        let Some(buffer) = importer.buffer else {
            return Expect::fails(Errno::ENOTCONN);
        };
        if importer.mapped {
            return Expect::fails(Errno::EBUSY);
        }
        if !self.is_reachable(buffer) {
            return Expect::fails(Errno::ENODEV);
        }
        // The importer maps for both directions.
        if self.buffer(buffer).read_only {
            return Expect::fails(Errno::EACCES);
        }
        self.importer_mut(id).mapped = true;
        let bytes = u64::from(self.buffer(buffer).pages) * guest::PAGE;
        Some(Expect::Is(Outcome::Done(bytes)))
    }

    pub(super) fn importer_unmap(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let id = self.importer_at(by, slot)?;
        let importer = self.importer_mut(id);
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
        match importer.buffer.take() {
            Some(_) => Expect::ok(),
            None => Expect::fails(Errno::ENOTCONN),
        }
    }

    pub(super) fn stats(&mut self, by: Proc, slot: Slot) -> Option<Expect> {
        let importer = self.importer(self.importer_at(by, slot)?);
        Some(Expect::Is(Outcome::Importer {
            attached: importer.buffer.is_some(),
            mapped: importer.mapped,
            hits: importer.hits,
        }))
    }

    /// Releases what importers hold whose file is not open any more.
    pub(super) fn release_importers(&mut self) {
        for id in 0..self.importers.len() as ImporterId {
            let is_open = self.procs.iter().any(|proc| proc.importers.contains(&Some(id)));
            if !is_open {
                *self.importer_mut(id) = Importer::default();
            }
        }
    }
}
