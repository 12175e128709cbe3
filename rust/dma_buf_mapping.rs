// SPDX-License-Identifier: GPL-2.0

//! Mapping device memory for a device that imports it.
//!
//! The kernel's own function for this, `dma_buf_phys_vec_to_sgt()`, takes a list of ranges, but up
//! to Linux 7.3 at least it puts each of them at the start of the same stretch of I/O addresses, so
//! that the IOMMU refuses the second one (`EADDRINUSE`). So it is called once for each range, and
//! what it gives is joined.
//!
//! C header: [`include/linux/dma-buf-mapping.h`](srctree/include/linux/dma-buf-mapping.h)

use crate::{
    bindings,
    errno::EOPNOTSUPP,
    vfio_pci_core::{
        Bar,
        MemoryEnabled,
        PfnRange, //
    }, //
};
use core::{
    marker::PhantomData,
    ptr::NonNull, //
};
use kernel::{
    dma::DataDirection,
    error::{
        from_err_ptr,
        to_result, //
    },
    fs::file::flags::{
        O_ACCMODE,
        O_RDWR, //
    },
    page::PAGE_SHIFT,
    prelude::*, //
};

/// What an importing device wants mapped.
pub struct MapRequest<'a> {
    attachment: NonNull<bindings::dma_buf_attachment>,
    dir: bindings::dma_data_direction,
    _life: PhantomData<fn(&'a ()) -> &'a ()>,
}

/// Memory mapped for an importing device; [`Exporter::map`](crate::dma_buf::Exporter::map) passes
/// it on. The lifetime is that of the request: it cannot be kept, and is dropped with the
/// reservation lock held.
///
/// ```
/// fn map<'a>(request: MapRequest<'a>) -> Result<DeviceMapping<'a>> {
///     request.begin(0)?.finish()
/// }
/// ```
///
/// ```compile_fail,none
/// fn keep(request: MapRequest<'_>) -> Result<DeviceMapping<'static>> {
///     request.begin(0)?.finish()
/// }
/// ```
pub struct DeviceMapping<'a>(KBox<Joined>, PhantomData<fn(&'a ()) -> &'a ()>);

/// The table that the importer sees, and those that it was made of.
///
/// # Invariants
///
/// `table` was allocated by `sg_alloc_table()`, or is all zero.
#[repr(C)]
struct Joined {
    table: bindings::sg_table,
    parts: Parts,
}

/// A table for each range. Unmaps when dropped, for which the reservation lock must be held.
///
/// # Invariants
///
/// `tables` are what `dma_buf_phys_vec_to_sgt()` gave for `attachment` and `dir`.
struct Parts {
    attachment: NonNull<bindings::dma_buf_attachment>,
    dir: bindings::dma_data_direction,
    tables: KVVec<NonNull<bindings::sg_table>>,
}

/// Memory that is being mapped for an importing device, range by range.
pub struct PartialMapping<'a>(Parts, PhantomData<fn(&'a ()) -> &'a ()>);

impl<'a> MapRequest<'a> {
    /// # Safety
    ///
    /// During `'a` the attachment is valid and the reservation lock of its dma-buf held; what
    /// [`PartialMapping::finish`] gives does not live longer than the attachment, and is dropped
    /// with that lock held.
    pub(crate) unsafe fn from_raw(
        attachment: *mut bindings::dma_buf_attachment,
        dir: bindings::dma_data_direction,
    ) -> Self {
        Self {
            // SAFETY: A valid attachment is not null.
            attachment: unsafe { NonNull::new_unchecked(attachment) },
            dir,
            _life: PhantomData,
        }
    }

    /// Begins, with nothing, and with room for `ranges` ranges.
    ///
    /// # Errors
    ///
    /// `EACCES` when the device may write to the memory and the dma-buf is not open for writing;
    /// `ENOMEM`.
    pub fn begin(self, ranges: usize) -> Result<PartialMapping<'a>> {
        if self.dir != DataDirection::ToDevice.into() && !self.is_writable() {
            return Err(EACCES);
        }
        // INVARIANT: No table yet.
        let parts = Parts {
            attachment: self.attachment,
            dir: self.dir,
            tables: KVVec::with_capacity(ranges, GFP_KERNEL_ACCOUNT)?,
        };
        Ok(PartialMapping(parts, PhantomData))
    }

    /// Whether the dma-buf is open for writing.
    fn is_writable(&self) -> bool {
        // SAFETY: The attachment is valid; it keeps the dma-buf, and with it the file.
        let flags = unsafe { (*(*(*self.attachment.as_ptr()).dmabuf).file).f_flags };
        flags & O_ACCMODE == O_RDWR
    }
}

impl<'a> PartialMapping<'a> {
    /// Maps `count` page frames of BAR `bar` from `first` on.
    ///
    /// Allocates nothing that is charged to a memory cgroup, which could make the caller wait as
    /// long as the owner of that cgroup likes.
    ///
    /// # Errors
    ///
    /// `ENOMEM` when there are more ranges than [`MapRequest::begin`] made room for. `EINVAL` when
    /// the topology does not let the importing device reach the BAR, when the memory is not in it,
    /// or when it is of another device than the dma-buf; and what the DMA layer says.
    pub fn add(
        &mut self,
        enabled: &MemoryEnabled<'_>,
        bar: Bar,
        first: usize,
        count: usize,
    ) -> Result {
        // SAFETY: The device is open, so it is bound, and its provider is valid.
        let provider = NonNull::new(unsafe {
            bindings::pcim_p2pdma_provider(enabled.core().pdev(), bar.index() as c_int)
        });
        let provider = provider.ok_or(EOPNOTSUPP)?;
        let range = enabled.pfns(bar, first, count).ok_or(EINVAL)?;
        // SAFETY: The attachment is valid; it keeps the dma-buf, and with it the file.
        if unsafe { !range.is_reached_by_zaps_of((*(*self.0.attachment.as_ptr()).dmabuf).file) } {
            return Err(EINVAL);
        }
        // SAFETY: `provider` is that of the BAR that the page frames are in.
        unsafe { self.0.add(provider, range) }
    }

