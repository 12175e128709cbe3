// SPDX-License-Identifier: GPL-2.0
//! Loads, stores, page table entries.

use guest::Errno;

use super::{Entry, Expect, Loaded, Model, Segment, Source};
use crate::machine::{bar_of, slot_of, stored, untouched, Content, Func};
use crate::op::{Accessor, Op, Outcome, Proc, Prot, Pte, Signal, Step, Target, Word};

impl Model {
    fn segment(&self, by: Proc, word: Word) -> Option<&Segment> {
        let mut segments = self.maps_of(by, word.map).iter();
        segments.find(|segment| segment.at <= word.page && word.page < segment.end())
    }

    /// The function, the BAR and its page behind a page of a segment.
    fn bar_page(&self, segment: &Segment, page: u32) -> (Func, u8, u32) {
        let mut page = segment.first + (page - segment.at);
        match segment.source {
            Source::Bar(func, bar) => (func, bar, page),
            Source::Buffer(id) => {
                let buffer = self.buffer(id);
                for &(first, pages) in &buffer.ranges {
                    if page < pages {
                        return (buffer.func, buffer.bar, first + page);
                    }
                    page -= pages;
                }
                unreachable!("no mapping reaches past its buffer")
            }
        }
    }

    fn is_enabled(&self, source: Source) -> bool {
        match source {
            Source::Bar(func, _) => self.func(func).memory_enabled(),
            Source::Buffer(id) => self.is_reachable(id),
        }
    }

    /// The function, the BAR and its page that an access reaches, or the signal that it gets.
    fn access(&self, by: Proc, word: Word, write: bool) -> Result<(Func, u8, u32), Signal> {
        let segment = self.segment(by, word).ok_or(Signal::Segv)?;
        let allowed = match segment.prot {
            Prot::None => false,
            Prot::Read => !write,
            Prot::Write => true,
        };
        if !allowed {
            return Err(Signal::Segv);
        }
        if !self.is_enabled(segment.source) {
            return Err(Signal::Bus);
        }
        Ok(self.bar_page(segment, word.page))
    }

    /// The result of a load; `Ok(None)` is an unknown value.
    fn loaded(&self, by: Proc, word: Word) -> Loaded {
        self.access(by, word, false).map(|place| self.content(place, word.word))
    }

    /// The value of a word of a BAR, if it is known.
    fn content(&self, (func, bar, page): (Func, u8, u32), word: u16) -> Option<u32> {
        if self.func(func).blank {
            return None;
        }
        let written = self.written.get(&(func, bar, page, word)).copied();
        let content = bar_of(func, bar).content;
        written.or_else(|| untouched(content, page, word))
    }

    /// The function, the BAR and its page behind a word of a mapping, whether or not it can be
    /// reached. `None` in a hole.
    pub fn place_of(&self, by: Proc, word: Word) -> Option<(Func, u8, u32)> {
        Some(self.bar_page(self.segment(by, word)?, word.page))
    }

    /// The value of a word of memory behind a mapping, whether or not it can be reached.
    pub fn memory_at(&self, by: Proc, word: Word) -> Option<u32> {
        let place = self.place_of(by, word)?;
        let is_memory = bar_of(place.0, place.1).content == Content::Memory;
        is_memory.then(|| self.content(place, word.word)).flatten()
    }

    /// Whether the value of a word shows that a load has reached the device. While memory is
    /// disabled, a load reads ones or zeros.
    pub fn is_telling(&self, by: Proc, word: Word) -> bool {
        let place = self.place_of(by, word);
        let value = place.and_then(|place| self.content(place, word.word));
        value.is_some_and(|value| value != u32::MAX && value != 0)
    }

    fn accessed(&self, by: Proc, target: &Target) -> Loaded {
        match target.store {
            None => self.loaded(by, target.word),
            Some(_) => self.access(by, target.word, true).map(|_| Some(0)),
        }
    }

