// SPDX-License-Identifier: GPL-2.0
//! Devices: binding, opening, closing, power, resets.

use guest::Errno;

use super::{Expect, FuncState, Group, Life, Model, Owner, Source};
use crate::machine::{is_first, slot_of, spec, Func, FUNCS};
use crate::op::{Outcome, Proc, Via};

impl Model {
    /// Whether a process has the fd of a function.
    pub fn has_handle(&self, by: Proc, func: Func) -> bool {
        self.proc(by).handles[usize::from(func)]
    }

    /// What owns the IOMMU group of a function.
    fn owner(&self, func: Func) -> Option<Owner> {
        self.owners[usize::from(self.func(func).group)]
    }

    /// What a process can open a function through: the owner of its IOMMU group, if a function of
    /// that is open in the process, or the iommufd of a sibling.
    fn holder(&self, by: Proc, func: Func, via: Via) -> Option<Owner> {
        let group = self.func(func).group;
        let open = || slot_of(func).filter(|&sibling| self.has_handle(by, sibling));
        if open().any(|sibling| self.func(sibling).group == group) {
            return self.owner(func);
        }
        let owners = open().filter_map(|sibling| self.owner(sibling));
        owners.filter(|owner| (owner.via, via) == (Via::Cdev, Via::Cdev)).last()
    }

    pub(super) fn open(&mut self, by: Proc, func: Func, via: Via) -> Option<Expect> {
        if self.has_handle(by, func) {
            return None;
        }
        if !self.has_token_for(func, via) {
            return None;
        }
        let holder = self.holder(by, func, via);
        let owner = holder.unwrap_or(Owner { via, holder: self.holders });
        if let Some(errno) = self.open_error(func, owner) {
            return Expect::fails(errno);
        }
        self.holders += u32::from(holder.is_none());
        self.owners[usize::from(self.func(func).group)] = Some(owner);
        self.proc_mut(by).handles[usize::from(func)] = true;
        let state = self.func_mut(func);
        state.token |= via == Via::Group;
        if !state.open {
            state.open = true;
            state.opening += 1;
            state.memory = true;
            state.d3 = false;
            state.low_power = false;
            state.lost = false;
            state.blank = false;
        }
        Expect::ok()
    }

    /// The error of opening a function through the group fd or iommufd `new`.
    fn open_error(&self, func: Func, new: Owner) -> Option<Errno> {
        let state = self.func(func);
        let in_group = |of: &Func| self.func(*of).group == state.group;
        let any_bound = slot_of(func).filter(in_group).any(|func| self.func(func).bound);
        let owner = self.owner(func);
        let is_owner = owner == Some(new);
        match (new.via, owner.map(|owner| owner.via)) {
            // The file in /dev is missing.
            (Via::Cdev, _) if !state.bound => Some(Errno::ENOENT),
            (Via::Group, _) if !any_bound => Some(Errno::ENOENT),
            (Via::Group, Some(_)) if !is_owner => Some(Errno::EBUSY),
            (Via::Cdev, Some(Via::Group)) => Some(Errno::EBUSY),
            (Via::Cdev, Some(Via::Cdev)) if state.open => Some(Errno::EINVAL),
            // Another iommufd owns the IOMMU group.
            (Via::Cdev, Some(Via::Cdev)) if !is_owner => Some(Errno::EPERM),
            (Via::Group, _) if !state.bound => Some(Errno::ENODEV),
            (Via::Group, _) if self.wants_token(func) => Some(Errno::EACCES),
            _ => None,
        }
    }

    pub(super) fn close(&mut self, by: Proc, func: Func) -> Option<Expect> {
        let handle = &mut self.proc_mut(by).handles[usize::from(func)];
        if !std::mem::take(handle) {
            return None;
        }
        self.close_unused();
        Expect::ok()
    }

    /// Closes each function that has neither an fd nor a mapping through one.
    pub(super) fn close_unused(&mut self) {
        for func in 0..FUNCS.len() as Func {
            if self.func(func).open && !self.is_held(func) {
                self.close_func(func);
            }
        }
        for group in 0..FUNCS.len() as Group {
            if !self.funcs.iter().any(|func| func.open && func.group == group) {
                self.owners[usize::from(group)] = None;
            }
        }
    }

