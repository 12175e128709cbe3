// SPDX-License-Identifier: GPL-2.0

//! Ranges of a BAR: their validation, and the way from a page of a buffer to a page frame.
//!
//! Pure: no kernel call but allocation. All quantities say whether they are bytes or pages.

use kernel::{
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*, //
};
use kernel_ext::uapi;

/// Buffers must stay below this many bytes: the DMA layer keeps bit 63 of a size for itself
/// (`DMA_IOVA_USE_SWIOTLB`).
const SIZE_LIMIT: u64 = 1 << 63;

const PAGE_MASK: u64 = PAGE_SIZE as u64 - 1;

/// A run of pages that is contiguous both in the buffer and in physical memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Page of the buffer that the run starts at.
    pub(crate) start: u64,
    /// Page frame number there.
    pub(crate) pfn: u64,
}

/// The pages of a buffer, as spans in order.
///
/// # Invariants
///
/// `spans` is empty if there is only one span; else it has all of them, starts at page 0, and
/// ascends strictly in `start`; the last `start` is below `pages`. No two neighbours could be one
/// span. `pages` is not 0, and `pages << PAGE_SHIFT` is below 2^63.
pub(crate) struct Layout {
    /// Page frame number of page 0.
    pfn: u64,
    spans: KVVec<Span>,
    pages: u64,
}

/// Pages of physical memory in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    /// Page frame number of the first page.
    pub(crate) pfn: u64,
    /// How many pages, at least 1.
    pub(crate) pages: u64,
}

/// A range as user space gives it: bytes from the start of the BAR.
pub(crate) type Range = uapi::DmaRange;

impl Layout {
    /// Lays the ranges of the BAR at physical address `bar_start` end to end.
    ///
    /// `bar_start` and `bar_len` are bytes.
    ///
    /// # Errors
    ///
    /// - `EINVAL`: no range, or a range that is empty, is not page-aligned or reaches past the BAR;
    ///   or the sum of the lengths is too large.
    /// - `EOVERFLOW`: the physical address of a range overflows.
    /// - `ENOMEM`
    ///
    /// Errors that do not depend on the BAR come first.
    pub(crate) fn new(bar_start: u64, bar_len: u64, ranges: &[Range]) -> Result<Self> {
        let bar_pfn = bar_start >> PAGE_SHIFT;
        let bar_pages = bar_len >> PAGE_SHIFT;
        let first = ranges.first().ok_or(EINVAL)?;
        let mut spans = KVVec::new();
        if ranges.len() > 1 {
            spans.reserve(ranges.len(), GFP_KERNEL_ACCOUNT)?;
        }
        let mut outside = Ok(());
        let mut pages = 0u64;
        // Where the last range ended in the BAR, pages. There is none at first: no BAR is so large.
        let mut last_end = u64::MAX;
        for range in ranges {
            if range.length == 0 || (range.offset | range.length) & PAGE_MASK != 0 {
                return Err(EINVAL);
            }
            let (start, count) = (range.offset >> PAGE_SHIFT, range.length >> PAGE_SHIFT);
            let end = start + count;
            if end > bar_pages {
                outside = outside.and(why_outside(bar_start, range));
            }
            if start != last_end && spans.capacity() > 0 {
                let pfn = bar_pfn.wrapping_add(start);
                spans.push_within_capacity(Span { start: pages, pfn })?;
            }
            last_end = end;
            pages = pages.checked_add(count).ok_or(EINVAL)?;
        }
        if pages >= SIZE_LIMIT >> PAGE_SHIFT {
            return Err(EINVAL);
        }
        outside?;
        bar_start.checked_add(bar_len).ok_or(EOVERFLOW)?;
        if spans.len() == 1 {
            spans = KVVec::new();
        }
        // INVARIANT: There is a range, and none is empty; ranges that go on a span were joined.
        Ok(Self {
            pfn: bar_pfn + (first.offset >> PAGE_SHIFT),
            spans,
            pages,
        })
    }

    /// One span over a whole BAR, whose last page may be a partial one. `bar_len` is bytes, not 0.
    pub(crate) fn whole_bar(bar_start: u64, bar_len: u64) -> Result<Self> {
        let length = bar_len
            .checked_next_multiple_of(PAGE_SIZE as u64)
            .ok_or(EOVERFLOW)?;
        Self::new(bar_start, length, &[Range { offset: 0, length }])
    }

    /// Size of the buffer, pages.
    pub(crate) fn pages(&self) -> u64 {
        self.pages
    }

    /// Size of the buffer, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.pages << PAGE_SHIFT
    }

    /// What page `page` of the buffer and those after it are in physical memory, up to the end of
    /// the span. `None` past the end of the buffer.
    pub(crate) fn lookup(&self, page: u64) -> Option<Run> {
        if page >= self.pages {
            return None;
        }
        if self.spans.is_empty() {
            return Some(Run {
                pfn: self.pfn + page,
                pages: self.pages - page,
            });
        }
        let after = self.spans.partition_point(|span| span.start <= page);
        let end = self.spans.get(after).map_or(self.pages, |next| next.start);
        let span = self.spans.get(after.checked_sub(1)?)?;
        Some(Run {
            pfn: span.pfn + (page - span.start),
            pages: end - page,
        })
    }

    /// The pages of the buffer from `page` on, as runs in order.
    pub(crate) fn runs(&self, page: u64) -> impl Iterator<Item = Run> + '_ {
        let mut run = self.lookup(page);
        let mut after = self.spans.partition_point(|span| span.start <= page);
        core::iter::from_fn(move || {
            let current = run.take()?;
            run = self.spans.get(after).map(|span| {
                after += 1;
                let end = self.spans.get(after).map_or(self.pages, |next| next.start);
                Run {
                    pfn: span.pfn,
                    pages: end - span.start,
                }
            });
            Some(current)
        })
    }

    /// The page frame of the block of 2^`order` pages that starts at page `page` of the buffer.
    ///
    /// `None` unless the block is contiguous in physical memory and naturally aligned there.
    pub(crate) fn block(&self, page: u64, order: u32) -> Option<u64> {
        let run = self.lookup(page)?;
        let count = 1u64.checked_shl(order)?;
        (run.pages >= count && run.pfn & (count - 1) == 0).then_some(run.pfn)
    }
}

/// What is wrong with a range that is not inside of the BAR.
fn why_outside(bar_start: u64, range: &Range) -> Result {
    let start = bar_start.checked_add(range.offset).ok_or(EOVERFLOW)?;
    start.checked_add(range.length).ok_or(EOVERFLOW)?;
    Err(EINVAL)
}
