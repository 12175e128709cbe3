// SPDX-License-Identifier: GPL-2.0

//! A buffer: ranges of a BAR behind a dma-buf.
//!
//! Faults and revocation meet at the [gate](crate::gate): a fault looks at the buffer's life and
//! maps inside of it; a revoke changes the life with the gate shut, then zaps. Importers and
//! revocation meet at the reservation lock; see [`crate::importers`].

use crate::{
    fault::Counters,
    listing::Description,
    memory::Memory,
    pure::{
        memattr::Memattr,
        range::Layout,
        state::{
            Event,
            Life,
            Status, //
        }, //
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
        Arc,
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
        Followers,
        Installed,
        NewMapping,
        VmOps, //
    },
    trace,
    vfio_pci_core::{
        Bar,
        OpenCore,
        REGION_PAGES, //
    },
    wait::Wait, //
};

static DMA_BUF_OPS: dma_buf::Ops<Buffer> = dma_buf::Ops::build(crate::NAME);

/// The operations of mappings with that cache mode, which those may follow.
fn vm_ops(mode: CacheMode, followers: Followers) -> &'static VmOps<Buffer> {
    use CacheMode::{
        Noncached,
        WriteCombining, //
    };
    use Followers::{
        All,
        Notified, //
    };
    static NONCACHED: VmOps<Buffer> = VmOps::build(Noncached, Notified);
    static NONCACHED_FOR_ALL: VmOps<Buffer> = VmOps::build(Noncached, All);
    static COMBINING: VmOps<Buffer> = VmOps::build(WriteCombining, Notified);
    static COMBINING_FOR_ALL: VmOps<Buffer> = VmOps::build(WriteCombining, All);
    match (mode, followers) {
        (Noncached, Notified) => &NONCACHED,
        (Noncached, All) => &NONCACHED_FOR_ALL,
        (WriteCombining, Notified) => &COMBINING,
        (WriteCombining, All) => &COMBINING_FOR_ALL,
    }
}

/// Ranges of one BAR, laid end to end.
pub(crate) struct Buffer {
    /// What it shares with the other buffers of its device.
    pub(crate) memory: Arc<Memory>,
    /// The BAR that the ranges are of.
    pub(crate) bar: Bar,
    pub(crate) layout: Layout,
    /// How many ranges user space gave; neighbours were merged since.
    nr_ranges: u32,
    /// Where the buffer starts in the device's offset space, pages.
    pub(crate) window: usize,
    /// Whether it is under the mappings of a device fd. If not, the registry gave it the window.
    pub(crate) hidden: bool,
    /// A [`Life`]. Ends with the gate shut.
    life: Atomic<u32>,
    /// The [`History`] of its faults. A hint only, so that races do no harm.
    pub(crate) history: Atomic<u64>,
    /// How many mappings importing devices have. Goes up with the reservation lock held.
    imports: Atomic<u32>,
    /// Whether the last try to tell the importers failed. Concurrent tries may mix that up: then
    /// importers are told once more.
    untold: Atomic<u32>,
    /// What may follow the page frames of its mappings.
    followers: Followers,
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
    pub(crate) bar: Bar,
    pub(crate) layout: Layout,
    /// How many ranges user space gave.
    pub(crate) nr_ranges: u32,
    pub(crate) memattr: Memattr,
    pub(crate) followers: Followers,
    /// Flags of its file, as for open(2).
    pub(crate) open_flags: u32,
}

impl Buffer {
    /// Makes the dma-buf of a new buffer at page `window` of the offset space.
    fn new_dma_buf(
        memory: &Arc<Memory>,
        spec: Spec,
        window: usize,
        hidden: bool,
    ) -> Result<DmaBuf<Self>> {
        let size = usize::try_from(spec.layout.size())?;
        let name = memory.name(spec.bar);
        let buffer = Self {
            memory: memory.clone(),
            bar: spec.bar,
            layout: spec.layout,
            nr_ranges: spec.nr_ranges,
            window,
            hidden,
            life: Atomic::new(Life::Live as u32),
            history: Atomic::new(0),
            imports: Atomic::new(0),
            untold: Atomic::new(0),
            followers: spec.followers,
            memattr: Atomic::new(spec.memattr.as_raw()),
            counters: Counters::new(),
            inode: Atomic::new(0),
            exporter: current!().group_leader().pid(),
        };
        let dma_buf = DmaBuf::export(
            &DMA_BUF_OPS,
            kernel_ext::this_module!(),
            Exported::new(memory.space.clone(), buffer)?,
            size,
            spec.open_flags,
            name,
        )?;
        dma_buf.inode.store(dma_buf.inode(), Relaxed);
        Ok(dma_buf)
    }

