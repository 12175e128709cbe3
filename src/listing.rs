// SPDX-License-Identifier: GPL-2.0

//! The buffers of a device in debugfs: a line for each, for people and for programs.
//!
//! `dmabuf-vfio-pci/DDDD:BB:DD.F/buffers` has a table, `buffers.jsonl` a JSON object in each line
//! with the same values. Offsets and sizes are bytes. Hidden buffers (those under the mappings of a
//! device fd) are listed, too.

use crate::{
    device::Device,
    pure::{
        memattr::Memattr,
        state::Status, //
    }, //
};
use core::fmt::Display;
use kernel::{
    fmt,
    new_mutex,
    prelude::*,
    sync::{
        Arc,
        Mutex, //
    },
    task::Pid, //
};
use kernel_ext::debugfs::{
    Contents,
    Dir,
    File,
    Files, //
};

static TABLE: File<Table> = File::build(kernel_ext::this_module!());
static JSON_LINES: File<JsonLines> = File::build(kernel_ext::this_module!());

/// The files of a device, while it is bound.
#[pin_data]
pub(crate) struct Listing {
    #[pin]
    files: Mutex<Option<Files<Device>>>,
}

/// What the listing shows of a buffer.
pub(crate) struct Description {
    /// Its place among the mmap offsets of its device, which `/proc/PID/maps` shows.
    pub(crate) offset: u64,
    /// The inode number in fdinfo and bufinfo.
    pub(crate) inode: u64,
    pub(crate) bar: usize,
    pub(crate) hidden: bool,
    pub(crate) ranges: u32,
    pub(crate) size: u64,
    pub(crate) memattr: Memattr,
    pub(crate) status: Status,
    /// Mappings of processes.
    pub(crate) mappings: u32,
    /// Mappings of importing devices.
    pub(crate) imports: u32,
    /// Faults that were resolved with entries of each level: PTE, PMD, PUD.
    pub(crate) faults: [u64; 3],
    /// The process that exported it.
    pub(crate) exporter: Pid,
}

impl Listing {
    pub(crate) fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            files <- new_mutex!(None, "Listing::files"),
        })
    }

    /// Makes the files in the driver's directory.
    pub(crate) fn show(&self, device: &Device, debugfs: &Arc<Dir>) {
        let files = Files::new_in(debugfs, device.core().pci_name(), device);
        files.add(&TABLE);
        files.add(&JSON_LINES);
        *self.files.lock() = Some(files);
    }

    /// Waits for readers of the files, and removes these.
    pub(crate) fn hide(&self) {
        let files = self.files.lock().take();
        drop(files);
    }
}

/// What is in `buffers`.
struct Table;

impl Contents for Table {
    type Object = Device;
    const NAME: &'static CStr = c"buffers";

    fn write(device: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        table(device, f)
    }
}

/// What is in `buffers.jsonl`.
struct JsonLines;

impl Contents for JsonLines {
    type Object = Device;
    const NAME: &'static CStr = c"buffers.jsonl";

    fn write(device: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        json_lines(device, f)
    }
}

fn for_each(
    device: &Device,
    f: &mut fmt::Formatter<'_>,
    show: fn(&Description, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    let enabled = device.memory.is_enabled();
    device
        .memory
        .registry
        .for_each(|buffer| show(&buffer.describe(enabled), f))
}

/// Heads and widths of the table.
const COLUMNS: [(&str, usize); 14] = [
    ("offset", 14),
    ("inode", 8),
    ("bar", 4),
    ("kind", 7),
    ("size", 13),
    ("ranges", 7),
    ("attr", 5),
    ("status", 13),
    ("mappings", 9),
    ("imports", 8),
    ("faults-pte", 11),
    ("faults-pmd", 11),
    ("faults-pud", 11),
    ("pid", 8),
];

fn table(device: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    row(f, COLUMNS.map(|(head, _)| head))?;
    for_each(device, f, |buffer, f| {
        write!(f, "{:#14x}", buffer.offset)?;
        let [small, medium, large] = &buffer.faults;
        let cells: [&dyn Display; 13] = [
            &buffer.inode,
            &buffer.bar,
            &buffer.kind(),
            &buffer.size,
            &buffer.ranges,
            &buffer.memattr.name(),
            &buffer.status.name(),
            &buffer.mappings,
            &buffer.imports,
            small,
            medium,
            large,
            &buffer.exporter,
        ];
        row(f, cells)
    })
}

/// Writes the last columns of a line, and its end.
fn row<T: Display, const N: usize>(f: &mut fmt::Formatter<'_>, cells: [T; N]) -> fmt::Result {
    for (cell, (_, width)) in cells.iter().zip(&COLUMNS[COLUMNS.len() - N..]) {
        write!(f, "{cell:>width$}")?;
    }
    writeln!(f)
}

fn json_lines(device: &Device, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for_each(device, f, |buffer, f| {
        write!(
            f,
            "{{\"offset\":{},\"inode\":{},\"bar\":{},\"kind\":\"{}\",\"size\":{},\"ranges\":{},",
            buffer.offset,
            buffer.inode,
            buffer.bar,
            buffer.kind(),
            buffer.size,
            buffer.ranges,
        )?;
        write!(
            f,
            "\"memattr\":\"{}\",\"status\":\"{}\",\"mappings\":{},\"imports\":{},",
            buffer.memattr.name(),
            buffer.status.name(),
            buffer.mappings,
            buffer.imports,
        )?;
        let [small, medium, large] = buffer.faults;
        writeln!(
            f,
            "\"faults_pte\":{small},\"faults_pmd\":{medium},\"faults_pud\":{large},\"pid\":{}}}",
            buffer.exporter
        )
    })
}

impl Description {
    fn kind(&self) -> &'static str {
        if self.hidden {
            "bar"
        } else {
            "export"
        }
    }
}
