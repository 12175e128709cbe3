// SPDX-License-Identifier: GPL-2.0

//! A buffer: ranges of a BAR behind a dma-buf.
//!
//! Faults and revocation meet at the [gate](crate::gate): a fault looks at the buffer's life and
//! maps inside of it; a revoke changes the life with the gate shut, then zaps. Importers and
//! revocation meet at the reservation lock; see [`crate::importers`].

use crate::{
    batch::Trace,
    device::{
        self,
        Device,
        DeviceData, //
    },
    gate::Inside,
    listing::{
        Counters,
        Description, //
    },
    memattr::Memattr,
    range::Layout,
    state::{
        Event,
        Life,
        Status, //
    }, //
};
use kernel::{
    page::PAGE_SHIFT,
    prelude::*,
    sync::{
        atomic::{
            Acquire,
            Atomic,
            Full,
            Relaxed, //
        },
        ArcBorrow, //
    },
    task::Pid, //
};
use kernel_ext::{
    dma_buf::{
        self,
        Attachment,
        DmaBuf,
        Exported,
        Exporter, //
    },
    dma_buf_mapping::{
        DeviceMapping,
        MapRequest, //
    },
    errno::EOPNOTSUPP,
    fault::{
        Fault,
        Outcome, //
    },
    mm::{
        BarMapping,
        CacheMode,
        NewMapping,
        VmOps, //
    },
    trace,
    vfio_pci_core::{
        Core,
        MemoryEnabled,
        REGION_PAGES, //
    },
    wait::Wait, //
};

static DMA_BUF_OPS: dma_buf::Ops<Buffer> = dma_buf::Ops::build(crate::NAME);
static NONCACHED: VmOps<Buffer> = VmOps::build(CacheMode::Noncached);
static WRITE_COMBINING: VmOps<Buffer> = VmOps::build(CacheMode::WriteCombining);

/// Ranges of one BAR, laid end to end.
pub(crate) struct Buffer {
    /// The BAR that the ranges are of.
    bar: usize,
    layout: Layout,
    /// How many ranges user space gave; neighbours were merged since.
    nr_ranges: u32,
    /// Where the buffer starts in the device's offset space, pages.
    window: usize,
    /// Whether it is under the mappings of a device fd. If not, the registry gave it the window.
    hidden: bool,
    /// A [`Life`]. Ends with the gate shut.
    life: Atomic<u32>,
    /// A [`Trace`] of the last faults. A hint only, so that races do no harm.
    trace: Atomic<u64>,
    /// How many mappings importing devices have. Goes up with the reservation lock held.
    imports: Atomic<u32>,
    /// A [`Memattr`]. An mmap uses the one it finds.
    memattr: Atomic<u32>,
    counters: Counters,
    /// The inode number of the dma-buf. Set when it is made.
    inode: Atomic<u64>,
    /// The process that exported the buffer, or mapped the BAR first.
    exporter: Pid,
}

/// What a new buffer is to be.
pub(crate) struct Spec {
    /// The BAR that the ranges are of.
    pub(crate) bar: usize,
    pub(crate) layout: Layout,
    /// How many ranges user space gave.
    pub(crate) nr_ranges: u32,
    pub(crate) memattr: Memattr,
    /// Flags of its file, as for open(2).
    pub(crate) open_flags: u32,
}

impl Buffer {
    /// Makes the dma-buf of a new buffer at page `window` of the offset space.
    fn new_dma_buf(
        device: &Device,
        spec: Spec,
        window: usize,
        hidden: bool,
    ) -> Result<DmaBuf<Self>> {
        let size = usize::try_from(spec.layout.size())?;
        let name = device.names.get(spec.bar).ok_or(ENODEV)?;
        let buffer = Self {
            bar: spec.bar,
            layout: spec.layout,
            nr_ranges: spec.nr_ranges,
            window,
            hidden,
            life: Atomic::new(Life::Live as u32),
            trace: Atomic::new(0),
            imports: Atomic::new(0),
            memattr: Atomic::new(spec.memattr.as_raw()),
            counters: Counters::new(),
            inode: Atomic::new(0),
            exporter: current!().group_leader().pid(),
        };
        let dma_buf = DmaBuf::export(
            &DMA_BUF_OPS,
            kernel_ext::this_module!(),
            Exported::new(device, buffer)?,
            size,
            spec.open_flags,
            name,
        )?;
        dma_buf.exported().inode.store(dma_buf.inode(), Relaxed);
        Ok(dma_buf)
    }

