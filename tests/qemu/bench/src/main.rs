// SPDX-License-Identifier: GPL-2.0
//! Counts the instructions that the driver and the in-tree vfio-pci need, in one boot.
//!
//!     bench            prints `ROW UNIT OURS UNTRACED IN_TREE` for each row, `-` where in-tree has
//!                      no counterpart; UNTRACED is this driver built without tracepoints
//!     bench threads    times several threads; prints `ROW THREADS OURS/IN_TREE` for each row
//!
//! The first form needs QEMU with `-icount shift=0`, one CPU and `norandmaps`. There the time
//! stamp counter counts instructions of kernel and user space, and figures repeat exactly. They say
//! nothing about caches, contention or the cost of TLB shootdown.
//!
//! Devices: `bochs-display,vgamem=256M` and `pci-testdev,membar=1G`, both bound to no driver.

mod faults;
mod life;
mod measure;
mod memory;
mod threads;

use std::process::ExitCode;

use guest::prelude::*;

/// The figures of one driver: rows in order, each with its unit.
pub type Rows = Vec<(&'static str, Unit, u64)>;

/// The unit of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Instructions of kernel and user space.
    Instructions,
    /// Page faults.
    Faults,
    /// Bytes of kernel memory.
    Bytes,
}

/// The driver under test.
pub const OURS: &str = "dmabuf-vfio-pci";
/// The same, built without tracepoints.
const UNTRACED: &str = "/lib/untraced/dmabuf-vfio-pci.ko";
/// The driver that it is compared with.
pub const IN_TREE: &str = "vfio-pci";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("bench: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    Module::driver().load()?;
    Module::new("/lib/modules/vfio-pci.ko").load()?;
    if std::env::args().nth(1).as_deref() == Some("threads") {
        return threads::compare();
    }
    let in_tree = measure_driver(IN_TREE)?;
    let ours = measure_driver(OURS)?;
    Module::driver().unload_soon()?;
    Module::new(UNTRACED).load()?;
    let untraced = measure_driver(OURS)?;
    for (id, unit, value) in &ours {
        let [bare, peer] = [&untraced, &in_tree].map(|rows| {
            let row = rows.iter().find(|row| row.0 == *id);
            row.map_or("-".to_string(), |row| row.2.to_string())
        });
        let unit = format!("{unit:?}").to_lowercase();
        println!("{id} {unit} {value} {bare} {peer}");
    }
    Ok(())
}

fn measure_driver(driver: &str) -> Result<Rows> {
    let mut rows = Rows::new();
    let ours = driver == OURS;
    let (pci, device) = open(BOCHS, driver)?;
    faults::small_and_middle(&device, ours, &mut rows)?;
    life::mappings(&device, ours, &mut rows)?;
    life::exports(&device, &mut rows)?;
    if ours {
        life::revokes(&device, &mut rows)?;
    }
    memory::disable_and_enable(&device, ours, &mut rows)?;
    drop(device);
    pci.release()?;

    let (pci, device) = open(TESTDEV, driver)?;
    faults::huge(&device, &mut rows)?;
    drop(device);
    pci.release()?;
    Ok(rows)
}

fn open(id: Id, driver: &str) -> Result<(Pci, Device)> {
    let pci = Pci::nth(id, 0)?;
    pci.bind(driver)?;
    let device = Device::open(&pci, Via::Group)?;
    Ok((pci, device))
}
