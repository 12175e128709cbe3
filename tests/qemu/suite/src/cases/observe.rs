// SPDX-License-Identifier: GPL-2.0
//! What can be seen of the buffers from outside: the listing in debugfs, and tracepoints.

use std::io::Read;
use std::process;

use serde_json::Value;

use crate::prelude::*;
use crate::trace::Trace;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            listing_follows_the_life_of_a_buffer, listing_counts_mappings_and_importers,
            tracepoints_tell_the_life_of_a_buffer,
        ];
    Setup::Bound(&[BOCHS]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [listing_counts_faults_by_level];
    Setup::Bound(&[EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            listing_goes_with_the_driver, open_listing_is_of_one_binding,
        ];
}

/// The directory of a device in debugfs.
pub fn listing(pci: &guest::pci::Pci) -> PathBuf {
    Path::new("/sys/kernel/debug/dmabuf-vfio-pci").join(pci.address())
}

/// The lines for programs.
pub fn objects(pci: &guest::pci::Pci) -> Result<Vec<Value>> {
    let text = fs::read_to_string(listing(pci).join("buffers.jsonl"))?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_string())).collect()
}

/// The line of the buffer, by the inode number that fdinfo has.
fn object(pci: &guest::pci::Pci, buffer: &Buffer) -> Result<Value> {
    let fdinfo = buffer.fdinfo()?;
    let inode = fdinfo.lines().find_map(|line| line.strip_prefix("ino:")).context("ino")?;
    let inode: u64 = inode.trim().parse()?;
    let found = objects(pci)?.into_iter().find(|object| object["inode"] == inode);
    found.with_context(|| format!("no line with inode {inode}"))
}

fn has(what: &str, object: &Value, fields: &[(&str, Value)]) -> Result<()> {
    for (name, want) in fields {
        check::equal(&format!("{name} {what}"), &object[*name], want)?;
    }
    Ok(())
}

fn listing_follows_the_life_of_a_buffer() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    check::equal("lines at first", objects(&pci)?.len(), 0)?;
    let mut export = Export::new(0, &[Range(PAGE, PAGE), Range(4 * PAGE, 2 * PAGE)]);
    export.flags = uapi::VFIO_DMABUF_ATTR_WC;
    let buffer = check::works("export", export.make(&device))?;
    let born = [
        ("bar", 0.into()),
        ("kind", "export".into()),
        ("size", (3 * PAGE).into()),
        ("ranges", 2.into()),
        ("memattr", "wc".into()),
        ("status", "live".into()),
        ("mappings", 0.into()),
        ("imports", 0.into()),
        ("pid", process::id().into()),
    ];
    has("at birth", &object(&pci, &buffer)?, &born)?;
    device.set_memory(false)?;
    has("with memory off", &object(&pci, &buffer)?, &[("status", "revoked-temp".into())])?;
    device.set_memory(true)?;
    has("with memory on", &object(&pci, &buffer)?, &[("status", "live".into())])?;
    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    has("after REVOKE", &object(&pci, &buffer)?, &[("status", "revoked".into())])?;
    let other = export_edu(&device)?;
    drop(device);
    has("after close", &object(&pci, &other)?, &[("status", "closed".into())])?;
    drop((buffer, other));
    check::equal("lines at last", objects(&pci)?.len(), 0)
}

fn listing_counts_mappings_and_importers() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    let buffer = Buffer::export(&device, 0, 0, 4 * PAGE)?;
    let counts = |what: &str, mappings: u32, imports: u32| {
        let fields = [("mappings", mappings.into()), ("imports", imports.into())];
        has(what, &object(&pci, &buffer)?, &fields)
    };
    let mapping = buffer.map(0, 4 * PAGE)?;
    counts("after mmap", 1, 0)?;
    // The offset is the one that the process sees.
    let maps = fs::read_to_string("/proc/self/maps")?;
    let place = format!("{:x}-", mapping.address());
    let line = maps.lines().find(|line| line.starts_with(&place)).context("not in maps")?;
    let offset = u64::from_str_radix(line.split_whitespace().nth(2).context("offset")?, 16)?;
    has("after mmap", &object(&pci, &buffer)?, &[("offset", offset.into())])?;
    mapping.unmap_part(PAGE, PAGE)?;
    counts("with a hole", 2, 0)?;
    let second = buffer.map(0, PAGE)?;
    counts("after another mmap", 3, 0)?;
    let importer = rig::attach(&buffer, &importing()?, UNMAPS_AT_ONCE)?;
    counts("attached", 3, 0)?;
    check::works("map", importer.map())?;
    counts("imported", 3, 1)?;
    check::works("unmap", importer.unmap())?;
    drop((mapping, second));
    counts("at last", 0, 0)?;
    let bar = device.map_bar_part(0, 0, PAGE)?;
    let hidden = objects(&pci)?.into_iter().find(|object| object["kind"] == "bar");
    let fields = [("mappings", 1.into()), ("offset", 0.into()), ("bar", 0.into())];
    has("of the BAR", &hidden.context("no line for the BAR")?, &fields)?;
    drop(bar);
    Ok(())
}

