// SPDX-License-Identifier: GPL-2.0
//! Clients that no one here wrote; they must not notice which driver they have: the crates
//! `vfio-ioctls` of rust-vmm, which Cloud Hypervisor and others use, `pci-driver`, and `dma-buf`.

use std::io;
use std::sync::Arc;

use dma_buf::{DmaBuf, MappedDmaBuf};
use guest::buffer::revoke;
use iommufd_ioctls::IommuFd;
use pci_driver::backends::vfio::VfioPciDevice;
use pci_driver::device::PciDevice;
use pci_driver::regions::{PciRegion, Permissions};
use vfio_bindings::bindings::vfio::{
    VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR1_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX,
    VFIO_REGION_INFO_FLAG_MMAP,
};
use vfio_ioctls::{VfioContainer, VfioDevice, VfioIommufd};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "open: clients by others work: the crates vfio-ioctls, pci-driver and dma-buf": [
            rust_vmm_client_reads_and_writes_regions => use_regions(&open()?),
            rust_vmm_client_maps_a_bar => map_bar(&open()?),
            rust_vmm_client_works_through_iommufd, pci_driver_client_reads_and_writes_regions,
            pci_driver_client_maps_a_bar,
        ];
    Setup::Bound(&[IVSHMEM]) =>
        "open: clients by others work: the crates vfio-ioctls, pci-driver and dma-buf": [
            dma_buf_crate_reads_and_writes_a_buffer, dma_buf_crate_cannot_map_a_revoked_buffer,
        ],
        "DMA_BUF_IOCTL_SYNC works in every state and does nothing": [
            sync_of_a_buffer_does_nothing_and_works,
        ];
}

fn open() -> Result<VfioDevice> {
    let container = Arc::new(VfioContainer::new(None).context("VfioContainer::new")?);
    VfioDevice::new(&edu()?.dir(), container).context("VfioDevice::new, group")
}

fn open_through_iommufd() -> Result<VfioDevice> {
    let iommufd = Arc::new(IommuFd::new().context("IommuFd::new")?);
    let iommufd = VfioIommufd::new(iommufd, None, None).context("VfioIommufd::new")?;
    VfioDevice::new(&edu()?.dir(), Arc::new(iommufd)).context("VfioDevice::new, cdev")
}

fn use_regions(device: &VfioDevice) -> Result<()> {
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

fn map_bar(device: &VfioDevice) -> Result<()> {
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

fn rust_vmm_client_works_through_iommufd() -> Result<()> {
    let device = open_through_iommufd()?;
    use_regions(&device)?;
    map_bar(&device)
}

fn pci_driver_client_reads_and_writes_regions() -> Result<()> {
    let device = VfioPciDevice::open(edu()?.dir()).context("VfioPciDevice::open")?;
    check::equal("vendor", device.config().vendor_id().read()?, EDU.0)?;
    check::equal("device", device.config().device_id().read()?, EDU.1)?;
    let bar = device.bar(0).context("BAR0")?;
    ensure!(device.bar(1).is_none(), "there is a BAR1");
    check::equal("size of BAR0", bar.len(), 1 << 20)?;
    check::equal("permissions of BAR0", bar.permissions(), Permissions::ReadWrite)?;
    check::equal("id register", bar.read_le_u32(ID_AT)?, ID)?;
    bar.write_le_u32(INVERTER, 5)?;
    check::equal("inverter", bar.read_le_u32(INVERTER)?, !5)?;
    device.reset().context("reset")
}

fn pci_driver_client_maps_a_bar() -> Result<()> {
    let device = VfioPciDevice::open(edu()?.dir()).context("VfioPciDevice::open")?;
    let bar = device.bar(0).context("BAR0")?;
    ensure!(bar.is_mappable(), "BAR0 cannot be mapped");
    let mapped = bar.map(..PAGE, Permissions::ReadWrite).context("map")?;
    check::equal("id register", mapped.read_le_u32(ID_AT)?, ID)?;
    mapped.write_le_u32(INVERTER, 9)?;
    check::equal("inverter", mapped.read_le_u32(INVERTER)?, !9)?;
    device.reset().context("reset")?;
    check::equal("id register after a reset", mapped.read_le_u32(ID_AT)?, ID)
}

/// ivshmem, open, and a buffer over the second and the third page of its memory.
fn export_memory() -> Result<(Device, Buffer)> {
    let device = Device::open(&nth(IVSHMEM, 0)?, Via::Group)?;
    device.set_memory(true)?;
    let buffer = Buffer::export(&device, 2, PAGE, 2 * PAGE).context("export")?;
    Ok((device, buffer))
}

fn map_with_crate(buffer: Buffer) -> io::Result<MappedDmaBuf> {
    DmaBuf::from(OwnedFd::from(buffer)).memory_map()
}

/// Whether the buffer is full of `text`.
fn has(buffer: &MappedDmaBuf, text: [u8; 8]) -> Result<bool> {
    let same = |bytes: &[u8], _: Option<()>| Ok(bytes.chunks_exact(8).all(|it| it == text));
    buffer.read(same, None).map_err(|error| anyhow!("read: {error}"))
}

/// Fills the buffer with `text`.
fn fill(buffer: &mut MappedDmaBuf, text: [u8; 8]) -> Result<()> {
    let copy = |bytes: &mut [u8], _: Option<()>| {
        bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&text));
        Ok(())
    };
    buffer.write(copy, None).map_err(|error| anyhow!("write: {error}"))
}

