// SPDX-License-Identifier: GPL-2.0
//! The init of a virtual machine that QEMU runs inside of the guest, with an edu and an ivshmem of
//! the guest's (`-device vfio-pci`). Prints on the serial port what it reads from the edu, and how
//! much of the ivshmem's memory the edu's DMA engine reaches. Its reboot ends the machine.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;

use anyhow::{ensure, Context, Result};
use guest::engine::Engine;
use guest::mm::{Mapping, RW};
use guest::pci::{Id, Pci, EDU, IVSHMEM};
use guest::PAGE;
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};

const ID_AT: u64 = 0x00;
const INVERTER: u64 = 0x04;
/// Memory enable, in the command register of the configuration space.
const COMMAND: u64 = 0x04;
const MEMORY: u16 = 2;
/// The BAR of an ivshmem that is memory.
const SHARED: u32 = 2;
const WORDS: u64 = PAGE / 4;

/// Mounts a file system that the kernel makes up, named like its type.
fn make(kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    Ok(mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)?)
}

/// The only device with this id.
fn only(id: Id) -> Result<Pci> {
    let mut found = Pci::find(id)?;
    ensure!(found.len() == 1, "{} devices of {id:x?}", found.len());
    found.pop().context("no device")
}

fn enable_memory(pci: &Pci) -> Result<()> {
    let command = pci.config16(COMMAND)?;
    pci.set_config16(COMMAND, command | MEMORY)
}

fn read_registers(serial: &mut File, edu: &Pci) -> Result<()> {
    enable_memory(edu)?;
    let bar = Mapping::new(&edu.bar_file(0)?, PAGE, RW, 0)?;
    let id: u32 = bar.load(ID_AT)?;
    writeln!(serial, "nested: edu at {edu}: id register {id:#010x}")?;
    bar.store(INVERTER, 0x1234_5678_u32)?;
    let inverse: u32 = bar.load(INVERTER)?;
    ensure!(inverse == !0x1234_5678, "the inverter says {inverse:#x}");
    writeln!(serial, "nested: inverter {inverse:#010x}")?;
    Ok(())
}

/// Lets the edu's engine copy the first page of the peer's memory to the second one, by the
/// addresses of the peer's BAR. Prints how many words have arrived; `apps.py` judges that.
fn copy_in_peer(serial: &mut File, edu: &Pci, peer: &Pci) -> Result<()> {
    enable_memory(peer)?;
    let memory = Mapping::new(&peer.bar_file(SHARED)?, 2 * PAGE, RW, 0)?;
    let colour = |word| 0xd0a0_0000 | word as u32;
    for word in 0..WORDS {
        memory.store(word * 4, colour(word))?;
        memory.store(PAGE + word * 4, 0x0bad_0bad_u32)?;
    }
    let start = peer.bar_start(SHARED)?;
    let engine = Engine::new(edu)?;
    engine.read(start, PAGE as u32)?;
    engine.write(start + PAGE, PAGE as u32)?;
    let mut arrived = 0;
    for word in 0..WORDS {
        let got: u32 = memory.load(PAGE + word * 4)?;
        arrived += u64::from(got == colour(word));
    }
    writeln!(serial, "nested: peer at {peer}: {arrived} of {WORDS} words arrived at {start:#x}")?;
    Ok(())
}

fn look(serial: &mut File) -> Result<()> {
    make("sysfs", "/sys")?;
    let edu = only(EDU)?;
    read_registers(serial, &edu)?;
    copy_in_peer(serial, &edu, &only(IVSHMEM)?)
}

fn main() -> Result<Infallible> {
    make("devtmpfs", "/dev")?;
    let mut serial = File::options().write(true).open("/dev/ttyS0")?;
    match look(&mut serial) {
        Ok(()) => writeln!(serial, "nested: OK")?,
        Err(error) => writeln!(serial, "nested: FAILED: {error:#}")?,
    }
    Ok(reboot(RebootMode::RB_AUTOBOOT)?)
}
