// SPDX-License-Identifier: GPL-2.0
//! Loads, stores, page table entries.

use guest::Errno;

use super::{Entry, Expect, Loaded, Model, Segment, Source};
use crate::machine::{bar_of, stored, untouched, Content, Func};
use crate::op::{Op, Outcome, Proc, Prot, Pte, Signal, Step, Target, Word};

impl Model {
    fn segment(&self, by: Proc, word: Word) -> Option<&Segment> {
        let mut segments = self.maps_of(by, word.map).iter();
        segments.find(|segment| segment.at <= word.page && word.page < segment.end())
    }

    /// The page of a BAR that a page of a segment is: function, BAR, page.
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

    fn answers(&self, source: Source) -> bool {
        match source {
            Source::Bar(func, _) => self.func(func).answers(),
            Source::Buffer(id) => self.is_reachable(id),
        }
    }

    /// The page of a BAR that an access reaches, or the signal that it gets.
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
        if !self.answers(segment.source) {
            return Err(Signal::Bus);
        }
        Ok(self.bar_page(segment, word.page))
    }

    /// What a load gives; `Ok(None)` is a value that is not known.
    fn loaded(&self, by: Proc, word: Word) -> Loaded {
        self.access(by, word, false).map(|place| self.content(place, word.word))
    }

    /// What is in a word of a BAR, if that is known.
    fn content(&self, (func, bar, page): (Func, u8, u32), word: u16) -> Option<u32> {
        let written = self.written.get(&(func, bar, page, word)).copied();
        let content = bar_of(func, bar).content;
        written.or_else(|| untouched(&self.places, content, page, word))
    }

    /// Where a word of a mapping is in its device, whether or not it can be reached: function,
    /// BAR, page. `None` in a hole.
    pub fn place_of(&self, by: Proc, word: Word) -> Option<(Func, u8, u32)> {
        Some(self.bar_page(self.segment(by, word)?, word.page))
    }

    /// What is in a word of memory behind a mapping, whether or not it can be reached.
    pub fn memory_at(&self, by: Proc, word: Word) -> Option<u32> {
        let place = self.place_of(by, word)?;
        let is_memory = bar_of(place.0, place.1).content == Content::Memory;
        is_memory.then(|| self.content(place, word.word)).flatten()
    }

    fn accessed(&self, by: Proc, target: &Target) -> Loaded {
        match target.store {
            None => self.loaded(by, target.word),
            Some(_) => self.access(by, target.word, true).map(|_| Some(0)),
        }
    }

    pub(super) fn race(
        &mut self,
        by: Proc,
        op: &Op,
        who: Proc,
        targets: &[Target],
    ) -> Option<Expect> {
        let fits = |target: &Target| {
            let is_mapped = !self.maps_of(who, target.word.map).is_empty();
            is_mapped
                && (target.store.is_none() || self.memory_at(who, target.word) == target.store)
        };
        let is_simple = op.is_of_one_process() || matches!(op, Op::SysfsReset { .. });
        if !is_simple || !targets.iter().all(fits) {
            return None;
        }
        let look = |model: &Model| -> Vec<Loaded> {
            targets.iter().map(|target| model.accessed(who, target)).collect()
        };
        let before = look(self);
        let outcome = Box::new(self.apply(&Step { by, op: op.clone() })?);
        let targets = before.into_iter().zip(look(self)).collect();
        Some(Expect::Race { outcome, targets })
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
        // Not to a place where it could set something off if it came through by mistake.
        if let Some((func, bar, page)) = self.place_of(by, word) {
            stored(bar_of(func, bar).content, page, word.word, value)?;
        }
        let (func, bar, page) = match self.access(by, word, true) {
            Ok(place) => place,
            Err(signal) => return Some(Expect::Is(Outcome::Fault(signal))),
        };
        if let Some(now) = stored(bar_of(func, bar).content, page, word.word, value)? {
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
        // What is in an entry that allows nothing is for the CPU's maker to say.
        if segment.prot == Prot::None {
            return None;
        }
        let loaded = load.then(|| self.loaded(by, word));
        if !self.answers(segment.source) {
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
