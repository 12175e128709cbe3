// SPDX-License-Identifier: GPL-2.0

//! Importing dma-bufs.
//!
//! C header: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h)

use core::{
    cell::UnsafeCell,
    ptr::NonNull, //
};
use kernel::{
    bindings,
    device::Device,
    dma::DataDirection,
    error::{
        from_err_ptr,
        to_result, //
    },
    mm::virt::VmaNew,
    prelude::*,
    sync::{
        aref::ARef,
        Arc,
        ArcBorrow, //
    }, //
};

/// What an importer does when its mapping becomes void.
pub(crate) trait Invalidate: Sized + Send + Sync + 'static {
    /// `dma_buf_attach_ops.invalidate_mappings`
    fn invalidate(this: ArcBorrow<'_, Self>, locked: Locked<'_, Self>);
}

/// What an importer says of itself.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// Nothing: there are no `dma_buf_attach_ops`.
    Static,
    /// What they are.
    Dynamic {
        /// `allow_peer2peer`
        peer_to_peer: bool,
        /// Whether there is `invalidate_mappings`.
        revocable: bool,
    },
}

/// `enum dma_data_direction`
#[derive(Clone, Copy)]
pub(crate) enum Direction {
    BothWays,
    ToDevice,
    FromDevice,
}

impl Direction {
    fn as_raw(self) -> bindings::dma_data_direction {
        match self {
            Self::BothWays => DataDirection::Bidirectional,
            Self::ToDevice => DataDirection::ToDevice,
            Self::FromDevice => DataDirection::FromDevice,
        }
        .into()
    }
}

/// `enum dma_resv_usage`
#[derive(Clone, Copy)]
pub(crate) enum Usage {
    Kernel,
    Write,
    Read,
    Bookkeep,
}

impl Usage {
    fn as_raw(self) -> bindings::dma_resv_usage {
        match self {
            Self::Kernel => bindings::dma_resv_usage_DMA_RESV_USAGE_KERNEL,
            Self::Write => bindings::dma_resv_usage_DMA_RESV_USAGE_WRITE,
            Self::Read => bindings::dma_resv_usage_DMA_RESV_USAGE_READ,
            Self::Bookkeep => bindings::dma_resv_usage_DMA_RESV_USAGE_BOOKKEEP,
        }
    }
}

#[allow(improper_ctypes, reason = "a reservation object is behind a pointer")]
extern "C" {
    fn dmabuf_test_add_fence(
        resv: *mut bindings::dma_resv,
        sync_file: c_int,
        usage: bindings::dma_resv_usage,
        manners: c_uint,
    ) -> c_int;
}

/// What `importer_priv` points at.
struct Slot<T> {
    importer: Arc<T>,
    /// The mapping, if there is one, and its direction. The reservation lock protects it.
    mapping: UnsafeCell<Option<(NonNull<bindings::sg_table>, bindings::dma_data_direction)>>,
}

/// The tables of the dynamic importers of type `T`.
struct Ops<T>(T);

impl<T: Invalidate> Ops<T> {
    const fn table(peer_to_peer: bool, revocable: bool) -> bindings::dma_buf_attach_ops {
        bindings::dma_buf_attach_ops {
            allow_peer2peer: peer_to_peer,
            invalidate_mappings: if revocable {
                Some(invalidate::<T>)
            } else {
                None
            },
        }
    }

    fn find(manners: Manners) -> *const bindings::dma_buf_attach_ops {
        match manners {
            Manners::Static => core::ptr::null(),
            Manners::Dynamic {
                peer_to_peer,
                revocable,
            } => match (peer_to_peer, revocable) {
                (false, false) => const { &Self::table(false, false) },
                (false, true) => const { &Self::table(false, true) },
                (true, false) => const { &Self::table(true, false) },
                (true, true) => const { &Self::table(true, true) },
            },
        }
    }
}