    /// Exports ranges of a BAR: a buffer of its own, in a window of its own.
    pub(crate) fn export(device: &Device, spec: Spec) -> Result<DmaBuf<Self>> {
        let pages = usize::try_from(spec.layout.pages())?;
        let place = device.registry.reserve(device.core(), pages)?;
        let dma_buf = Self::new_dma_buf(device, spec, place.window(), false)?;
        place.fill(dma_buf.exported().into());
        Self::note(&dma_buf.exported(), trace::buffer_export);
        Ok(dma_buf)
    }

    /// Makes the hidden buffer of a BAR, which is under all mappings through the device fd.
    pub(crate) fn hidden(device: &Device, bar: usize) -> Result<DmaBuf<Self>> {
        let resource = device.core().bar(bar)?;
        let spec = Spec {
            bar,
            layout: Layout::whole_bar(resource.start, resource.len)?,
            nr_ranges: 1,
            memattr: Memattr::Noncached,
            open_flags: dma_buf::O_RDWR,
        };
        Self::new_dma_buf(device, spec, bar * REGION_PAGES, true)
    }

    /// The buffer behind an fd of the current process.
    ///
    /// # Errors
    ///
    /// `EBADF`: the fd is not open. `EINVAL`: it is no dma-buf. `ENODEV`: it is not a buffer of
    /// `device`.
    pub(crate) fn from_fd(device: &Device, fd: i32) -> Result<DmaBuf<Self>> {
        let dma_buf = DmaBuf::from_fd(&DMA_BUF_OPS, fd)?;
        if !core::ptr::eq(dma_buf.exported().device(), device) {
            return Err(ENODEV);
        }
        Ok(dma_buf)
    }

    /// Puts the hidden buffer of a BAR under a mapping of it through the device fd.
    pub(crate) fn adopt(dma_buf: &DmaBuf<Self>, mapping: BarMapping<'_>) {
        let mapping = mapping.adopt(dma_buf);
        // The offsets of the device fd are those of the offset space: nothing to add.
        let page = mapping.page_offset();
        let exported = dma_buf.exported();
        let core = exported.device().core();
        trace::buffer_mmap(core, exported.bar, page, exported.pages());
        mapping.install(&NONCACHED, page);
    }

    /// Size, pages.
    pub(crate) fn pages(&self) -> usize {
        // CAST: Checked when the dma-buf was made.
        self.layout.pages() as usize
    }

    /// How many ranges it was exported with.
    pub(crate) fn nr_ranges(&self) -> u32 {
        self.nr_ranges
    }

    /// Size, bytes.
    pub(crate) fn size(&self) -> u64 {
        self.layout.size()
    }

    pub(crate) fn memattr(&self) -> Memattr {
        // Only valid numbers are ever stored.
        Memattr::from_raw(self.memattr.load(Relaxed)).unwrap_or(Memattr::Noncached)
    }

    pub(crate) fn set_memattr(&self, memattr: Memattr) {
        self.memattr.store(memattr.as_raw(), Relaxed);
    }

    pub(crate) fn life(&self) -> Life {
        Life::from_raw(self.life.load(Relaxed))
    }

    /// Lets `event` happen; concurrent events take effect one after the other.
    fn apply(&self, event: Event) -> Result {
        let mut seen = self.life.load(Relaxed);
        loop {
            let next = Life::from_raw(seen).after(event)? as u32;
            match self.life.cmpxchg(seen, next, Full) {
                Ok(_) => return Ok(()),
                Err(now) => seen = now,
            }
        }
    }

    /// The device is being closed. The caller has shut the gate, and zaps and expels afterwards.
    pub(crate) fn close(&self) {
        // Closing is possible in every state.
        let _ = self.apply(Event::Close);
    }

    /// Whether an importing device has the buffer mapped.
    pub(crate) fn is_imported(&self) -> bool {
        self.imports.load(Acquire) != 0
    }

