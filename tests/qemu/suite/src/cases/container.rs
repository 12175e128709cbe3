// SPDX-License-Identifier: GPL-2.0
//! What VFIO users do besides, and must go on working: DMA through a container, with BAR mappings
//! in it, and interrupts. For DMA through an iommufd see `iommufd.rs`.

use guest::engine;
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
const HUGE: u64 = BLOCK;

/// Where the cases put things in the device's address space; edu reaches 28 bits.
pub const IOVA: u64 = 0x10_0000;

/// edu's DMA engine, driven by the owner of the device.
pub struct Dma {
    /// edu's BAR0.
    pub bar: Mapping,
}

impl Dma {
    /// Lets the device master the bus.
    pub fn of(device: &Device) -> Result<Dma> {
        let at = u64::from(uapi::PCI_COMMAND);
        let bits = (uapi::PCI_COMMAND_MASTER | uapi::PCI_COMMAND_MEMORY) as u16;
        device.set_config16(at, device.config16(at)? | bits)?;
        Ok(Dma { bar: device.map_bar(0)? })
    }

    /// Copies a page in the device's address space.
    pub fn copy(&self, from: u64, to: u64) -> Result<()> {
        engine::read(&self.bar, from, PAGE as u32)?;
        engine::write(&self.bar, to, PAGE as u32)
    }
}

fn device_reads_and_writes_memory_of_its_container() -> Result<()> {
    let device = open_edu()?;
    let dma = Dma::of(&device)?;
    let (source, target) = (Mapping::anonymous(PAGE)?, Mapping::anonymous(PAGE)?);
    source.store(0, 0x1234_5678)?;
    source.store(PAGE - 4, 0x9abc_def0)?;
    target.store(0, 0)?;
    check::works("MAP_DMA", device.map_dma(IOVA, &source))?;
    check::works("MAP_DMA", device.map_dma(IOVA + PAGE, &target))?;
    dma.copy(IOVA, IOVA + PAGE)?;
    check::value("the first word", target.load(0), 0x1234_5678)?;
    check::value("the last word", target.load(PAGE - 4), 0x9abc_def0)
}

/// P2P as virtual machines do it: the BAR of one device, mapped by a process, is mapped for
/// another device by its address in the process.
fn device_writes_into_a_bar_mapping_of_another_device() -> Result<()> {
    let device = open_edu()?;
    let dma = Dma::of(&device)?;
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
    dma.copy(IOVA, IOVA + PAGE)?;
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
    let dma = Dma::of(&device)?;
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
        dma.copy(IOVA, IOVA + PAGE)?;
        check::value("what the device wrote", memory.load(0), value)?;
    }
    // From now on nothing can be mapped any more.
    let again = device.map_dma(IOVA + 2 * PAGE, &mapping);
    check::errno("MAP_DMA after the revoke", again, Errno::EFAULT)
}

fn interrupts_reach_an_eventfd() -> Result<()> {
    let device = open_edu()?;
    let dma = Dma::of(&device)?;
    let event = EventFd::new()?;
    let trigger = uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
    for index in [uapi::VFIO_PCI_MSI_IRQ_INDEX, uapi::VFIO_PCI_INTX_IRQ_INDEX] {
        set_irqs(&device, index, trigger, 1, Some(&event))?;
        dma.bar.store(0x60, 1)?;
        let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(10_000_u16))?;
        ensure!(ready == 1, "no interrupt came, irq {index}");
        check::equal("count", event.read()?, 1)?;
        dma.bar.store(0x64, 1)?;
        set_irqs(&device, index, trigger, 0, None)?;
    }
    Ok(())
}

/// SET_IRQS of the first `count` interrupts of a kind; a count of 0 disables them.
pub fn set_irqs(
    device: &Device,
    index: u32,
    action: u32,
    count: u32,
    event: Option<&EventFd>,
) -> Result<()> {
    let data = match event {
        Some(_) => uapi::VFIO_IRQ_SET_DATA_EVENTFD,
        None => uapi::VFIO_IRQ_SET_DATA_NONE,
    };
    let mut arg = vec![20, data | action, index, 0, count];
    arg.extend(event.map(|event| event.as_raw_fd() as u32));
    arg[0] = 4 * arg.len() as u32;
    let set = device.ioctl(uapi::VFIO_DEVICE_SET_IRQS, arg.as_mut_ptr() as usize);
    check::works(&format!("SET_IRQS {arg:?}"), set).map(drop)
}
