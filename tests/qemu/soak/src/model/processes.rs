// SPDX-License-Identifier: GPL-2.0
//! Processes and their fds.

use super::{Expect, Model, Process};
use crate::op::{Proc, Slot};

impl Model {
    pub(super) fn close_fd(&mut self, by: Proc, fd: Slot) -> Option<Expect> {
        self.proc_mut(by).fds[usize::from(fd)].take()?;
        Expect::ok()
    }

    pub(super) fn pass(&mut self, by: Proc, fd: Slot, to: Proc, slot: Slot) -> Option<Expect> {
        let id = self.proc(by).fds[usize::from(fd)]?;
        let target = &mut self.proc_mut(to).fds[usize::from(slot)];
        if target.is_some() {
            return None;
        }
        *target = Some(id);
        Expect::ok()
    }

    pub(super) fn kill(&mut self, by: Proc) -> Option<Expect> {
        *self.proc_mut(by) = Process::default();
        self.release_importers();
        self.close_unused();
        Expect::ok()
    }

    pub(super) fn fork(&mut self, by: Proc, to: Proc) -> Option<Expect> {
        if by == to {
            return None;
        }
        self.kill(to);
        *self.proc_mut(to) = self.proc(by).clone();
        Expect::ok()
    }
}
