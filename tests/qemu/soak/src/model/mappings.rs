// SPDX-License-Identifier: GPL-2.0
//! Mappings, as the VMAs that the kernel splits them into.

use guest::Errno;

use super::{BufferId, Expect, Life, Model};
use crate::machine::{bar_of, Func};
use crate::op::{Area, Part, Proc, Prot, Slot};

/// The source of a mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A buffer.
    Buffer(BufferId),
    /// BAR of a function, through its fd.
    Bar(Func, u8),
}

/// A piece of a mapping: one VMA. VMAs are never merged again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub source: Source,
    /// Where it starts, pages from the start of the mapping.
    pub at: u32,
    pub pages: u32,
    /// The page of the source at its start.
    pub first: u32,
    pub prot: Prot,
    pub wc: bool,
    /// Whether it may become writable.
    pub may_write: bool,
}

impl Segment {
    pub fn end(&self) -> u32 {
        self.at + self.pages
    }

    /// Its parts before page `at` and from there on.
    fn split(self, at: u32) -> (Segment, Segment) {
        let pages = at - self.at;
        let rest = Segment { at, pages: self.pages - pages, first: self.first + pages, ..self };
        (Segment { pages, ..self }, rest)
    }
}

/// Splits the segment around page `at`.
fn split_at(map: &mut Vec<Segment>, at: u32) {
    let inside = |segment: &Segment| segment.at < at && at < segment.end();
    if let Some(index) = map.iter().position(inside) {
        let (before, after) = map[index].split(at);
        map[index] = before;
        map.insert(index + 1, after);
    }
}

impl Model {
    pub fn maps_of(&self, by: Proc, map: Slot) -> &Vec<Segment> {
        &self.proc(by).maps[usize::from(map)]
    }

    fn map_mut(&mut self, by: Proc, map: Slot) -> &mut Vec<Segment> {
        &mut self.proc_mut(by).maps[usize::from(map)]
    }

    pub(super) fn map(&mut self, by: Proc, fd: Slot, map: Slot, area: Area) -> Option<Expect> {
        let id = self.proc(by).fds[usize::from(fd)]?;
        if !self.maps_of(by, map).is_empty() {
            return None;
        }
        let buffer = self.buffer(id);
        let result = if area.pages == 0 {
            Err(Errno::EINVAL)
        } else if buffer.read_only && area.prot == Prot::Write && area.shared {
            Err(Errno::EACCES)
        } else if area.page + area.pages > buffer.pages || !area.shared {
            Err(Errno::EINVAL)
        } else if buffer.life != Life::Live {
            Err(Errno::ENODEV)
        } else {
            Ok(())
        };
        let (wc, may_write) = (buffer.wc, !buffer.read_only);
        self.finish_map(by, map, area, Source::Buffer(id), wc, may_write, result)
    }

    pub(super) fn map_bar(
        &mut self,
        by: Proc,
        func: Func,
        bar: u8,
        map: Slot,
        area: Area,
    ) -> Option<Expect> {
        if !self.has_handle(by, func) || !self.maps_of(by, map).is_empty() {
            return None;
        }
        let fits = area.page + area.pages <= bar_of(func, bar).pages;
        let result =
            if area.pages == 0 || !area.shared || !fits { Err(Errno::EINVAL) } else { Ok(()) };
        self.finish_map(by, map, area, Source::Bar(func, bar), false, true, result)
    }

    #[expect(clippy::too_many_arguments, reason = "the last step of two functions")]
    fn finish_map(
        &mut self,
        by: Proc,
        map: Slot,
        area: Area,
        source: Source,
        wc: bool,
        may_write: bool,
        result: Result<(), Errno>,
    ) -> Option<Expect> {
        if result.is_ok() {
            let (pages, first, prot) = (area.pages, area.page, area.prot);
            let segment = Segment { source, at: 0, pages, first, prot, wc, may_write };
            self.map_mut(by, map).push(segment);
        }
        Expect::of(result)
    }

    pub(super) fn unmap(&mut self, by: Proc, part: Part) -> Option<Expect> {
        if self.maps_of(by, part.map).is_empty() || part.pages == 0 {
            return None;
        }
        let (start, end) = (part.at, part.at + part.pages);
        let map = self.map_mut(by, part.map);
        split_at(map, start);
        split_at(map, end);
        map.retain(|segment| segment.end() <= start || end <= segment.at);
        self.close_unused();
        Expect::ok()
    }

    /// The segments of `part`, if it has no holes.
    fn whole(&self, by: Proc, part: Part) -> Option<Vec<Segment>> {
        let (mut at, end) = (part.at, part.at + part.pages);
        let inside = |segment: &&Segment| segment.at < end && at < segment.end();
        let pieces: Vec<_> = self.maps_of(by, part.map).iter().filter(inside).copied().collect();
        for piece in &pieces {
            if piece.at > at {
                return None;
            }
            at = piece.end();
        }
        (at >= end && part.pages > 0).then_some(pieces)
    }

    pub(super) fn protect(&mut self, by: Proc, part: Part, prot: Prot) -> Option<Expect> {
        let pieces = self.whole(by, part)?;
        let (start, end) = (part.at, part.at + part.pages);
        for piece in pieces {
            if prot == Prot::Write && !piece.may_write {
                return Expect::fails(Errno::EACCES);
            }
            if prot == piece.prot {
                continue;
            }
            let map = self.map_mut(by, part.map);
            split_at(map, start);
            split_at(map, end);
            for segment in map {
                let inside = start <= segment.at && segment.end() <= end;
                if inside && piece.at < segment.end() && segment.at < piece.end() {
                    segment.prot = prot;
                }
            }
        }
        Expect::ok()
    }

    pub(super) fn remap(&mut self, by: Proc, part: Part, to: Slot) -> Option<Expect> {
        let pieces = self.whole(by, part)?;
        let [piece] = pieces[..] else { return None };
        if to == part.map || !self.maps_of(by, to).is_empty() {
            return None;
        }
        let (_, rest) = piece.split(part.at);
        let (moved, _) = rest.split(part.at + part.pages);
        self.map_mut(by, to).push(Segment { at: 0, ..moved });
        self.unmap(by, part)
    }

    pub(super) fn grow(&mut self, by: Proc, part: Part) -> Option<Expect> {
        let pieces = self.whole(by, part)?;
        (pieces.len() == 1).then_some(())?;
        Expect::fails(Errno::EFAULT)
    }
}
