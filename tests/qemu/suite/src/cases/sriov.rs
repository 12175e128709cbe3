// SPDX-License-Identifier: GPL-2.0
//! Virtual functions: they are made through the driver of the physical one and get that driver,
//! and what can be done with any function's BARs can be done with theirs.

use guest::buffer::revoke;
use guest::host::LinkError;
use guest::ptes::Pte;
use guest::uapi::{PCI_COMMAND, PCI_COMMAND_MEMORY, PCI_EXT_CAP_ID_SRIOV, PCI_SRIOV_CTRL};
use guest::uapi::{PCI_SRIOV_CTRL_MSE, PCI_SRIOV_CTRL_VFE, PCI_SRIOV_NUM_VF};
use guest::uapi::{VFIO_DMABUF_STATUS_LIVE, VFIO_DMABUF_STATUS_REVOKED_TEMP};

use super::aer;
use super::unload::{comes_to_an_end, start, still_waits};
use crate::prelude::*;
use crate::trace::Trace;

cases! {
    Setup::Bound(&[IGB]) =>
        "SR-IOV: virtual functions get the driver, and their buffers work": [
            virtual_functions_have_the_driver_of_their_function,
            virtual_function_wants_the_token_of_its_function,
            buffer_of_a_virtual_function_works_and_can_be_revoked,
            functions_mappings_stay_while_virtual_ones_come_and_go,
            memory_bit_of_a_virtual_function_changes_nothing,
            virtual_function_is_in_reach_after_a_link_error,
            removal_of_a_function_waits_for_its_virtual_ones,
        ];
    Setup::Bound(&[IGB, EDU, EDU]) =>
        "SR-IOV: virtual functions get the driver, and their buffers work": [
            reset_of_a_virtual_function_is_its_own,
        ],
        "removal of a device: its buffers outlive it": [
            buffer_outlives_its_virtual_function,
            virtual_function_is_released_although_a_client_keeps_a_buffer,
        ];
}

/// A register of igb and its virtual functions, which does not change by itself.
const STATUS: u64 = 0x08;
const TOKEN: &str = "2a2a2a2a-2a2a-2a2a-2a2a-2a2a2a2a2a2a";
const TOKEN_BYTES: [u8; 16] = [0x2a; 16];

/// A physical function with virtual functions, which go when this is dropped.
pub(super) struct Physical(Pci);

impl Physical {
    pub(super) fn with(count: u32) -> Result<Physical> {
        let pci = nth(IGB, 0)?;
        allow(true)?;
        check::works("sriov_numvfs", pci.set_virtual_functions(count))?;
        Ok(Physical(pci))
    }

    /// Opens it, and makes TOKEN its token.
    fn open(&self) -> Result<Device> {
        let device = Device::open(&self.0, Via::Group)?;
        feature::set(&device, uapi::VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, &TOKEN_BYTES)
            .context("VFIO_DEVICE_FEATURE_PCI_VF_TOKEN")?;
        Ok(device)
    }

    /// Its first virtual function.
    fn first(&self) -> Result<Pci> {
        self.virtual_function(0)
    }

    /// Lets the one virtual function answer again that a reset of the link has taken away.
    fn enable_again(&self) -> Result<()> {
        let mut at = 0x100;
        while u32::from(self.0.config16(at)?) != PCI_EXT_CAP_ID_SRIOV {
            at = (self.0.config16(at + 2)? >> 4).into();
            ensure!(at != 0, "{} has no SR-IOV capability", self.0);
        }
        self.0.set_config16(at + u64::from(PCI_SRIOV_NUM_VF), 1)?;
        let enable = PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE;
        self.0.set_config16(at + u64::from(PCI_SRIOV_CTRL), enable as u16)
    }

    pub(super) fn virtual_function(&self, nth: u32) -> Result<Pci> {
        self.0.virtual_function(nth)
    }
}

/// Sets the module parameter without which no virtual functions are made.
fn allow(whether: bool) -> Result<()> {
    Module::driver().set_parameter("enable_sriov", whether)
}

impl Drop for Physical {
    fn drop(&mut self) {
        let _ = self.0.set_virtual_functions(0);
        let _ = allow(false);
        if !self.0.dir().exists() {
            let _ = Pci::rescan();
        }
    }
}

/// A function's first page: a mapping of the BAR, and one of a buffer.
struct Slices {
    buffer: Buffer,
    mappings: [Mapping; 2],
    entries: Ptes,
}

impl Slices {
    fn of(device: &Device) -> Result<Slices> {
        let buffer = Buffer::export(device, 0, 0, PAGE).context("export")?;
        let mappings = [device.map_bar_part(0, 0, PAGE)?, buffer.map(0, PAGE)?];
        Ok(Slices { buffer, mappings, entries: Ptes::new()? })
    }

