// SPDX-License-Identifier: GPL-2.0
//! Devices, buffers and helpers that most cases start with.

use std::env;
use std::os::unix::fs::OpenOptionsExt;

use guest::ptes::MemoryType;

use crate::prelude::*;

/// edu's id register.
pub const ID_AT: u64 = 0x00;
/// What is in it.
pub const ID: u32 = 0x0100_00ed;
/// edu's inverter: reads as the inverse of what was written.
pub const INVERTER: u64 = 0x04;
/// In bochs-display's BAR2: a register that says how long the block is that it starts.
pub const BOCHS_SIZE_AT: u64 = 0x600;
/// What is in it.
pub const BOCHS_SIZE: u32 = 8;

/// The driver's name.
pub fn driver() -> String {
    env::var("DRIVER").unwrap_or_else(|_| Module::driver().name().replace('_', "-"))
}

/// The `nth` device with this id.
pub fn nth(id: Id, nth: usize) -> Result<Pci> {
    Pci::nth(id, nth)
}

/// The first edu.
pub fn edu() -> Result<Pci> {
    nth(pci::EDU, 0)
}

/// The first edu, open through its group.
pub fn open_edu() -> Result<Device> {
    Device::open(&edu()?, Via::Group)
}

/// The first bochs-display, open through its group.
pub fn open_bochs() -> Result<Device> {
    Device::open(&nth(pci::BOCHS, 0)?, Via::Group)
}

/// A buffer over the first page of edu's BAR0, which has the registers.
pub fn export_edu(device: &Device) -> Result<Buffer> {
    Buffer::export(device, 0, 0, PAGE).context("export of edu's first page")
}

/// The first edu, open, and a buffer over its first page.
pub fn exported_edu() -> Result<(Device, Buffer)> {
    let device = open_edu()?;
    let buffer = export_edu(&device)?;
    Ok((device, buffer))
}

/// A buffer over edu's first page, and a mapping of it that was not touched.
pub fn map_edu(device: &Device) -> Result<(Buffer, Mapping)> {
    let buffer = export_edu(device)?;
    let mapping = buffer.map(0, PAGE)?;
    Ok((buffer, mapping))
}

/// The first edu, open, with [`map_edu`].
pub fn mapped_edu() -> Result<(Device, Buffer, Mapping)> {
    let device = open_edu()?;
    let (buffer, mapping) = map_edu(&device)?;
    Ok((device, buffer, mapping))
}

/// As [`mapped_edu`], after a load that worked.
pub fn touched_edu() -> Result<(Device, Buffer, Mapping)> {
    let edu = mapped_edu()?;
    check::value("before", edu.2.load(ID_AT), ID)?;
    Ok(edu)
}

/// A client, which is a process without VFIO fds; the first edu, open; a buffer over its first
/// page; and where the client has mapped that.
pub fn edu_with_client() -> Result<(Peer, Device, Buffer, usize)> {
    let client = Peer::fork()?;
    let (device, buffer) = exported_edu()?;
    let address = map_in(&client, &buffer)?;
    Ok((client, device, buffer, address))
}

/// Writes a number to each of the first `pages` pages of `memory` that tells them apart.
pub fn paint(memory: &Mapping, pages: u64) -> Result<(), Fault> {
    (0..pages).try_for_each(|page| memory.store(page * PAGE, colour(page)))
}

/// What [`paint`] wrote to a page.
pub fn colour(page: u64) -> u32 {
    0xc010_0000 | page as u32
}

/// So many pages from the end of the BAR to its start, so that no two ranges are neighbours.
pub fn backwards(pages: u64) -> Vec<Range> {
    (0..pages).rev().map(|page| Range(page * PAGE, PAGE)).collect()
}

/// How many fds this process has.
pub fn fds() -> Result<usize> {
    Ok(fs::read_dir("/proc/self/fd")?.count())
}

/// Waits until `done` says so; deferred work of the kernel takes its time.
pub fn wait_for(what: &str, done: impl FnMut() -> Result<bool>) -> Result<()> {
    wait_until(Duration::from_secs(20), what, done)
}

/// The flags of an export for each memory type, and that type.
pub const WITH_EACH_TYPE: [(u32, MemoryType); 2] = [
    (uapi::VFIO_DMABUF_ATTR_UC, MemoryType::Uncached),
    (uapi::VFIO_DMABUF_ATTR_WC, MemoryType::WriteCombining),
];

/// Exports ranges of BAR0 with these flags.
pub fn export_with(device: &Device, flags: u32, ranges: &[Range]) -> Result<Buffer> {
    let export = Export { flags, ..Export::new(0, ranges) };
    check::works("export", export.make(device))
}

/// Whether a load from edu's id register gave its value or SIGBUS.
pub fn is_id_or_bus_error(load: Result<u32, Fault>) -> bool {
    load == Ok(ID) || load.is_err_and(Fault::is_bus_error)
}

/// Makes things until that fails, at most `most`; returns them and the error.
pub fn until_it_fails<T, E>(
    most: usize,
    mut make: impl FnMut() -> Result<T, E>,
) -> Result<(Vec<T>, E)> {
    let mut made = Vec::with_capacity(most);
    for _ in 0..=most {
        match make() {
            Ok(one) => made.push(one),
            Err(error) => return Ok((made, error)),
        }
    }
    bail!("more than {most} were made")
}

/// Checks the status that INFO gives.
pub fn has_status(device: &Device, buffer: &Buffer, when: &str, want: u32) -> Result<()> {
    let info = check::works("INFO", guest::buffer::info(device, buffer.raw()))?;
    check::equal(&format!("status {when}"), info.status, want)
}

/// A buffer over the first page of BAR0 that can only be read.
pub fn export_read_only(device: &Device) -> Result<Buffer> {
    let open_flags = (libc::O_RDONLY | libc::O_CLOEXEC) as u32;
    let export = Export { open_flags, ..Export::new(0, &[Range(0, PAGE)]) };
    check::works("export of a read-only buffer", export.make(device))
}

/// An O_PATH descriptor of a file.
pub fn open_path(path: &str) -> Result<File> {
    let opened = File::options().read(true).custom_flags(libc::O_PATH).open(path);
    opened.with_context(|| path.to_string())
}

/// An O_PATH descriptor of a buffer's file.
pub fn o_path(buffer: &Buffer) -> Result<File> {
    open_path(&format!("/proc/self/fd/{}", buffer.raw()))
}

/// A way to reset a device, by name.
pub type Reset<'a> = (&'static str, Box<dyn Fn() -> Result<(), Errno> + 'a>);

/// The ways to reset an open device: by its owner, and by an administrator.
pub fn resets<'a>(device: &'a Device, pci: &'a Pci) -> [Reset<'a>; 2] {
    [("VFIO", Box::new(|| device.reset())), ("sysfs", Box::new(|| pci.reset()))]
}

/// The module of the in-tree driver.
pub fn in_tree() -> Result<Module> {
    let module = Module::new(Module::driver().path().with_file_name("vfio-pci.ko"));
    match module.path().exists() {
        true => Ok(module),
        false => Err(Skip(format!("no {}", module.path().display())).into()),
    }
}

/// Maps the first page of a buffer in another process, which has only the mapping afterwards.
pub fn map_in(process: &Peer, buffer: &Buffer) -> Result<usize> {
    let fd = process.take(buffer)?;
    let address = check::works("mmap", process.map(fd, PAGE, mm::RW, 0)?)?;
    process.close(fd)?;
    Ok(address)
}
