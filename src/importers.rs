// SPDX-License-Identifier: GPL-2.0

//! Devices that import buffers, and how their mappings are invalidated and drained.
//!
//! An importer maps a buffer with the reservation lock of its dma-buf held, and the driver checks
//! there whether it may. Code that takes memory away publishes that first, and then takes the
//! reservation lock of each imported buffer. An importer that came before is invalidated, one that
//! comes later is refused.
//!
//! Only buffers that importers may have mapped are walked. One that was drained after the end of
//! its life is forgotten: nobody can map it again, and what its holders do with it is no longer
//! waited for.

use crate::buffer::Buffer;
use kernel::{
    new_mutex,
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full, //
        },
        Mutex, //
    }, //
};
use kernel_ext::{
    dma_buf::DmaBuf,
    new_rwlock,
    new_wait_queue,
    rwlock::RwSemaphore,
    trace,
    vfio_pci_core::{
        MemoryEnabled,
        Opened, //
    },
    wait::{
        Wait,
        WaitQueue, //
    }, //
};

/// How long a reset that cannot be put off waits for importers, milliseconds.
const PATIENCE_MS: u32 = 1000;

/// The importers of a device's buffers.
#[pin_data]
pub(crate) struct Importers {
    /// How many reasons there are for which no importer may map any buffer.
    suspensions: Atomic<u32>,
    /// How many buffers are in `attached`. Incremented before an importer checks `suspensions`.
    /// Code that raised `suspensions` and then reads 0 here has no importer to invalidate.
    count: Atomic<u32>,
    /// Imported buffers by their place in the offset space, less those that were drained after the
    /// end of their life.
    #[pin]
    attached: Mutex<RBTree<usize, Attached>>,
    /// Tasks that wait for the last unmap of a buffer.
    #[pin]
    drained: WaitQueue,
    /// There while the device is open. Held for reading while an importer maps, which sleeps.
    #[pin]
    opened: RwSemaphore<Option<Opened>>,
}

/// A buffer that is imported.
struct Attached {
    dma_buf: DmaBuf<Buffer>,
    /// By so many attachments, at least 1.
    count: usize,
}

/// No importer maps anything before this is dropped.
pub(crate) struct Suspension<'a>(&'a Importers);

impl Drop for Suspension<'_> {
    fn drop(&mut self) {
        self.0.resume();
    }
}

