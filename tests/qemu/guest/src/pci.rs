// SPDX-License-Identifier: GPL-2.0
//! PCI devices in sysfs: finding, binding, resetting.

use std::fmt;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::prelude::*;

/// Vendor and device id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub u16, pub u16);

/// QEMU's `edu`: BAR0 1 MiB; 0x00 is an id register, 0x04 reads as the inverse of what was written.
pub const EDU: Id = Id(0x1234, 0x11e8);
/// QEMU's `bochs-display`: BAR0 video memory, BAR2 one page of registers.
pub const BOCHS: Id = Id(0x1234, 0x1111);
/// QEMU's `ivshmem-plain`: BAR2 is memory of the host.
pub const IVSHMEM: Id = Id(0x1af4, 0x1110);
/// QEMU's `igb`: a PCI Express function with FLR.
pub const IGB: Id = Id(0x8086, 0x10c9);

/// QEMU's `pci-testdev`: with `membar=4G`, BAR2 is that large.
pub const TESTDEV: Id = Id(0x1b36, 0x0005);
/// QEMU's `virtio-rng-pci`: no BAR0; BAR4 is memory that begins with the common configuration.
pub const VIRTIO_RNG: Id = Id(0x1af4, 0x1044);

/// QEMU's `ich9-ahci`: BAR5 is memory, one page.
pub const AHCI: Id = Id(0x8086, 0x2922);

/// A PCI function, by its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pci(String);

impl Pci {
    /// The function at `address`, as in `0000:01:00.0`.
    pub fn at(address: &str) -> Result<Pci> {
        let pci = Pci(address.to_string());
        ensure!(pci.dir().exists(), "there is no PCI device {address}");
        Ok(pci)
    }

