// SPDX-License-Identifier: GPL-2.0

//! The buffers of a device, and their places in its offset space.
//!
//! BAR `i` has the pages from `i * REGION_PAGES` on: that is VFIO's layout of a device fd, and the
//! hidden buffer of the BAR stands there. The rest of each region is free; exported buffers get
//! *windows* in it, so that any mapping of any buffer is linear in the offset space, whatever its
//! ranges are, and one buffer can be zapped without touching others.
//!
//! A window is taken where the last one ended, if there is room, else after the next ones (next
//! fit): the space is terabytes, so that it takes many exports to come round.

use crate::{
    buffer::Buffer,
    gate::Shut, //
};
use core::ops::Range;
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::RBTree,
    sync::{
        Arc,
        Mutex, //
    }, //
};
use kernel_ext::{
    dma_buf::{
        DmaBuf,
        Exported, //
    },
    vfio_pci_core::{
        Core,
        NUM_BARS,
        REGION_PAGES, //
    }, //
};

/// The offset space of all BARs, pages: what the core zaps when the device's memory goes off.
pub(crate) const BAR_SPACE: usize = NUM_BARS * REGION_PAGES;

/// The buffers of a device.
#[pin_data]
pub(crate) struct Registry {
    #[pin]
    windows: Mutex<Windows>,
    /// The hidden buffer of each BAR that was mapped since the device was opened.
    #[pin]
    bars: Mutex<[Option<DmaBuf<Buffer>>; NUM_BARS]>,
}

/// The windows in use.
struct Windows {
    /// Exported buffers by the page that their window starts at. A buffer is in here until its
    /// dma-buf is released. Windows do not overlap, nor does one leave its region.
    buffers: RBTree<usize, Arc<Exported<Buffer>>>,
    /// Where the last window that was taken ends, pages. No window has this page inside.
    cursor: usize,
}

impl Windows {
    /// The first place at `free.start` or after it for a window of so many pages.
    ///
    /// `free.start` must not be inside of a window.
    fn first_fit(&self, pages: usize, free: Range<usize>) -> Option<usize> {
        let mut page = free.start;
        loop {
            let end = page.checked_add(pages).filter(|&end| end <= free.end)?;
            let Some(next) = self.buffers.cursor_lower_bound(&page) else {
                return Some(page);
            };
            let (&start, buffer) = next.current();
            if end <= start {
                return Some(page);
            }
            page = start + buffer.pages();
        }
    }

    /// A place for a window of so many pages in the parts of the offset space that no BAR has.
    fn find(&self, core: &Core, pages: usize) -> Option<usize> {
        let region = self.cursor / REGION_PAGES;
        // The rest of the region that the cursor is in, the others, then all of that region.
        (region..=region + NUM_BARS).find_map(|index| {
            let bar = index % NUM_BARS;
            let first = bar * REGION_PAGES + core.bar_pages(bar);
            let first = if index == region {
                first.max(self.cursor)
            } else {
                first
            };
            self.first_fit(pages, first..(bar + 1) * REGION_PAGES)
        })
    }
}

impl Registry {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            windows <- new_mutex!(
                Windows {
                    buffers: RBTree::new(),
                    cursor: 0,
                },
                "Registry::windows"
            ),
            bars <- new_mutex!([const { None }; NUM_BARS], "Registry::bars"),
        })
    }

    /// Gives `buffer` a window and makes it known.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when no stretch of the offset space that is large enough is free; `ENOMEM`.
    pub(crate) fn add(&self, core: &Core, buffer: Arc<Exported<Buffer>>) -> Result<usize> {
        let pages = buffer.pages();
        let mut windows = self.windows.lock();
        let window = windows.find(core, pages).ok_or(ENOSPC)?;
        windows
            .buffers
            .try_create_and_insert(window, buffer, GFP_KERNEL_ACCOUNT)?;
        // The end of the last region is the start of the first one.
        windows.cursor = (window + pages) % BAR_SPACE;
        Ok(window)
    }

    /// Forgets the buffer in the window that starts at page `window`.
    pub(crate) fn remove(&self, window: usize) {
        let removed = self.windows.lock().buffers.remove(&window);
        drop(removed);
    }

    /// Calls `use_it` with the hidden buffer of a BAR, which is made when there is none yet.
    pub(crate) fn with_bar<R>(
        &self,
        index: usize,
        make: impl FnOnce() -> Result<DmaBuf<Buffer>>,
        use_it: impl FnOnce(&DmaBuf<Buffer>) -> R,
    ) -> Result<R> {
        let mut bars = self.bars.lock();
        let slot = bars.get_mut(index).ok_or(EINVAL)?;
        let dma_buf = match slot {
            Some(dma_buf) => dma_buf,
            None => slot.insert(make()?),
        };
        Ok(use_it(dma_buf))
    }

    /// Closes all exported buffers. Nobody is inside the gate, as `_shut` proves.
    pub(crate) fn close_windows(&self, _shut: &Shut<'_>) {
        for exported in self.windows.lock().buffers.values() {
            exported.close();
        }
    }

    /// Drops the hidden buffers. Nothing is mapped through a device fd any more.
    pub(crate) fn drop_bars(&self) {
        let bars = core::mem::take(&mut *self.bars.lock());
        drop(bars);
    }
}
