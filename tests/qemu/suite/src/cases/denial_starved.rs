// SPDX-License-Identifier: GPL-2.0
//! Clients that fault and that the scheduler starves. One that was preempted with a lock held would
//! make everybody wait until it runs again.

use guest::{kmsg, mm, scheduling};

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "clients that fault and get no CPU hold nobody up": [
            starved_clients_hold_up_neither_calls_nor_faults,
        ];
}

/// How many clients there are, and how many processes that take the CPU from them.
const CLIENTS: usize = 3;
const HOGS: usize = 10;
/// How often the owner makes each call.
const ROUNDS: usize = 20;
/// How long all these calls may take. It is less than one of them took when a fault could be
/// preempted inside the gate.
const LIMIT: Duration = Duration::from_secs(20);

/// Takes its entry away and faults again, forever, on `cpu`, with what others leave of it.
fn client(mapping: &Mapping, cpu: usize) -> Result<()> {
    scheduling::stay_on(0, cpu)?;
    scheduling::starve()?;
    loop {
        mm::advise(mapping.address(), PAGE, libc::MADV_DONTNEED)?;
        // SIGBUS while memory is disabled.
        let _ = mapping.load(ID_AT);
    }
}

fn hog(cpu: usize) -> Result<()> {
    scheduling::stay_on(0, cpu)?;
    loop {
        std::hint::spin_loop();
    }
}

fn starved_clients_hold_up_neither_calls_nor_faults() -> Result<()> {
    let cpu = scheduling::last_cpu()?;
    let device = open_edu()?;
    let (buffer, mapping) = map_edu(&device)?;
    let starve = |_| Worker::start(|| client(&buffer.map(0, PAGE)?, cpu));
    let _clients = (0..CLIENTS).map(starve).collect::<Result<Vec<_>>>()?;
    let _hogs = (0..HOGS).map(|_| Worker::start(|| hog(cpu))).collect::<Result<Vec<_>>>()?;
    scheduling::stay_off(cpu)?;

    let start = Instant::now();
    for round in 0..ROUNDS {
        let began = Instant::now();
        device.renew_memory()?;
        check::value("load of another", mapping.load(ID_AT), ID)?;
        let other = export_edu(&device)?;
        check::works("REVOKE of another", buffer::revoke(&device, &other))?;
        check::works("reset", device.reset())?;
        let (took, all) = (began.elapsed(), start.elapsed());
        ensure!(all < scaled(LIMIT), "round {round} took {took:?}, all of them {all:?}");
    }
    kmsg::mark(&format!("beside {CLIENTS} starved clients: {:?}", start.elapsed() / ROUNDS as u32));
    Ok(())
}
