// SPDX-License-Identifier: GPL-2.0
//! What an administrator of the in-tree vfio-pci sets, and finds the same here: module parameters,
//! the denylist, the version. Each with the in-tree driver, with this one, and with this one under
//! the name vfio-pci.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::unix::fs::PermissionsExt;

use guest::kmsg::Log;
use guest::testmod::Disguise;
use nix::sys::eventfd::EventFd;

use super::container::set_irqs;
use crate::prelude::*;

cases! {
    Setup::Unloaded(&[EDU]) =>
        "module parameters, denylist and version as those of in-tree vfio-pci, under both names": [
            parameters_of_the_in_tree_driver_are_there, parameters_take_what_a_bool_is,
            version_is_in_modinfo_and_sysfs, nointxmask_leaves_the_command_register_alone,
            devices_on_the_denylist_are_refused, devices_on_the_denylist_are_bound_if_told_so,
        ];
    Setup::Unloaded(&[IGB]) =>
        "module parameters, denylist and version as those of in-tree vfio-pci, under both names": [
            idle_devices_stay_in_d0_if_told_so, idle_devices_keep_the_setting_of_their_binding,
            virtual_functions_are_refused_unless_enabled,
        ];
}

const IN_TREE: &str = "vfio-pci";

/// Which driver, under which name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    InTree,
    Ours,
    Renamed,
}

const ALL: [Variant; 3] = [Variant::InTree, Variant::Ours, Variant::Renamed];

/// A driver that was loaded with parameters. When dropped, the devices go back, and the in-tree
/// driver is loaded as it was.
pub struct Loaded {
    module: Module,
    name: String,
}

impl Loaded {
    pub fn new(variant: Variant, parameters: &str) -> Result<Loaded> {
        let (module, name) = match variant {
            Variant::InTree => (in_tree()?, IN_TREE.to_string()),
            Variant::Ours => (Module::driver(), driver()),
            Variant::Renamed => (Module::driver(), IN_TREE.to_string()),
        };
        if variant != Variant::Ours && in_tree()?.is_loaded() {
            in_tree()?.unload_soon()?;
        }
        let loaded = Loaded { module, name };
        let named = if variant == Variant::Renamed { "as_vfio_pci=1 " } else { "" };
        let parameters = CString::new(format!("{named}{parameters}"))?;
        check::works("insmod", loaded.module.load_with(&parameters)?)?;
        Ok(loaded)
    }

    /// A device that it has.
    fn bound(&self, pci: Pci) -> Result<Pci> {
        pci.bind(&self.name)?;
        Ok(pci)
    }

    /// The file of a parameter.
    fn parameter(&self, name: &str) -> PathBuf {
        parameters(&self.module).join(name)
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        // What goes wrong here, the next case says.
        for id in [EDU, IGB] {
            let _ = nth(id, 0).and_then(|pci| pci.release());
        }
        let _ = self.module.unload_soon();
        let _ = in_tree().and_then(|module| module.load());
    }
}

fn parameters(module: &Module) -> PathBuf {
    Path::new("/sys/module").join(module.name()).join("parameters")
}

/// The values of a tag of `modinfo`.
fn modinfo(module: &Module, tag: &str) -> Result<Vec<String>> {
    let bytes = fs::read(module.path())?;
    let head = format!("{tag}=");
    let values = bytes.split(|byte| *byte == 0).filter_map(|text| {
        // What comes before the first line belongs to another section.
        let at = text.windows(head.len()).position(|window| window == head.as_bytes())?;
        let is_line = at == 0 || !text[at - 1].is_ascii_graphic();
        is_line.then(|| String::from_utf8_lossy(&text[at + head.len()..]).into_owned())
    });
    Ok(values.collect())
}

/// Name of each parameter, mode of its file, and what is in it. `ids` has none.
fn files(module: &Module) -> Result<BTreeMap<String, (u32, String)>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(parameters(module)).context("parameters")? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        let text = fs::read_to_string(entry.path())?;
        found.insert(entry.file_name().to_string_lossy().into_owned(), (mode, text));
    }
    Ok(found)
}

