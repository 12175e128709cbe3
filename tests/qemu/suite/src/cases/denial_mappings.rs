// SPDX-License-Identifier: GPL-2.0
//! Clients with as many mappings as they may have: how long the owner waits for what walks all of
//! them, and that it does not wait for what walks its own only.

use guest::kmsg;
use guest::link::Link;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "clients with many mappings lengthen the owner's zaps in proportion, and nothing else": [
            owner_waits_for_each_mapping_of_clients_once,
        ];
}

const CLIENTS: usize = 10;
/// Mappings of each client: the second is a tenth of what `vm.max_map_count` lets a process have.
const FEW: usize = 655;
const MANY: usize = 10 * FEW;
/// What the scheduler and other load add to any figure.
const NOISE: Duration = Duration::from_millis(100);

/// Clients that have mapped the page of a buffer many times, with an entry in each mapping.
struct Clients {
    _processes: Vec<Worker>,
    _links: Vec<Link>,
}

impl Clients {
    fn start(buffer: &Buffer, mappings: usize) -> Result<Clients> {
        let (mut processes, mut links) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            let (ours, theirs) = Link::pair()?;
            processes.push(Worker::start(|| {
                let all: Result<Vec<Mapping>, _> =
                    (0..mappings).map(|_| buffer.map(0, PAGE)).collect();
                for mapping in all? {
                    check::value("a client", mapping.load(ID_AT), ID)?;
                    std::mem::forget(mapping);
                }
                theirs.send(&(), None)?;
                // Ends with the case.
                theirs.receive::<()>().map(drop)
            })?);
            links.push(ours);
        }
        for link in &links {
            link.receive::<()>()?;
        }
        Ok(Clients { _processes: processes, _links: links })
    }
}

/// How long the owner's calls take.
#[derive(Debug)]
struct Waits {
    memory_off: Duration,
    hot_reset: Duration,
    mmap: Duration,
    export: Duration,
    revoke_another: Duration,
}

/// The shortest time that `call` takes: other load only adds to it.
fn shortest(mut call: impl FnMut() -> Result<Duration>) -> Result<Duration> {
    let mut times = (0..3).map(|_| call()).collect::<Result<Vec<_>>>()?;
    times.sort();
    Ok(times[0])
}

impl Waits {
    /// Makes each call beside clients that have mapped a buffer so often.
    fn beside(device: &Device, mappings: usize) -> Result<Waits> {
        let buffer = export_edu(device)?;
        let clients = Clients::start(&buffer, mappings)?;
        let mmap = shortest(|| {
            let start = Instant::now();
            device.map_bar(0)?;
            Ok(start.elapsed())
        })?;
        let export = shortest(|| {
            let start = Instant::now();
            export_edu(device)?;
            Ok(start.elapsed())
        })?;
        let revoke_another = shortest(|| {
            let another = export_edu(device)?;
            let mapping = another.map(0, PAGE)?;
            check::value("another", mapping.load(ID_AT), ID)?;
            let start = Instant::now();
            buffer::revoke(device, &another)?;
            Ok(start.elapsed())
        })?;
        // These remove the entries of all mappings: there is one try.
        let start = Instant::now();
        device.set_memory(false)?;
        let memory_off = start.elapsed();
        device.set_memory(true)?;
        let groups = groups(device, Via::Group);
        let start = Instant::now();
        device.hot_reset(&groups)?;
        let hot_reset = start.elapsed();
        drop(clients);
        Ok(Waits { memory_off, hot_reset, mmap, export, revoke_another })
    }
}

fn owner_waits_for_each_mapping_of_clients_once() -> Result<()> {
    let device = open_edu()?;
    let few = Waits::beside(&device, FEW)?;
    let many = Waits::beside(&device, MANY)?;
    for (mappings, waits) in [(FEW, &few), (MANY, &many)] {
        kmsg::mark(&format!("{CLIENTS} clients with {mappings} mappings each: {waits:?}"));
    }
    let noise = scaled(NOISE);
    for (what, few, many) in [
        ("memory off", few.memory_off, many.memory_off),
        ("HOT_RESET", few.hot_reset, many.hot_reset),
    ] {
        ensure!(many <= few * 20 + 5 * noise, "{what}: {few:?}, with ten times as many {many:?}");
    }
    for (what, few, many) in [
        ("mmap", few.mmap, many.mmap),
        ("export", few.export, many.export),
        ("REVOKE of another buffer", few.revoke_another, many.revoke_another),
    ] {
        ensure!(many <= few * 2 + noise, "{what}: {few:?}, with ten times as many {many:?}");
    }
    Ok(())
}