impl Importers {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            suspensions: Atomic::new(0),
            count: Atomic::new(0),
            attached <- new_mutex!(RBTree::new(), "Importers::attached"),
            drained <- new_wait_queue!("Importers::drained"),
            opened <- new_rwlock!(None, "Importers::opened"),
        })
    }

    /// The device is open from here on.
    pub(crate) fn set_opened(&self, opened: Opened) {
        *self.opened.write() = Some(opened);
    }

    /// The device is being closed.
    pub(crate) fn take_opened(&self) -> Option<Opened> {
        self.opened.write().take()
    }

    /// Calls `f` with the proof that memory is enabled.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it is not, or the device is not open.
    pub(crate) fn if_enabled<R>(
        &self,
        f: impl FnOnce(&MemoryEnabled<'_>) -> Result<R>,
    ) -> Result<R> {
        let opened = self.opened.read();
        let enabled = opened.as_ref().and_then(|open| open.memory_enabled());
        f(&enabled.ok_or(ENODEV)?)
    }

    /// Notes an attachment to a buffer.
    ///
    /// # Errors
    ///
    /// `ENOMEM`. `ENODEV`: the buffer's life has ended.
    pub(crate) fn attach(&self, dma_buf: &DmaBuf<Buffer>) -> Result {
        let place = dma_buf.window;
        // Not under the lock, which `dma_buf_detach()` takes: reclaim may wait for a detach.
        let entry = Attached {
            dma_buf: dma_buf.clone(),
            count: 1,
        };
        let node = RBTreeNode::new(place, entry, GFP_KERNEL_ACCOUNT)?;
        let mut attached = self.attached.lock();
        if let Some(entry) = attached.get_mut(&place) {
            entry.count += 1;
            // The new node is freed without the lock.
            drop(attached);
            return Ok(());
        }
        self.count.fetch_add(1, Full);
        // After the count goes up: code that has ended the buffer's life since finds no importers,
        // or this finds that.
        if dma_buf.life().is_live() {
            attached.insert(node);
            return Ok(());
        }
        drop(attached);
        self.count.fetch_sub(1, Full);
        Err(ENODEV)
    }

    /// Forgets an attachment to the buffer at page `place` of the offset space.
    pub(crate) fn detach(&self, place: usize) {
        self.forget(place, |entry| {
            entry.count -= 1;
            entry.count == 0
        });
    }

    /// Forgets the buffer at page `place` if it is there and `is_over` says so.
    fn forget(&self, place: usize, is_over: impl FnOnce(&mut Attached) -> bool) {
        let mut attached = self.attached.lock();
        let is_over = attached.get_mut(&place).is_some_and(is_over);
        let entry = if is_over {
            attached.remove(&place)
        } else {
            None
        };
        drop(attached);
        if entry.is_some() {
            self.count.fetch_sub(1, Full);
        }
        drop(entry);
    }

    /// Whether no importer may map any buffer at present. The caller holds the reservation lock of
    /// the buffer.
    pub(crate) fn are_suspended(&self) -> bool {
        self.suspensions.load(Acquire) != 0
    }

    /// The last mapping of some buffer is gone.
    pub(crate) fn wake_drained(&self) {
        self.drained.wake_all();
    }

    /// Keeps importers from mapping any buffer, and drains what they have mapped.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal has ended the wait. Some importers were invalidated, but may map
    /// again.
    pub(crate) fn suspend(&self) -> Result<Suspension<'_>> {
        self.suspensions.fetch_add(1, Full);
        let suspension = Suspension(self);
        if self.count.load(Acquire) == 0 {
            return Ok(suspension);
        }
        self.for_each_live(|dma_buf| invalidate(dma_buf, Wait::Interruptible))?;
        self.for_each_live(|dma_buf| self.wait(dma_buf, Wait::Interruptible))?;
        Ok(suspension)
    }

    /// As [`Importers::suspend`], for a reset that cannot be put off: importers that have not
    /// unmapped after [`PATIENCE_MS`] are not waited for. [`Importers::resume`] ends it.
    pub(crate) fn suspend_for_reset(&self) {
        self.suspensions.fetch_add(1, Full);
        let wait = Wait::milliseconds(PATIENCE_MS);
        self.invalidate_all(wait);
        let _ = self.for_each_live(|dma_buf| {
            let _ = self.wait(dma_buf, wait);
            Ok(())
        });
    }

    /// Ends a suspension. After the last one, importers are invalidated, so that they map again.
    pub(crate) fn resume(&self) {
        if self.suspensions.fetch_sub(1, Full) == 1 {
            self.tell_all();
        }
    }

    /// Drains all buffers, which must have been closed.
    pub(crate) fn drain_all(&self) {
        let _ = self.for_each(|dma_buf| {
            let _ = invalidate(dma_buf, Wait::Uninterruptible);
            Ok(())
        });
        let _ = self.for_each(|dma_buf| self.drained(dma_buf, Wait::Uninterruptible));
    }

    /// Drains a buffer that importers must not be able to map any more. Without importers its
    /// fences do not count.
    ///
    /// # Errors
    ///
    /// `EINTR`: a signal has ended the wait. Not `ERESTARTSYS`: what the caller was to do has
    /// happened for CPUs, and only the wait would start again.
    pub(crate) fn drain(&self, dma_buf: &DmaBuf<Buffer>) -> Result {
        // A device that attaches later finds the buffer revoked.
        if self.count.load(Acquire) == 0 || self.attached.lock().get(&dma_buf.window).is_none() {
            return Ok(());
        }
        invalidate(dma_buf, Wait::Interruptible)
            .and_then(|()| self.drained(dma_buf, Wait::Interruptible))
            .map_err(|_| EINTR)
    }

    /// Waits until a buffer whose life has ended is drained, and forgets it.
    fn drained(&self, dma_buf: &DmaBuf<Buffer>, wait: Wait) -> Result {
        self.wait(dma_buf, wait)?;
        self.forget(dma_buf.window, |_| true);
        Ok(())
    }

    /// Tells the importers of all live buffers to look again. Those of a buffer whose reservation
    /// is locked for longer than [`PATIENCE_MS`] are not told.
    pub(crate) fn tell_all(&self) {
        self.invalidate_all(Wait::milliseconds(PATIENCE_MS));
    }

    /// Invalidates all live buffers, less those whose reservation is still locked at the deadline.
    fn invalidate_all(&self, wait: Wait) {
        // One that is locked takes no time away from the others.
        let _ = self.for_each_live(|dma_buf| {
            dma_buf.set_told(invalidate(dma_buf, Wait::milliseconds(0)).is_ok());
            Ok(())
        });
        let _ = self.for_each_live(|dma_buf| {
            if !dma_buf.is_told() {
                dma_buf.set_told(invalidate(dma_buf, wait).is_ok());
            }
            Ok(())
        });
    }

    /// Waits until no importer has the buffer mapped, nor does its device use it. Fences that are
    /// added from now on do not count: importers may map no longer, at least not for now.
    ///
    /// # Errors
    ///
    /// `ERESTARTSYS`: a signal has ended the wait. `ETIME`: the deadline has passed.
    fn wait(&self, dma_buf: &DmaBuf<Buffer>, wait: Wait) -> Result {
        dma_buf.wait_for_fences(wait)?;
        self.drained.wait(wait, || !dma_buf.is_imported())
    }

    /// As [`Importers::for_each`], but leaves buffers out that are revoked: their importers were
    /// invalidated before, and one that never unmaps must not hold up anything but the revoke.
    fn for_each_live(&self, mut f: impl FnMut(&DmaBuf<Buffer>) -> Result) -> Result {
        self.for_each(|dma_buf| {
            if dma_buf.life().is_live() {
                f(dma_buf)
            } else {
                Ok(())
            }
        })
    }

    /// Calls `f` for each imported buffer, without a lock, until it fails.
    ///
    /// Buffers that come to be imported meanwhile may be left out: see the module's documentation.
    fn for_each(&self, mut f: impl FnMut(&DmaBuf<Buffer>) -> Result) -> Result {
        if self.count.load(Acquire) == 0 {
            return Ok(());
        }
        let mut next = 0;
        loop {
            let dma_buf = {
                let attached = self.attached.lock();
                let Some(cursor) = attached.cursor_lower_bound(&next) else {
                    return Ok(());
                };
                let (place, entry) = cursor.current();
                next = *place + 1;
                entry.dma_buf.clone()
            };
            f(&dma_buf)?;
        }
    }
}

/// Tells the importers of a buffer to look whether they may have it mapped.
///
/// # Errors
///
/// `ERESTARTSYS`, `ETIME`: as for any wait. Any holder of an fd can keep the reservation locked.
fn invalidate(dma_buf: &DmaBuf<Buffer>, wait: Wait) -> Result {
    trace::importer_invalidate(|| dma_buf.place());
    dma_buf.invalidate(wait)
}