    /// Whether an fd or a BAR mapping keeps a function open.
    fn is_held(&self, func: Func) -> bool {
        self.procs.iter().any(|proc| proc.handles[usize::from(func)]) || self.has_bar_mapping(func)
    }

    fn has_bar_mapping(&self, func: Func) -> bool {
        let mut segments = self.procs.iter().flat_map(|proc| proc.maps.iter().flatten());
        segments.any(|segment| matches!(segment.source, Source::Bar(of, _) if of == func))
    }

    fn close_func(&mut self, func: Func) {
        let FuncState { opening, binding, .. } = *self.func(func);
        self.func_mut(func).open = false;
        for id in 0..self.buffers.len() {
            let buffer = &mut self.buffers[id];
            if (buffer.func, buffer.binding, buffer.opening) == (func, binding, opening) {
                buffer.life = Life::Closed;
                self.drain(id as u32);
            }
        }
    }

    /// Drains the importers of a function, whose memory becomes unavailable at least for a moment.
    pub(super) fn suspend(&mut self, func: Func) {
        self.resumed.push(func);
        for id in 0..self.importers.len() {
            let buffer = self.importers[id].buffer;
            if buffer.is_some_and(|buffer| self.buffer(buffer).func == func) {
                self.importers[id].drain();
            }
        }
    }

    pub(super) fn set_memory(&mut self, by: Proc, func: Func, on: bool) -> Option<Expect> {
        // On the way to D0 the core restores the state before D3hot, this bit included.
        if !self.has_handle(by, func) || self.func(func).d3 {
            return None;
        }
        self.suspend(func);
        // A virtual function has no such bit.
        if spec(func).physical.is_some() {
            return Expect::ok();
        }
        let state = self.func_mut(func);
        state.memory = on;
        state.lost &= !on || state.low_power;
        state.blank &= !on;
        Expect::ok()
    }

    pub(super) fn set_power(&mut self, by: Proc, func: Func, d3: bool) -> Option<Expect> {
        // In low power the call wakes the device. When that falls asleep again, at some later time,
        // the core raises it to D0 first: until then it would be in D3hot.
        let FuncState { low_power, virtual_functions, .. } = *self.func(func);
        let can = spec(func).d3 && !(d3 && low_power) && !virtual_functions;
        if !self.has_handle(by, func) || !can {
            return None;
        }
        self.suspend(func);
        self.func_mut(func).d3 = d3;
        Expect::ok()
    }

    pub(super) fn enter_low_power(&mut self, by: Proc, func: Func, dozes: bool) -> Option<Expect> {
        // With virtual functions it never sleeps.
        if !self.has_handle(by, func) || self.func(func).virtual_functions {
            return None;
        }
        self.suspend(func);
        let state = self.func_mut(func);
        if state.low_power {
            return Expect::fails(Errno::EINVAL);
        }
        (state.low_power, state.dozes) = (true, dozes);
        // The core raises the device before it sleeps.
        state.d3 = false;
        Expect::ok()
    }

