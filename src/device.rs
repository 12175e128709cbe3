// SPDX-License-Identifier: GPL-2.0

//! A device, and its last close.

use crate::{
    listing::Listing,
    memory::Memory,
    pure::{
        config_space::Capabilities,
        windows::BAR_SPACE, //
    }, //
};
use kernel::{
    prelude::*,
    sync::Arc, //
};
use kernel_ext::{
    vfio::pci,
    vfio_pci_core::{
        Capability,
        Core,
        Opened, //
    }, //
};

/// A VFIO PCI device with what we know of it.
pub(crate) type Device = pci::Device<DeviceData>;

/// What this driver adds to a VFIO PCI device.
#[pin_data]
pub(crate) struct DeviceData {
    /// What the device's buffers share, which may outlive the device.
    pub(crate) memory: Arc<Memory>,
    #[pin]
    pub(crate) listing: Listing,
    /// Does not change.
    pub(crate) capabilities: Capabilities,
}

impl DeviceData {
    pub(crate) fn new(core: &Core) -> impl PinInit<Self, Error> + '_ {
        try_pin_init!(Self {
            memory: Memory::new(core)?,
            listing <- Listing::new(),
            capabilities: Capabilities {
                pm: core.capability(Capability::Pm),
                express: core.capability(Capability::Express),
                af: core.capability(Capability::Af),
            },
        })
    }
}

/// Puts all buffers out of reach for good, before the core closes the device.
pub(crate) fn close(device: &Device) -> Option<[Opened; 2]> {
    let memory = &device.memory;
    let opened = memory.gate.take_opened();
    memory.registry.close_windows();
    memory.space.zap(0, BAR_SPACE);
    memory.importers.drain_all();
    memory.registry.drop_bars();
    Some([opened?, memory.importers.take_opened()?])
}
