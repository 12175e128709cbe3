// SPDX-License-Identifier: GPL-2.0
//! The init of a virtual machine that QEMU runs inside of the guest, with an edu of the guest's
//! (`-device vfio-pci`). Prints what it reads from the device on the serial port. Its reboot ends
//! the machine.

use std::convert::Infallible;
use std::fs::{self, File};
use std::io::Write;

use anyhow::{ensure, Context, Result};
use guest::mm::{Mapping, RW};
use guest::pci::{Pci, EDU};
use guest::PAGE;
use nix::mount::{mount, MsFlags};
use nix::sys::reboot::{reboot, RebootMode};

const ID_AT: u64 = 0x00;
const INVERTER: u64 = 0x04;
/// Memory enable, in the command register of the configuration space.
const COMMAND: u64 = 0x04;
const MEMORY: u16 = 2;

/// Mounts a file system that the kernel makes up, named like its type.
fn make(kind: &str, target: &str) -> Result<()> {
    fs::create_dir_all(target)?;
    Ok(mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>)?)
}

fn look(serial: &mut File) -> Result<()> {
    make("sysfs", "/sys")?;
    let found = Pci::find(EDU)?;
    let edu = found.first().context("no edu")?;
    let command = edu.config16(COMMAND)?;
    edu.set_config16(COMMAND, command | MEMORY)?;
    let bar = Mapping::new(&edu.bar_file(0)?, PAGE, RW, 0)?;
    let id: u32 = bar.load(ID_AT)?;
    writeln!(serial, "nested: edu at {edu}: id register {id:#010x}")?;
    bar.store(INVERTER, 0x1234_5678_u32)?;
    let inverse: u32 = bar.load(INVERTER)?;
    ensure!(inverse == !0x1234_5678, "the inverter says {inverse:#x}");
    writeln!(serial, "nested: inverter {inverse:#010x}")?;
    Ok(())
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
