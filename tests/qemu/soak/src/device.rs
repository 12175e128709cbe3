// SPDX-License-Identifier: GPL-2.0
//! Operations of a process on devices and importers.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use guest::buffer::{self, Export, Range};
use guest::device::{self, Device};
use guest::feature::{self, Call};
use guest::testmod::{self, Importer, MAPS_AGAIN, UNMAPS_AT_ONCE};
use guest::timeout::wait_until;
use guest::{uapi, Errno, PAGE};

use crate::agent::{errno_of, Agent};
use crate::machine::{slot_of, spec, Func, PHYSICAL};
use crate::op::{FdRef, Flaw, Oddity, Op, Outcome, Policy, Slot, Spec, Via};

/// An open function.
pub struct Handle {
    device: Device,
    /// Goes after the device.
    holder: Rc<Holder>,
    /// The command register, with the memory bit set.
    command: u16,
}

/// What a function and its siblings were opened through.
struct Holder {
    via: Via,
    /// Group and container, or the iommufd.
    fds: Vec<OwnedFd>,
}

/// How long a device may take to fall asleep.
const SLEEP_LIMIT: Duration = Duration::from_secs(10);
/// What virtual functions are opened with.
const TOKEN: &str = "2a2a2a2a-2a2a-2a2a-2a2a-2a2a2a2a2a2a";
const MEMORY: u16 = uapi::PCI_COMMAND_MEMORY as u16;

