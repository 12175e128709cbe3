// SPDX-License-Identifier: GPL-2.0
//! Devices: opening, closing, power, resets.

use guest::Errno;

use super::{Expect, Life, Model, Source};
use crate::machine::{funcs_of, spec, Func, Unit};
use crate::op::{Proc, Via};

impl Model {
    /// Whether a process has the fd of a function.
    pub fn has_handle(&self, by: Proc, func: Func) -> bool {
        self.proc(by).handles[usize::from(spec(func).unit)]
    }

    pub(super) fn open(&mut self, by: Proc, unit: Unit, via: Via) -> Option<Expect> {
        let index = usize::from(unit);
        if self.proc(by).handles[index] {
            return None;
        }
        if let Some(had) = self.units[index].via {
            if funcs_of(unit).len() > 1 {
                // Some function of it may be closed: what comes then is no matter of ours.
                return None;
            }
            return Expect::fails(match (had, via) {
                (Via::Cdev, Via::Cdev) => Errno::EINVAL,
                _ => Errno::EBUSY,
            });
        }
        self.units[index].via = Some(via);
        self.proc_mut(by).handles[index] = true;
        for func in funcs_of(unit) {
            let func = self.func_mut(func);
            *func = super::Func_ {
                open: true,
                opening: func.opening + 1,
                memory: true,
                d3: false,
                low_power: false,
            };
        }
        Expect::ok()
    }

    pub(super) fn close(&mut self, by: Proc, unit: Unit) -> Option<Expect> {
        let handle = &mut self.proc_mut(by).handles[usize::from(unit)];
        if !std::mem::take(handle) {
            return None;
        }
        self.close_what_nobody_has();
        Expect::ok()
    }

    /// Closes the functions to which there is neither an fd nor a mapping through one.
    pub(super) fn close_what_nobody_has(&mut self) {
        for unit in 0..self.units.len() as Unit {
            let held = self.procs.iter().any(|proc| proc.handles[usize::from(unit)]);
            if held || self.units[usize::from(unit)].via.is_none() {
                continue;
            }
            let mut any = false;
            for func in funcs_of(unit) {
                if self.has_bar_mapping(func) {
                    any = true;
                } else if self.func(func).open {
                    self.close_func(func);
                }
            }
            if !any {
                self.units[usize::from(unit)].via = None;
            }
        }
    }

    fn has_bar_mapping(&self, func: Func) -> bool {
        let mut segments = self.procs.iter().flat_map(|proc| proc.maps.iter().flatten());
        segments.any(|segment| matches!(segment.source, Source::Bar(of, _) if of == func))
    }

    fn close_func(&mut self, func: Func) {
        let opening = self.func(func).opening;
        let binding = self.units[usize::from(spec(func).unit)].binding;
        self.func_mut(func).open = false;
        for id in 0..self.buffers.len() {
            let buffer = &mut self.buffers[id];
            if (buffer.func, buffer.binding, buffer.opening) == (func, binding, opening) {
                buffer.life = Life::Closed;
                self.expel(id as u32);
            }
        }
    }

    /// Memory is taken away for a moment at least.
    fn suspend(&mut self, func: Func) {
        for id in 0..self.importers.len() {
            let mapped = self.importers[id].buffer.filter(|_| self.importers[id].mapped);
            if mapped.is_some_and(|buffer| self.buffer(buffer).func == func) {
                self.importers[id].mapped = false;
                self.importers[id].hits += 1;
            }
        }
    }

    pub(super) fn set_memory(&mut self, by: Proc, func: Func, on: bool) -> Option<Expect> {
        // What D0 restores is the state before D3hot, also of this bit: the core's business.
        if !self.has_handle(by, func) || self.func(func).d3 {
            return None;
        }
        self.suspend(func);
        self.func_mut(func).memory = on;
        Expect::ok()
    }

    pub(super) fn set_power(&mut self, by: Proc, func: Func, d3: bool) -> Option<Expect> {
        let can = spec(func).flr_and_d3 && !self.func(func).low_power;
        if !self.has_handle(by, func) || !can {
            return None;
        }
        self.suspend(func);
        self.func_mut(func).d3 = d3;
        Expect::ok()
    }

    pub(super) fn set_low_power(&mut self, by: Proc, func: Func, enter: bool) -> Option<Expect> {
        if !self.has_handle(by, func) || self.func(func).d3 {
            return None;
        }
        if !enter {
            // Importers of an awake device are asked to unmap, and may take their time.
            let mapped = self.importers.iter().any(|importer| importer.mapped);
            if mapped && !self.func(func).low_power {
                return None;
            }
            self.func_mut(func).low_power = false;
            return Expect::ok();
        }
        self.suspend(func);
        if std::mem::replace(&mut self.func_mut(func).low_power, true) {
            return Expect::fails(Errno::EINVAL);
        }
        Expect::ok()
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
        Expect::ok()
    }

    pub(super) fn hot_reset(&mut self, by: Proc, func: Func) -> Option<Expect> {
        let all_open = funcs_of(spec(func).unit).all(|func| self.has_handle(by, func));
        if !all_open || !spec(func).hot_resets {
            return None;
        }
        funcs_of(spec(func).unit).for_each(|func| self.suspend(func));
        Expect::ok()
    }

    pub(super) fn flr(&mut self, by: Proc, func: Func) -> Option<Expect> {
        let can = spec(func).flr_and_d3 && !self.func(func).d3;
        if !self.has_handle(by, func) || !can {
            return None;
        }
        self.suspend(func);
        Expect::ok()
    }

    pub(super) fn sysfs_reset(&mut self, func: Func) -> Option<Expect> {
        if !spec(func).resets || self.func(func).d3 {
            return None;
        }
        self.suspend(func);
        Expect::ok()
    }

    pub(super) fn rebind(&mut self, unit: Unit) -> Option<Expect> {
        let unit = &mut self.units[usize::from(unit)];
        // It would wait.
        if unit.via.is_some() {
            return None;
        }
        unit.binding += 1;
        Expect::ok()
    }
}
