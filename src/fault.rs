// SPDX-License-Identifier: GPL-2.0

//! Faults on mappings of a buffer.
//!
//! A fault looks at the device and at the buffer's life inside the [gate](crate::gate), and maps
//! there. It never waits inside; `Buffer::wait` does, with the locks of the fault dropped.

use crate::{
    buffer::Buffer,
    pure::fault_around::History, //
};
use kernel::sync::atomic::{
    Atomic,
    Relaxed, //
};
use kernel_ext::{
    fault::{
        Block,
        Fault,
        Outcome,
        BLOCKS_ARE_SAFE,
        PMD_ORDER,
        PUD_ORDER, //
    },
    vfio_pci_core::{
        MemoryEnabled,
        OpenCore, //
    }, //
};

/// What a buffer counts for the listing.
pub(crate) struct Counters {
    /// How many mappings processes have.
    mappings: Atomic<u32>,
    /// How many faults were resolved with entries of 4 KiB, 2 MiB and 1 GiB.
    faults: [Atomic<u64>; 3],
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            mappings: Atomic::new(0),
            faults: [const { Atomic::new(0) }; 3],
        }
    }

    pub(crate) fn mapping_added(&self) {
        self.mappings.add(1, Relaxed);
    }

    pub(crate) fn mapping_removed(&self) {
        self.mappings.fetch_sub(1, Relaxed);
    }

    pub(crate) fn mappings(&self) -> u32 {
        self.mappings.load(Relaxed)
    }

    /// Counts a fault that an entry for 2^`order` pages resolved.
    #[inline(always)]
    pub(crate) fn fault(&self, order: u32) {
        let [small, medium, large] = &self.faults;
        let counter = match order {
            0 => small,
            PMD_ORDER => medium,
            _ => large,
        };
        counter.add(1, Relaxed);
    }

    pub(crate) fn faults(&self) -> [u64; 3] {
        self.faults.each_ref().map(|faults| faults.load(Relaxed))
    }
}

impl Buffer {
    /// Maps what a process has accessed, if it may.
    #[inline(always)]
    pub(crate) fn resolve(&self, fault: &Fault<'_>) -> Outcome {
        let single = fault.order() == 0;
        let unmappable = if single {
            Outcome::SigBus
        } else {
            Outcome::Fallback
        };
        let Some(block) = fault.block() else {
            return unmappable;
        };
        let Some(page) = block.page_offset().checked_sub(self.window) else {
            return unmappable;
        };
        let page = page as u64;
        let pfn = self.block_pfn(&block, page);
        if pfn.is_none() && !single {
            return Outcome::Fallback;
        }
        // A fault that must wait does so without the locks that it holds here.
        let Some(inside) = self.memory.gate.enter() else {
            return Outcome::Unavailable;
        };
        let Some(enabled) = inside.opened().and_then(OpenCore::memory_enabled) else {
            return Outcome::SigBus;
        };
        if !self.life().is_live() {
            return Outcome::SigBus;
        }
        let Some(pfn) = pfn else {
            return self.insert_batch(&block, &enabled, page);
        };
        match enabled.pfns(self.bar, pfn, 1 << block.order()) {
            Some(pfns) => block.insert(pfns),
            None => Outcome::Fallback,
        }
    }

    /// The PFN of the block, which starts at `page` of the buffer, if one entry can map it.
    ///
    /// The kernel mishandles a mapping with 1 GiB entries that is split or moved, up to an oops,
    /// and before 7.3 any block. Only the owner may do that to itself, as with in-tree vfio-pci.
    #[inline(always)]
    fn block_pfn(&self, block: &Block<'_>, page: u64) -> Option<usize> {
        let is_safe = self.hidden || (BLOCKS_ARE_SAFE && block.order() != PUD_ORDER);
        if block.order() == 0 || !is_safe {
            return None;
        }
        let pfn = self.layout.block(page, block.order())?;
        // CAST: PFNs fit the machine word.
        Some(pfn as usize)
    }

    /// Maps the page of a fault and, if it follows on others, some after it.
    fn insert_batch(&self, block: &Block<'_>, enabled: &MemoryEnabled<'_>, page: u64) -> Outcome {
        let Some(table) = block.page_table() else {
            return Outcome::Retry;
        };
        let history = History::from_raw(self.history.load(Relaxed));
        let (count, history) = history.after(page, table.pages_left() as u64);
        self.history.store(history.as_raw(), Relaxed);

        let mut done = 0;
        for run in self.layout.runs(page) {
            let pages = run.pages.min(count - done);
            // CAST: A batch is small, and PFNs fit the machine word.
            let pfns = enabled.pfns(self.bar, run.pfn as usize, pages as usize);
            let Some(pfns) = pfns else {
                return Outcome::SigBus;
            };
            // CAST: As above.
            if table.insert(done as usize, pfns).is_err() {
                break;
            }
            done += pages;
            if done == count {
                break;
            }
        }
        match (done, page < self.layout.pages()) {
            (0, false) => Outcome::SigBus,
            // The page table is gone: another fault makes one.
            (0, true) => Outcome::Retry,
            _ => Outcome::Mapped,
        }
    }
}
