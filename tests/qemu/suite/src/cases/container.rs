// SPDX-License-Identifier: GPL-2.0
//! What VFIO users do besides, and must go on working: DMA through a container, with BAR mappings
//! in it, and interrupts. For DMA through an iommufd see `iommufd.rs`.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "open: what the driver does not handle goes to the core": [
            device_reads_and_writes_memory_of_its_container, interrupts_reach_an_eventfd,
        ];
    Setup::Bound(&[EDU, BOCHS]) =>
        "type 1 maps BARs for other devices; iommufd maps only what was exported for it": [
            device_writes_into_a_bar_mapping_of_another_device,
        ],
        "type1 refuses mappings of buffers, unless they were exported for it": [
            type1_refuses_the_mapping_of_a_buffer,
            type1_mapping_of_a_buffer_exported_for_it_outlives_its_revoke,
        ];
}

/// A block that one entry can map.
const HUGE: u64 = 2 << 20;

/// Where the cases put things in the device's address space; edu reaches 28 bits.
pub const IOVA: u64 = 0x10_0000;

/// Sets the command register's bit that lets a device master the bus.
pub fn master_the_bus(device: &Device) -> Result<()> {
    let at = u64::from(uapi::PCI_COMMAND);
    let bits = (uapi::PCI_COMMAND_MASTER | uapi::PCI_COMMAND_MEMORY) as u16;
    device.set_config16(at, device.config16(at)? | bits)
}

/// edu's DMA engine: copies a page between its own memory and `iova`.
pub fn copy(bar: &Mapping, iova: u64, out: bool) -> Result<()> {
    const OWN: u32 = 0x4_0000;
    const START: u32 = 1;
    const OUT: u32 = 2;
    let (from, to) = if out { (OWN, iova as u32) } else { (iova as u32, OWN) };
    for (register, value) in [(0x80, from), (0x84, 0), (0x88, to), (0x8c, 0)] {
        bar.store(register, value)?;
    }
    bar.store(0x90, PAGE as u32)?;
    bar.store(0x98, START | if out { OUT } else { 0 })?;
    wait_for("edu's DMA", || Ok(bar.load(0x98)? & START == 0))
}

fn device_reads_and_writes_memory_of_its_container() -> Result<()> {
    let device = open_edu()?;
    master_the_bus(&device)?;
    let bar = device.map_bar(0)?;
    let (source, target) = (Mapping::anonymous(PAGE)?, Mapping::anonymous(PAGE)?);
    source.store(0, 0x1234_5678)?;
    source.store(PAGE - 4, 0x9abc_def0)?;
    target.store(0, 0)?;
    check::works("MAP_DMA", device.map_dma(IOVA, &source))?;
    check::works("MAP_DMA", device.map_dma(IOVA + PAGE, &target))?;
    copy(&bar, IOVA, false)?;
    copy(&bar, IOVA + PAGE, true)?;
    check::value("the first word", target.load(0), 0x1234_5678)?;
    check::value("the last word", target.load(PAGE - 4), 0x9abc_def0)
}

/// P2P as virtual machines do it: the BAR of one device, mapped by a process, is mapped for
/// another device by its address in the process.
fn device_writes_into_a_bar_mapping_of_another_device() -> Result<()> {
    let device = open_edu()?;
    master_the_bus(&device)?;
    let bar = device.map_bar(0)?;
    let other = open_bochs()?;
    let memory = other.map_bar_part(0, 0, 8 * PAGE)?;
    let third = other.map_bar_part(0, 3 * PAGE, PAGE)?;
    for page in 0..8 {
        memory.store(page * PAGE, 0)?;
    }
    let source = Mapping::anonymous(PAGE)?;
    source.store(0, 0x600d_f00d)?;
    check::works("MAP_DMA of memory", device.map_dma(IOVA, &source))?;
    check::works("MAP_DMA of a BAR mapping", device.map_dma(IOVA + PAGE, &third))?;
    copy(&bar, IOVA, false)?;
    copy(&bar, IOVA + PAGE, true)?;
    for page in 0..8 {
        let want = if page == 3 { 0x600d_f00d } else { 0 };
        check::value(&format!("page {page}"), memory.load(page * PAGE), want)?;
    }
    Ok(())
}

