// SPDX-License-Identifier: GPL-2.0
//! Several processes at once on one device. What each sees is checked; what the kernel makes of it
//! (lock order, use after free, sleeping where it must not) is for its log to say.

use guest::peer::Loads;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "REVOKE: EBADFD if already revoked": [racing_revokes_answer_0_or_ebadfd],
        "race: loads, exports, revokes, resets and memory off, unsynchronized; O_PATH": [
            revokes_race_with_loads, revoke_wins_over_faults_under_way,
            opening_and_closing_races_with_loads, exports_and_revokes_race_with_memory_and_resets,
            bar_mappings_race_with_memory_and_resets,
        ],
        "mmap: ENODEV if the buffer is revoked or closed": [mmap_races_with_revoke];
    Setup::Bound(&[BOCHS]) =>
        "race: loads, exports, revokes, resets and memory off, unsynchronized; O_PATH": [
            huge_faults_race_with_memory_and_revokes,
        ];
}

/// How long each race goes on.
const RACE: Duration = Duration::from_secs(3);

/// How long its end may take.
const LIMIT: Duration = Duration::from_secs(60);

/// Repeats `step` in a child until the race is over.
fn racer(step: impl Fn(u32) -> Result<()> + 'static) -> Result<Worker> {
    let end = Instant::now() + RACE;
    Worker::start(move || {
        let mut round = 0;
        while Instant::now() < end {
            step(round).with_context(|| format!("round {round}"))?;
            round += 1;
        }
        ensure!(round > 1, "the race was over before it began");
        Ok(())
    })
}

/// Repeats `step` in `count` children with their own fds of the device; this process disturbs them.
fn race(
    device: &Device,
    count: usize,
    resets: bool,
    step: impl Fn(&Device, u32) -> Result<()> + Copy + 'static,
) -> Result<()> {
    let mut workers = Vec::new();
    for _ in 0..count {
        let device = device.dup()?;
        workers.push(racer(move |round| step(&device, round))?);
    }
    disturb(device, resets)?;
    workers.into_iter().try_for_each(|worker| worker.finish(LIMIT))
}

/// A load that gave the id register's value or SIGBUS.
fn id_or_bus_error(mapping: &Mapping) -> Result<()> {
    let load = mapping.load(ID_AT);
    ensure!(is_id_or_bus_error(load), "load: {load:x?}");
    Ok(())
}

/// Disturbs the device until the race is over.
fn disturb(device: &Device, resets: bool) -> Result<()> {
    let end = Instant::now() + RACE;
    while Instant::now() < end {
        device.renew_memory()?;
        if resets {
            check::works("reset", device.reset())?;
        }
    }
    Ok(())
}

fn racing_revokes_answer_0_or_ebadfd() -> Result<()> {
    let device = open_edu()?;
    for _ in 0..20 {
        let (buffer, mapping) = map_edu(&device)?;
        mapping.load(ID_AT)?;
        let tally = Mapping::anonymous_shared(PAGE)?;
        let workers: Vec<Worker> = (0..4)
            .map(|number| {
                let (device, buffer) = (&device, &buffer);
                let tally = &tally;
                Worker::start(move || match buffer::revoke(device, buffer) {
                    Ok(()) => Ok(tally.store(number * 4, 1)?),
                    Err(Errno::EBADFD) => Ok(tally.store(number * 4, 2)?),
                    Err(errno) => bail!("REVOKE: {errno}"),
                })
            })
            .collect::<Result<_>>()?;
        workers.into_iter().try_for_each(|worker| worker.finish(LIMIT))?;
        let results: Vec<u32> =
            (0..4).map(|number| tally.load(number * 4)).collect::<Result<_, _>>()?;
        let winners = results.iter().filter(|&&result| result == 1).count();
        ensure!(winners >= 1, "no revoke worked: {results:?}");
        check::equal("every worker answered", results.contains(&0), false)?;
        check::bus_error("after all", mapping.load(ID_AT))?;
        check::errno("once more", buffer::revoke(&device, &buffer), Errno::EBADFD)?;
    }
    Ok(())
}

/// Checks that no load gave what it should not, and that there were some of either kind.
fn was_a_race(seen: &[Loads]) -> Result<()> {
    for loads in seen {
        check::equal(&format!("wrong values, {loads:?}"), loads.wrong, 0)?;
    }
    let good: u64 = seen.iter().map(|loads| loads.good).sum();
    let faults: u64 = seen.iter().map(|loads| loads.faults).sum();
    ensure!(good > 0 && faults > 0, "it was no race: {good} loads and {faults} faults");
    Ok(())
}

fn revokes_race_with_loads() -> Result<()> {
    let clients = [Peer::fork()?, Peer::fork()?];
    let device = open_edu()?;
    let mut seen = Vec::new();
    for round in 0..40 {
        let buffer = export_edu(&device)?;
        let mut addresses = Vec::new();
        for client in &clients {
            let address = map_in(client, &buffer)?;
            client.begin_loads(address, ID)?;
            addresses.push(address);
        }
        sleep(scaled(Duration::from_millis(round % 7)));
        check::works("REVOKE", buffer::revoke(&device, &buffer))?;
        for client in &clients {
            seen.push(client.end_loads()?);
        }
        for (client, &address) in clients.iter().zip(&addresses) {
            check::bus_error("when all is over", client.load(address)?)?;
            client.unmap(address, PAGE)?;
        }
    }
    was_a_race(&seen)
}

