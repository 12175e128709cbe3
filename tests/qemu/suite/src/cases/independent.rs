// SPDX-License-Identifier: GPL-2.0
//! A client that no one here wrote: the `vfio-ioctls` crate of rust-vmm, which Cloud Hypervisor
//! and others use, on top of the `vfio-bindings` crate. It must not notice which driver it has.

use std::os::fd::AsRawFd;
use std::sync::Arc;

use anyhow::{ensure, Context, Result};
use guest::mm::{self, Mapping};
use guest::pci::EDU;
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice};

use crate::case::{cases, Setup};
use crate::check;
use crate::fixture::{edu, ID, ID_AT, INVERTER};

cases! {
    Setup::Bound(&[EDU]) =>
        rust_vmm_client_reads_and_writes_regions,
        rust_vmm_client_maps_a_bar;
}

fn open() -> Result<(Arc<VfioContainer>, VfioDevice)> {
    let container = Arc::new(VfioContainer::new(None).context("VfioContainer::new")?);
    let device = VfioDevice::new(&edu()?.dir(), container.clone(), true);
    Ok((container, device.context("VfioDevice::new")?))
}

fn rust_vmm_client_reads_and_writes_regions() -> Result<()> {
    let (_container, device) = open()?;
    check::equal("size of BAR0", device.get_region_size(VFIO_PCI_BAR0_REGION_INDEX), 1 << 20)?;
    check::equal("size of BAR1", device.get_region_size(VFIO_PCI_BAR1_REGION_INDEX), 0)?;
    let mut word = [0; 4];
    device.region_read(VFIO_PCI_CONFIG_REGION_INDEX, &mut word, 0);
    check::equal("ids in config space", u32::from_le_bytes(word), 0x11e8_1234)?;
    device.region_read(VFIO_PCI_BAR0_REGION_INDEX, &mut word, ID_AT);
    check::equal("id register", u32::from_le_bytes(word), ID)?;
    device.region_write(VFIO_PCI_BAR0_REGION_INDEX, &5_u32.to_le_bytes(), INVERTER);
    device.region_read(VFIO_PCI_BAR0_REGION_INDEX, &mut word, INVERTER);
    check::equal("inverter", u32::from_le_bytes(word), !5)?;
    ensure!(device.max_interrupts() > 0, "no interrupts");
    device.reset();
    Ok(())
}

fn rust_vmm_client_maps_a_bar() -> Result<()> {
    let (_container, device) = open()?;
    let flags = device.get_region_flags(VFIO_PCI_BAR0_REGION_INDEX);
    ensure!(flags & VFIO_REGION_INFO_FLAG_MMAP != 0, "flags of BAR0: {flags:#x}");
    let offset = device.get_region_offset(VFIO_PCI_BAR0_REGION_INDEX);
    let size = device.get_region_size(VFIO_PCI_BAR0_REGION_INDEX);
    let address = mm::map(device.as_raw_fd(), size, mm::RW, mm::SHARED, offset);
    let bar = Mapping::from_raw(check::works("mmap of BAR0", address)?, size);
    check::value("id register", bar.load(ID_AT), ID)?;
    bar.store(INVERTER, 9)?;
    check::value("inverter", bar.load(INVERTER), !9)
}
