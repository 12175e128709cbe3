// SPDX-License-Identifier: GPL-2.0

//! The driver as VFIO sees it: which calls are ours, and where they go.

use crate::{
    buffer::Buffer,
    device::{
        self,
        Device,
        DeviceData, //
    },
    features,
    gate::Change,
    importers::Suspension,
    memory::Memory,
    parameters,
    pure::{
        denylist,
        link::Event, //
    }, //
};
use kernel::{
    pci,
    prelude::*,
    sync::Arc,
    uaccess::UserPtr, //
};
use kernel_ext::{
    debugfs::Dir,
    mm::BarMapping,
    module::NameReservation,
    trace,
    uapi,
    vfio::{
        pci::{
            ops::Ops,
            LinkError,
            MemoryChange,
            Operations,
            Settings, //
        },
        FeatureCall, //
    },
    vfio_pci_core::{
        Bar,
        Core,
        OpenCore,
        Opened, //
    }, //
};

static OPS: Ops<DeviceData> = Ops::build(crate::NAME);
static OPS_AS_VFIO_PCI: Ops<DeviceData> = Ops::build(c"vfio-pci");

/// The operations to register with, under which name.
pub(crate) fn ops(as_vfio_pci: bool) -> &'static Ops<DeviceData> {
    if as_vfio_pci {
        &OPS_AS_VFIO_PCI
    } else {
        &OPS
    }
}

/// Keeps the in-tree vfio-pci out while we have its name. Programs that insist on the name of the
/// driver (DPDK) look for the directory of its module, too.
///
/// # Errors
///
/// `EBUSY`: the in-tree one is loaded, or built in.
pub(crate) fn reserve_module_name(
    module: &'static ThisModule,
    as_vfio_pci: bool,
) -> Result<Option<NameReservation>> {
    if !as_vfio_pci {
        return Ok(None);
    }
    NameReservation::new(module, c"vfio_pci")
        .map(Some)
        .inspect_err(|error| {
            if *error == EBUSY {
                pr_err!("as_vfio_pci=1: vfio-pci is loaded, unload it first: rmmod vfio-pci\n");
            }
        })
}

/// Keeps faults and importers out while a function of the core may disable memory.
pub(crate) struct SuspendGuard<'a> {
    /// Ends first, so that an importer may remap from its invalidate callback.
    ///
    /// None for a reset: the core closes the gate then, by `reset_prepare`. Before that it may wait
    /// long for a sibling device to be closed, and faults must not.
    _change: Option<Change<'a>>,
    _suspension: Suspension<'a>,
    memory: &'a Memory,
}

impl Drop for SuspendGuard<'_> {
    fn drop(&mut self) {
        trace::memory_resume(|| (&self.memory.device_name,));
    }
}

impl Operations for DeviceData {
    type SuspendGuard<'a> = SuspendGuard<'a>;

    fn check(pci: &pci::Device) -> Result {
        let (vendor, device) = (pci.vendor_id().as_raw(), pci.device_id());
        if !denylist::has(vendor, device) {
            return Ok(());
        }
        if parameters::disable_denylist.value() {
            dev_warn!(
                pci.as_ref(),
                "device denylist disabled - allowing device {:04x}:{:04x}.\n",
                vendor,
                device
            );
            return Ok(());
        }
        dev_warn!(
            pci.as_ref(),
            "{:04x}:{:04x} exists in vfio-pci device denylist, driver probing disallowed.\n",
            vendor,
            device
        );
        Err(EINVAL)
    }

    fn settings() -> Settings {
        Settings {
            nointxmask: parameters::nointxmask.value(),
            disable_vga: parameters::vga_is_disabled(),
            disable_idle_d3: parameters::disable_idle_d3.value(),
        }
    }

    fn may_make_virtual_functions() -> Result {
        if parameters::sriov_is_enabled() {
            Ok(())
        } else {
            Err(ENOENT)
        }
    }

    fn new(core: &Core) -> impl PinInit<Self, Error> {
        DeviceData::new(core)
    }

    fn bound(device: &Device, debugfs: &Arc<Dir>) {
        device.listing.show(device, debugfs);
    }

    fn unbinding(device: &Device) {
        device.memory.link(Event::Abandoned);
    }

    fn unbound(device: &Device) {
        device.listing.hide();
    }

