// SPDX-License-Identifier: GPL-2.0
//! The processes that hold devices and buffers, from `/proc`.
//!
//! A process has a device open if it has an fd whose fdinfo names the device
//! (`vfio-device-syspath`). It has a buffer if it has an fd of it (a dma-buf of this driver) or a
//! mapping, which carries the name of the device unless it was renamed. The inode number identifies
//! a buffer.
//!
//! The driver's list in debugfs adds what `/proc` does not show.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};
use vfio_dmabuf::{pci, PciAddress};

/// An fd of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fd {
    /// The process.
    pub pid: i32,
    /// Its command name.
    pub command: String,
    /// The number of the fd.
    pub fd: i32,
}

/// A mapping in a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// The process.
    pub pid: i32,
    /// Its command name.
    pub command: String,
    /// Its first address.
    pub start: u64,
    /// The address after its last byte.
    pub end: u64,
    /// Whether it is writable.
    pub writable: bool,
}

/// A buffer and its holders.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Buffer {
    /// Its inode number.
    pub id: u64,
    /// Its name; initially device and BAR.
    pub name: String,
    /// Its size in bytes, if a process has an fd.
    pub size: Option<u64>,
    /// The fds of processes.
    pub fds: Vec<Fd>,
    /// The mappings of processes.
    pub mappings: Vec<Mapped>,
    /// The driver's entry in debugfs, with the field `device` added.
    pub driver: Option<Map<String, Value>>,
}

impl Buffer {
    /// The device, if the name or the driver's entry has it.
    pub fn device(&self) -> Option<PciAddress> {
        let said = || self.said("device").as_str()?.parse().ok();
        device_in(&self.name).or_else(said)
    }

    /// Whether it is the hidden buffer under BAR mappings, which cannot be revoked.
    pub fn is_bar(&self) -> bool {
        self.said("kind") == "bar"
    }

    /// A field of the driver's entry.
    pub fn said(&self, field: &str) -> &Value {
        self.driver.as_ref().and_then(|object| object.get(field)).unwrap_or(&Value::Null)
    }
}

/// The driver's directory in debugfs, with one directory per device.
const DEBUGFS: &str = "/sys/kernel/debug/dmabuf-vfio-pci";

/// The result of a search.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    /// Fds of open devices.
    pub devices: Vec<(PciAddress, Fd)>,
    /// Buffers, by id.
    pub buffers: BTreeMap<u64, Buffer>,
    /// Whether all processes could be inspected.
    pub complete: bool,
}

impl Holders {
    /// Inspects all processes of this machine, and debugfs.
    pub fn now() -> Holders {
        let mut holders = Holders::of(Path::new("/proc"));
        holders.add_driver(Path::new(DEBUGFS));
        holders
    }

    /// Inspects the processes of another `/proc`.
    pub fn of(proc: &Path) -> Holders {
        let mut holders = Holders { complete: true, ..Default::default() };
        let entries = fs::read_dir(proc).into_iter().flatten().flatten();
        let mut pids: Vec<i32> =
            entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        pids.sort_unstable();
        for pid in pids {
            // A process that has ended in the meantime holds nothing.
            holders.look_at(pid, &proc.join(pid.to_string()));
        }
        holders
    }