    /// Exports ranges of a BAR: a buffer of its own, in a window of its own.
    pub(crate) fn export(memory: &Arc<Memory>, spec: Spec) -> Result<DmaBuf<Self>> {
        let pages = usize::try_from(spec.layout.pages())?;
        let place = memory.registry.reserve(pages)?;
        let dma_buf = Self::new_dma_buf(memory, spec, place.window(), false)?;
        place.fill(dma_buf.exported().into());
        trace::buffer_export(|| dma_buf.place());
        Ok(dma_buf)
    }

    /// Makes the hidden buffer of a BAR, which is under all mappings through the device fd.
    pub(crate) fn hidden(memory: &Arc<Memory>, open: &OpenCore, bar: Bar) -> Result<DmaBuf<Self>> {
        let resource = open.bar(bar)?;
        let spec = Spec {
            bar,
            layout: Layout::whole_bar(resource.start, resource.len)?,
            nr_ranges: 1,
            memattr: Memattr::Noncached,
            followers: Followers::All,
            open_flags: dma_buf::O_RDWR,
        };
        Self::new_dma_buf(memory, spec, bar.index() * REGION_PAGES, true)
    }

    /// The buffer behind an fd of the current process.
    ///
    /// # Errors
    ///
    /// `EBADF`: the fd is not open. `EINVAL`: it is no dma-buf. `ENODEV`: it is not a buffer of
    /// the device.
    pub(crate) fn from_fd(memory: &Arc<Memory>, fd: i32) -> Result<DmaBuf<Self>> {
        let dma_buf = DmaBuf::from_fd(&DMA_BUF_OPS, fd)?;
        if !Arc::ptr_eq(&dma_buf.memory, memory) {
            return Err(ENODEV);
        }
        Ok(dma_buf)
    }

    /// Puts the hidden buffer of a BAR under a mapping of it through the device fd. The offsets of
    /// the device fd are those of the offset space.
    pub(crate) fn adopt(dma_buf: &DmaBuf<Self>, mapping: BarMapping<'_>) -> Result {
        trace::buffer_mmap(|| dma_buf.place_of_mapping(mapping.page_offset()));
        mapping.adopt_and_install(dma_buf, vm_ops(CacheMode::Noncached, Followers::All))
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

    /// The device is being closed. Faults find it closed already; the caller zaps and drains
    /// afterwards.
    pub(crate) fn close(&self) {
        // Closing is possible in every state.
        let _ = self.apply(Event::Close);
    }

    /// Notes whether the importers were told to look again.
    pub(crate) fn set_told(&self, told: bool) {
        self.untold.store((!told).into(), Relaxed);
    }

    /// What was noted last.
    pub(crate) fn is_told(&self) -> bool {
        self.untold.load(Relaxed) == 0
    }

    /// Whether an importing device has the buffer mapped.
    pub(crate) fn is_imported(&self) -> bool {
        self.imports.load(Acquire) != 0
    }

    /// What user space sees of the buffer's state.
    pub(crate) fn status(&self) -> Status {
        self.life().status(self.memory.is_enabled())
    }

    /// What a listing of buffers shows of this one.
    pub(crate) fn describe(&self, memory_enabled: bool) -> Description {
        Description {
            offset: (self.window as u64) << PAGE_SHIFT,
            inode: self.inode.load(Relaxed),
            bar: self.bar.index(),
            hidden: self.hidden,
            ranges: self.nr_ranges,
            size: self.size(),
            memattr: self.memattr(),
            status: self.life().status(memory_enabled),
            mappings: self.counters.mappings(),
            imports: self.imports.load(Relaxed),
            faults: self.counters.faults(),
            exporter: self.exporter,
        }
    }

    /// Revokes the buffer for good.
    ///
    /// # Errors
    ///
    /// `EBADFD`: was done before. `ENODEV`: the device was closed. `EINTR`: a signal came while an
    /// importer had not unmapped yet; to be called again, to go on waiting.
    pub(crate) fn revoke(dma_buf: &DmaBuf<Self>) -> Result {
        let buffer: &Self = dma_buf;
        {
            let _shut = buffer.memory.gate.shut();
            buffer.apply(Event::Revoke)?;
        }
        buffer.memory.space.zap(buffer.window, buffer.pages());
        trace::buffer_revoke(|| buffer.place());
        buffer.memory.importers.drain(dma_buf)?;
        buffer.apply(Event::Drained)
    }

    /// Checks that an importing device may map the buffer now.
    ///
    /// # Errors
    ///
    /// `ENODEV`: it may not.
    fn check_importable(&self) -> Result {
        let memory = &self.memory;
        if self.life().is_live() && !memory.importers.are_suspended() && memory.is_enabled() {
            Ok(())
        } else {
            Err(ENODEV)
        }
    }

    /// What tracepoints report of the buffer: its device, its BAR, where it is, and how large,
    /// pages.
    pub(crate) fn place(&self) -> (&CStr, usize, usize, usize) {
        self.place_of_mapping(self.window)
    }

    /// The same for a mapping from page `page` of the offset space on.
    fn place_of_mapping(&self, page: usize) -> (&CStr, usize, usize, usize) {
        let name = &self.memory.device_name;
        (name, self.bar.index(), page, self.pages())
    }
}

impl Exporter for Buffer {
    fn device_name(&self) -> &CStr {
        &self.memory.device_name
    }

