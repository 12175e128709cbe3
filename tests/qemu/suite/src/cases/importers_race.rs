// SPDX-License-Identifier: GPL-2.0
//! Importers that map all the time, while memory goes and comes, buffers are revoked, and the
//! device is reset and closed.

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU, EDU]) =>
        "temporary revocation invalidates importers; they map again afterwards": [
            nothing_is_mapped_when_memory_is_off, importers_race_with_resets,
        ],
        "REVOKE invalidates importers, and waits for them and for fences": [
            importers_race_with_revokes,
        ],
        "last close, unbind: wait for importers": [importers_race_with_closing];
}

/// When the importers unmap.
const POLICIES: [Attach; 3] = [UNMAPS_AT_ONCE, unmaps_after(1), unmaps_after(20)];

/// How long each of the races goes on.
const RACE: Duration = Duration::from_secs(4);

/// Maps and unmaps until it is killed.
fn map_all_the_time(importer: &Importer) -> Result<()> {
    let mut mapped = 0;
    loop {
        match importer.map() {
            Ok(_) => mapped += 1,
            // Refused, mapped by an earlier round, or not attached at present.
            Err(Errno::ENODEV | Errno::EBUSY | Errno::ENOTCONN) => {}
            Err(errno) => Err(errno).context("map")?,
        }
        if mapped % 3 == 0 {
            match importer.unmap() {
                Ok(()) | Err(Errno::EALREADY | Errno::ENOTCONN) => {}
                Err(errno) => Err(errno).context("unmap")?,
            }
        }
    }
}

/// Importers of one buffer, each driven by a process of its own.
struct Crowd {
    importers: Vec<Importer>,
    workers: Vec<Worker>,
}

impl Crowd {
    fn new(buffer: &Buffer, importing: &Pci) -> Result<Crowd> {
        let (mut importers, mut workers) = (Vec::new(), Vec::new());
        for how in POLICIES {
            let importer = attach(buffer, importing, how)?;
            workers.push(Worker::start(|| map_all_the_time(&importer))?);
            importers.push(importer);
        }
        Ok(Crowd { importers, workers })
    }

    /// Checks that none has anything mapped.
    fn idle(&self, when: &str) -> Result<()> {
        for (number, importer) in self.importers.iter().enumerate() {
            check::equal(&format!("{when}: importer {number}"), importer.stats()?.mapped, 0)?;
        }
        Ok(())
    }

    /// How many mappings were taken away.
    fn hits(&self) -> Result<u32> {
        self.importers.iter().map(|importer| Ok(importer.stats()?.hits)).sum()
    }

    /// Ends it, and checks that no process met with an error.
    fn stop(self) -> Result<()> {
        self.workers.into_iter().try_for_each(Worker::kill)
    }
}

/// Checks that there was something to take away.
fn was_a_race(hits: u32) -> Result<()> {
    ensure!(hits > 0, "no mapping was ever taken away");
    Ok(())
}

/// Calls `disturb` over and over while a crowd maps the buffer of a rig.
fn race(disturb: impl Fn(&Rig, &Crowd) -> Result<()>) -> Result<()> {
    rig::peers_reach_each_other()?;
    let rig = Rig::new()?;
    let crowd = Crowd::new(&rig.buffer, &rig.importing)?;
    let deadline = Instant::now() + RACE;
    while Instant::now() < deadline {
        disturb(&rig, &crowd)?;
        sleep(Duration::from_millis(5));
    }
    was_a_race(crowd.hits()?)?;
    rig.revoke()?;
    crowd.idle("after REVOKE")?;
    crowd.stop()
}

fn nothing_is_mapped_when_memory_is_off() -> Result<()> {
    race(|rig, crowd| {
        rig.device.set_memory(false)?;
        crowd.idle("memory off")?;
        sleep(Duration::from_millis(5));
        crowd.idle("memory off for a while")?;
        rig.device.set_memory(true)
    })
}

fn importers_race_with_resets() -> Result<()> {
    race(|rig, _| {
        check::works("VFIO_DEVICE_RESET", rig.device.reset())?;
        sleep(Duration::from_millis(5));
        check::works("reset through sysfs", rig.pci.reset())
    })
}

fn importers_race_with_revokes() -> Result<()> {
    rig::peers_reach_each_other()?;
    let rig = Rig::new()?;
    let mut hits = 0;
    let deadline = Instant::now() + RACE;
    while Instant::now() < deadline {
        let buffer = Buffer::export(&rig.device, 0, 0, PAGE)?;
        let crowd = Crowd::new(&buffer, &rig.importing)?;
        sleep(Duration::from_millis(30));
        check::works("REVOKE", buffer::revoke(&rig.device, &buffer))?;
        crowd.idle("after REVOKE")?;
        sleep(Duration::from_millis(5));
        crowd.idle("some time after REVOKE")?;
        hits += crowd.hits()?;
        crowd.stop()?;
    }
    was_a_race(hits)
}

fn importers_race_with_closing() -> Result<()> {
    rig::peers_reach_each_other()?;
    let importing = rig::importing()?;
    let importers = POLICIES.iter().map(|_| Importer::new()).collect::<Result<Vec<_>>>()?;
    // Forked before the device is opened, so that they do not hold it open.
    let workers = importers.iter().map(|importer| Worker::start(|| map_all_the_time(importer)));
    let workers = workers.collect::<Result<Vec<_>>>()?;
    let mut hits = 0;
    let deadline = Instant::now() + RACE;
    while Instant::now() < deadline {
        let device = Device::open(&edu()?, Via::Group)?;
        let buffer = Buffer::export(&device, 0, 0, PAGE)?;
        for (importer, how) in importers.iter().zip(POLICIES) {
            check::works("attach", importer.attach(&buffer, &importing, how))?;
        }
        sleep(Duration::from_millis(30));
        drop(device);
        for (number, importer) in importers.iter().enumerate() {
            let stats = importer.stats()?;
            check::equal(&format!("importer {number}, mapped"), stats.mapped, 0)?;
            hits += stats.hits;
            check::works("detach", importer.detach())?;
        }
    }
    workers.into_iter().try_for_each(Worker::kill)?;
    was_a_race(hits)
}