    /// Adds the driver's entries: one JSON object per line in each device's `buffers.jsonl`.
    pub fn add_driver(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let device = entry.file_name().to_string_lossy().into_owned();
            let path = entry.path().join("buffers.jsonl");
            for line in fs::read_to_string(path).unwrap_or_default().lines() {
                let Ok(mut object) = serde_json::from_str::<Map<String, Value>>(line) else {
                    continue;
                };
                let number = |field: &str| object.get(field).and_then(Value::as_u64);
                let (Some(id), size) = (number("inode"), number("size")) else { continue };
                let bar = number("bar").unwrap_or_default();
                let buffer = self.buffers.entry(id).or_default();
                buffer.id = id;
                buffer.size = buffer.size.or(size);
                if buffer.name.is_empty() {
                    // No process holds it; an fd may be in flight over a socket.
                    buffer.name = format!("{device}/{bar:x}");
                }
                object.insert("device".into(), device.clone().into());
                buffer.driver = Some(object);
            }
        }
    }

    /// The fds of the open device.
    pub fn users(&self, device: PciAddress) -> impl Iterator<Item = &Fd> {
        self.devices.iter().filter(move |(address, _)| *address == device).map(|(_, fd)| fd)
    }

    fn look_at(&mut self, pid: i32, directory: &Path) {
        let command = fs::read_to_string(directory.join("comm")).unwrap_or_default();
        let command = command.trim_end().to_string();
        match fs::read_dir(directory.join("fd")) {
            Ok(entries) => {
                for entry in entries.flatten() {
                    let Some(number) =
                        entry.file_name().to_str().and_then(|name| name.parse().ok())
                    else {
                        continue;
                    };
                    let fd = Fd { pid, command: command.clone(), fd: number };
                    self.look_at_fd(fd, &entry.path(), directory);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                self.complete = false;
            }
            Err(_) => return,
        }
        let maps = fs::read_to_string(directory.join("maps")).unwrap_or_default();
        for line in maps.lines() {
            if let Some((id, name, start, end, writable)) = mapping(line) {
                let buffer = self.buffers.entry(id).or_default();
                buffer.id = id;
                buffer.name = name.to_string();
                let command = command.clone();
                buffer.mappings.push(Mapped { pid, command, start, end, writable });
            }
        }
    }

    fn look_at_fd(&mut self, fd: Fd, path: &PathBuf, directory: &Path) {
        let link = fs::read_link(path).unwrap_or_default();
        let link = link.to_string_lossy();
        let device = link.contains("vfio-device") || link.starts_with("/dev/vfio/devices/");
        if !device && !link.starts_with("/dmabuf:") {
            return;
        }
        let info = directory.join("fdinfo").join(fd.fd.to_string());
        let info = fs::read_to_string(info).unwrap_or_default();
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        if device {
            let address = field("vfio-device-syspath").and_then(|path| path.rsplit('/').next());
            if let Some(address) = address.and_then(|name| name.parse().ok()) {
                self.devices.push((address, fd));
            }
        } else if field("exp_name").is_some_and(is_ours) {
            let Some(id) = field("ino").and_then(|text| text.parse().ok()) else { return };
            let buffer = self.buffers.entry(id).or_default();
            buffer.id = id;
            buffer.name = field("name").unwrap_or_default().to_string();
            buffer.size = field("size").and_then(|text| text.parse().ok());
            buffer.fds.push(fd);
        }
    }
}

/// Whether an exporter is this project's driver.
fn is_ours(exporter: &str) -> bool {
    exporter.replace('_', "-") == pci::DRIVER
}

/// Parses a line of `/proc/PID/maps` of a buffer: id, name, addresses, whether it is writable.
fn mapping(line: &str) -> Option<(u64, &str, u64, u64, bool)> {
    let (fields, name) = line.split_once("/dmabuf:")?;
    device_in(name)?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let [range, access, _offset, _device, inode] = fields[..] else { return None };
    let (start, end) = range.split_once('-')?;
    let hex = |text| u64::from_str_radix(text, 16).ok();
    Some((inode.parse().ok()?, name, hex(start)?, hex(end)?, access.contains('w')))
}

