// SPDX-License-Identifier: GPL-2.0
//! Buffers, and the calls on a device that take one.

use guest::{uapi, Errno, PAGE};

use super::{Buffer, BufferId, Expect, Life, Model};
use crate::machine::Func;
use crate::op::{FdRef, Flaw, Oddity, Outcome, Proc, Slot, Spec};

impl Model {
    /// Whether the device's memory can be reached through the buffer.
    pub fn is_reachable(&self, id: BufferId) -> bool {
        let buffer = self.buffer(id);
        buffer.life == Life::Live && self.func(buffer.func).memory_enabled()
    }

    pub(super) fn export(&mut self, by: Proc, func: Func, to: Slot, spec: &Spec) -> Option<Expect> {
        if !self.has_handle(by, func) || self.proc(by).fds[usize::from(to)].is_some() {
            return None;
        }
        if let Some(flaw) = spec.flaw {
            return Expect::fails(match flaw {
                Flaw::TooManyRanges => Errno::E2BIG,
                Flaw::NoBar | Flaw::NotABar => Errno::ENODEV,
                _ => Errno::EINVAL,
            });
        }
        let id = self.buffers.len() as BufferId;
        self.buffers.push(Buffer {
            func,
            bar: spec.bar,
            binding: self.func(func).binding,
            opening: self.func(func).opening,
            ranges: spec.ranges.clone(),
            pages: spec.ranges.iter().map(|(_, pages)| pages).sum(),
            life: Life::Live,
            revoking: 0,
            wc: spec.wc,
            read_only: spec.read_only,
        });
        self.proc_mut(by).fds[usize::from(to)] = Some(id);
        Expect::ok()
    }

    /// The buffer of `func` behind an fd, or the error of a call with it. `None`: the slot is
    /// empty.
    pub(super) fn buffer_of(
        &self,
        by: Proc,
        func: Func,
        fd: FdRef,
    ) -> Option<Result<BufferId, Errno>> {
        Some(match fd {
            FdRef::Closed => Err(Errno::EBADF),
            FdRef::Null => Err(Errno::EINVAL),
            FdRef::Heap => Err(Errno::ENODEV),
            FdRef::Slot(slot) => {
                let id = self.proc(by).fds[usize::from(slot)]?;
                let buffer = self.buffer(id);
                if (buffer.func, buffer.binding) == (func, self.func(func).binding) {
                    Ok(id)
                } else {
                    Err(Errno::ENODEV)
                }
            }
        })
    }

    /// As [`Model::buffer_of`], for calls that fail if the device was closed since the export.
    fn open_buffer_of(&self, by: Proc, func: Func, fd: FdRef) -> Option<Result<BufferId, Errno>> {
        let found = self.buffer_of(by, func, fd)?;
        Some(found.and_then(|id| match self.buffer(id).life {
            Life::Closed => Err(Errno::ENODEV),
            _ => Ok(id),
        }))
    }

    pub(super) fn revoke(&mut self, by: Proc, func: Func, fd: FdRef) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        let result = match self.open_buffer_of(by, func, fd)? {
            Err(errno) => Err(errno),
            Ok(id) if self.buffer(id).is_revoked() => Err(Errno::EBADFD),
            Ok(id) => {
                self.buffer_mut(id).life = Life::Revoked;
                self.drain(id);
                Ok(())
            }
        };
        Expect::of(result)
    }

    /// GET, or SET of a value.
    pub(super) fn memattr(
        &mut self,
        by: Proc,
        func: Func,
        fd: FdRef,
        set: Option<u32>,
    ) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        let id = match self.open_buffer_of(by, func, fd)? {
            Err(errno) => return Expect::fails(errno),
            Ok(id) => id,
        };
        match set {
            None => Some(Expect::Is(Outcome::Done(self.buffer(id).wc.into()))),
            Some(value @ (0 | 1)) => {
                self.buffer_mut(id).wc = value == 1;
                Expect::ok()
            }
            Some(_) => Expect::fails(Errno::EOPNOTSUPP),
        }
    }

    pub(super) fn info(&mut self, by: Proc, func: Func, fd: FdRef) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        let id = match self.buffer_of(by, func, fd)? {
            Err(errno) => return Expect::fails(errno),
            Ok(id) => id,
        };
        let buffer = self.buffer(id);
        let status = match buffer.life {
            Life::Live if self.func(func).memory_enabled() => uapi::VFIO_DMABUF_STATUS_LIVE,
            Life::Live => uapi::VFIO_DMABUF_STATUS_REVOKED_TEMP,
            Life::Revoked => uapi::VFIO_DMABUF_STATUS_REVOKED,
            Life::Closed => uapi::VFIO_DMABUF_STATUS_CLOSED,
        };
        Some(Expect::Is(Outcome::Info {
            status,
            memattr: buffer.wc.into(),
            ranges: buffer.ranges.len() as u32,
            size: u64::from(buffer.pages) * PAGE,
        }))
    }

    pub(super) fn odd(&mut self, by: Proc, func: Func, oddity: Oddity) -> Option<Expect> {
        if !self.has_handle(by, func) {
            return None;
        }
        match oddity {
            Oddity::Probe => Expect::ok(),
            _ => Expect::fails(Errno::EINVAL),
        }
    }
}
