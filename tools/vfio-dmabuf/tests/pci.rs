// SPDX-License-Identifier: GPL-2.0
//! PCI devices in a simulated sysfs: it has links and files, but no kernel reacts to writes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use vfio_dmabuf::pci::{Bar, PciAddress, PciBus};
use vfio_dmabuf::Error;

/// A directory that is removed when dropped.
struct Bus(PathBuf);

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const EDU: &str = "0000:01:00.0";
const OTHER: &str = "0000:01:00.1";

fn bus(test: &str) -> (Bus, PciBus) {
    let root = std::env::temp_dir().join(format!("pci-{test}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&root);
    let put = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    for name in [OTHER, EDU] {
        let device = format!("devices/{name}");
        put(&format!("{device}/vendor"), "0x1234\n");
        put(&format!("{device}/device"), "0x11e8\n");
        put(&format!("{device}/class"), "0x00ff00\n");
        put(&format!("{device}/driver_override"), "(null)\n");
        put(&format!("{device}/driver/unbind"), "");
        put(
            &format!("{device}/resource"),
            "0x00000000fea00000 0x00000000feafffff 0x0000000000040200\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x0000380000000000 0x00003800ffffffff 0x000000000014220c\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x000000000000c040 0x000000000000c05f 0x0000000000040101\n\
             0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
             0x00000000feb00000 0x00000000feb3ffff 0x0000000000046200\n",
        );
        symlink("../../groups/7", root.join(format!("{device}/iommu_group"))).unwrap();
        put(&format!("groups/7/devices/{name}/x"), "");
    }
    put("drivers/dmabuf-vfio-pci/bind", "");
    put("drivers_probe", "");
    let pci = PciBus::at(&root);
    (Bus(root), pci)
}

fn edu() -> PciAddress {
    EDU.parse().unwrap()
}

fn text(root: &Path, file: &str) -> String {
    fs::read_to_string(root.join(file)).unwrap()
}

#[test]
fn addresses_are_read_as_lspci_writes_them() {
    for good in ["0000:01:00.0", "10000:e1:1f.7", "ffff:ff:1f.7"] {
        assert_eq!(good.parse::<PciAddress>().unwrap().to_string(), good);
    }
    let bad = [
        "",
        "1:00.0",
        "0000:01:00",
        "0000:01:20.0",
        "0000:01:00.8",
        "0000:01:00.0 ",
        "01:+1.0",
        "0000:01:00.0/0",
        "000:01:00.0",
        "000000000:01:00.0",
        "é:01:00.0",
    ];
    for bad in bad {
        assert!(matches!(bad.parse::<PciAddress>(), Err(Error::BadAddress(_))), "{bad:?}");
    }
}

#[test]
fn devices_are_listed_in_order_with_what_sysfs_says() {
    let (_root, pci) = bus("list");
    let devices = pci.devices().unwrap();
    let names: Vec<String> = devices.iter().map(|device| device.to_string()).collect();
    assert_eq!(names, [EDU, OTHER]);
    let device = pci.device(edu()).unwrap();
    assert_eq!(device.ids().unwrap(), (0x1234, 0x11e8));
    assert_eq!(device.class().unwrap(), 0xff00);
    assert_eq!(device.driver_override().unwrap(), None);
    assert_eq!(device.group().unwrap(), 7);
    assert_eq!(device.group_members().unwrap().len(), 2);
    assert_eq!(device.vfio_name(), None);
    let missing = pci.device("0000:02:00.0".parse().unwrap());
    assert!(matches!(missing, Err(Error::NoDevice(_))));
}

#[test]
fn bars_are_those_of_the_resource_file() {
    let (_root, pci) = bus("bars");
    let bars = pci.device(edu()).unwrap().bars().unwrap();
    let first = Bar {
        index: 0,
        address: 0xfea0_0000,
        size: 1 << 20,
        memory: true,
        prefetchable: false,
        wide: false,
    };
    let second = Bar {
        index: 2,
        address: 0x3800 << 32,
        size: 1 << 32,
        prefetchable: true,
        wide: true,
        ..first
    };
    let ports = Bar { index: 4, address: 0xc040, size: 0x20, memory: false, ..first };
    assert_eq!(bars, [first, second, ports]);
}

#[test]
fn binding_reserves_the_device_and_asks_the_driver() {
    let (root, pci) = bus("bind");
    let device = pci.device(edu()).unwrap();
    // The simulated driver is a directory and not a link, so it has no name.
    assert_eq!(device.driver(), None);
    device.bind("dmabuf-vfio-pci").unwrap();
    assert_eq!(text(&root.0, "devices/0000:01:00.0/driver_override"), "dmabuf-vfio-pci");
    assert_eq!(text(&root.0, "drivers/dmabuf-vfio-pci/bind"), EDU);
    device.release().unwrap();
    assert_eq!(text(&root.0, "devices/0000:01:00.0/driver_override"), "\n");
    assert_eq!(text(&root.0, "drivers_probe"), EDU);
}

#[test]
fn our_driver_is_known_by_its_module_under_any_name() {
    let (root, pci) = bus("name");
    assert_eq!(pci.driver(), None);
    let directory = root.0.join("drivers/vfio-pci");
    fs::create_dir(&directory).unwrap();
    let module = directory.join("module");
    symlink("../../../../module/vfio_pci", &module).unwrap();
    assert_eq!(pci.driver(), None, "the in-tree driver");
    let link = root.0.join(format!("devices/{EDU}/driver"));
    fs::remove_dir_all(&link).unwrap();
    symlink("../../drivers/vfio-pci", &link).unwrap();
    let device = pci.device(edu()).unwrap();
    assert!(!device.is_ours());
    fs::remove_file(&module).unwrap();
    symlink("../../../../module/dmabuf_vfio_pci", &module).unwrap();
    assert_eq!(pci.driver().as_deref(), Some("vfio-pci"));
    assert!(device.is_ours());
    assert_eq!(device.driver().as_deref(), Some("vfio-pci"));
    assert!(!pci.device(OTHER.parse().unwrap()).unwrap().is_ours());
}

#[test]
fn a_driver_that_is_not_there_changes_nothing() {
    let (root, pci) = bus("missing");
    let device = pci.device(edu()).unwrap();
    let error = device.bind("no-driver").unwrap_err();
    assert_eq!(error.errno(), Some(vfio_dmabuf::Errno::NODEV), "{error}");
    assert!(error.to_string().contains("no such driver"), "{error}");
    assert_eq!(text(&root.0, "devices/0000:01:00.0/driver_override"), "(null)\n");
}