/// The device in a name like `vfio0:0000:01:00.0/0`.
fn device_in(name: &str) -> Option<PciAddress> {
    let (address, _bar) = name.strip_prefix("vfio")?.split_once(':')?.1.split_once('/')?;
    address.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn mappings_of_buffers_are_told_from_others() {
        let line = "7f09ea569000-7f09ea569fff rw-s 00100000 00:0b 4027 \
                    /dmabuf:vfio0:0000:01:00.0/0";
        let (id, name, start, end, writable) = mapping(line).unwrap();
        assert_eq!((id, name), (4027, "vfio0:0000:01:00.0/0"));
        assert_eq!((start, end, writable), (0x7f09_ea56_9000, 0x7f09_ea56_9fff, true));
        assert!(!mapping(&line.replace("rw-s", "r--s")).unwrap().4);
        for other in ["/dmabuf:", "/dmabuf:gpu", "[heap]", "", "/dmabuf:vfio0:0000:01:00.0"] {
            assert_eq!(mapping(&line.replace("/dmabuf:vfio0:0000:01:00.0/0", other)), None);
        }
    }

    #[test]
    fn what_the_driver_says_goes_to_its_buffer() {
        let root = std::env::temp_dir().join(format!("debugfs-{}", std::process::id()));
        for (name, text) in [
            ("0000:02:00.0", "{\"inode\":7,\"bar\":2,\"size\":4096,\"kind\":\"bar\"}\nno JSON\n"),
            (
                "0000:01:00.0",
                "{\"inode\":8,\"status\":\"live\",\"kind\":\"export\"}\n{\"bar\":1}\n",
            ),
        ] {
            fs::create_dir_all(root.join(name)).unwrap();
            fs::write(root.join(name).join("buffers.jsonl"), text).unwrap();
        }
        let mut holders = Holders::default();
        let known = Buffer { id: 8, name: "renamed".into(), size: Some(1), ..Default::default() };
        holders.buffers.insert(8, known);
        holders.add_driver(&root);
        fs::remove_dir_all(&root).unwrap();
        assert_eq!(holders.buffers.len(), 2);
        let (bar, renamed) = (&holders.buffers[&7], &holders.buffers[&8]);
        assert!(bar.is_bar() && !renamed.is_bar());
        assert_eq!((bar.name.as_str(), bar.size), ("0000:02:00.0/2", Some(4096)));
        assert_eq!((renamed.name.as_str(), renamed.size), ("renamed", Some(1)));
        assert_eq!(renamed.device(), "0000:01:00.0".parse().ok());
        assert_eq!(renamed.said("status"), "live");
        holders.add_driver(&root);
        assert_eq!(holders.buffers.len(), 2, "without debugfs nothing changes");
    }

    #[test]
    fn fds_of_devices_and_buffers_are_found() {
        let proc = std::env::temp_dir().join(format!("proc-{}", std::process::id()));
        let put = |file: &str, text: &str| {
            let path = proc.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("7/comm", "owner\n");
        put("7/maps", "1000-2000 rw-s 00100000 00:0b 42 /dmabuf:vfio0:0000:01:00.0/0\n");
        put("7/fd/x", "");
        symlink("anon_inode:[vfio-device]", proc.join("7/fd/5")).unwrap();
        symlink("/dmabuf:renamed", proc.join("7/fd/6")).unwrap();
        symlink("/dmabuf:gpu", proc.join("7/fd/8")).unwrap();
        symlink("/dev/null", proc.join("7/fd/9")).unwrap();
        let path = "/sys/devices/pci0000:00/0000:00:10.0/0000:01:00.0";
        put("7/fdinfo/5", &format!("pos:\t0\nvfio-device-syspath: {path}\n"));
        put("7/fdinfo/6", "ino:\t43\nsize:\t8192\nexp_name:\tdmabuf-vfio-pci\nname:\trenamed\n");
        put("7/fdinfo/8", "ino:\t44\nsize:\t8192\nexp_name:\tgpu\n");
        put("self/comm", "not a number\n");

        let found = Holders::of(&proc);
        fs::remove_dir_all(&proc).unwrap();
        let fd = |number| Fd { pid: 7, command: "owner".into(), fd: number };
        let edu = "0000:01:00.0".parse().unwrap();
        assert_eq!(found.devices, [(edu, fd(5))]);
        assert_eq!(found.users(edu).count(), 1);
        assert_eq!(found.buffers.keys().copied().collect::<Vec<_>>(), [42, 43]);
        assert_eq!(found.buffers[&42].device(), Some(edu));
        assert_eq!(found.buffers[&42].mappings.len(), 1);
        let renamed = &found.buffers[&43];
        assert_eq!((renamed.device(), renamed.size), (None, Some(8192)));
        assert_eq!(renamed.fds, [fd(6)]);
        assert!(found.complete);
    }
}