fn dma_buf_crate_reads_and_writes_a_buffer() -> Result<()> {
    let pci = nth(IVSHMEM, 0)?;
    let (_device, buffer) = export_memory()?;
    let oracle = Mapping::new(&pci.bar_file(2)?, 4 * PAGE, mm::RW, 0).context("BAR2 in sysfs")?;
    let places = [0, PAGE - 4, PAGE, PAGE + 4, 3 * PAGE - 4, 3 * PAGE];
    for at in places {
        oracle.store(at, 1)?;
    }
    let mut mapped = map_with_crate(buffer).context("memory_map")?;
    ensure!(!has(&mapped, *b"original")?, "the text is there before it was written");
    fill(&mut mapped, *b"original")?;
    ensure!(has(&mapped, *b"original")?, "the text is not there");
    let [orig, inal] = [*b"orig", *b"inal"].map(u32::from_le_bytes);
    for (at, value) in places.into_iter().zip([1, 1, orig, inal, inal, 1]) {
        check::value(&format!("memory at {at:#x}"), oracle.load(at), value)?;
    }
    Ok(())
}

fn dma_buf_crate_cannot_map_a_revoked_buffer() -> Result<()> {
    let (device, buffer) = export_memory()?;
    let copy = buffer.dup()?;
    map_with_crate(buffer.dup()?).context("memory_map before")?;
    revoke(&device, &copy)?;
    let error = map_with_crate(buffer).err().and_then(|error| error.raw_os_error());
    check::equal("memory_map of a revoked buffer", error, Some(libc::ENODEV))
}

fn sync_of_a_buffer_does_nothing_and_works() -> Result<()> {
    let (device, buffer) = export_memory()?;
    let memory = buffer.map(0, PAGE)?;
    let before = memory.load(0)?;
    let flags = [uapi::DMA_BUF_SYNC_READ, uapi::DMA_BUF_SYNC_WRITE, uapi::DMA_BUF_SYNC_RW];
    let calls = |when: &str| {
        for flags in flags {
            check::works(&format!("start, {when}"), buffer.sync(uapi::DMA_BUF_SYNC_START | flags))?;
            check::works(&format!("end, {when}"), buffer.sync(uapi::DMA_BUF_SYNC_END | flags))?;
        }
        check::errno(&format!("no flags, {when}"), buffer.sync(0), Errno::EINVAL)
    };
    calls("live")?;
    check::value("memory after them", memory.load(0), before)?;
    device.set_memory(false)?;
    calls("memory off")?;
    check::bus_error("memory off", memory.load(0))?;
    device.set_memory(true)?;
    revoke(&device, &buffer)?;
    calls("revoked")?;
    check::bus_error("revoked", memory.load(0))
}