    /// Loads through both.
    fn load(&self) -> Result<()> {
        for mapping in &self.mappings {
            mapping.load(STATUS)?;
        }
        Ok(())
    }

    /// The entries of both.
    fn entries(&self) -> Result<[Option<Pte>; 2]> {
        let [bar, buffer] = &self.mappings;
        Ok([self.entries.at(bar.address())?, self.entries.at(buffer.address())?])
    }

    /// Checks whether both have entries.
    fn are_mapped(&self, what: &str, want: bool) -> Result<()> {
        check::equal(what, self.entries()?.map(|entry| entry.is_some()), [want; 2])
    }
}

fn virtual_functions_have_the_driver_of_their_function() -> Result<()> {
    let physical = Physical::with(7)?;
    let functions: Vec<_> =
        (0..7).map(|nth| physical.virtual_function(nth)).collect::<Result<_>>()?;
    for function in &functions {
        check::equal("driver", function.driver(), Some(driver()))?;
        function.vfio_name()?;
    }
    check::errno("other number", physical.0.set_virtual_functions(2), Errno::EBUSY)?;
    check::works("none", physical.0.set_virtual_functions(0))?;
    for function in &functions {
        ensure!(!function.dir().exists(), "{function} is still there");
    }
    let most = physical.0.most_virtual_functions()?;
    check::errno("too many", physical.0.set_virtual_functions(most + 1), Errno::ERANGE)
}

fn virtual_function_wants_the_token_of_its_function() -> Result<()> {
    let physical = Physical::with(1)?;
    let _device = physical.open()?;
    let function = physical.first()?;
    ensure!(Device::open(&function, Via::Group).is_err(), "opened without a token");
    let other = TOKEN.replacen('2', "3", 1);
    ensure!(Device::open_with_token(&function, &other).is_err(), "opened with another token");
    Device::open_with_token(&function, TOKEN).map(drop)
}

fn buffer_of_a_virtual_function_works_and_can_be_revoked() -> Result<()> {
    let physical = Physical::with(1)?;
    let owner = physical.open()?;
    let whole = Slices::of(&owner)?;
    whole.load()?;
    let function = physical.first()?;
    let device = Device::open_with_token(&function, TOKEN)?;
    let slices = Slices::of(&device)?;
    slices.load()?;
    let frame = function.bar_start(0)? / PAGE;
    let frames = slices.entries()?.map(|entry| entry.map(|entry| entry.pfn));
    check::equal("page frames", frames, [Some(frame); 2])?;
    let mut word = [0; 4];
    device.read(uapi::VFIO_PCI_BAR0_REGION_INDEX, STATUS, &mut word)?;
    let [bar, memory] = &slices.mappings;
    check::value("through the buffer", memory.load(STATUS), u32::from_le_bytes(word))?;

    check::errno("through the PF", revoke(&owner, &slices.buffer), Errno::ENODEV)?;
    check::works("REVOKE", revoke(&device, &slices.buffer))?;
    check::bus_error("buffer after its revoke", memory.load(STATUS))?;
    check::value("BAR after the revoke", bar.load(STATUS), u32::from_le_bytes(word))?;
    whole.are_mapped("entries of the PF", true)
}

fn functions_mappings_stay_while_virtual_ones_come_and_go() -> Result<()> {
    let physical = Physical::with(0)?;
    let owner = physical.open()?;
    let slices = Slices::of(&owner)?;
    slices.load()?;
    check::works("two, while it is open", physical.0.set_virtual_functions(2))?;
    slices.are_mapped("with virtual functions", true)?;
    check::works("none, while it is open", physical.0.set_virtual_functions(0))?;
    slices.are_mapped("without", true)?;
    slices.load()
}

/// A virtual function has no such bit; the core shows one, and it is only for show.
fn memory_bit_of_a_virtual_function_changes_nothing() -> Result<()> {
    let physical = Physical::with(1)?;
    let _owner = physical.open()?;
    let device = Device::open_with_token(&physical.first()?, TOKEN)?;
    let slices = Slices::of(&device)?;
    slices.load()?;
    device.set_memory(false)?;
    slices.load().context("with the bit off")?;
    device.set_memory(true)?;
    slices.load().context("with the bit on")
}

/// It has no memory bit that the reset of the link could have cleared.
fn virtual_function_is_in_reach_after_a_link_error() -> Result<()> {
    let physical = Physical::with(1)?;
    let owner = physical.open()?;
    let function = physical.first()?;
    let device = Device::open_with_token(&function, TOKEN)?;
    let buffer = Buffer::export(&device, 0, 0, PAGE)?;
    let [back, end] = [Pause::of_any(windows::LINK_BACK)?, Pause::of_any(windows::RECOVERY_ENDS)?];
    aer::error(&function, LinkError::Fatal)?;
    back.wait()?;
    has_status(&device, &buffer, "amid the recovery", VFIO_DMABUF_STATUS_REVOKED_TEMP)?;
    physical.enable_again()?;
    check::equal("the bit", function.config16(PCI_COMMAND.into())? & PCI_COMMAND_MEMORY as u16, 0)?;
    back.end()?;
    end.pass()?;
    has_status(&device, &buffer, "when the link is back", VFIO_DMABUF_STATUS_LIVE)?;
    drop((buffer, device, owner));
    Ok(())
}