    pub(super) fn race(&mut self, by: Proc, op: &Op, crowd: &[Accessor]) -> Option<Expect> {
        if !self.may_race(by, op, crowd) {
            return None;
        }
        let look = |model: &Model| -> Vec<Loaded> {
            let of_one = |accessor: &Accessor| -> Vec<Loaded> {
                let targets = accessor.targets.iter();
                targets.map(|target| model.accessed(accessor.by, target)).collect()
            };
            crowd.iter().flat_map(of_one).collect()
        };
        let before = look(self);
        let outcome = Box::new(self.apply(&Step { by, op: op.clone() })?);
        let targets = before.into_iter().zip(look(self)).collect();
        Some(Expect::Race { outcome, targets })
    }

    fn may_race(&self, by: Proc, op: &Op, crowd: &[Accessor]) -> bool {
        let fits = |who: Proc, target: &Target| {
            let is_mapped = !self.maps_of(who, target.word.map).is_empty();
            is_mapped
                && (target.store.is_none() || self.memory_at(who, target.word) == target.store)
        };
        // The process closes the device, which an access of its own would delay.
        let is_busy = |who: Proc| who == by && matches!(op, Op::UnbindOpen { .. });
        let is_fine = |accessor: &Accessor| {
            let others = crowd.iter().filter(|other| other.by == accessor.by).count();
            let fits = |target| fits(accessor.by, target);
            others == 1 && !is_busy(accessor.by) && accessor.targets.iter().all(fits)
        };
        // A call may raise the device for a moment.
        let dozes = |func| self.func(func).low_power && self.func(func).dozes;
        let is_asleep = op.func().is_some_and(|func| slot_of(func).any(dozes));
        let only_wakes = matches!(
            op,
            Op::LowPower { enter: false, .. } | Op::Reset { .. } | Op::SysfsReset { .. }
        );
        (op.runs_in_one_process() || op.is_conductors())
            && (!is_asleep || only_wakes)
            && !crowd.is_empty()
            && crowd.iter().all(is_fine)
    }

    pub(super) fn load(&mut self, by: Proc, word: Word) -> Option<Expect> {
        if self.maps_of(by, word.map).is_empty() {
            return None;
        }
        Some(match self.loaded(by, word) {
            Ok(None) => Expect::AnyValue,
            Ok(Some(value)) => Expect::Is(Outcome::Done(value.into())),
            Err(signal) => Expect::Is(Outcome::Fault(signal)),
        })
    }

    pub(super) fn store(&mut self, by: Proc, word: Word, value: u32) -> Option<Expect> {
        if self.maps_of(by, word.map).is_empty() {
            return None;
        }
        // A store that a bug lets through must not have side effects.
        if let Some((func, bar, page)) = self.place_of(by, word) {
            stored(bar_of(func, bar).content, page, word.word, value)?;
        }
        let (func, bar, page) = match self.access(by, word, true) {
            Ok(place) => place,
            Err(signal) => return Some(Expect::Is(Outcome::Fault(signal))),
        };
        let stored = stored(bar_of(func, bar).content, page, word.word, value)?;
        if let Some(now) = stored.filter(|_| !self.func(func).blank) {
            self.written.insert((func, bar, page, word.word), now);
        }
        Expect::ok()
    }

    pub(super) fn entry(&mut self, by: Proc, word: Word, load: bool) -> Option<Expect> {
        if self.maps_of(by, word.map).is_empty() {
            return None;
        }
        let Some(segment) = self.segment(by, word) else {
            return Expect::fails(Errno::EFAULT);
        };
        // The architecture does not define the content of an entry that allows nothing.
        if segment.prot == Prot::None {
            return None;
        }
        let loaded = load.then(|| self.loaded(by, word));
        if !self.is_enabled(segment.source) {
            return Some(Expect::Entry { load: loaded, pte: Entry::Absent });
        }
        let (func, bar, page) = self.bar_page(segment, word.page);
        let start = self.places.frames[usize::from(func)][usize::from(bar)];
        let pte = Pte {
            frame: start + u64::from(page),
            writable: segment.prot == Prot::Write,
            memory: segment.wc.into(),
        };
        let pte = match loaded {
            Some(Ok(_)) => Entry::Present(pte),
            _ => Entry::Perhaps(pte),
        };
        Some(Expect::Entry { load: loaded, pte })
    }
}
