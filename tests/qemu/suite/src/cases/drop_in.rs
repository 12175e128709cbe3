// SPDX-License-Identifier: GPL-2.0
//! The driver under the name `vfio-pci`, for programs that look for that (`as_vfio_pci=1`).

use guest::kmsg::Log;
use serde_json::json;

use super::parity::{Loaded, Variant};
use super::sriov::Physical;
use crate::prelude::*;
use crate::program;

cases! {
    Setup::Unloaded(&[EDU]) =>
        "the name vfio-pci: on request, by override only, not beside the in-tree driver": [
            driver_registers_as_vfio_pci_on_request,
            device_binds_to_the_name_vfio_pci_by_override_only,
            driver_is_itself_under_the_name_vfio_pci,
            name_vfio_pci_is_refused_while_the_in_tree_driver_has_it,
            in_tree_driver_is_refused_while_its_name_is_taken, parameter_for_the_name_is_a_bool,
            tool_knows_the_driver_under_the_name_vfio_pci,
        ];
    Setup::Unloaded(&[IGB]) =>
        "the name vfio-pci: on request, by override only, not beside the in-tree driver": [
            virtual_functions_have_the_driver_under_the_name_vfio_pci,
        ];
}

const IN_TREE: &str = "vfio-pci";

fn directory(driver: &str) -> PathBuf {
    Path::new("/sys/bus/pci/drivers").join(driver)
}