/// # Safety
///
/// Called by the exporter with the reservation lock held, for an attachment of importer `T`.
unsafe extern "C" fn invalidate<T: Invalidate>(attachment: *mut bindings::dma_buf_attachment) {
    // SAFETY: `Attachment::new` put it there; the slot lives until the attachment is gone.
    let slot = unsafe { &*(*attachment).importer_priv.cast::<Slot<T>>() };
    // INVARIANT: By the requirements of this function.
    let locked = Locked { attachment, slot };
    T::invalidate(slot.importer.as_arc_borrow(), locked);
}

/// An attachment of a device to a dma-buf; goes with its mapping when dropped.
///
/// # Invariants
///
/// `ptr` is an attachment whose `importer_priv` is `slot`; we own a reference to its dma-buf.
pub(crate) struct Attachment<T: Invalidate> {
    ptr: NonNull<bindings::dma_buf_attachment>,
    slot: Arc<Slot<T>>,
    /// Keeps what `ptr` has as its device.
    _device: ARef<Device>,
}

// SAFETY: Attachments belong to no thread; the reservation lock protects the slot.
unsafe impl<T: Invalidate> Send for Attachment<T> {}
// SAFETY: As above.
unsafe impl<T: Invalidate> Sync for Attachment<T> {}

impl<T: Invalidate> Attachment<T> {
    /// Attaches `device` to the dma-buf behind an fd of the current process.
    /// `dma_buf_dynamic_attach()`
    pub(crate) fn new(
        fd: i32,
        device: ARef<Device>,
        manners: Manners,
        importer: Arc<T>,
    ) -> Result<Self> {
        #[allow(
            clippy::arc_with_non_send_sync,
            reason = "the reservation lock protects it"
        )]
        let slot = Arc::new(
            Slot {
                importer,
                mapping: UnsafeCell::new(None),
            },
            // Not to be taken for one of the driver's that is not charged.
            GFP_KERNEL_ACCOUNT,
        )?;
        // SAFETY: Any number may be asked for.
        let dma_buf = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;
        // SAFETY: All pointers are valid, and stay so until `drop` has detached.
        let ptr = from_err_ptr(unsafe {
            bindings::dma_buf_dynamic_attach(
                dma_buf,
                // CAST: `Device` is a transparent wrapper.
                (&raw const *device).cast_mut().cast(),
                Ops::<T>::find(manners),
                Arc::as_ptr(&slot).cast_mut().cast(),
            )
        })
        // SAFETY: The reference of `dma_buf_get()`.
        .inspect_err(|_| unsafe { bindings::dma_buf_put(dma_buf) })?;
        // INVARIANT: Made just now; the reference passes to us.
        Ok(Self {
            ptr: NonNull::new(ptr).ok_or(ENOMEM)?,
            slot,
            _device: device,
        })
    }

    /// Makes a mapping of another file one of the dma-buf. `dma_buf_mmap()`
    pub(crate) fn mmap(&self, vma: &VmaNew) -> Result {
        // SAFETY: By the type invariant; the VMA is being set up.
        to_result(unsafe { bindings::dma_buf_mmap((*self.ptr.as_ptr()).dmabuf, vma.as_ptr(), 0) })
    }

    /// Calls `f` with the reservation lock of the dma-buf held.
    pub(crate) fn with_lock<R>(&self, f: impl FnOnce(Locked<'_, T>) -> R) -> R {
        let attachment = self.ptr.as_ptr();
        // SAFETY: By the type invariant.
        let resv = unsafe { (*(*attachment).dmabuf).resv };
        // SAFETY: As above. Without a context, locking cannot fail.
        unsafe { bindings::dma_resv_lock(resv, core::ptr::null_mut()) };
        // INVARIANT: Locked until below.
        let result = f(Locked {
            attachment,
            slot: &self.slot,
        });
        // SAFETY: Locked above.
        unsafe { bindings::dma_resv_unlock(resv) };
        result
    }
}

impl<T: Invalidate> Drop for Attachment<T> {
    fn drop(&mut self) {
        self.with_lock(|mut locked| locked.unmap());
        let attachment = self.ptr.as_ptr();
        // SAFETY: By the type invariant.
        let dma_buf = unsafe { (*attachment).dmabuf };
        // SAFETY: It is not mapped, and not used after this.
        unsafe { bindings::dma_buf_detach(dma_buf, attachment) };
        // SAFETY: By the type invariant the reference is ours.
        unsafe { bindings::dma_buf_put(dma_buf) };
    }
}