    /// What user space sees of the buffer's state.
    pub(crate) fn status(exported: &Exported<Self>) -> Status {
        exported
            .life()
            .status(device::memory_answers(exported.device()))
    }

    /// What a listing of buffers tells about this one.
    pub(crate) fn describe(exported: &Exported<Self>, memory_answers: bool) -> Description {
        Description {
            offset: (exported.window as u64) << PAGE_SHIFT,
            inode: exported.inode.load(Relaxed),
            bar: exported.bar,
            hidden: exported.hidden,
            ranges: exported.nr_ranges,
            size: exported.size(),
            memattr: exported.memattr(),
            status: exported.life().status(memory_answers),
            mappings: exported.counters.mappings(),
            imports: exported.imports.load(Relaxed),
            faults: exported.counters.faults(),
            exporter: exported.exporter,
        }
    }

    /// Takes the buffer away from everybody, for good.
    ///
    /// # Errors
    ///
    /// `EBADFD`: was done before. `ENODEV`: the device was closed. `EINTR`: a signal came while an
    /// importer had not unmapped yet; to be called again, to go on waiting.
    pub(crate) fn revoke(dma_buf: &DmaBuf<Self>) -> Result {
        let exported = dma_buf.exported();
        let device = exported.device();
        {
            let _shut = device.gate.shut();
            exported.apply(Event::Revoke)?;
        }
        device.core().zap(exported.window, exported.pages());
        Self::note(&exported, trace::buffer_revoke);
        device.importers.expel(exported.window, dma_buf)?;
        exported.apply(Event::Drained)
    }

    /// Whether an importing device may map the buffer now.
    ///
    /// `memory_lock` is not held, but who switches memory off suspends importers before.
    fn may_map(&self, device: &Device) -> bool {
        let memory_answers = |inside: Inside<'_>| {
            inside
                .opened()
                .is_some_and(|opened| device.core().memory_answers(opened))
        };
        self.life().is_live()
            && !device.importers.are_suspended()
            && device.gate.enter().is_some_and(memory_answers)
    }

    /// The page of the buffer that the block of a fault starts at.
    #[inline(always)]
    fn page_of(&self, fault: &Fault<'_>) -> Option<u64> {
        let page = fault.page_offset()?.checked_sub(self.window)?;
        Some(page as u64)
    }

    /// The PFN of the block of a fault, which starts at `page`, if one entry of a higher order can
    /// map it.
    #[inline(always)]
    fn block(&self, fault: &Fault<'_>, page: u64) -> Option<usize> {
        if fault.order() == 0 {
            return None;
        }
        let pfn = self.layout.block(page, fault.order())?;
        // CAST: PFNs fit the machine word.
        Some(pfn as usize)
    }

    /// Maps the page of a fault and, if it follows on others, some after it.
    fn insert_batch(&self, fault: &Fault<'_>, enabled: &MemoryEnabled<'_>, page: u64) -> Outcome {
        let Some(table) = fault.page_table() else {
            return Outcome::Retry;
        };
        let trace = Trace::from_raw(self.trace.load(Relaxed));
        let (count, trace) = trace.after(page, fault.pages_left() as u64);
        self.trace.store(trace.as_raw(), Relaxed);

        let mut done = 0;
        for run in self.layout.runs(page) {
            let pages = run.pages.min(count - done);
            // CAST: A batch is small, and PFNs fit the machine word.
            let inserted =
                table.insert_pages(enabled, done as usize, run.pfn as usize, pages as usize);
            if inserted.is_err() {
                break;
            }
            done += pages;
            if done == count {
                break;
            }
        }
        match (done, page < self.layout.pages()) {
            (0, false) => Outcome::SigBus,
            (0, true) => Outcome::OutOfMemory,
            _ => Outcome::Mapped,
        }
    }

    /// Tells a tracepoint of the buffer: its BAR, where it is, and how large, pages.
    #[inline(always)]
    pub(crate) fn note(
        exported: &Exported<Self>,
        tracepoint: impl FnOnce(&Core, usize, usize, usize),
    ) {
        let core = exported.device().core();
        tracepoint(core, exported.bar, exported.window, exported.pages());
    }

    /// Maps what a process has accessed, if it may.
    #[inline(always)]
    fn resolve(exported: &Exported<Self>, fault: &Fault<'_>) -> Outcome {
        let single = fault.order() == 0;
        let Some(page) = exported.page_of(fault) else {
            return if single {
                Outcome::SigBus
            } else {
                Outcome::Fallback
            };
        };
        let block = exported.block(fault, page);
        if block.is_none() && !single {
            return Outcome::Fallback;
        }
        let device = exported.device();
        // Who has to wait for one of the two does so without the locks of the fault.
        let Some(memory) = device.core().try_hold_memory() else {
            return Outcome::Away;
        };
        let Some(inside) = device.gate.enter() else {
            return Outcome::Away;
        };
        let Some(enabled) = inside.opened().and_then(|opened| memory.enabled(opened)) else {
            return Outcome::SigBus;
        };
        if !exported.life().is_live() {
            return Outcome::SigBus;
        }
        match block {
            Some(pfn) => fault.insert_block(&enabled, pfn),
            None => exported.insert_batch(fault, &enabled, page),
        }
    }
}