    /// The device may be awake already.
    pub(super) fn leave_low_power(&mut self, by: Proc, func: Func) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        self.func_mut(func).low_power = false;
        self.resumed.push(func);
        // The driver does not wait for the importers here.
        for id in 0..self.importers.len() {
            let buffer = self.importers[id].buffer;
            if buffer.is_some_and(|buffer| self.buffer(buffer).func == func) {
                self.importers[id].invalidate();
            }
        }
        Expect::ok()
    }

    /// Something raises a device.
    pub(super) fn wake(&mut self, func: Func) {
        let state = self.func_mut(func);
        if state.open && state.low_power && state.dozes {
            state.low_power = false;
            state.wakeups += 1;
        }
    }

    pub(super) fn wakeups(&mut self, func: Func) -> Option<Expect> {
        let count = std::mem::take(&mut self.func_mut(func).wakeups);
        Some(Expect::Is(Outcome::Done(count.into())))
    }

    pub(super) fn reset(&mut self, by: Proc, func: Func) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        self.suspend(func);
        if !spec(func).resets {
            return Expect::fails(Errno::EINVAL);
        }
        self.func_mut(func).d3 = false;
        self.func_mut(func).lost = false;
        Expect::ok()
    }

    pub(super) fn hot_reset(&mut self, by: Proc, func: Func) -> Option<Expect> {
        if !self.has_handle(by, func) || !spec(func).hot_resets {
            return None;
        }
        self.suspend(func);
        // VFIO must have all functions of the slot, and the caller must own their IOMMU groups.
        if !slot_of(func).all(|of| self.func(of).bound) {
            return Expect::fails(Errno::EINVAL);
        }
        slot_of(func).for_each(|of| self.wake(of));
        if !slot_of(func).all(|of| self.owns(by, func, of)) {
            return Expect::fails(Errno::EINVAL);
        }
        slot_of(func).for_each(|func| self.suspend(func));
        self.func_mut(func).lost = false;
        Expect::ok()
    }

    /// Whether a process owns the IOMMU group of a sibling of `func`, as a hot reset demands.
    fn owns(&self, by: Proc, func: Func, sibling: Func) -> bool {
        let (own, owner) = (self.owner(func), self.owner(sibling));
        let group = self.func(sibling).group;
        let mut open = slot_of(func).filter(|&of| self.has_handle(by, of));
        match own.map(|own| own.via) {
            // The process names the groups of all functions that it has open.
            Some(Via::Group) => {
                let has_group_fd = owner.is_some_and(|owner| owner.via == Via::Group);
                has_group_fd && open.any(|of| self.func(of).group == group)
            }
            _ => own == owner,
        }
    }

    pub(super) fn flr(&mut self, by: Proc, func: Func) -> Option<Expect> {
        let can = spec(func).flr && !self.func(func).d3;
        if !self.has_handle(by, func) || !can {
            return None;
        }
        self.suspend(func);
        Expect::ok()
    }

    pub(super) fn sysfs_reset(&mut self, func: Func) -> Option<Expect> {
        let FuncState { bound, d3, .. } = *self.func(func);
        if !spec(func).resets || !bound || d3 {
            return None;
        }
        self.wake(func);
        self.suspend(func);
        Expect::ok()
    }

    pub(super) fn unbind(&mut self, func: Func) -> Option<Expect> {
        let FuncState { bound, open, virtual_functions, .. } = *self.func(func);
        // It would wait until the function is closed, and its virtual functions are.
        if !bound || open || virtual_functions {
            return None;
        }
        self.func_mut(func).bound = false;
        Expect::ok()
    }

    pub(super) fn unbind_open(&mut self, by: Proc, func: Func) -> Option<Expect> {
        let users = self.procs.iter().filter(|proc| proc.handles[usize::from(func)]).count();
        let is_physical = self.func(func).virtual_functions;
        if users != 1 || !self.has_handle(by, func) || self.has_bar_mapping(func) || is_physical {
            return None;
        }
        self.close(by, func)?;
        self.unbind(func)
    }

    pub(super) fn bind(&mut self, func: Func) -> Option<Expect> {
        if self.func(func).bound || !self.is_there(func) {
            return None;
        }
        let state = self.func_mut(func);
        state.bound = true;
        state.binding += 1;
        state.token = false;
        Expect::ok()
    }

    pub(super) fn replug(&mut self, func: Func) -> Option<Expect> {
        if self.func(func).open || !spec(func).replugs {
            return None;
        }
        self.func_mut(func).bound = false;
        let sibling = slot_of(func).find(|&sibling| sibling != func);
        let joins = is_first(func) || !self.places.splits[usize::from(func)];
        self.func_mut(func).group = match sibling {
            Some(sibling) if joins => self.func(sibling).group,
            // Any number that the sibling's group does not have.
            Some(sibling) if self.func(sibling).group == func => sibling,
            _ => func,
        };
        Expect::ok()
    }

    /// The outcome is 0 if the kernel recovers: the drivers of all functions must take part.
    pub(super) fn link_error(&mut self, func: Func, fatal: bool) -> Option<Expect> {
        // Virtual functions are behind the link of their function.
        let is_shared = spec(func).physical.is_some() || self.func(func).virtual_functions;
        if is_shared || (fatal && !spec(func).hot_resets) {
            return None;
        }
        slot_of(func).for_each(|of| self.wake(of));
        for of in slot_of(func).filter(|_| fatal) {
            self.suspend(of);
            let state = self.func_mut(of);
            (state.lost, state.blank) = (true, true);
        }
        let gives_up = !slot_of(func).all(|of| self.func(of).bound);
        Some(Expect::Is(Outcome::Done(gives_up.into())))
    }
}