    /// Joins the ranges.
    pub fn finish(self) -> Result<DeviceMapping<'a>> {
        Ok(DeviceMapping(Joined::new(self.0)?, PhantomData))
    }
}

impl Parts {
    /// Maps one more range. `dma_buf_phys_vec_to_sgt()`
    ///
    /// # Safety
    ///
    /// `provider` is valid, and that of the BAR of `range`.
    unsafe fn add(
        &mut self,
        provider: NonNull<bindings::p2pdma_provider>,
        range: PfnRange<'_>,
    ) -> Result {
        if self.tables.len() == self.tables.capacity() {
            return Err(ENOMEM);
        }
        let len = range.count() << PAGE_SHIFT;
        let mut range = bindings::phys_vec {
            // CAST: The target is 64 bit.
            paddr: (range.first() as u64) << PAGE_SHIFT,
            len,
        };
        // SAFETY: The attachment is valid and its reservation lock held, as the constructor of
        // `MapRequest` requires; `provider` is valid; there is one range.
        let table = from_err_ptr(unsafe {
            bindings::dma_buf_phys_vec_to_sgt(
                self.attachment.as_ptr(),
                provider.as_ptr(),
                &mut range,
                1,
                len,
                self.dir,
            )
        })?;
        // INVARIANT: Made just now. There is room for it.
        self.tables
            .push(NonNull::new(table).ok_or(ENOMEM)?, GFP_KERNEL_ACCOUNT)?;
        Ok(())
    }

    /// Calls `f` with DMA address and length of each entry of each table.
    fn for_each_entry(&self, mut f: impl FnMut(u64, u32)) {
        for table in &self.tables {
            // SAFETY: By the type invariant.
            let (mut entry, count) = unsafe { ((*table.as_ptr()).sgl, (*table.as_ptr()).nents) };
            for _ in 0..count {
                // SAFETY: The list has `count` entries.
                let address = unsafe { bindings::sg_dma_address(entry) };
                // SAFETY: As above.
                f(address, unsafe { bindings::sg_dma_len(entry) });
                // SAFETY: As above; null behind the last.
                entry = unsafe { bindings::sg_next(entry) };
            }
        }
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        for table in &self.tables {
            let table = table.as_ptr();
            // `dma_buf_phys_vec_to_sgt()` sets `orig_nents` to 0, to tell that there are no pages,
            // but it is what `sg_free_table()` goes by: without this the list would leak.
            // SAFETY: By the type invariant; nobody uses the table any more.
            unsafe { (*table).orig_nents = (*table).nents };
            // SAFETY: By the type invariant; the reservation lock is held.
            unsafe { bindings::dma_buf_free_sgt(self.attachment.as_ptr(), table, self.dir) };
        }
    }
}

impl Joined {
    fn new(parts: Parts) -> Result<KBox<Self>> {
        let mut count = 0u32;
        parts.for_each_entry(|_, _| count = count.saturating_add(1));
        // INVARIANT: All zero.
        let mut joined = KBox::new(
            Self {
                table: pin_init::zeroed(),
                parts,
            },
            GFP_KERNEL_ACCOUNT,
        )?;
        let Self { table, parts } = &mut *joined;
        // INVARIANT: Allocated, or zeroed again.
        // SAFETY: `table` is ours.
        to_result(unsafe { bindings::sg_alloc_table(table, count, bindings::GFP_KERNEL_ACCOUNT) })?;
        let mut entry = table.sgl;
        parts.for_each_entry(|address, length| {
            // SAFETY: The list has as many entries as we copy.
            unsafe { (*entry).dma_address = address };
            // SAFETY: As above. Lengths are there, where architectures have
            // CONFIG_NEED_SG_DMA_LENGTH.
            unsafe { (*entry).dma_length = length };
            // SAFETY: As above.
            entry = unsafe { bindings::sg_next(entry) };
        });
        // Importers see by this that there are no pages.
        table.orig_nents = 0;
        Ok(joined)
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        self.table.orig_nents = self.table.nents;
        // SAFETY: By the type invariant; an all-zero table is left alone.
        unsafe { bindings::sg_free_table(&mut self.table) };
    }
}

impl DeviceMapping<'_> {
    /// The table for the importer.
    pub(crate) fn into_raw(self) -> *mut bindings::sg_table {
        // CAST: It is the first member.
        KBox::into_raw(self.0).cast()
    }

    /// Takes back what [`DeviceMapping::into_raw`] gave; it is unmapped when dropped.
    ///
    /// # Safety
    ///
    /// `table` is from there, and is taken back once.
    pub(crate) unsafe fn from_raw(table: *mut bindings::sg_table) -> Self {
        // SAFETY: By the requirements of this function.
        Self(unsafe { KBox::from_raw(table.cast()) }, PhantomData)
    }
}