impl Exporter for Buffer {
    type DeviceData = DeviceData;

    fn mmap(exported: &Exported<Self>, mapping: NewMapping<'_, Self>) -> Result {
        if !mapping.is_shared() {
            return Err(EINVAL);
        }
        // `remap_file_pages()` calls mmap of the file under a mapping. A hidden buffer is mapped
        // through the device fd only, for that is what keeps the device open.
        if exported.hidden {
            return Err(EINVAL);
        }
        // Not under `memory_lock`, which must not be taken here. A revoke right after this makes
        // the mapping one that always faults.
        if !exported.life().is_live() {
            return Err(ENODEV);
        }
        let page = exported.window + mapping.page_offset();
        let core = exported.device().core();
        trace::buffer_mmap(core, exported.bar, page, exported.pages());
        let ops = match exported.memattr().cache_mode() {
            CacheMode::Noncached => &NONCACHED,
            CacheMode::WriteCombining => &WRITE_COMBINING,
        };
        mapping.install(ops, page);
        Ok(())
    }

    #[inline(always)]
    fn fault(exported: &Exported<Self>, fault: &Fault<'_>) -> Outcome {
        let outcome = Self::resolve(exported, fault);
        if outcome == Outcome::Mapped {
            exported.counters.fault(fault.order());
        }
        outcome
    }

    fn wait(exported: &Exported<Self>, wait: Wait) -> Result {
        device::wait_for_memory(exported.device(), wait)
    }

    fn mapping_added(exported: &Exported<Self>) {
        exported.counters.mapping_added();
    }

    fn mapping_removed(exported: &Exported<Self>) {
        exported.counters.mapping_removed();
    }

    fn attach(dma_buf: &DmaBuf<Self>, attachment: &Attachment) -> Result {
        let exported = dma_buf.exported();
        let device = exported.device();
        if !attachment.is_peer_to_peer() || !attachment.is_revocable() {
            return Err(EOPNOTSUPP);
        }
        if !exported.may_map(device) {
            return Err(ENODEV);
        }
        device.importers.attach(exported.window, dma_buf)?;
        Self::note(&exported, trace::importer_attach);
        Ok(())
    }

    fn detach(exported: &Exported<Self>) {
        exported.device().importers.detach(exported.window);
    }

    fn map(exported: &Exported<Self>, request: MapRequest<'_>) -> Result<DeviceMapping> {
        let device = exported.device();
        if !exported.may_map(device) {
            return Err(ENODEV);
        }
        let memory = exported
            .layout
            .runs(0)
            .map(|run| (run.pfn << PAGE_SHIFT, run.pages << PAGE_SHIFT));
        let mapping = request.map(device.core(), exported.bar, memory)?;
        exported.imports.fetch_add(1, Relaxed);
        Ok(mapping)
    }

    fn unmapped(exported: &Exported<Self>) {
        if exported.imports.fetch_sub(1, Full) == 1 {
            exported.device().importers.tell_drained();
        }
    }

    fn release(exported: ArcBorrow<'_, Exported<Self>>) {
        let device = exported.device();
        Self::note(&exported, trace::buffer_release);
        if !exported.hidden {
            device.registry.remove(exported.window);
        }
    }
}