    fn suspend(device: &Device, change: MemoryChange) -> Result<Option<SuspendGuard<'_>>> {
        let may_change = match change {
            MemoryChange::ConfigWrite { offset, count } => {
                device.capabilities.memory_may_change(offset, count)
            }
            MemoryChange::Reset | MemoryChange::LowPower => true,
        };
        if !may_change {
            return Ok(None);
        }
        let memory = &*device.memory;
        trace::memory_suspend(|| (&memory.device_name,));
        // Before the gate closes: this may wait long for an importer.
        let suspension = memory.importers.suspend();
        let both = suspension.and_then(|suspension| {
            let change = (change != MemoryChange::Reset).then(|| memory.gate.change());
            Ok((suspension, change.transpose()?))
        });
        let (_suspension, _change) =
            both.inspect_err(|_| trace::memory_resume(|| (&memory.device_name,)))?;
        Ok(Some(SuspendGuard {
            _change,
            _suspension,
            memory,
        }))
    }

    fn changed(device: &Device, open: &OpenCore, change: MemoryChange, worked: bool) {
        let gate = &device.memory.gate;
        if open.is_asleep() || gate.is_impaired() {
            gate.look_asleep();
        }
        let restored = match change {
            MemoryChange::ConfigWrite { .. } => open.memory_enabled().is_some(),
            MemoryChange::Reset => worked,
            MemoryChange::LowPower => false,
        };
        // The owner's view of memory being enabled outlives a reset of the link.
        if restored && gate.is_impaired() && device.core().decodes_memory() {
            device.memory.link(Event::Restored);
        }
    }

    fn raised(device: &Device) {
        device.memory.gate.look_asleep();
    }

    fn low_power_ended(device: &Device) {
        device.memory.gate.look_asleep();
        device.memory.importers.tell_all();
    }

    fn reset_prepare(device: &Device) {
        device.memory.reset_begins();
    }

    fn reset_done(device: &Device) {
        device.memory.reset_ends();
    }

    fn link_error(device: &Device, error: LinkError) {
        match error {
            LinkError::NonFatal => {}
            LinkError::Fatal => device.memory.link(Event::Fatal),
            LinkError::NotRecovered => {
                // In low power the device may be in D3cold, which is no error.
                let core = device.core();
                let answers = core.is_present() || core.is_in_low_power();
                device.memory.link(Event::NotRecovered { answers });
            }
        }
    }

    fn link_back(device: &Device) {
        let decodes = device.core().decodes_memory();
        device.memory.link(Event::Recovered { decodes });
    }

    fn open_device(device: &Device, [for_faults, for_importers]: [Opened; 2]) {
        let memory = &device.memory;
        memory.importers.set_opened(for_importers);
        memory.gate.set_opened(for_faults);
        memory.link(Event::Restored);
    }

    fn close_device(device: &Device) -> Option<[Opened; 2]> {
        device::close(device)
    }

    fn mmap_bar(device: &Device, open: &OpenCore, bar: Bar, mapping: BarMapping<'_>) -> Result {
        let memory = &device.memory;
        memory.registry.with_bar(
            bar,
            || Buffer::hidden(memory, open, bar),
            |dma_buf| Buffer::adopt(dma_buf, mapping),
        )?
    }

    fn feature(device: &Device, open: &OpenCore, call: FeatureCall) -> Option<Result<c_int>> {
        match call.number() {
            uapi::FEATURE_DMA_BUF => features::export(device, open, call).transpose(),
            uapi::FEATURE_REVOKE => Some(features::revoke(device, call)),
            uapi::FEATURE_MEMATTR => Some(features::memattr(device, call)),
            uapi::FEATURE_INFO => Some(features::info(device, call)),
            _ => None,
        }
    }

    fn core_feature(number: u32) -> u32 {
        match number {
            // iommufd maps the dma-bufs of the core, and those only.
            uapi::FEATURE_DMA_BUF_IOMMUFD => uapi::FEATURE_DMA_BUF,
            other => other,
        }
    }

    fn ioctl(device: &Device, cmd: u32, arg: UserPtr) -> Option<Result<isize>> {
        match cmd {
            uapi::IOCTL_REVOKE => Some(features::revoke_by_ioctl(device, arg)),
            _ => None,
        }
    }
}