/// A fault that is half way when REVOKE starts must not leave an entry behind that REVOKE missed.
fn revoke_wins_over_faults_under_way() -> Result<()> {
    let clients = [Peer::fork()?, Peer::fork()?];
    let device = open_edu()?;
    for round in 0..400 {
        let buffer = export_edu(&device)?;
        let mut addresses = Vec::new();
        for client in &clients {
            addresses.push(map_in(client, &buffer)?);
        }
        for (client, &address) in clients.iter().zip(&addresses) {
            client.begin_load(address)?;
        }
        // No spin_loop(): QEMU lets the other CPU run for a while at each of its instructions.
        let start = Instant::now();
        while start.elapsed() < Duration::from_micros(round % 50 * 20) {}
        check::works("REVOKE", buffer::revoke(&device, &buffer))?;
        for (client, &address) in clients.iter().zip(&addresses) {
            let first = client.finish_load()?;
            ensure!(is_id_or_bus_error(first), "the load in the race: {first:x?}");
            check::bus_error(&format!("round {round}, afterwards"), client.load(address)?)?;
            client.unmap(address, PAGE)?;
        }
    }
    Ok(())
}

fn opening_and_closing_races_with_loads() -> Result<()> {
    let client = Peer::fork()?;
    let mut seen = Vec::new();
    for round in 0..20 {
        let device = Device::open(&edu()?, Via::in_turn(round as usize))?;
        let address = map_in(&client, &export_edu(&device)?)?;
        client.begin_loads(address, ID)?;
        sleep(scaled(Duration::from_millis(round % 5)));
        drop(device);
        seen.push(client.end_loads()?);
        check::bus_error("after the close", client.load(address)?)?;
    }
    was_a_race(&seen)
}

fn exports_and_revokes_race_with_memory_and_resets() -> Result<()> {
    let device = open_edu()?;
    race(&device, 3, true, |device, round| {
        let count = 1 + u64::from(round % 5);
        let ranges: Vec<Range> = (0..count).map(|at| Range(at * PAGE, PAGE)).collect();
        let buffer = check::works("export", Export::new(0, &ranges).make(device))?;
        let mapping = check::works("mmap", buffer.map(0, count * PAGE))?;
        id_or_bus_error(&mapping)?;
        if round % 2 == 0 {
            check::works("REVOKE", buffer::revoke(device, &buffer))?;
            check::bus_error("revoked", mapping.load(ID_AT))?;
        }
        Ok(())
    })?;
    check::value("at the end", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)
}

fn bar_mappings_race_with_memory_and_resets() -> Result<()> {
    let device = open_edu()?;
    race(&device, 3, true, |device, round| {
        let bar = check::works("mmap", device.map_bar(0))?;
        id_or_bus_error(&bar)?;
        bar.unmap_part(PAGE * u64::from(1 + round % 3), PAGE)?;
        id_or_bus_error(&bar)
    })?;
    check::value("at the end", device.map_bar(0)?.load(ID_AT), ID)
}

fn mmap_races_with_revoke() -> Result<()> {
    let clients = [Peer::fork()?, Peer::fork()?];
    let device = open_edu()?;
    for _ in 0..60 {
        let buffer = export_edu(&device)?;
        let fds = [clients[0].take(&buffer)?, clients[1].take(&buffer)?];
        for (client, &fd) in clients.iter().zip(&fds) {
            client.begin_map(fd, PAGE, mm::RW, 0)?;
        }
        check::works("REVOKE", buffer::revoke(&device, &buffer))?;
        for (client, &fd) in clients.iter().zip(&fds) {
            match client.finish_map()? {
                Ok(address) => {
                    check::bus_error("a mapping that was in time", client.load(address)?)?;
                    client.unmap(address, PAGE)?;
                }
                Err(errno) => check::errno::<()>("mmap", Err(errno), Errno::ENODEV)?,
            }
            client.close(fd)?;
        }
    }
    Ok(())
}

fn huge_faults_race_with_memory_and_revokes() -> Result<()> {
    const SIZE: u64 = 8 << 20;
    let device = open_bochs()?;
    race(&device, 2, false, |device, round| {
        let buffer = Buffer::export(device, 0, 0, SIZE)?;
        let mapping = Mapping::aligned(&buffer, SIZE, 0)?;
        for at in (0..SIZE).step_by(3 << 20) {
            let _ = mapping.store(at, round);
        }
        check::works("REVOKE", buffer::revoke(device, &buffer))?;
        for at in (0..SIZE).step_by(3 << 20) {
            check::bus_error("revoked", mapping.load(at))?;
        }
        Ok(())
    })
}
