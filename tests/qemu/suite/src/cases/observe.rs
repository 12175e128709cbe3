// SPDX-License-Identifier: GPL-2.0
//! What can be seen of the buffers from outside: the listing in debugfs, and tracepoints.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::process;

use guest::arch;
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
        "debugfs lists buffers, also as JSON lines; tracepoints": [listing_counts_faults_by_level],
        "accesses that follow each other take few faults": [
            walk_through_a_mapping_takes_few_faults,
        ];
    Setup::Bound(&[EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            listing_goes_with_the_driver, open_listing_is_of_one_binding,
            listing_is_for_root_only, listing_names_the_process_of_a_thread,
        ];
    Setup::Bound(&[BOCHS, EDU]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            table_and_json_lines_say_the_same,
        ];
    Setup::Bound(&[TESTDEV]) =>
        "debugfs lists buffers, also as JSON lines; tracepoints": [
            listing_counts_faults_of_the_largest_entries,
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
    const SIZE: u64 = 2 * BLOCK;
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let buffer = Buffer::export(&device, 0, 0, SIZE)?;
    let huge = mm::Mapping::aligned(&buffer, SIZE, 0)?;
    huge.store(0, 1)?;
    huge.store(BLOCK, 1)?;
    huge.store(4, 1)?;
    let small = buffer.map(PAGE, PAGE)?;
    small.store(0, 1)?;
    let fields = [("faults_pte", 1.into()), ("faults_pmd", 2.into()), ("faults_pud", 0.into())];
    has("after four stores", &object(&pci, &buffer)?, &fields)?;
    let table = fs::read_to_string(listing(&pci).join("buffers"))?;
    let mut lines = table.lines();
    let heads: Vec<_> = lines.next().context("no head")?.split_whitespace().collect();
    let values: Vec<_> = lines.next().context("no line")?.split_whitespace().collect();
    check::equal("columns", values.len(), heads.len())?;
    let column = |name| heads.iter().position(|head| *head == name).map(|at| values[at]);
    check::equal("faults-pmd of the table", column("faults-pmd"), Some("2"))?;
    check::equal("size of the table", column("size"), Some(&*SIZE.to_string()))
}

/// Each fault maps twice as many pages as the one before, as far as the page table goes.
fn walk_through_a_mapping_takes_few_faults() -> Result<()> {
    const MOST: u64 = 512;
    const TABLE: u64 = BLOCK / PAGE;
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let pages = device.region(0)?.size / PAGE / 2;
    // At an address where no page can be part of a huge one.
    let buffer = Buffer::export(&device, 0, PAGE, pages * PAGE)?;
    let mapping = mm::Mapping::aligned(&buffer, pages * PAGE, 0)?;
    let (mut want, mut mapped, mut size) = (0, 0, 1);
    for page in 0..pages {
        mapping.load(page * PAGE)?;
        if page == mapped {
            want += 1;
            mapped += size.min(TABLE - page % TABLE);
            size = MOST.min(2 * size);
        }
        if page % 64 == 63 {
            let fields = [("faults_pte", want.into()), ("faults_pmd", 0.into())];
            has(&format!("after page {page}"), &object(&pci, &buffer)?, &fields)?;
        }
    }
    ensure!(want < 20, "{want} faults for {pages} pages");
    Ok(())
}

fn listing_counts_faults_of_the_largest_entries() -> Result<()> {
    const SIZE: u64 = 1 << 30;
    let pci = nth(TESTDEV, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let offset = device.region(2)?.offset;
    let address = mm::map_gigabyte_aligned(device.raw(), SIZE, mm::RW, offset)?;
    let mapping = mm::Mapping::from_raw(address, SIZE);
    mapping.store(0, 1)?;
    let (blocks, gigabytes) = if arch::HAS_ENTRIES_OF_1_GIB { (0, 1) } else { (1, 0) };
    let fields = [
        ("bar", 2.into()),
        ("faults_pte", 0.into()),
        ("faults_pmd", blocks.into()),
        ("faults_pud", gigabytes.into()),
    ];
    has("after a store", &objects(&pci)?[0], &fields)
}

/// Columns of the table, and the names of the same values in the other file.
const COLUMNS: [(&str, &str); 14] = [
    ("offset", "offset"),
    ("inode", "inode"),
    ("bar", "bar"),
    ("kind", "kind"),
    ("size", "size"),
    ("ranges", "ranges"),
    ("attr", "memattr"),
    ("status", "status"),
    ("mappings", "mappings"),
    ("imports", "imports"),
    ("faults-pte", "faults_pte"),
    ("faults-pmd", "faults_pmd"),
    ("faults-pud", "faults_pud"),
    ("pid", "pid"),
];

fn table_and_json_lines_say_the_same() -> Result<()> {
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    // No two columns of the first buffer have the same number.
    let ranges = [Range(0, 2 << 20), Range(8 << 20, 4 << 20), Range(4 << 20, 2 << 20)];
    let mut export = Export::new(0, &ranges);
    export.flags = uapi::VFIO_DMABUF_ATTR_UC;
    let first = check::works("export", export.make(&device))?;
    let mappings: Vec<_> = (0..5).map(|_| first.map(0, PAGE)).collect::<Result<_, _>>()?;
    mappings.iter().try_for_each(|mapping| mapping.load(0).map(drop))?;
    let importer = Importer::new()?;
    check::works("attach", importer.attach(&first, &importing()?, UNMAPS_AT_ONCE))?;
    check::works("map", importer.map())?;
    let second = check::works("export", Buffer::export(&device, 2, 0, PAGE))?;
    check::works("REVOKE", buffer::revoke(&device, &second))?;
    let bar = device.map_bar_part(0, 0, PAGE)?;
    let fields = [("bar", 2.into()), ("status", "revoked".into())];
    has("of the second", &object(&pci, &second)?, &fields)?;

    let table = fs::read_to_string(listing(&pci).join("buffers"))?;
    let mut lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let heads = lines.next().context("no head")?;
    check::equal("heads", heads, COLUMNS.map(|(head, _)| head).to_vec())?;
    let objects = objects(&pci)?;
    check::equal("lines", objects.len(), 3)?;
    for (object, cells) in objects.iter().zip(lines) {
        check::equal("values", object.as_object().map(|object| object.len()), Some(cells.len()))?;
        for ((head, name), cell) in COLUMNS.iter().zip(cells) {
            let value = &object[*name];
            let want = match (*head, value) {
                ("offset", value) => format!("{:#x}", value.as_u64().context("offset")?),
                (_, Value::String(text)) => text.clone(),
                (_, number) => number.to_string(),
            };
            check::equal(&format!("{head} of {object}"), cell, want.as_str())?;
        }
    }
    drop((mappings, bar));
    Ok(())
}

fn listing_is_for_root_only() -> Result<()> {
    for name in ["buffers", "buffers.jsonl"] {
        let mode = fs::metadata(listing(&edu()?).join(name))?.permissions().mode();
        check::equal(&format!("mode of {name}"), mode & 0o7777, 0o400)?;
    }
    Ok(())
}

fn listing_names_the_process_of_a_thread() -> Result<()> {
    let device = open_edu()?;
    let export = || export_edu(&device);
    let thread = std::thread::scope(|scope| scope.spawn(export).join());
    let buffer = thread.map_err(|_| anyhow::anyhow!("panic"))??;
    has("of a thread's", &object(&edu()?, &buffer)?, &[("pid", process::id().into())])
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