/// An attachment with the reservation lock of its dma-buf held.
///
/// # Invariants
///
/// The lock is held during `'a`, by this task; `slot` is that of `attachment`; there is only one of
/// these at a time.
pub(crate) struct Locked<'a, T: Invalidate> {
    attachment: *mut bindings::dma_buf_attachment,
    slot: &'a Slot<T>,
}

impl<T: Invalidate> Locked<'_, T> {
    fn mapping(&self) -> Option<(NonNull<bindings::sg_table>, bindings::dma_data_direction)> {
        // SAFETY: By the type invariant nobody else has access.
        unsafe { *self.slot.mapping.get() }
    }

    /// Whether the device has the dma-buf mapped.
    pub(crate) fn is_mapped(&self) -> bool {
        self.mapping().is_some()
    }

    /// Maps the dma-buf, which is not mapped. `dma_buf_map_attachment()`
    ///
    /// # Errors
    ///
    /// `EDOM`: the table says that its entries have pages, which device memory has not.
    pub(crate) fn map(&mut self, direction: Direction) -> Result {
        if self.is_mapped() {
            return Err(EBUSY);
        }
        let direction = direction.as_raw();
        // SAFETY: The attachment is valid and the reservation lock held.
        let table = unsafe { bindings::dma_buf_map_attachment(self.attachment, direction) };
        let table = from_err_ptr(table)?;
        let table = NonNull::new(table).ok_or(ENOMEM)?;
        // SAFETY: By the type invariant nobody else has access.
        unsafe { *self.slot.mapping.get() = Some((table, direction)) };
        // `for_each_sgtable_sg()` and others walk so many entries, for their pages.
        // SAFETY: The table is valid while it is mapped.
        if unsafe { (*table.as_ptr()).orig_nents } != 0 {
            self.unmap();
            return Err(EDOM);
        }
        Ok(())
    }

    /// Unmaps the dma-buf if it is mapped; returns whether it was. `dma_buf_unmap_attachment()`
    pub(crate) fn unmap(&mut self) -> bool {
        // SAFETY: By the type invariant nobody else has access.
        let Some((table, direction)) = (unsafe { (*self.slot.mapping.get()).take() }) else {
            return false;
        };
        // SAFETY: The mapping is one of the attachment, and the reservation lock is held.
        unsafe { bindings::dma_buf_unmap_attachment(self.attachment, table.as_ptr(), direction) };
        true
    }

    /// Adds the fence of a sync file to the dma-buf, or one with other manners (`FENCE_*`) that is
    /// signalled with it. `dma_resv_add_fence()`
    pub(crate) fn add_fence(&self, sync_file: i32, usage: Usage, manners: u32) -> Result {
        // SAFETY: The attachment is valid.
        let resv = unsafe { (*(*self.attachment).dmabuf).resv };
        // SAFETY: By the type invariant the lock is held; any number may be asked for.
        to_result(unsafe { dmabuf_test_add_fence(resv, sync_file, usage.as_raw(), manners) })
    }

    /// Calls `f` with DMA address and length, bytes, of each piece of the mapping.
    pub(crate) fn for_each_entry(&self, mut f: impl FnMut(u64, u64)) {
        let Some((table, _)) = self.mapping() else {
            return;
        };
        // SAFETY: The table is valid while it is mapped.
        let (mut entry, count) = unsafe { ((*table.as_ptr()).sgl, (*table.as_ptr()).nents) };
        for _ in 0..count {
            // SAFETY: The list has `count` entries.
            let address = unsafe { bindings::sg_dma_address(entry) };
            // SAFETY: As above.
            let length = unsafe { bindings::sg_dma_len(entry) };
            f(address, length.into());
            // SAFETY: As above; null behind the last.
            entry = unsafe { bindings::sg_next(entry) };
        }
    }
}
