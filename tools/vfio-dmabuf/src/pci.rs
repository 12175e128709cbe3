// SPDX-License-Identifier: GPL-2.0
//! PCI devices in sysfs: ids, BARs, IOMMU groups; binding them to a driver and releasing them.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::io::Errno;

use crate::error::{Error, Tried};

/// The driver of this project. On the bus it may have another name, see [`PciBus::driver`].
pub const DRIVER: &str = "dmabuf-vfio-pci";

/// The name of its module in sysfs.
const MODULE: &str = "dmabuf_vfio_pci";

/// The address of a PCI function: `0000:01:00.0` are domain, bus, device, function.
///
/// ```
/// use vfio_dmabuf::pci::PciAddress;
///
/// let address: PciAddress = "0000:01:1f.7".parse()?;
/// assert_eq!((address.bus, address.device, address.function), (1, 0x1f, 7));
/// assert_eq!("01:1f.7".parse::<PciAddress>()?, address);
/// assert_eq!(address.to_string(), "0000:01:1f.7");
/// # Ok::<(), vfio_dmabuf::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The domain (segment).
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device (slot) on the bus, 0 to 31.
    pub device: u8,
    /// The function of the device, 0 to 7.
    pub function: u8,
}

impl FromStr for PciAddress {
    type Err = Error;

    /// Parses `DDDD:BB:DD.F`, or `BB:DD.F` for domain 0, hexadecimal.
    fn from_str(text: &str) -> Result<PciAddress, Error> {
        let parse = || {
            let hex = |text: &str, width: usize| {
                let digits = text.bytes().all(|byte| byte.is_ascii_hexdigit());
                (digits && text.len() == width).then(|| u32::from_str_radix(text, 16).ok())?
            };
            let (rest, function) = text.split_once('.')?;
            let (rest, device) = rest.rsplit_once(':')?;
            let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0000", rest));
            let (device, function) = (hex(device, 2)? as u8, hex(function, 1)? as u8);
            // Domains above 16 bits (VMD) have more than four digits.
            let domain = hex(domain, domain.len().clamp(4, 8))?;
            let good = device < 32 && function < 8;
            good.then_some(PciAddress { domain, bus: hex(bus, 2)? as u8, device, function })
        };
        parse().ok_or_else(|| Error::BadAddress(text.to_string()))
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PciAddress { domain, bus, device, function } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{device:02x}.{function}"))
    }
}

/// A BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Its number, 0 to 5. A 64-bit BAR occupies two numbers and is known by the first.
    pub index: u32,
    /// Its start: a physical address, or an I/O port.
    pub address: u64,
    /// Its length in bytes.
    pub size: u64,
    /// Whether it is memory; if not, it is I/O ports.
    pub memory: bool,
    /// Whether reading it has no side effects.
    pub prefetchable: bool,
    /// Whether it may be above 4 GiB.
    pub wide: bool,
}

/// The PCI bus of a machine.
#[derive(Clone, Debug)]
pub struct PciBus(PathBuf);

impl PciBus {
    /// The bus of this machine.
    pub fn system() -> PciBus {
        PciBus::at("/sys/bus/pci")
    }

    /// A bus with another sysfs directory: another mount of sysfs, or a directory made for a test.
    pub fn at(directory: impl Into<PathBuf>) -> PciBus {
        PciBus(directory.into())
    }

    /// The device at `address`.
    ///
    /// # Errors
    ///
    /// [`Error::NoDevice`].
    pub fn device(&self, address: PciAddress) -> Result<PciDevice, Error> {
        let device = PciDevice { bus: self.0.clone(), address };
        match device.directory().exists() {
            true => Ok(device),
            false => Err(Error::NoDevice(address)),
        }
    }

    /// All devices, sorted by address.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]: sysfs is not mounted.
    pub fn devices(&self) -> Result<Vec<PciDevice>, Error> {
        let directory = self.0.join("devices");
        let mut devices = Vec::new();
        for entry in fs::read_dir(&directory).tried(directory.display())? {
            let entry = entry.tried(directory.display())?;
            if let Ok(address) = entry.file_name().to_string_lossy().parse() {
                devices.push(PciDevice { bus: self.0.clone(), address });
            }
        }
        devices.sort_by_key(|device| device.address);
        Ok(devices)
    }