/// Unbinding waits, too, but there Linux 7.3 misses a lock in whose absence lockdep complains.
fn removal_of_a_function_waits_for_its_virtual_ones() -> Result<()> {
    let physical = Physical::with(2)?;
    let owner = physical.open()?;
    let function = physical.first()?;
    let device = Device::open_with_token(&function, TOKEN)?;
    let slices = Slices::of(&device)?;
    drop(owner);
    let pci = physical.0.clone();
    let removal = start(move || Ok(pci.remove()?));
    still_waits(&removal)?;
    slices.load().context("while it waits")?;
    drop(device);
    still_waits(&removal).context("for the mapping of the BAR")?;
    let Slices { buffer, mappings: [bar, memory], .. } = slices;
    drop(bar);
    comes_to_an_end(&removal)?;
    for gone in [&function, &physical.0] {
        ensure!(!gone.dir().exists(), "{gone} is still there");
    }
    check::bus_error("the buffer", memory.load(STATUS))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    Pci::rescan()?;
    Pci::at(physical.0.address()).map(drop)
}

fn reset_of_a_virtual_function_is_its_own() -> Result<()> {
    peers_reach_each_other()?;
    let physical = Physical::with(2)?;
    let owner = physical.open()?;
    let peer = importing()?;
    let open = |nth| Device::open_with_token(&physical.virtual_function(nth)?, TOKEN);
    let (device, sibling) = (open(0)?, open(1)?);
    let mut slices = Vec::new();
    for device in [&device, &sibling, &owner] {
        let slice = Slices::of(device)?;
        slice.load()?;
        let importer = rig::attach(&slice.buffer, &peer, UNMAPS_AT_ONCE)?;
        check::works("map", importer.map())?;
        slices.push((slice, importer));
    }
    let [(own, imported), others @ ..] = &slices[..] else { unreachable!() };
    check::works("reset", device.reset())?;
    own.are_mapped("entries of the one", false)?;
    invalidated("importer of the one", imported, 1)?;
    for (other, importer) in others {
        other.are_mapped("entries of another", true)?;
        still_mapped(importer, 0).context("another function")?;
    }
    own.load().context("after the reset")?;
    check::works("map after the reset", imported.map()).map(drop)
}

fn buffer_outlives_its_virtual_function() -> Result<()> {
    let physical = Physical::with(1)?;
    let owner = physical.open()?;
    let function = physical.first()?;
    let device = Device::open_with_token(&function, TOKEN)?;
    let buffer = Buffer::export(&device, 0, 0, PAGE)?;
    let memory = buffer.map(0, PAGE)?;
    memory.load(STATUS)?;
    let importer = rig::attach(&buffer, &importing()?, UNMAPS_AT_ONCE)?;
    drop((device, owner));
    check::works("none", physical.0.set_virtual_functions(0))?;
    ensure!(!function.dir().exists(), "{function} is still there");

    let trace = Trace::on()?;
    check::bus_error("the buffer", memory.load(STATUS))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)?;
    check::errno("import", importer.map(), Errno::ENODEV)?;
    drop((importer, memory, buffer));
    let events = trace.take()?;
    for event in &events {
        let device = event.split_whitespace().nth(1);
        check::equal(&format!("device of {event:?}"), device, Some(function.address()))?;
    }
    let last = events.last().context("no events")?;
    ensure!(last.starts_with("buffer_release: "), "the last event is {last:?}");
    ensure!(events.len() > 1, "no event of the fault");
    Ok(())
}

fn virtual_function_is_released_although_a_client_keeps_a_buffer() -> Result<()> {
    let physical = Physical::with(1)?;
    let owner = physical.open()?;
    let device = Device::open_with_token(&physical.first()?, TOKEN)?;
    let slices = Slices::of(&device)?;
    slices.load()?;
    let Slices { buffer, mappings: [bar, memory], .. } = slices;
    drop((bar, device, owner));
    let released = Pause::of_any(windows::PCI_DEVICE_RELEASED)?;
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| physical.0.set_virtual_functions(0));
        released.wait()?;
        released.release()?;
        check::equal("none", removal.join().ok(), Some(Ok(())))
    })?;
    check::bus_error("the buffer", memory.load(STATUS))?;
    check::errno("mmap", buffer.map(0, PAGE), Errno::ENODEV)
}
