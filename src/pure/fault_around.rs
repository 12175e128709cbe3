// SPDX-License-Identifier: GPL-2.0

//! How many pages to map at a fault.
//!
//! Pure. As with readahead of files: the first access maps one page; each one that goes on where
//! the last batch ended maps twice as many. So a lone access stays cheap, and one that walks
//! through memory takes few faults.

/// Where the last batch of a buffer ended, and how large it was; packed for an atomic.
///
/// Several threads may walk through one buffer: then each sees the others' traces, and batches stay
/// smaller than they could be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct History {
    /// Page of the buffer after the last one mapped.
    next: u64,
    /// Pages that the last batch would have had but for a limit.
    size: u64,
}

/// The largest batch, pages: what a page table for pages of 4 KiB maps.
const LARGEST: u64 = 512;
const SIZE_BITS: u32 = 10;

impl History {
    /// Unpacks what an atomic holds; 0 is the trace of a buffer that was never accessed.
    pub(crate) fn from_raw(raw: u64) -> Self {
        Self {
            next: raw >> SIZE_BITS,
            size: raw & ((1 << SIZE_BITS) - 1),
        }
    }

    /// Packs it. Of page numbers that do not fit the top is lost, and so at most a batch.
    pub(crate) fn as_raw(self) -> u64 {
        self.next << SIZE_BITS | self.size
    }

    /// How many pages to map at an access to `page`, at least 1 and at most `limit`, and the trace
    /// that this leaves.
    pub(crate) fn after(self, page: u64, limit: u64) -> (u64, Self) {
        let goes_on = page == self.next && self.size > 0;
        let size = if goes_on {
            (self.size * 2).min(LARGEST)
        } else {
            1
        };
        let count = size.min(limit).max(1);
        let next = page + count;
        (count, Self { next, size })
    }
}