    /// The name of this project's driver on this bus, if it is loaded: [`DRIVER`], or `vfio-pci` if
    /// the module was loaded with `as_vfio_pci=1`.
    pub fn driver(&self) -> Option<String> {
        let drivers = fs::read_dir(self.0.join("drivers")).ok()?.flatten();
        let mut ours = drivers.filter(|entry| name_behind(&entry.path().join("module")) == MODULE);
        Some(ours.next()?.file_name().to_string_lossy().into_owned())
    }
}

/// A PCI device: one function.
#[derive(Clone, Debug)]
pub struct PciDevice {
    bus: PathBuf,
    address: PciAddress,
}

impl PciDevice {
    /// Its address.
    pub fn address(&self) -> PciAddress {
        self.address
    }

    /// Its directory in sysfs.
    pub fn directory(&self) -> PathBuf {
        self.bus.join("devices").join(self.address.to_string())
    }

    /// Its vendor and device ids.
    ///
    /// # Errors
    ///
    /// [`Error::Os`], [`Error::Unreadable`]: a file of sysfs cannot be read or parsed.
    pub fn ids(&self) -> Result<(u16, u16), Error> {
        Ok((self.number("vendor")? as u16, self.number("device")? as u16))
    }

    /// Its class code: base class, subclass and programming interface, one byte each.
    ///
    /// # Errors
    ///
    /// As [`PciDevice::ids`].
    pub fn class(&self) -> Result<u32, Error> {
        self.number("class")
    }

    /// The name of its driver, if it has one.
    pub fn driver(&self) -> Option<String> {
        self.link("driver")
    }

    /// Whether its driver is this project's, under either name.
    pub fn is_ours(&self) -> bool {
        self.link("driver/module").as_deref() == Some(MODULE)
    }

    /// Its `driver_override`, if one is set.
    ///
    /// # Errors
    ///
    /// As [`PciDevice::ids`].
    pub fn driver_override(&self) -> Result<Option<String>, Error> {
        let text = self.read("driver_override")?;
        Ok(Some(text).filter(|text| !text.is_empty() && text != "(null)"))
    }

    /// The number of its IOMMU group.
    ///
    /// # Errors
    ///
    /// [`Error::NoGroup`].
    pub fn group(&self) -> Result<u32, Error> {
        let name = self.link("iommu_group").ok_or(Error::NoGroup(self.address))?;
        name.parse().map_err(|_| self.unreadable("iommu_group", name))
    }

    /// All devices of its IOMMU group, including itself.
    ///
    /// # Errors
    ///
    /// [`Error::NoGroup`].
    pub fn group_members(&self) -> Result<Vec<PciDevice>, Error> {
        let directory = self.directory().join("iommu_group/devices");
        let entries = fs::read_dir(directory).map_err(|_| Error::NoGroup(self.address))?;
        let names = entries.flatten().map(|entry| entry.file_name());
        let addresses = names.filter_map(|name| name.to_string_lossy().parse().ok());
        let mut members: Vec<PciDevice> =
            addresses.map(|address| PciDevice { bus: self.bus.clone(), address }).collect();
        members.sort_by_key(|member| member.address);
        Ok(members)
    }

    /// The name of its VFIO device (`vfio0`), while it is bound to a VFIO driver.
    pub fn vfio_name(&self) -> Option<String> {
        let mut entries = fs::read_dir(self.directory().join("vfio-dev")).ok()?;
        Some(entries.next()?.ok()?.file_name().to_string_lossy().into_owned())
    }

    /// Its BARs.
    ///
    /// # Errors
    ///
    /// As [`PciDevice::ids`].
    pub fn bars(&self) -> Result<Vec<Bar>, Error> {
        // Flags of struct resource, <linux/ioport.h>.
        const IO: u64 = 0x100;
        const MEMORY: u64 = 0x200;
        const PREFETCH: u64 = 0x2000;
        const WIDE: u64 = 0x10_0000;
        let text = self.read("resource")?;
        let mut bars = Vec::new();
        for (index, line) in (0..6).zip(text.lines()) {
            let hex = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok();
            let words: Option<Vec<u64>> = line.split_whitespace().map(hex).collect();
            let Some([start, end, flags]) = words.as_deref() else {
                return Err(self.unreadable("resource", line.to_string()));
            };
            if flags & (IO | MEMORY) != 0 && end >= start {
                bars.push(Bar {
                    index,
                    address: *start,
                    size: end - start + 1,
                    memory: flags & MEMORY != 0,
                    prefetchable: flags & PREFETCH != 0,
                    wide: flags & WIDE != 0,
                });
            }
        }
        Ok(bars)
    }