/// type1 is not notified of a revoke, so it must not get at the page frames.
fn type1_refuses_the_mapping_of_a_buffer() -> Result<()> {
    let device = open_edu()?;
    let other = open_bochs()?;
    for (offset, len) in [(4 * PAGE, PAGE), (0, HUGE)] {
        let buffer = Buffer::export(&other, 0, offset, len)?;
        let mapping = Mapping::aligned(&buffer, len, 0)?;
        let refused = |when: &str| {
            let got = device.map_dma(IOVA, &mapping);
            check::errno(&format!("MAP_DMA {when}, {len:#x} bytes"), got, Errno::EFAULT)
        };
        refused("before an access")?;
        mapping.store(0, 7)?;
        refused("after an access")?;
        check::value("the mapping", mapping.load(0), 7)?;
        check::works("REVOKE", buffer::revoke(&other, &buffer))?;
        refused("after REVOKE")?;
    }
    Ok(())
}

/// A container follows a mapping to its page frames once, when memory is mapped, and is not
/// notified of a revoke: the owner has said that this is what it wants.
fn type1_mapping_of_a_buffer_exported_for_it_outlives_its_revoke() -> Result<()> {
    let device = open_edu()?;
    master_the_bus(&device)?;
    let bar = device.map_bar(0)?;
    let other = open_bochs()?;
    let memory = other.map_bar_part(0, 4 * PAGE, PAGE)?;
    let mut export = Export::new(0, &[Range(4 * PAGE, PAGE)]);
    export.flags = uapi::VFIO_DMABUF_TYPE1;
    let buffer = export.make(&other)?;
    let mapping = buffer.map(0, PAGE)?;
    let source = Mapping::anonymous(PAGE)?;
    check::works("MAP_DMA of memory", device.map_dma(IOVA, &source))?;
    check::works("MAP_DMA of a buffer's mapping", device.map_dma(IOVA + PAGE, &mapping))?;
    for (value, revoke) in [(1, false), (2, true)] {
        if revoke {
            check::works("REVOKE", buffer::revoke(&other, &buffer))?;
            check::bus_error("the mapping", mapping.load(0))?;
        }
        source.store(0, value)?;
        copy(&bar, IOVA, false)?;
        copy(&bar, IOVA + PAGE, true)?;
        check::value("what the device wrote", memory.load(0), value)?;
    }
    // From now on nothing can be mapped any more.
    let again = device.map_dma(IOVA + 2 * PAGE, &mapping);
    check::errno("MAP_DMA after the revoke", again, Errno::EFAULT)
}

fn interrupts_reach_an_eventfd() -> Result<()> {
    let device = open_edu()?;
    master_the_bus(&device)?;
    let bar = device.map_bar(0)?;
    let event = EventFd::new()?;
    for index in [uapi::VFIO_PCI_MSI_IRQ_INDEX, uapi::VFIO_PCI_INTX_IRQ_INDEX] {
        set_irq(&device, index, event.as_raw_fd()).with_context(|| format!("irq {index}"))?;
        bar.store(0x60, 1)?;
        let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(10_000_u16))?;
        ensure!(ready == 1, "no interrupt came, irq {index}");
        check::equal("count", event.read()?, 1)?;
        bar.store(0x64, 1)?;
        disable_irq(&device, index)?;
    }
    Ok(())
}

fn set_irq(device: &Device, index: u32, event: RawFd) -> Result<(), Errno> {
    let flags = uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut arg = [24, flags, index, 0, 1, event as u32];
    device.ioctl_with(uapi::VFIO_DEVICE_SET_IRQS, &mut arg).map(drop)
}

fn disable_irq(device: &Device, index: u32) -> Result<(), Errno> {
    let flags = uapi::VFIO_IRQ_SET_DATA_NONE | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut arg = [20, flags, index, 0, 0];
    device.ioctl_with(uapi::VFIO_DEVICE_SET_IRQS, &mut arg).map(drop)
}
