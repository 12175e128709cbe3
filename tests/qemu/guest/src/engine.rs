// SPDX-License-Identifier: GPL-2.0
//! The DMA engine of QEMU's `edu`, driven past any driver.
//!
//! The device must have no driver. QEMU has to give it a `dma_mask` of 32 bits, for the addresses
//! that the DMA layer gives it end there.

use crate::prelude::*;

const SOURCE: u64 = 0x80;
const DESTINATION: u64 = 0x88;
const COUNT: u64 = 0x90;
const COMMAND: u64 = 0x98;
const START: u32 = 1;
const FROM_ENGINE: u32 = 2;
/// edu's own memory, as its engine addresses it. The CPU does not see it.
const OWN_MEMORY: u32 = 0x40000;

/// How many bytes the engine can hold.
pub const CAPACITY: u32 = 4096;

/// An edu's DMA engine.
#[derive(Debug)]
pub struct Engine {
    registers: Mapping,
    pci: Pci,
}

impl Engine {
    /// The engine of the edu at `pci`, switched on.
    pub fn new(pci: &Pci) -> Result<Engine> {
        ensure!(pci.driver().is_none(), "{pci} has a driver");
        let on = (uapi::PCI_COMMAND_MEMORY | uapi::PCI_COMMAND_MASTER) as u16;
        pci.set_config16(uapi::PCI_COMMAND.into(), on)?;
        let registers = Mapping::new(pci.bar_file(0)?, 4096, mm::RW, 0).context("mmap")?;
        Ok(Engine { registers, pci: pci.clone() })
    }

    /// Reads `count` bytes at a DMA address into the engine.
    pub fn read(&self, address: u64, count: u32) -> Result<()> {
        read(&self.registers, address, count)
    }

    /// Writes `count` bytes from the engine to a DMA address.
    pub fn write(&self, address: u64, count: u32) -> Result<()> {
        write(&self.registers, address, count)
    }
}

/// As [`Engine::read`], by the registers of an edu that has a driver.
pub fn read(registers: &Mapping, address: u64, count: u32) -> Result<()> {
    transfer(registers, u32::try_from(address)?, OWN_MEMORY, count, START)
}

/// As [`Engine::write`], by the registers of an edu that has a driver.
pub fn write(registers: &Mapping, address: u64, count: u32) -> Result<()> {
    transfer(registers, OWN_MEMORY, u32::try_from(address)?, count, START | FROM_ENGINE)
}

fn transfer(registers: &Mapping, from: u32, to: u32, count: u32, command: u32) -> Result<()> {
    assert!(count <= CAPACITY);
    for (register, value) in [(SOURCE, from), (DESTINATION, to), (COUNT, count), (COMMAND, command)]
    {
        registers.store(register, value)?;
    }
    wait_until(Duration::from_secs(20), "the end of a DMA transfer", || {
        Ok(registers.load(COMMAND)? & START == 0)
    })
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = self.pci.set_config16(uapi::PCI_COMMAND.into(), 0);
    }
}