fn listing_counts_faults_by_level() -> Result<()> {
    const SIZE: u64 = 4 << 20;
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let huge = mm::Mapping::aligned(&buffer, SIZE, 0)?;
    huge.store(0, 1)?;
    huge.store(2 << 20, 1)?;
    huge.store(4, 1)?;
    let small = buffer.map(PAGE, PAGE)?;
    small.store(0, 1)?;
    let fields = [("faults_4k", 1.into()), ("faults_2m", 2.into()), ("faults_1g", 0.into())];
    has("after four stores", &object(&pci, &buffer)?, &fields)?;
    let table = fs::read_to_string(listing(&pci).join("buffers"))?;
    let mut lines = table.lines();
    let heads: Vec<_> = lines.next().context("no head")?.split_whitespace().collect();
    let values: Vec<_> = lines.next().context("no line")?.split_whitespace().collect();
    check::equal("columns", values.len(), heads.len())?;
    let column = |name| heads.iter().position(|head| *head == name).map(|at| values[at]);
    check::equal("faults-2m of the table", column("faults-2m"), Some("2"))?;
    check::equal("size of the table", column("size"), Some("4194304"))
}

fn listing_goes_with_the_driver() -> Result<()> {
    let pci = edu()?;
    let (device, buffer) = exported_edu()?;
    ensure!(listing(&pci).exists(), "there is no listing");
    drop(device);
    pci.unbind()?;
    ensure!(!listing(&pci).exists(), "the listing outlived the binding");
    drop(buffer);
    Ok(())
}

fn open_listing_is_of_one_binding() -> Result<()> {
    let pci = edu()?;
    let read = |mut file: &File| {
        let mut text = String::new();
        let got = file.read_to_string(&mut text);
        got.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(0)))?;
        Ok(text)
    };
    let open = || File::open(listing(&pci).join("buffers")).context("buffers");
    let (old, unread) = (open()?, open()?);
    let heads = check::works("read", read(&old))?;
    pci.unbind()?;
    for file in [&old, &unread] {
        check::errno("read without a driver", read(file), Errno::EIO)?;
    }
    pci.bind(&driver())?;
    for file in [&old, &unread] {
        check::errno("read of the old one", read(file), Errno::EIO)?;
    }
    check::equal("read of a new one", read(&open()?), Ok(heads))
}

fn tracepoints_tell_the_life_of_a_buffer() -> Result<()> {
    let pci = edu()?;
    let device = open_edu()?;
    let trace = Trace::on()?;
    let name = pci.address();

    let buffer = Buffer::export(&device, 0, 0, 2 * PAGE)?;
    let offset = object(&pci, &buffer)?["offset"].as_u64().context("offset")?;
    let whole = format!("{name} bar=0 offset={offset:#x} size=0x2000");
    check::equal("events of an export", trace.take()?, vec![format!("buffer_export: {whole}")])?;

    let mapping = buffer.map(PAGE, PAGE)?;
    let page = offset + PAGE;
    let want = format!("buffer_mmap: {name} bar=0 offset={page:#x} size=0x2000");
    check::equal("events of mmap", trace.take()?, vec![want])?;
    mapping.store(0x80, 0)?;
    let faults = trace.take()?;
    let want = format!("buffer_fault: {name} offset={page:#x} order=0 mapped");
    ensure!(faults.contains(&want), "no {want:?} in {faults:?}");

    let importer = rig::attach(&buffer, &importing()?, UNMAPS_AT_ONCE)?;
    check::equal("events of attach", trace.take()?, vec![format!("importer_attach: {whole}")])?;
    device.set_memory(false)?;
    let invalidated = format!("importer_invalidate: {whole}");
    let (suspend, resume) = (format!("memory_suspend: {name}"), format!("memory_resume: {name}"));
    let want = vec![suspend, invalidated.clone(), resume, invalidated.clone()];
    check::equal("events of memory off", trace.take()?, want)?;
    check::bus_error("load", mapping.load(0x80))?;
    let want = format!("buffer_fault: {name} offset={page:#x} order=0 sigbus");
    let faults = trace.take()?;
    ensure!(faults.contains(&want), "no {want:?} in {faults:?}");
    device.set_memory(true)?;
    trace.take()?;

    check::works("REVOKE", buffer::revoke(&device, &buffer))?;
    let want = vec![format!("buffer_revoke: {whole}"), invalidated];
    check::equal("events of REVOKE", trace.take()?, want)?;
    drop((importer, mapping, buffer));
    let last = trace.take()?;
    check::equal("the last event", last.last(), Some(&format!("buffer_release: {whole}")))
}