impl Agent<'_> {
    pub fn perform_on_device(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Open { func, via } => done(self.open(*func, *via)),
            Op::Close { func } => {
                self.handles[usize::from(*func)] = None;
                Outcome::OK
            }
            Op::Export { func, to, spec } => self.export(*func, *to, spec),
            Op::Revoke { func, fd, ioctl } => {
                let (device, fd) = (self.device(*func), self.number(*fd));
                let size = size_of::<uapi::vfio_dmabuf_ioctl_revoke>() as u32;
                let result = match ioctl {
                    true => buffer::revoke_by_ioctl(device, fd, size),
                    false => buffer::revoke_fd(device, fd),
                };
                Outcome::of(result, |()| 0)
            }
            Op::GetMemattr { func, fd } => self.memattr(*func, *fd, None),
            Op::SetMemattr { func, fd, value } => self.memattr(*func, *fd, Some(*value)),
            Op::Info { func, fd } => match buffer::info(self.device(*func), self.number(*fd)) {
                Err(errno) => Outcome::Errno(errno as i32),
                Ok(info) => Outcome::Info {
                    status: info.status,
                    memattr: info.memattr,
                    ranges: info.nr_ranges,
                    size: info.size,
                },
            },
            Op::Odd { func, oddity } => self.odd(*func, *oddity),
            Op::Memory { func, on } => {
                let command = self.handle(*func).command;
                let command = if *on { command } else { command & !MEMORY };
                let at = uapi::PCI_COMMAND.into();
                done(self.device(*func).set_config16(at, command))
            }
            Op::Power { func, d3 } => {
                done(self.device(*func).set_power_state(if *d3 { 3 } else { 0 }))
            }
            Op::LowPower { func, enter: true } => {
                done(self.enter_low_power(*func, Device::enter_low_power))
            }
            Op::Sleep { func } => {
                let event = &self.hardware.wakeups[usize::from(*func)];
                done(self.enter_low_power(*func, |device| device.enter_low_power_with(event)))
            }
            Op::Wakeups { func } => match self.hardware.wakeups[usize::from(*func)].read() {
                Err(Errno::EAGAIN) => Outcome::OK,
                result => Outcome::of(result, |count| count),
            },
            Op::LowPower { func, enter: false } => {
                Outcome::of(self.device(*func).leave_low_power(), |()| 0)
            }
            Op::Reset { func } => Outcome::of(self.device(*func).reset(), |()| 0),
            Op::HotReset { func } => self.hot_reset(*func),
            Op::Flr { func } => done(self.device(*func).express_flr()),
            _ => self.perform_on_importer(op),
        }
    }

    fn perform_on_importer(&mut self, op: &Op) -> Outcome {
        let call = |slot: &Slot, call: fn(&Importer) -> Result<(), Errno>| match &self.importers
            [usize::from(*slot)]
        {
            Some(importer) => Outcome::of(call(importer), |()| 0),
            None => Outcome::Errno(Errno::ENOENT as i32),
        };
        match op {
            Op::Attach { importer, fd, policy } => self.attach(*importer, *fd, *policy),
            Op::ImporterUnmap { importer } => call(importer, Importer::unmap),
            Op::Detach { importer } => call(importer, Importer::detach),
            Op::ImporterMap { importer, reads } => self.importer_map(*importer, *reads),
            Op::Stats { importer } => {
                let importer = self.importers[usize::from(*importer)].as_ref();
                match importer.ok_or(Errno::ENOENT).and_then(Importer::stats) {
                    Err(errno) => Outcome::Errno(errno as i32),
                    Ok(stats) => Outcome::Importer {
                        attached: stats.attached != 0,
                        mapped: stats.mapped != 0,
                        hits: stats.hits,
                    },
                }
            }
            _ => Outcome::Errno(Errno::ENOSYS as i32),
        }
    }

    fn handle(&self, func: Func) -> &Handle {
        self.handles[usize::from(func)].as_ref().expect("the model knows what is open")
    }

    fn device(&self, func: Func) -> &Device {
        &self.handle(func).device
    }

    /// The open functions of the slot of `func`.
    fn siblings(&self, func: Func) -> impl Iterator<Item = (Func, &Handle)> {
        slot_of(func).filter_map(|func| Some((func, self.handles[usize::from(func)].as_ref()?)))
    }

    /// The group fd, or the iommufd, through which the process can open a function: that of a
    /// sibling in its IOMMU group, or the iommufd of any sibling.
    fn holder(&self, func: Func, via: Via) -> Result<Option<Rc<Holder>>> {
        let group = self.hardware.func(func).group()?;
        let mut any = None;
        for (sibling, handle) in self.siblings(func) {
            if self.hardware.func(sibling).group()? == group {
                return Ok(Some(handle.holder.clone()));
            }
            if (handle.holder.via, via) == (Via::Cdev, Via::Cdev) {
                any = Some(handle.holder.clone());
            }
        }
        Ok(any)
    }

    fn open(&mut self, func: Func, via: Via) -> Result<()> {
        let pci = self.hardware.func(func);
        let way = |via| match via {
            Via::Group => device::Via::Group,
            Via::Cdev => device::Via::Cdev,
        };
        let (device, holder) = match self.holder(func, via)? {
            Some(holder) => (Device::open_through(pci, way(holder.via), &holder.fds[0])?, holder),
            None => {
                // The open sets it that finds the device without any.
                let needs_token = func == PHYSICAL || spec(func).physical.is_some();
                let mut device = match via {
                    Via::Group if needs_token => Device::open_with_token(pci, TOKEN)?,
                    _ => Device::open(pci, way(via))?,
                };
                let fds = std::mem::take(&mut device.holders);
                (device, Rc::new(Holder { via, fds }))
            }
        };
        let command = device.config16(uapi::PCI_COMMAND.into())? | MEMORY;
        self.handles[usize::from(func)] = Some(Handle { device, holder, command });
        Ok(())
    }

    /// The fd for mapping a BAR, and the offset of the BAR in it.
    pub fn bar(&self, func: Func, bar: u8) -> (RawFd, u64) {
        (self.device(func).raw(), u64::from(bar) << 40)
    }

    fn export(&mut self, func: Func, to: Slot, what: &Spec) -> Outcome {
        let ranges: Vec<Range> = what
            .ranges
            .iter()
            .map(|&(page, pages)| Range(u64::from(page) * PAGE, u64::from(pages) * PAGE))
            .collect();
        let mut export = Export::new(what.bar.into(), &ranges);
        if what.read_only {
            export.open_flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
        }
        if what.wc {
            export.flags = uapi::VFIO_DMABUF_ATTR_WC;
        }
        let bar_pages = u64::from(crate::machine::bar_of(func, what.bar).pages);
        if let (Some(flaw), Some(last)) = (what.flaw, export.ranges.last_mut()) {
            match flaw {
                Flaw::NoRanges => export.count = Some(0),
                Flaw::TooManyRanges => {
                    export.count = Some(uapi::VFIO_DMABUF_MAX_RANGES + 1);
                }
                Flaw::ShortArgsz => export.count = Some(what.ranges.len() as u32 + 1),
                Flaw::Flags => export.flags |= 1,
                Flaw::OpenFlags => export.open_flags |= libc::O_APPEND as u32,
                Flaw::NoBar => export.region = spec(func).no_bar.into(),
                Flaw::NotABar => export.region = uapi::VFIO_PCI_ROM_REGION_INDEX,
                Flaw::OddOffset => last.0 += 1,
                Flaw::OddLength => last.1 -= 4,
                Flaw::Empty => last.1 = 0,
                Flaw::PastEnd => last.1 = bar_pages * PAGE - last.0 + PAGE,
            }
        }
        match export.make(self.device(func)) {
            Err(errno) => Outcome::Errno(errno as i32),
            Ok(buffer) => {
                self.fds[usize::from(to)] = Some(buffer);
                Outcome::OK
            }
        }
    }

    fn memattr(&self, func: Func, fd: FdRef, set: Option<u32>) -> Outcome {
        let (device, number) = (self.device(func), uapi::VFIO_DMABUF_MEMATTR);
        let mut payload = uapi::vfio_dmabuf_feature_memattr {
            dmabuf_fd: self.number(fd),
            memattr: set.unwrap_or(u32::MAX),
        };
        match set {
            Some(_) => Outcome::of(feature::set(device, number, &payload), |()| 0),
            None => {
                let result = feature::get(device, number, &mut payload);
                Outcome::of(result, |()| payload.memattr.into())
            }
        }
    }

    fn odd(&self, func: Func, oddity: Oddity) -> Outcome {
        use uapi::{
            VFIO_DEVICE_FEATURE_DMA_BUF as DMA_BUF, VFIO_DMABUF_INFO as INFO,
            VFIO_DMABUF_MEMATTR as MEMATTR, VFIO_DMABUF_REVOKE as REVOKE,
        };
        let device = self.device(func);
        let call = |flags: u32, words: usize| {
            Call::new(flags, vec![u32::MAX; words]).make(device).map(drop)
        };
        let probe = |number, ops| feature::probe(device, number, ops).map(drop);
        let result = match oddity {
            Oddity::GetRevoke => call(feature::GET | REVOKE, 8),
            Oddity::SetInfo => call(feature::SET | INFO, 8),
            Oddity::SetDmaBuf => call(feature::SET | DMA_BUF, 8),
            Oddity::NoOperation => call(MEMATTR, 8),
            Oddity::ShortMemattr => call(feature::GET | MEMATTR, 1),
            Oddity::ShortIoctl => buffer::revoke_by_ioctl(device, -1, 7),
            Oddity::Probe => probe(DMA_BUF, feature::GET)
                .and_then(|()| probe(REVOKE, feature::SET))
                .and_then(|()| probe(MEMATTR, feature::GET | feature::SET))
                .and_then(|()| probe(INFO, feature::GET)),
        };
        Outcome::of(result, |()| 0)
    }

    /// Enters low power, and waits until the device sleeps: until then a call does not wake it.
    fn enter_low_power(
        &self,
        func: Func,
        enter: impl FnOnce(&Device) -> Result<(), Errno>,
    ) -> Result<()> {
        enter(self.device(func))?;
        let pci = self.hardware.func(func);
        wait_until(SLEEP_LIMIT, "the device to sleep", || Ok(pci.runtime_status()? == "suspended"))
    }

    fn hot_reset(&self, func: Func) -> Outcome {
        let mut groups: Vec<RawFd> = Vec::new();
        if self.handle(func).holder.via == Via::Group {
            let holders = self.siblings(func).map(|(_, handle)| &handle.holder);
            let holders = holders.filter(|holder| holder.via == Via::Group);
            groups.extend(holders.map(|holder| holder.fds[0].as_raw_fd()));
            groups.dedup();
        }
        Outcome::of(self.device(func).hot_reset(&groups), |()| 0)
    }

    fn attach(&mut self, slot: Slot, fd: Slot, policy: Policy) -> Outcome {
        let slot = &mut self.importers[usize::from(slot)];
        if slot.is_none() {
            *slot = Importer::new().ok();
        }
        let how = match policy {
            Policy::AtOnce => UNMAPS_AT_ONCE,
            Policy::Later => testmod::unmaps_after(1),
            Policy::Again => MAPS_AGAIN,
            Policy::Static => {
                testmod::uapi::Attach { flags: testmod::uapi::STATIC, ..UNMAPS_AT_ONCE }
            }
            Policy::NoPeerToPeer => {
                testmod::uapi::Attach { flags: testmod::uapi::REVOCABLE, ..UNMAPS_AT_ONCE }
            }
            Policy::NotRevocable => {
                testmod::uapi::Attach { flags: testmod::uapi::PEER_TO_PEER, ..UNMAPS_AT_ONCE }
            }
        };
        match (slot, &self.fds[usize::from(fd)]) {
            (Some(importer), Some(buffer)) => {
                Outcome::of(importer.attach(buffer, &self.hardware.importing, how), |()| 0)
            }
            _ => Outcome::Errno(Errno::ENOENT as i32),
        }
    }

    /// Returns the number of mapped bytes.
    fn importer_map(&self, slot: Slot, reads: bool) -> Outcome {
        let importer = self.importers[usize::from(slot)].as_ref();
        let direction = if reads { testmod::uapi::TO_DEVICE } else { testmod::uapi::BOTH_WAYS };
        let result = importer.ok_or(Errno::ENOENT).and_then(|of| of.map_for(direction));
        Outcome::of(result, |entries| entries.iter().map(|entry| entry.length).sum())
    }
}

fn done(result: Result<()>) -> Outcome {
    match result {
        Ok(()) => Outcome::OK,
        Err(error) => Outcome::Errno(errno_of(&error) as i32),
    }
}
