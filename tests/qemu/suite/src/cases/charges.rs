// SPDX-License-Identifier: GPL-2.0
//! Which allocations are charged to the memory cgroup, by the kernel's own tracepoint.

use anyhow::{ensure, Result};
use guest::buffer::{Export, Range};
use guest::module::Module;
use guest::pci::EDU;
use guest::testmod::{Importer, UNMAPS_AT_ONCE};
use guest::PAGE;

use crate::case::{cases, Setup};
use crate::check;
use crate::rig::{self, Rig};
use crate::trace::Trace;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "kernel memory that an fd takes is charged to its memory cgroup, and bounded": [
            each_allocation_is_charged,
        ];
}

/// Does `work`; checks that of its allocations `count` or more are the driver's, all charged.
/// Returns all of them.
fn charges<T>(
    what: &str,
    count: usize,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, Vec<String>)> {
    let trace = Trace::of_kmalloc()?;
    let done = work()?;
    let all = trace.end()?;
    let module = format!("[{}]", Module::driver().name());
    // Vectors of Rust grow there; in these calls only the driver has any.
    let is_ours = |line: &String| line.contains(&module) || line.contains("realloc_node_align");
    let (charged, free): (Vec<_>, Vec<_>) =
        all.iter().filter(|line| is_ours(line)).partition(|line| line.ends_with(CHARGED));
    ensure!(free.is_empty(), "{what}: not charged: {free:#?}");
    ensure!(charged.len() >= count, "{what}: {count} were expected: {charged:#?}");
    Ok((done, all))
}

/// How the line of such an allocation ends.
const CHARGED: &str = "accounted=true";

fn each_allocation_is_charged() -> Result<()> {
    let rig = Rig::new()?;
    rig::peers_reach_each_other()?;
    let importer = Importer::new()?;
    let ranges = [Range(0, PAGE), Range(4 * PAGE, PAGE), Range(2 * PAGE, PAGE)];
    let export = |ranges: &[Range]| Ok(Export::new(0, ranges).make(&rig.device)?);
    // The window, the buffer, the name; the ranges as they are read, and as they are kept.
    charges("export", 3, || export(&ranges[..1]))?;
    let (buffer, _) = charges("export of three ranges", 5, || export(&ranges))?;
    let attach = || Ok(importer.attach(&buffer, &rig.importing, UNMAPS_AT_ONCE)?);
    charges("attach", 1, attach)?;
    // A list of tables, which grows, and what joins them.
    let (_, all) = charges("map", 2, || Ok(importer.map()?))?;
    // The joined table; those of the ranges are the core's.
    let sites = ["sg_alloc_table", "sg_kmalloc"];
    let of_table =
        |line: &&String| line.ends_with(CHARGED) && sites.iter().any(|site| line.contains(site));
    check::equal("charged tables", all.iter().filter(of_table).count(), 1)
}
