// SPDX-License-Identifier: GPL-2.0
//! Devices and their drivers.

use serde::Serialize;
use vfio_dmabuf::pci::{PciBus, PciDevice, DRIVER};
use vfio_dmabuf::PciAddress;

use crate::holders::{Fd, Holders};
use crate::output::{size, table, Failure, Output};

#[derive(Serialize)]
struct Listing {
    devices: Vec<Row>,
    complete: bool,
}

#[derive(Serialize)]
struct Row {
    address: String,
    vendor: u16,
    device: u16,
    class: u32,
    driver: Option<String>,
    iommu_group: Option<u32>,
    vfio: Option<String>,
    bars: Vec<Bar>,
    users: Vec<Fd>,
}

#[derive(Serialize)]
struct Bar {
    index: u32,
    size: u64,
    memory: bool,
    prefetchable: bool,
}

#[derive(Serialize)]
struct Change {
    device: String,
    driver: Option<String>,
    previous: Option<String>,
    changed: bool,
    warnings: Vec<String>,
}

/// Runs `devices`.
///
/// # Errors
///
/// Sysfs cannot be read, or the result cannot be written.
pub fn devices(output: Output, all: bool) -> Result<(), Failure> {
    let holders = Holders::now();
    let mut listing = Listing { devices: Vec::new(), complete: holders.complete };
    for device in PciBus::system().devices()?.iter().filter(|device| all || device.is_ours()) {
        listing.devices.push(row(device, &holders)?);
    }
    output.result(&listing, || text(&listing))
}

fn row(device: &PciDevice, holders: &Holders) -> Result<Row, Failure> {
    let (vendor, id) = device.ids()?;
    let bars = device.bars()?.into_iter().map(|bar| Bar {
        index: bar.index,
        size: bar.size,
        memory: bar.memory,
        prefetchable: bar.prefetchable,
    });
    Ok(Row {
        address: device.to_string(),
        vendor,
        device: id,
        class: device.class()?,
        driver: device.driver(),
        iommu_group: device.group().ok(),
        vfio: device.vfio_name(),
        bars: bars.collect(),
        users: holders.users(device.address()).cloned().collect(),
    })
}

fn text(listing: &Listing) -> String {
    if listing.devices.is_empty() {
        return format!("no device is bound to {DRIVER}; try vfio-dmabuf bind, or devices --all\n");
    }
    let rows = listing.devices.iter().map(|row| {
        let bars = row.bars.iter().map(|bar| {
            let kind = if bar.memory { "" } else { " ports" };
            format!("{}: {}{kind}", bar.index, size(bar.size))
        });
        let users = row.users.iter().map(|user| format!("{} ({})", user.command, user.pid));
        let mut users: Vec<String> = users.collect();
        users.dedup();
        if users.is_empty() {
            users.push(if listing.complete { "-" } else { "?" }.to_string());
        }
        vec![
            row.address.clone(),
            format!("{:04x}:{:04x}", row.vendor, row.device),
            row.driver.clone().unwrap_or("-".into()),
            row.iommu_group.map_or("-".into(), |group| group.to_string()),
            row.vfio.clone().unwrap_or("-".into()),
            bars.collect::<Vec<_>>().join(", "),
            users.join(", "),
        ]
    });
    let headings = ["DEVICE", "ID", "DRIVER", "GROUP", "VFIO", "BARS", "USED BY"];
    table(&headings, &rows.collect::<Vec<_>>())
}

/// Runs `bind`.
///
/// # Errors
///
/// [`Failure::Refused`]: the device has another driver, and `force` is not set. Errors of sysfs.
pub fn bind(output: Output, address: PciAddress, force: bool) -> Result<(), Failure> {
    let bus = PciBus::system();
    let device = bus.device(address)?;
    let Some(ours) = bus.driver() else {
        let why = format!("the driver is not loaded: modprobe {DRIVER}");
        return Err(Failure::NotFound(why));
    };
    let previous = device.driver();
    match &previous {
        Some(driver) if *driver != ours && !force => {
            return Err(Failure::Refused(format!(
                "{address} is driven by {driver} and may be in use; --force unbinds it"
            )));
        }
        _ => {}
    }
    device.bind(&ours)?;
    let change = Change {
        device: address.to_string(),
        driver: device.driver(),
        changed: previous.as_ref() != Some(&ours),
        previous,
        warnings: warnings(&device),
    };
    report(output, &change)
}

/// The reasons why a bound device cannot be opened yet.
fn warnings(device: &PciDevice) -> Vec<String> {
    let members = match device.group_members() {
        Ok(members) => members,
        Err(error) => return vec![error.to_string()],
    };
    // VFIO ignores bridges and drivers that do no DMA.
    let harmless = |driver: &str| ["pcieport", "pci-stub"].contains(&driver);
    let others = members.iter().filter(|member| member.address() != device.address());
    let foreign = others.filter_map(|member| {
        let driver = member.driver()?;
        (member.vfio_name().is_none() && !harmless(&driver)).then(|| {
            format!("{member} of the same IOMMU group is driven by {driver}: neither can be opened")
        })
    });
    foreign.collect()
}

/// Runs `unbind`.
///
/// # Errors
///
/// [`Failure::Refused`]: the device has another driver, or processes have it open and `force` is
/// not set. Errors of sysfs.
pub fn unbind(output: Output, address: PciAddress, force: bool) -> Result<(), Failure> {
    let device = PciBus::system().device(address)?;
    let previous = device.driver();
    if !device.is_ours() {
        let has = previous.as_deref().unwrap_or("none");
        let why = format!("the driver of {address} is not {DRIVER} but {has}");
        return Err(Failure::Refused(why));
    }
    let holders = Holders::now();
    let users: Vec<String> =
        holders.users(address).map(|user| format!("{} ({})", user.command, user.pid)).collect();
    if !users.is_empty() && !force {
        return Err(Failure::Refused(format!(
            "{address} is open in {}; --force waits until it is closed",
            users.join(", ")
        )));
    }
    let driver = device.release()?;
    let (device, warnings) = (address.to_string(), Vec::new());
    report(output, &Change { device, driver, previous, changed: true, warnings })
}

fn report(output: Output, change: &Change) -> Result<(), Failure> {
    output.result(change, || {
        let name = |driver: &Option<String>| driver.clone().unwrap_or("no driver".into());
        let (now, before) = (name(&change.driver), name(&change.previous));
        let mut text = match change.changed {
            true => format!("{}: {before} -> {now}\n", change.device),
            false => format!("{}: {now}, unchanged\n", change.device),
        };
        for warning in &change.warnings {
            text += &format!("warning: {warning}\n");
        }
        text
    })
}