    /// Unbinds the device from its driver, if it has one. A VFIO driver waits until the device is
    /// closed.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn unbind(&self) -> Result<(), Error> {
        match self.driver() {
            Some(_) => self.write("driver/unbind", &self.address.to_string()),
            None => Ok(()),
        }
    }

    /// Sets `driver_override` to `name` and binds the device to that driver. Unbinds it from its
    /// current driver first.
    ///
    /// On failure the device returns to its previous driver, if that accepts it.
    ///
    /// # Errors
    ///
    /// [`Error::Os`]; `ENODEV`: the driver is not loaded, or refuses the device.
    pub fn bind(&self, name: &str) -> Result<(), Error> {
        if self.driver().as_deref() == Some(name) {
            return Ok(());
        }
        let bind = self.bus.join("drivers").join(name).join("bind");
        if !bind.exists() {
            let missing: Result<(), Errno> = Err(Errno::NODEV);
            return missing.tried_as(format_args!("bind {self} to {name}"), |_| {
                Some("no such driver is loaded")
            });
        }
        let (driver, reserved) = (self.driver(), self.driver_override()?);
        let result = self.move_to(name, &bind);
        if result.is_err() {
            // Undoes what it can. The caller gets the first error.
            let _ = self.set_override(reserved.as_deref());
            if let (Some(driver), None) = (driver, self.driver()) {
                let _ = put(&self.bus.join("drivers").join(driver).join("bind"), &self.text());
            }
        }
        result
    }

    fn move_to(&self, name: &str, bind: &Path) -> Result<(), Error> {
        self.set_override(Some(name))?;
        self.unbind()?;
        put(bind, &self.text())
    }

    /// Clears `driver_override`, unbinds the device, and makes the kernel probe for a driver as
    /// after a hotplug. Returns the driver that the kernel found.
    ///
    /// # Errors
    ///
    /// [`Error::Os`].
    pub fn release(&self) -> Result<Option<String>, Error> {
        self.set_override(None)?;
        self.unbind()?;
        put(&self.bus.join("drivers_probe"), &self.text())?;
        Ok(self.driver())
    }

    fn set_override(&self, name: Option<&str>) -> Result<(), Error> {
        self.write("driver_override", name.unwrap_or("\n"))
    }

    fn text(&self) -> String {
        self.address.to_string()
    }

    fn link(&self, file: &str) -> Option<String> {
        Some(name_behind(&self.directory().join(file))).filter(|name| !name.is_empty())
    }

    fn number(&self, file: &str) -> Result<u32, Error> {
        let text = self.read(file)?;
        let digits = text.trim_start_matches("0x");
        u32::from_str_radix(digits, 16).map_err(|_| self.unreadable(file, text))
    }

    fn read(&self, file: &str) -> Result<String, Error> {
        let path = self.directory().join(file);
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim_end().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound && !self.directory().exists() => {
                Err(Error::NoDevice(self.address))
            }
            Err(error) => Err(error).tried(path.display()),
        }
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Error> {
        put(&self.directory().join(file), text)
    }

    fn unreadable(&self, file: &str, found: String) -> Error {
        Error::Unreadable { file: self.directory().join(file).display().to_string(), found }
    }
}

impl fmt::Display for PciDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

/// The last component of the target of a link; empty if it is not a link.
fn name_behind(link: &Path) -> String {
    let target = fs::read_link(link).unwrap_or_default();
    target.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Writes to a file of sysfs, in one write().
fn put(path: &Path, text: &str) -> Result<(), Error> {
    use std::io::Write;
    let write = || {
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().tried(format_args!("write {:?} to {}", text.trim_end(), path.display()))
}
