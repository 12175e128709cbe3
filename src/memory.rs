// SPDX-License-Identifier: GPL-2.0

//! The memory of a device: what all its buffers share.
//!
//! A buffer may outlive its device, for any holder of an fd decides how long it lives. So it keeps
//! this object, and nothing that the VFIO or PCI core acts upon: a `struct vfio_device` stays in
//! its set of devices until its last reference is gone, and resets of that set would reach a device
//! that the host has taken back. The device itself is reachable only inside the gate, while it is
//! open.

use crate::{
    gate::Gate,
    importers::Importers,
    pure::{
        link,
        link::Link,
        windows::BAR_SPACE, //
    },
    registry::Registry, //
};
use kernel::{
    prelude::*,
    str::CString,
    sync::Arc, //
};
use kernel_ext::{
    address_space::AddressSpace,
    trace,
    vfio_pci_core::{
        Bar,
        Core,
        NUM_BARS, //
    }, //
};

/// What the buffers of a device share.
#[pin_data]
pub(crate) struct Memory {
    /// Between faults and whatever takes memory away.
    #[pin]
    pub(crate) gate: Gate,
    #[pin]
    pub(crate) importers: Importers,
    #[pin]
    pub(crate) registry: Registry,
    /// Where all mappings are.
    pub(crate) space: Arc<AddressSpace>,
    /// PCI address of the device.
    pub(crate) device_name: CString,
    /// What the buffers of each BAR are called, `vfioN:DDDD:BB:DD.F/B`.
    names: [CString; NUM_BARS],
}

impl Memory {
    pub(crate) fn new(core: &Core) -> Result<Arc<Self>> {
        let name = |bar: Bar| {
            CString::try_from_fmt(fmt!(
                "vfio{}:{}/{:x}",
                core.vfio_index(),
                core.pci_name(),
                bar.index()
            ))
        };
        let [a, b, c, d, e, f] = Bar::ALL.map(name);
        let new = try_pin_init!(Self {
            gate <- Gate::new(),
            importers <- Importers::new(),
            registry <- Registry::new(Bar::ALL.map(|bar| core.bar_pages(bar))),
            space: Arc::new(core.address_space(), GFP_KERNEL)?,
            device_name: core.pci_name().try_into()?,
            names: [a?, b?, c?, d?, e?, f?],
        }? Error);
        Arc::pin_init(new, GFP_KERNEL)
    }

    /// What a buffer of that BAR is called.
    pub(crate) fn name(&self, bar: Bar) -> &CStr {
        let [a, b, c, d, e, f] = &self.names;
        match bar.index() {
            0 => a,
            1 => b,
            2 => c,
            3 => d,
            4 => e,
            _ => f,
        }
    }

    /// Whether accesses reach the device at present.
    pub(crate) fn is_enabled(&self) -> bool {
        self.gate.enter().is_some_and(|inside| {
            inside
                .opened()
                .is_some_and(|open| open.memory_enabled().is_some())
        })
    }

    /// A reset begins that cannot be put off.
    pub(crate) fn reset_begins(&self) {
        trace::memory_suspend(|| (&self.device_name,));
        self.gate.reset_begins();
        self.take_away();
    }

    /// The reset has ended, or has failed.
    pub(crate) fn reset_ends(&self) {
        self.gate.reset_ends();
        // After the gate opens, so that an importer may remap from its invalidate callback.
        self.importers.resume();
        trace::memory_resume(|| (&self.device_name,));
    }

    /// Something happens to the link: importers are kept out as long as it does not work.
    pub(crate) fn link(&self, event: link::Event) {
        match self.gate.link(event) {
            (Link::Works, Link::Recovering | Link::Lost) => {
                trace::memory_suspend(|| (&self.device_name,));
                self.take_away();
            }
            (Link::Recovering | Link::Lost, Link::Works) => {
                self.importers.resume();
                trace::memory_resume(|| (&self.device_name,));
            }
            _ => {}
        }
    }

    /// Removes all mappings. The gate is closed.
    fn take_away(&self) {
        self.space.zap(0, BAR_SPACE);
        self.importers.suspend_for_reset();
    }
}