    /// All functions of the machine, in the order of their addresses.
    pub fn all() -> Result<Vec<Pci>> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/sys/bus/pci/devices")? {
            all.push(Pci(entry?.file_name().to_string_lossy().into_owned()));
        }
        all.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(all)
    }

    /// All functions with this id, in the order of their addresses.
    pub fn find(id: Id) -> Result<Vec<Pci>> {
        let mut found = Pci::all()?;
        found.retain(|pci| pci.id().is_ok_and(|other| other == id));
        Ok(found)
    }

    /// The `nth` of these.
    pub fn nth(id: Id, nth: usize) -> Result<Pci> {
        let found = Pci::find(id)?.into_iter().nth(nth);
        found.with_context(|| format!("there is no device {nth} with id {id:x?}"))
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.0
    }

    /// Domain, bus, and slot and function in one number, of its address.
    pub fn numbers(&self) -> Option<(u32, u32, u32)> {
        let number = |text| u32::from_str_radix(text, 16).ok();
        let (domain, rest) = self.0.split_once(':')?;
        let (bus, rest) = rest.split_once(':')?;
        let (slot, function) = rest.split_once('.')?;
        Some((number(domain)?, number(bus)?, (number(slot)? << 3) | number(function)?))
    }

    /// Its directory in sysfs.
    pub fn dir(&self) -> PathBuf {
        Path::new("/sys/bus/pci/devices").join(&self.0)
    }

    /// Its vendor and device id.
    pub fn id(&self) -> Result<Id> {
        let number = |file| -> Result<u16> {
            let text = self.read(file)?;
            Ok(u16::from_str_radix(text.trim().trim_start_matches("0x"), 16)?)
        };
        Ok(Id(number("vendor")?, number("device")?))
    }

    /// The name of its driver, if it has one.
    pub fn driver(&self) -> Option<String> {
        self.link("driver").ok()
    }

    /// The number of its IOMMU group.
    pub fn group(&self) -> Result<String> {
        self.link("iommu_group")
    }

    /// The IOMMU group of the port above it.
    pub fn port_group(&self) -> Result<String> {
        let dir = fs::canonicalize(self.dir()).context("its directory")?;
        let group =
            fs::read_link(dir.with_file_name("iommu_group")).context("group of the port")?;
        Ok(group.file_name().unwrap_or_default().to_string_lossy().into_owned())
    }

    /// The name of its VFIO device (`vfio0`), while a VFIO driver has it.
    pub fn vfio_name(&self) -> Result<String> {
        let mut entries = fs::read_dir(self.dir().join("vfio-dev"))
            .with_context(|| format!("{self} has no VFIO driver"))?;
        let entry = entries.next().with_context(|| format!("{self}: vfio-dev is empty"))??;
        Ok(entry.file_name().to_string_lossy().into_owned())
    }

    /// The size of BAR `index`, bytes; 0 if there is none.
    pub fn bar_size(&self, index: u32) -> Result<u64> {
        let (start, end) = self.bar_bounds(index)?;
        Ok(if end == 0 { 0 } else { end - start + 1 })
    }

    /// The physical address of BAR `index`.
    pub fn bar_start(&self, index: u32) -> Result<u64> {
        Ok(self.bar_bounds(index)?.0)
    }

    fn bar_bounds(&self, index: u32) -> Result<(u64, u64)> {
        let text = self.read("resource")?;
        let line = text.lines().nth(index as usize).context("resource")?;
        let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16);
        let words = line.split_whitespace().map(number).collect::<Result<Vec<_>, _>>()?;
        Ok((words[0], words[1]))
    }

    /// Gives it to the driver `name`, through driver_override.
    pub fn bind(&self, name: &str) -> Result<()> {
        if self.driver().as_deref() == Some(name) {
            return Ok(());
        }
        if self.driver().is_some() {
            self.unbind()?;
        }
        self.write("driver_override", name).context("driver_override")?;
        let path = Path::new("/sys/bus/pci/drivers").join(name).join("bind");
        write(&path, &self.0).with_context(|| format!("{self} > {}", path.display()))
    }

    /// Takes it from its driver. Waits until no VFIO user has it open.
    pub fn unbind(&self) -> Result<()> {
        if self.driver().is_some() {
            self.write("driver/unbind", &self.0).with_context(|| format!("unbind {self}"))?;
        }
        Ok(())
    }

    /// Takes it from its driver and forgets the override.
    pub fn release(&self) -> Result<()> {
        self.unbind()?;
        Ok(self.write("driver_override", "\n")?)
    }

    /// Whether a driver was chosen for it by driver_override.
    pub fn has_override(&self) -> bool {
        self.read("driver_override").is_ok_and(|text| !matches!(text.trim(), "" | "(null)"))
    }

    /// Resets it through sysfs, behind the driver's back.
    pub fn reset(&self) -> Result<(), Errno> {
        self.write("reset", "1")
    }

    /// Opens the file of BAR `index` in sysfs, which maps it past any driver.
    pub fn bar_file(&self, index: u32) -> Result<fs::File> {
        let path = self.dir().join(format!("resource{index}"));
        let file = fs::File::options().read(true).write(true).open(&path);
        file.with_context(|| path.display().to_string())
    }

    /// Takes it off the bus, as if it were pulled.
    pub fn remove(&self) -> Result<(), Errno> {
        self.write("remove", "1")
    }

    /// Lets the kernel look for devices anew.
    pub fn rescan() -> Result<(), Errno> {
        write(Path::new("/sys/bus/pci/rescan"), "1")
    }

    /// What runtime power management says of it: `active` or `suspended`.
    pub fn runtime_status(&self) -> Result<String> {
        Ok(self.read("power/runtime_status")?.trim().into())
    }

    /// Lets the host wake it and keep it awake, or lets it sleep when nobody uses it.
    pub fn keep_awake(&self, whether: bool) -> Result<(), Errno> {
        self.write("power/control", if whether { "on" } else { "auto" })
    }

    /// How many virtual functions it can have.
    pub fn most_virtual_functions(&self) -> Result<u32> {
        Ok(self.read("sriov_totalvfs")?.trim().parse()?)
    }

    /// Makes `count` virtual functions, or with 0 takes them away.
    pub fn set_virtual_functions(&self, count: u32) -> Result<(), Errno> {
        self.write("sriov_numvfs", &count.to_string())
    }

    /// Its `nth` virtual function.
    pub fn virtual_function(&self, nth: u32) -> Result<Pci> {
        Pci::at(&self.link(&format!("virtfn{nth}"))?)
    }

    /// Reads two bytes of configuration space, past VFIO.
    pub fn config16(&self, offset: u64) -> Result<u16> {
        let mut bytes = [0; 2];
        fs::File::open(self.dir().join("config"))?.read_exact_at(&mut bytes, offset)?;
        Ok(u16::from_le_bytes(bytes))
    }

    /// Writes two bytes of configuration space, past VFIO.
    pub fn set_config16(&self, offset: u64, value: u16) -> Result<()> {
        let file = fs::File::options().write(true).open(self.dir().join("config"))?;
        Ok(file.write_all_at(&value.to_le_bytes(), offset)?)
    }

    /// The last part of what a link in its directory names.
    fn link(&self, file: &str) -> Result<String> {
        let path = self.dir().join(file);
        let link = fs::read_link(&path).with_context(|| path.display().to_string())?;
        Ok(link.file_name().context("link")?.to_string_lossy().into_owned())
    }

    fn read(&self, file: &str) -> Result<String> {
        let path = self.dir().join(file);
        fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<(), Errno> {
        write(&self.dir().join(file), text)
    }
}

impl fmt::Display for Pci {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Writes `text` with one write(), as sysfs wants it.
fn write(path: &Path, text: &str) -> Result<(), Errno> {
    let result = fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
        let done = file.write(text.as_bytes())?;
        debug_assert_eq!(done, text.len());
        Ok(())
    });
    result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}