/// The module that registered the driver of that name.
fn module_of(driver: &str) -> Option<String> {
    let link = fs::read_link(directory(driver).join("module")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The driver under the name of the in-tree one.
fn load() -> Result<Loaded> {
    Loaded::new(Variant::Renamed, "")
}

/// The driver under that name, and an edu that it has, opened and mapped.
fn opened_under_the_name() -> Result<(Loaded, Pci, Device, Mapping)> {
    let named = load()?;
    let pci = edu()?;
    pci.bind(IN_TREE)?;
    let device = open_edu()?;
    let bar = device.map_bar(0)?;
    Ok((named, pci, device, bar))
}

fn driver_registers_as_vfio_pci_on_request() -> Result<()> {
    let module = Module::driver();
    let named = load()?;
    check::equal("module", module_of(IN_TREE).as_deref(), Some(module.name()))?;
    ensure!(!directory(&driver()).exists(), "there is a driver {}, too", driver());
    for pci in Pci::all()? {
        ensure!(pci.driver().as_deref() != Some(IN_TREE), "{pci} was taken");
    }
    // Programs look for the module by this.
    check::equal("in /sys/module", fs::read_dir("/sys/module/vfio_pci")?.count(), 0)?;
    drop(named);
    check::equal("module afterwards", module_of(IN_TREE).as_deref(), Some("vfio_pci"))?;
    module.load()?;
    check::equal("without the parameter", module_of(&driver()).as_deref(), Some(module.name()))
}

fn device_binds_to_the_name_vfio_pci_by_override_only() -> Result<()> {
    let _named = load()?;
    let pci = edu()?;
    let bind = directory(IN_TREE).join("bind");
    let plain = || fs::write(&bind, pci.address()).map_err(|error| error.raw_os_error());
    check::equal("without an override", plain(), Err(Some(libc::ENODEV)))?;
    fs::write(pci.dir().join("driver_override"), driver())?;
    check::equal("with that of our own name", plain(), Err(Some(libc::ENODEV)))?;
    fs::write("/sys/bus/pci/drivers_probe", pci.address())?;
    check::equal("probed with that", pci.driver(), None)?;
    fs::write(pci.dir().join("driver_override"), IN_TREE)?;
    fs::write("/sys/bus/pci/drivers_probe", pci.address())?;
    check::equal("probed with the name", pci.driver().as_deref(), Some(IN_TREE))?;
    pci.release()?;
    check::equal("released", pci.driver(), None)
}

fn driver_is_itself_under_the_name_vfio_pci() -> Result<()> {
    let (_named, pci, device, bar) = opened_under_the_name()?;
    let (buffer, mapping) = map_edu(&device)?;
    check::value("BAR", bar.load(ID_AT), ID)?;
    check::value("buffer", mapping.load(ID_AT), ID)?;
    let info = buffer.fdinfo()?;
    ensure!(info.contains(&format!("exp_name:\t{}\n", driver())), "fdinfo: {info}");
    let listing = Path::new("/sys/kernel/debug").join(driver()).join(pci.address());
    let listing = fs::read_to_string(listing.join("buffers")).context("debugfs")?;
    check::equal("lines in debugfs", listing.lines().count(), 3)?;
    let other = Path::new("/sys/kernel/debug").join(IN_TREE);
    ensure!(!other.exists(), "there is {}", other.display());
    check::works("REVOKE", guest::buffer::revoke(&device, &buffer))?;
    check::bus_error("revoked", mapping.load(ID_AT))?;
    check::value("BAR", bar.load(ID_AT), ID)
}

fn name_vfio_pci_is_refused_while_the_in_tree_driver_has_it() -> Result<()> {
    in_tree()?.load()?;
    let pci = edu()?;
    pci.bind(IN_TREE)?;
    let module = Module::driver();
    let mut log = Log::new()?;
    check::errno("insmod", module.load_with(c"as_vfio_pci=1")?, Errno::EBUSY)?;
    let said = log.messages()?;
    let ours: Vec<_> = said.iter().filter(|line| line.contains(IN_TREE)).collect();
    check::equal(&format!("messages: {said:?}"), ours.len(), 1)?;
    let wanted = format!("{}: as_vfio_pci=1: ", module.name());
    ensure!(ours[0].starts_with(&wanted) && ours[0].contains("rmmod vfio-pci"), "{ours:?}");
    ensure!(!module.is_loaded(), "it is loaded");
    ensure!(!Path::new("/sys/kernel/debug").join(driver()).exists(), "debugfs");
    check::equal("driver", pci.driver().as_deref(), Some(IN_TREE))?;
    check::value("in-tree", open_edu()?.map_bar(0)?.load(ID_AT), ID)?;
    module.load()?;
    pci.bind(&driver())?;
    check::value("under its own name", open_edu()?.map_bar(0)?.load(ID_AT), ID)
}

fn in_tree_driver_is_refused_while_its_name_is_taken() -> Result<()> {
    let (_named, _, device, bar) = opened_under_the_name()?;
    let mut log = Log::new()?;
    check::errno("insmod vfio-pci", in_tree()?.load_with(c"")?, Errno::EINVAL)?;
    let said = log.messages()?;
    let wanted = "vfio_pci: module is already loaded";
    ensure!(said.iter().any(|line| line.contains(wanted)), "{said:?}");
    ensure!(!in_tree()?.is_loaded(), "it is loaded");
    check::equal("module", module_of(IN_TREE).as_deref(), Some(Module::driver().name()))?;
    let mapping = export_edu(&device)?.map(0, PAGE)?;
    check::value("BAR", bar.load(ID_AT), ID)?;
    check::value("buffer", mapping.load(ID_AT), ID)
}

fn parameter_for_the_name_is_a_bool() -> Result<()> {
    in_tree()?.load()?;
    let module = Module::driver();
    for bad in [c"as_vfio_pci=2", c"as_vfio_pci=255", c"as_vfio_pci=maybe"] {
        check::errno(&format!("{bad:?}"), module.load_with(bad)?, Errno::EINVAL)?;
        ensure!(!module.is_loaded(), "{bad:?}");
    }
    check::works("0", module.load_with(c"as_vfio_pci=0")?)?;
    check::equal("name", module_of(&driver()).as_deref(), Some(module.name()))?;
    check::equal("the other name", module_of(IN_TREE).as_deref(), Some("vfio_pci"))
}

fn tool_knows_the_driver_under_the_name_vfio_pci() -> Result<()> {
    let pci = edu()?;
    in_tree()?.load()?;
    pci.bind(IN_TREE)?;
    let said = program::json(&["devices"], 0)?;
    check::equal("of the in-tree driver", &said["devices"], &json!([]))?;
    program::refuses(&["unbind", pci.address()], 3, "not dmabuf-vfio-pci but vfio-pci")?;
    let said = program::run("vfio-dmabuf", &["bind", pci.address()])?;
    ensure!(program::text(&said.stderr).contains("modprobe dmabuf-vfio-pci"), "{said:?}");
    pci.release()?;

    let _named = load()?;
    let said = program::json(&["bind", pci.address()], 0)?;
    check::equal("driver", &said["driver"], &json!(IN_TREE))?;
    check::equal("changed", &said["changed"], &json!(true))?;
    let said = program::json(&["bind", pci.address()], 0)?;
    check::equal("changed again", &said["changed"], &json!(false))?;
    let said = program::json(&["devices"], 0)?;
    check::equal("device", &said["devices"][0]["address"], &json!(pci.address()))?;
    check::equal("its driver", &said["devices"][0]["driver"], &json!(IN_TREE))?;
    let (device, buffer, mapping) = mapped_edu()?;
    let said = program::json(&["buffers"], 0)?;
    check::equal("status", &said["buffers"][0]["driver"]["status"], &json!("live"))?;
    program::json(&["revoke", "--device", pci.address()], 0)?;
    check::bus_error("revoked", mapping.load(ID_AT))?;
    drop((device, buffer, mapping));
    let bar = format!("{}/0", pci.address());
    let said = program::json(&["peek", &bar, "0"], 0)?;
    check::equal("register", &said["values"][0]["value"], &json!(ID))?;
    let said = program::json(&["unbind", pci.address()], 0)?;
    check::equal("previous", &said["previous"], &json!(IN_TREE))
}

fn virtual_functions_have_the_driver_under_the_name_vfio_pci() -> Result<()> {
    let _named = load()?;
    let igb = nth(IGB, 0)?;
    igb.bind(IN_TREE)?;
    {
        let physical = Physical::with(2)?;
        for number in 0..2 {
            let function = physical.virtual_function(number)?;
            check::equal("driver", function.driver().as_deref(), Some(IN_TREE))?;
            function.vfio_name()?;
        }
        check::equal("module", module_of(IN_TREE).as_deref(), Some(Module::driver().name()))?;
    }
    igb.release()
}