fn parameters_of_the_in_tree_driver_are_there() -> Result<()> {
    let (in_tree, ours) = (in_tree()?, Module::driver());
    in_tree.load()?;
    let types = modinfo(&ours, "parmtype")?;
    let described = modinfo(&ours, "parm")?;
    for theirs in modinfo(&in_tree, "parmtype")? {
        let name = theirs.split(':').next().unwrap_or_default();
        if name == "ids" {
            continue; // ours binds by driver_override only
        }
        ensure!(types.contains(&theirs), "{theirs}: not in {types:?}");
        let head = format!("{name}:");
        let described = described.iter().filter(|text| text.starts_with(&head)).count();
        check::equal(&format!("descriptions of {name}"), described, 1)?;
    }
    let loaded = Loaded::new(Variant::Ours, "")?;
    let mut mine = files(&loaded.module)?;
    for (name, mode) in [("as_vfio_pci", 0o444), ("core_dmabuf", 0o644)] {
        check::equal(name, mine.remove(name), Some((mode, "N\n".into())))?;
    }
    check::equal("modes and defaults", mine, files(&in_tree)?)
}

fn parameters_take_what_a_bool_is() -> Result<()> {
    for variant in ALL {
        for (text, want) in [("Y", "Y\n"), ("1", "Y\n"), ("on", "Y\n"), ("n", "N\n"), ("0", "N\n")]
        {
            let loaded = Loaded::new(variant, &format!("disable_idle_d3={text}"))?;
            let got = fs::read_to_string(loaded.parameter("disable_idle_d3"))?;
            check::equal(&format!("{variant:?}, {text}"), got.as_str(), want)?;
        }
        let refused = Loaded::new(variant, "disable_idle_d3=2");
        ensure!(refused.is_err(), "{variant:?}: it was loaded with disable_idle_d3=2");
        // As modprobe does if it finds the parameter in two places.
        let loaded = Loaded::new(variant, "nointxmask=1 nointxmask=0")?;
        let got = fs::read_to_string(loaded.parameter("nointxmask"))?;
        check::equal(&format!("{variant:?}, given twice"), got.as_str(), "N\n")?;
    }
    Ok(())
}

fn version_is_in_modinfo_and_sysfs() -> Result<()> {
    let versions = modinfo(&Module::driver(), "version")?;
    let [version] = &versions[..] else { anyhow::bail!("versions: {versions:?}") };
    let loaded = Loaded::new(Variant::Ours, "")?;
    let path = Path::new("/sys/module").join(loaded.module.name()).join("version");
    check::equal("in sysfs", fs::read_to_string(path)?.trim(), version.as_str())
}

fn nointxmask_leaves_the_command_register_alone() -> Result<()> {
    let (command, disabled) = (u64::from(uapi::PCI_COMMAND), uapi::PCI_COMMAND_INTX_DISABLE as u16);
    for variant in ALL {
        for (text, want) in [("nointxmask=0", true), ("nointxmask=1", false)] {
            let loaded = Loaded::new(variant, text)?;
            let pci = loaded.bound(edu()?)?;
            for &via in Via::all() {
                let device = Device::open(&pci, via)?;
                let eventfd = EventFd::new()?;
                let set = |action, event| {
                    set_irqs(&device, uapi::VFIO_PCI_INTX_IRQ_INDEX, action, 1, event)
                };
                set(uapi::VFIO_IRQ_SET_ACTION_TRIGGER, Some(&eventfd))?;
                let what = format!("{variant:?}, {text}, {via:?}");
                let is_disabled = || anyhow::Ok(pci.config16(command)? & disabled != 0);
                check::equal(&format!("INTx disabled, {what}"), is_disabled()?, false)?;
                set(uapi::VFIO_IRQ_SET_ACTION_MASK, None)?;
                check::equal(&format!("INTx disabled, masked, {what}"), is_disabled()?, want)?;
            }
        }
    }
    Ok(())
}

/// Of the in-tree driver's denylist.
const DSA: Id = Id(0x8086, 0x0b25);

/// Gives it to the driver; what the write to `bind` said.
fn try_to_bind(pci: &Pci, name: &str) -> Result<(), Errno> {
    let tried = pci.bind(name);
    tried.map_err(|error| error.downcast::<Errno>().unwrap_or(Errno::UnknownErrno))
}

