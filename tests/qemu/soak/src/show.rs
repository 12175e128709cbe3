// SPDX-License-Identifier: GPL-2.0
//! How steps and outcomes are printed.
//!
//! Pure.

use std::fmt;

use guest::Errno;

use crate::machine::{spec, Func};
use crate::op::{Area, Op, Outcome, Signal, Step, Target, Word};

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done(0) => write!(f, "success"),
            Outcome::Done(value) => write!(f, "{value:#x}"),
            Outcome::Errno(errno) => write!(f, "{:?}", Errno::from_raw(*errno)),
            Outcome::Fault(Signal::Bus) => write!(f, "SIGBUS"),
            Outcome::Fault(Signal::Segv) => write!(f, "SIGSEGV"),
            other => write!(f, "{other:x?}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use Op::*;
        write!(f, "process {}: ", self.by)?;
        let name = |func: &Func| spec(*func).name;
        match &self.op {
            Open { func, via } => write!(f, "open {} via {via:?}", name(func)),
            Close { func } => write!(f, "close {}", name(func)),
            Export { func, to, spec } => {
                write!(f, "fd {to} = export of {} BAR {}", name(func), spec.bar)?;
                spec.ranges.iter().try_for_each(|(page, pages)| write!(f, " [{page}+{pages}]"))?;
                write!(f, "{}", if spec.read_only { ", read-only" } else { "" })?;
                write!(f, "{}", if spec.wc { ", write-combining" } else { "" })?;
                spec.flaw.map_or(Ok(()), |flaw| write!(f, ", flaw {flaw:?}"))
            }
            Map { fd, map, area } => write!(f, "map {map} = mmap of fd {fd}, {area}"),
            MapBar { func, bar, map, area } => {
                write!(f, "map {map} = mmap of {} BAR {bar}, {area}", name(func))
            }
            Load { word } => write!(f, "load {word}"),
            Store { word, value } => write!(f, "store {word} = {value:#x}"),
            Race { op, crowd } => {
                for accessor in crowd {
                    write!(f, "while process {} accesses", accessor.by)?;
                    accessor.targets.iter().try_for_each(|target| write!(f, " ({target})"))?;
                    write!(f, ", ")?;
                }
                write!(f, "{}", Step { by: self.by, op: (**op).clone() })
            }
            Together { steps, then } => {
                write!(f, "at once")?;
                steps.iter().try_for_each(|step| write!(f, " ({step})"))?;
                write!(f, ", then")?;
                then.iter().try_for_each(|step| write!(f, " ({step})"))
            }
            HeldUp { op, holder, fd } => {
                write!(f, "while process {holder} holds its fd {fd} imported, ")?;
                write!(f, "{}", Step { by: self.by, op: (**op).clone() })
            }
            SysfsReset { func } => write!(f, "(conductor) sysfs reset of {}", name(func)),
            Unbind { func } => write!(f, "(conductor) unbind {}", name(func)),
            UnbindOpen { func } => {
                write!(f, "(conductor) unbind {}, which the process then closes", name(func))
            }
            Bind { func } => write!(f, "(conductor) bind {}", name(func)),
            Replug { func } => write!(f, "(conductor) remove and rescan {}", name(func)),
            VirtualFunctions { func, on } => {
                let what = if *on { "make" } else { "take away" };
                write!(f, "(conductor) {what} the virtual functions of {}", name(func))
            }
            LinkError { func, fatal } => {
                let kind = if *fatal { "fatal" } else { "non-fatal" };
                write!(f, "(conductor) {kind} error of the link to {}", name(func))
            }
            Revoke { func, .. }
            | GetMemattr { func, .. }
            | SetMemattr { func, .. }
            | Info { func, .. }
            | Odd { func, .. }
            | Memory { func, .. }
            | Power { func, .. }
            | LowPower { func, .. }
            | Sleep { func }
            | Wakeups { func }
            | Reset { func }
            | HotReset { func }
            | Flr { func } => write!(f, "on {}: {:?}", name(func), self.op),
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.store.is_some() { "store" } else { "load" };
        write!(f, "{how} {}", self.word)
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = if self.shared { "" } else { ", private" };
        write!(f, "[{}+{}] {:?}{shared}", self.page, self.pages, self.prot)
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "map {} page {} word {}", self.map, self.page, self.word)
    }
}