    fn mmap<'a>(exported: &Exported<Self>, mapping: NewMapping<'a, Self>) -> Result<Installed<'a>> {
        // `remap_file_pages()` calls mmap of the file under a mapping. A hidden buffer is mapped
        // through the device fd only, for that is what keeps the device open.
        if exported.hidden {
            return Err(EINVAL);
        }
        let page = exported
            .window
            .checked_add(mapping.page_offset())
            .ok_or(EINVAL)?;
        let mapping = mapping.place(page)?;
        let ops = vm_ops(exported.memattr().cache_mode(), exported.followers);
        // A revoke right after this check makes the mapping one that always faults.
        if !exported.life().is_live() {
            return Err(ENODEV);
        }
        let installed = mapping.install(ops);
        trace::buffer_mmap(|| exported.place_of_mapping(page));
        Ok(installed)
    }

    #[inline(always)]
    fn fault(exported: &Exported<Self>, fault: &Fault<'_>) -> Outcome {
        let outcome = exported.resolve(fault);
        if outcome == Outcome::Mapped {
            exported.counters.fault(fault.order());
        }
        outcome
    }

    fn wait(exported: &Exported<Self>, wait: Wait, again: bool) -> Result {
        exported.memory.gate.wait(wait, again)
    }

    fn mapping_added(exported: &Exported<Self>) {
        exported.counters.mapping_added();
    }

    fn mapping_removed(exported: &Exported<Self>) {
        exported.counters.mapping_removed();
    }

    fn attach(dma_buf: &DmaBuf<Self>, attachment: &Attachment) -> Result {
        let buffer: &Self = dma_buf;
        if !attachment.is_peer_to_peer() || !attachment.is_revocable() {
            return Err(EOPNOTSUPP);
        }
        buffer.check_importable()?;
        buffer.memory.importers.attach(dma_buf)?;
        trace::importer_attach(|| buffer.place());
        Ok(())
    }

    fn detach(exported: &Exported<Self>) {
        exported.memory.importers.detach(exported.window);
    }

    fn map<'a>(exported: &Exported<Self>, request: MapRequest<'a>) -> Result<DeviceMapping<'a>> {
        exported.check_importable()?;
        let mut mapping = request.begin(exported.layout.runs(0).count())?;
        for run in exported.layout.runs(0) {
            // There may be many ranges. Whoever takes memory away meanwhile waits for the
            // reservation lock, which the caller holds, to invalidate the mapping.
            exported.check_importable()?;
            exported.memory.importers.if_enabled(|enabled| {
                // CAST: PFNs and pages fit the machine word.
                mapping.add(enabled, exported.bar, run.pfn as usize, run.pages as usize)
            })?;
        }
        let mapping = mapping.finish()?;
        exported.imports.fetch_add(1, Relaxed);
        Ok(mapping)
    }

    fn unmapped(exported: &Exported<Self>) {
        if exported.imports.fetch_sub(1, Full) == 1 {
            exported.memory.importers.wake_drained();
        }
    }

    fn release(exported: ArcBorrow<'_, Exported<Self>>) {
        trace::buffer_release(|| exported.place());
        if !exported.hidden {
            exported.memory.registry.remove(exported.window);
        }
    }
}
