// SPDX-License-Identifier: GPL-2.0

//! Windows: where exported buffers are in the offset space of their device.
//!
//! BAR `i` has the pages from `i * REGION_PAGES` on: that is VFIO's layout of a device fd. The rest
//! of each region is free, and windows are taken there.
//!
//! A window is taken where the last one ended, if there is room, else after the next ones (next
//! fit): the space is terabytes, so that it takes many exports to come round, and what became free
//! is not used again soon.

use core::ops::Range;
use kernel::{
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNodeReservation, //
    }, //
};
use kernel_ext::vfio_pci_core::{
    NUM_BARS,
    REGION_PAGES, //
};

/// The offset space of all BARs, pages: what the core zaps when the device's memory goes off.
pub(crate) const BAR_SPACE: usize = NUM_BARS * REGION_PAGES;

/// The windows in use, and what is in them.
pub(crate) struct Windows<T> {
    /// By first page. Windows do not overlap, nor does one leave its region.
    taken: RBTree<usize, Window<T>>,
    /// Where the last window that was taken ends, pages. No window has this page inside.
    cursor: usize,
}

struct Window<T> {
    pages: usize,
    value: T,
}

/// Memory for one window. The memory cgroup of an exporter may make an allocation wait for long,
/// so it comes before the lock under which buffers are also released.
pub(crate) struct Room<T>(RBTreeNodeReservation<usize, Window<T>>);

impl<T> Room<T> {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self(RBTreeNodeReservation::new(GFP_KERNEL_ACCOUNT)?))
    }
}

impl<T> Windows<T> {
    pub(crate) fn new() -> Self {
        Self {
            taken: RBTree::new(),
            cursor: 0,
        }
    }

    /// Takes a window of so many pages for `value`, and gives its first page.
    ///
    /// `bar_pages` says how many pages of its region each BAR has.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when no stretch that is large enough is free.
    pub(crate) fn take(
        &mut self,
        room: Room<T>,
        bar_pages: impl Fn(usize) -> usize,
        pages: usize,
        value: T,
    ) -> Result<usize> {
        let first = self.find(bar_pages, pages).ok_or(ENOSPC)?;
        let window = Window { pages, value };
        self.taken.insert(room.0.into_node(first, window));
        // The end of the last region is the start of the first one.
        self.cursor = (first + pages) % BAR_SPACE;
        Ok(first)
    }

    /// What is in the window that starts at page `first`.
    pub(crate) fn get_mut(&mut self, first: usize) -> Option<&mut T> {
        self.taken.get_mut(&first).map(|window| &mut window.value)
    }

    /// Gives the window back that starts at page `first`, and what was in it.
    pub(crate) fn give_back(&mut self, first: usize) -> Option<T> {
        self.taken.remove(&first).map(|window| window.value)
    }

    /// What is in the windows, in the order of their places.
    pub(crate) fn values(&self) -> impl Iterator<Item = &T> {
        self.taken.values().map(|window| &window.value)
    }

    /// A place for a window of so many pages in the parts of the offset space that no BAR has.
    fn find(&self, bar_pages: impl Fn(usize) -> usize, pages: usize) -> Option<usize> {
        let region = self.cursor / REGION_PAGES;
        // The rest of the region that the cursor is in, the others, then all of that region.
        (region..=region + NUM_BARS).find_map(|index| {
            let bar = index % NUM_BARS;
            let first = bar * REGION_PAGES + bar_pages(bar);
            let first = if index == region {
                first.max(self.cursor)
            } else {
                first
            };
            self.first_fit(pages, first..(bar + 1) * REGION_PAGES)
        })
    }

    /// The first place at `free.start` or after it for a window of so many pages.
    ///
    /// `free.start` must not be inside of a window.
    fn first_fit(&self, pages: usize, free: Range<usize>) -> Option<usize> {
        let mut page = free.start;
        loop {
            let end = page.checked_add(pages).filter(|&end| end <= free.end)?;
            let Some(next) = self.taken.cursor_lower_bound(&page) else {
                return Some(page);
            };
            let (&start, window) = next.current();
            if end <= start {
                return Some(page);
            }
            page = start + window.pages;
        }
    }
}