fn devices_on_the_denylist_are_refused() -> Result<()> {
    let said = "8086:0b25 exists in vfio-pci device denylist, driver probing disallowed.";
    for variant in ALL {
        let loaded = Loaded::new(variant, "")?;
        let pci = edu()?;
        let disguise = Disguise::of(&pci, DSA)?;
        let mut log = Log::new()?;
        let what = format!("{variant:?}");
        check::errno(&what, try_to_bind(&pci, &loaded.name), Errno::EINVAL)?;
        check::equal(&format!("driver, {what}"), pci.driver(), None)?;
        let log = log.messages()?;
        ensure!(log.iter().any(|line| line.ends_with(said)), "{what}: {log:?}");
        drop(disguise);
        check::works(&format!("without the disguise, {what}"), try_to_bind(&pci, &loaded.name))?;
    }
    Ok(())
}

fn devices_on_the_denylist_are_bound_if_told_so() -> Result<()> {
    for variant in ALL {
        let mut log = Log::new()?;
        let loaded = Loaded::new(variant, "disable_denylist=1")?;
        let pci = edu()?;
        let _disguise = Disguise::of(&pci, DSA)?;
        check::works(&format!("{variant:?}"), try_to_bind(&pci, &loaded.name))?;
        let log = log.messages()?;
        for said in ["device denylist disabled.", "disabled - allowing device 8086:0b25."] {
            ensure!(log.iter().any(|line| line.ends_with(said)), "{variant:?}, {said}: {log:?}");
        }
        pci.release()?;
    }
    Ok(())
}

fn power_state(pci: &Pci) -> Result<String> {
    Ok(fs::read_to_string(pci.dir().join("power_state"))?.trim().to_string())
}

fn idle_devices_stay_in_d0_if_told_so() -> Result<()> {
    for variant in ALL {
        for (text, want) in [("disable_idle_d3=0", "D3"), ("disable_idle_d3=Y", "D0")] {
            let loaded = Loaded::new(variant, text)?;
            let pci = loaded.bound(nth(IGB, 0)?)?;
            for &via in Via::all() {
                let device = Device::open(&pci, via)?;
                check::equal(
                    &format!("open, {variant:?}, {text}"),
                    power_state(&pci)?,
                    "D0".into(),
                )?;
                drop(device);
                std::thread::sleep(crate::rig::WHILE);
                wait_for(&format!("{variant:?}, {text}: {want}"), || {
                    Ok(power_state(&pci)?.starts_with(want))
                })?;
            }
        }
    }
    Ok(())
}

fn idle_devices_keep_the_setting_of_their_binding() -> Result<()> {
    for variant in ALL {
        let loaded = Loaded::new(variant, "")?;
        let pci = loaded.bound(nth(IGB, 0)?)?;
        wait_for("D3", || Ok(power_state(&pci)?.starts_with("D3")))?;
        fs::write(loaded.parameter("disable_idle_d3"), "1")?;
        drop(Device::open(&pci, Via::newest())?);
        wait_for("D3 again", || Ok(power_state(&pci)?.starts_with("D3")))?;
        pci.unbind()?;
        loaded.bound(nth(IGB, 0)?)?;
        std::thread::sleep(crate::rig::WHILE);
        check::equal(&format!("bound anew, {variant:?}"), power_state(&pci)?, "D0".into())?;
    }
    Ok(())
}

fn virtual_functions_are_refused_unless_enabled() -> Result<()> {
    for variant in ALL {
        let loaded = Loaded::new(variant, "")?;
        let pci = loaded.bound(nth(IGB, 0)?)?;
        let what = format!("{variant:?}");
        check::errno(&what, pci.set_virtual_functions(1), Errno::ENOENT)?;
        fs::write(loaded.parameter("enable_sriov"), "1")?;
        check::works(&format!("enabled, {what}"), pci.set_virtual_functions(1))?;
        check::works(&format!("none, {what}"), pci.set_virtual_functions(0))?;
        fs::write(loaded.parameter("enable_sriov"), "0")?;
        check::errno(&format!("disabled, {what}"), pci.set_virtual_functions(1), Errno::ENOENT)?;
        drop(loaded);
        let loaded = Loaded::new(variant, "enable_sriov=1")?;
        let pci = loaded.bound(nth(IGB, 0)?)?;
        check::works(&format!("enabled at load, {what}"), pci.set_virtual_functions(1))?;
        check::works(&format!("none, {what}"), pci.set_virtual_functions(0))?;
    }
    Ok(())
}
