// SPDX-License-Identifier: GPL-2.0

//! The buffers of a device, and their places in its offset space.
//!
//! Each exported buffer has a [window](crate::pure::windows) in the offset space, so that any
//! mapping of any buffer is linear in it, whatever its ranges are, and one buffer can be zapped
//! without touching others. The hidden buffer of a BAR stands where VFIO has the BAR.

use crate::{
    buffer::Buffer,
    pure::windows::{
        Room,
        Windows, //
    }, //
};
use kernel::{
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
    new_rwlock,
    rwlock::RwSemaphore,
    vfio_pci_core::{
        Bar,
        NUM_BARS, //
    }, //
};

/// The buffers of a device.
#[pin_data]
pub(crate) struct Registry {
    /// The exported buffers. One is in here until its dma-buf is released.
    #[pin]
    windows: Mutex<Windows<Option<Arc<Exported<Buffer>>>>>,
    /// The hidden buffer of each BAR that was mapped since the device was opened.
    #[pin]
    bars: RwSemaphore<[Option<DmaBuf<Buffer>>; NUM_BARS]>,
    /// How many pages each BAR takes. Does not change.
    bar_pages: [usize; NUM_BARS],
}

/// A window without a buffer; given back when dropped.
pub(crate) struct Place<'a> {
    registry: &'a Registry,
    window: usize,
}

impl Place<'_> {
    /// Where the window starts in the offset space, pages.
    pub(crate) fn window(&self) -> usize {
        self.window
    }

    /// Puts the buffer there and makes it known. [`Registry::remove`] takes it out.
    pub(crate) fn fill(self, buffer: Arc<Exported<Buffer>>) {
        if let Some(slot) = self.registry.windows.lock().get_mut(self.window) {
            *slot = Some(buffer);
        }
        core::mem::forget(self);
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.registry.remove(self.window);
    }
}

impl Registry {
    pub(crate) fn new(bar_pages: [usize; NUM_BARS]) -> impl PinInit<Self> {
        pin_init!(Self {
            bar_pages,
            windows <- new_mutex!(Windows::new(), "Registry::windows"),
            bars <- new_rwlock!([const { None }; NUM_BARS], "Registry::bars"),
        })
    }

    /// Takes a window of so many pages, for a buffer that is about to be made.
    ///
    /// # Errors
    ///
    /// `ENOSPC` when no stretch of the offset space that is large enough is free; `ENOMEM`.
    pub(crate) fn reserve(&self, pages: usize) -> Result<Place<'_>> {
        let room = Room::new()?;
        let mut windows = self.windows.lock();
        let window = windows.take(
            room,
            |bar| self.bar_pages.get(bar).copied().unwrap_or(0),
            pages,
            None,
        )?;
        Ok(Place {
            registry: self,
            window,
        })
    }

    /// Forgets the buffer in the window that starts at page `window`.
    pub(crate) fn remove(&self, window: usize) {
        let removed = self.windows.lock().give_back(window);
        drop(removed);
    }

    /// Calls `use_it` with the hidden buffer of a BAR, which is made when there is none yet.
    pub(crate) fn with_bar<R>(
        &self,
        bar: Bar,
        make: impl FnOnce() -> Result<DmaBuf<Buffer>>,
        use_it: impl FnOnce(&DmaBuf<Buffer>) -> R,
    ) -> Result<R> {
        if let Some(Some(dma_buf)) = self.bars.read().get(bar.index()) {
            return Ok(use_it(dma_buf));
        }
        let mut bars = self.bars.write();
        let slot = bars.get_mut(bar.index()).ok_or(EINVAL)?;
        let dma_buf = match slot {
            Some(dma_buf) => dma_buf,
            None => slot.insert(make()?),
        };
        Ok(use_it(dma_buf))
    }

    /// Closes all exported buffers. Hidden ones need no closing: they have no mappings any more.
    pub(crate) fn close_windows(&self) {
        for exported in self.windows.lock().values().flatten() {
            exported.close();
        }
    }

    /// Calls `f` for each buffer until it fails: the hidden ones, then the exported ones.
    pub(crate) fn for_each<E>(
        &self,
        mut f: impl FnMut(&Exported<Buffer>) -> Result<(), E>,
    ) -> Result<(), E> {
        for dma_buf in self.bars.read().iter().flatten() {
            f(dma_buf)?;
        }
        for exported in self.windows.lock().values().flatten() {
            f(exported)?;
        }
        Ok(())
    }

    /// Drops the hidden buffers. Nothing is mapped through a device fd any more.
    pub(crate) fn drop_bars(&self) {
        let bars = core::mem::take(&mut *self.bars.write());
        drop(bars);
    }
}
