// SPDX-License-Identifier: GPL-2.0

//! The buffers of a device, and their places in its offset space.
//!
//! BAR `i` has the pages from `i * REGION_PAGES` on: that is VFIO's layout of a device fd, and the
//! hidden buffer of the BAR stands there. The rest of each region is free; exported buffers get
//! *windows* in it, so that any mapping of any buffer is linear in the offset space, whatever its
//! ranges are, and one buffer can be zapped without touching others.

use crate::{
    buffer::Buffer,
    gate::Shut, //
};
use kernel::{
    maple_tree::AllocErrorKind,
    new_mutex,
    prelude::*,
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
    maple_tree::SharedTree,
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
    /// Exported buffers by window. A buffer is in here until its dma-buf is released; the tree has
    /// a lock of its own.
    #[pin]
    windows: SharedTree<Arc<Exported<Buffer>>>,
    /// The hidden buffer of each BAR that was mapped since the device was opened.
    #[pin]
    bars: Mutex<[Option<DmaBuf<Buffer>>; NUM_BARS]>,
}

impl Registry {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            windows <- SharedTree::new(),
            bars <- new_mutex!([const { None }; NUM_BARS], "Registry::bars"),
        })
    }

    /// Gives `buffer` a window and makes it known.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when no stretch of the offset space that is large enough is free; `ENOMEM`.
    pub(crate) fn add(&self, core: &Core, buffer: &Arc<Exported<Buffer>>) -> Result<usize> {
        for bar in 0..NUM_BARS {
            let first = bar * REGION_PAGES + core.bar_pages(bar);
            let free = first..(bar + 1) * REGION_PAGES;
            if buffer.pages() > free.len() {
                continue;
            }
            let result =
                self.windows
                    .alloc_range(buffer.pages(), buffer.clone(), free, GFP_KERNEL_ACCOUNT);
            match result {
                Ok(window) => return Ok(window),
                Err(err) if err.cause == AllocErrorKind::Busy => {}
                Err(err) => return Err(err.into()),
            }
        }
        Err(ENOSPC)
    }

    /// Forgets the buffer in the window that starts at page `window`.
    pub(crate) fn remove(&self, window: usize) {
        self.windows.erase(window);
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
        let mut windows = self.windows.lock();
        let mut cursor = windows.ma_state(0, usize::MAX);
        while let Some(exported) = cursor.find(usize::MAX) {
            exported.close();
        }
    }

    /// Drops the hidden buffers. Nothing is mapped through a device fd any more.
    pub(crate) fn drop_bars(&self) {
        let bars = core::mem::take(&mut *self.bars.lock());
        drop(bars);
    }
}
