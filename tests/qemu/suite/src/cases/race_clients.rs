// SPDX-License-Identifier: GPL-2.0
//! Revoke and reset with clients that are stopped, traced or killed: a waiter must not block other
//! tasks.

use guest::kmsg;
use guest::waiting::{is_in_driver, Waiter};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{waitpid, WaitStatus};
use nix::unistd::Pid;

use crate::prelude::*;

cases! {
    Setup::Bound(&[EDU]) =>
        "race: stopped, traced or killed processes and slow user memory block nobody else": [
            stopped_client_holds_up_neither_reset_nor_revoke,
            traced_client_holds_up_neither_reset_nor_revoke,
            client_killed_in_a_fault_leaves_a_revoke_to_finish,
            client_that_waits_for_a_sysfs_reset_can_be_killed,
            reset_goes_on_when_its_caller_is_killed, revoke_is_in_force_when_its_caller_is_killed,
            bar_mmap_during_a_reset_stalls_no_other_mmap, fault_during_a_reset_stalls_no_other_mmap,
            call_that_waits_for_user_memory_stalls_nothing,
        ],
        "an access waits for a reset: killable; interruptible from user mode; blocks nobody else": [
            kernels_fault_during_a_reset_stalls_no_other_mmap,
        ];
}

/// Longer than most mmap() take that do not wait.
const MEDIAN: Duration = Duration::from_millis(20);
/// Longer than any mmap() takes on a busy machine, and shorter than a pause.
const WORST: Duration = Duration::from_secs(2);

/// A client with two buffers mapped, both touched.
struct Client {
    peer: Peer,
    buffers: [Buffer; 2],
    addresses: [usize; 2],
}

impl Client {
    fn new() -> Result<(Client, Device)> {
        let (peer, device, first, address) = edu_with_client()?;
        let second = export_edu(&device)?;
        let addresses = [address, map_in(&peer, &second)?];
        for address in addresses {
            check::value("before", peer.load(address)?, ID)?;
        }
        Ok((Client { peer, buffers: [first, second], addresses }, device))
    }

    fn entries(&self) -> Result<[bool; 2]> {
        let ptes = Ptes::new()?;
        let [first, second] = self.addresses;
        let pid = self.peer.pid();
        Ok([ptes.of(pid, first)?.is_some(), ptes.of(pid, second)?.is_some()])
    }

    /// Resets the device in both ways and revokes the first buffer; the client does nothing.
    fn is_overrun(&self, device: &Device) -> Result<()> {
        check::equal("entries before", self.entries()?, [true, true])?;
        check::works("REVOKE", buffer::revoke(device, &self.buffers[0]))?;
        check::equal("entries after REVOKE", self.entries()?, [false, true])?;
        check::works("VFIO_DEVICE_RESET", device.reset())?;
        check::equal("entries after a reset", self.entries()?, [false, false])?;
        check::works("reset through sysfs", edu()?.reset())
    }

    /// What it sees when it goes on.
    fn goes_on(&self) -> Result<()> {
        check::bus_error("the buffer revoked", self.peer.load(self.addresses[0])?)?;
        check::value("the other one", self.peer.load(self.addresses[1])?, ID)
    }
}

fn stopped_client_holds_up_neither_reset_nor_revoke() -> Result<()> {
    let (client, device) = Client::new()?;
    client.peer.stop()?;
    client.is_overrun(&device)?;
    client.peer.resume()?;
    client.goes_on()
}

fn traced_client_holds_up_neither_reset_nor_revoke() -> Result<()> {
    let (client, device) = Client::new()?;
    let pid = Pid::from_raw(client.peer.pid());
    ptrace::attach(pid)?;
    let status = waitpid(pid, None)?;
    ensure!(matches!(status, WaitStatus::Stopped(_, Signal::SIGSTOP)), "traced: {status:?}");
    let peek = || ptrace::read(pid, client.addresses[0] as ptrace::AddressType);
    check::errno("a look by the tracer", peek(), Errno::EIO)?;
    client.is_overrun(&device)?;
    check::errno("another look", peek(), Errno::EIO)?;
    ptrace::detach(pid, None)?;
    client.goes_on()
}

fn client_killed_in_a_fault_leaves_a_revoke_to_finish() -> Result<()> {
    let (device, buffer, mapping) = mapped_edu()?;
    let load = || mapping.load(ID_AT).map(drop).or(Ok(()));
    let revoke = HeldUp::new(&[], || buffer::revoke(&device, &buffer))?;
    let (pause, mut load) = Pause::call(windows::FAULT_CHECKED, load)?;
    revoke.comes()?;
    nix::sys::signal::kill(Pid::from_raw(load.pid()), Signal::SIGKILL)?;
    pause.end()?;
    check::works("REVOKE", revoke.call().finish()?)?;
    load.was_killed()?;
    check::errno("once more", buffer::revoke(&device, &buffer), Errno::EBADFD)?;
    check::value("a new buffer", export_edu(&device)?.map(0, PAGE)?.load(ID_AT), ID)
}

fn client_that_waits_for_a_sysfs_reset_can_be_killed() -> Result<()> {
    let (client, _device) = Client::new()?;
    let pci = edu()?;
    let (pause, reset) = Pause::call(windows::RESET, || pci.reset())?;
    let Client { peer, buffers, addresses } = client;
    peer.begin_load(addresses[0])?;
    wait_for("the load waits for the reset", || Ok(is_in_driver(peer.pid())))?;
    // Returns when nothing is left of it.
    peer.kill()?;
    pause.end()?;
    check::works("reset", reset.finish()?)?;
    check::value("afterwards", buffers[0].map(0, PAGE)?.load(ID_AT), ID)
}

fn reset_goes_on_when_its_caller_is_killed() -> Result<()> {
    let (client, device) = Client::new()?;
    let pci = edu()?;
    for (_, reset) in resets(&device, &pci) {
        let (pause, mut reset) = Pause::call(windows::RESET, reset)?;
        client.peer.begin_load(client.addresses[1])?;
        nix::sys::signal::kill(Pid::from_raw(reset.pid()), Signal::SIGKILL)?;
        reset.hangs_for(WHILE)?;
        pause.end()?;
        reset.was_killed()?;
        check::value("the load that waited", client.peer.finish_load()?, ID)?;
    }
    Ok(())
}

fn revoke_is_in_force_when_its_caller_is_killed() -> Result<()> {
    let (device, buffer, mapping) = touched_edu()?;
    let revoke = || buffer::revoke(&device, &buffer);
    let (pause, mut revoke) = Pause::call(windows::ZAP, revoke)?;
    nix::sys::signal::kill(Pid::from_raw(revoke.pid()), Signal::SIGKILL)?;
    pause.end()?;
    revoke.was_killed()?;
    check::bus_error("afterwards", mapping.load(ID_AT))?;
    check::errno("once more", buffer::revoke(&device, &buffer), Errno::EBADFD)
}

/// How long an mmap() of anonymous memory with its munmap() takes, many times; the longest last.
fn mmaps() -> Result<Vec<Duration>, Errno> {
    let mut took = Vec::new();
    for _ in 0..41 {
        let start = Instant::now();
        drop(Mapping::anonymous(PAGE)?);
        took.push(start.elapsed());
    }
    took.sort_unstable();
    Ok(took)
}

/// Stops a reset half way, lets a thread of this process do something with the device, and
/// measures what that does to the process's other mappings.
fn stalls_no_mmap(blocks: bool, act: impl Fn(&Device) -> bool + Sync) -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    for (name, reset) in resets(&device, &pci) {
        let (pause, reset) = Pause::call(windows::RESET, reset)?;
        std::thread::scope(|scope| {
            let thread = Waiter::start(scope, || act(&device))?;
            if blocks {
                thread.waits_in_driver()?;
            } else {
                wait_for("the thread to end", || Ok(thread.is_finished()))?;
            }
            let took = mmaps()?;
            pause.holds()?;
            let [median, worst] = [took[took.len() / 2], took[took.len() - 1]];
            let fine = median < scaled(MEDIAN) && worst < scaled(WORST);
            ensure!(fine, "others took {median:?} and {worst:?} during a {name} reset");
            kmsg::mark(&format!(
                "suite: during a {name} reset an mmap took {median:?}, the slowest {worst:?}"
            ));
            check::equal("the thread waits for the reset", !thread.is_finished(), blocks)?;
            pause.end()?;
            check::equal("the thread's success", thread.finish()?, true)
        })?;
        check::works("reset", reset.finish()?)?;
    }
    Ok(())
}

fn bar_mmap_during_a_reset_stalls_no_other_mmap() -> Result<()> {
    // The first of a device, which makes the buffer, and a later one.
    stalls_no_mmap(false, |device| device.map_bar(0).is_ok() && device.map_bar(0).is_ok())
}

fn fault_during_a_reset_stalls_no_other_mmap() -> Result<()> {
    stalls_no_mmap(true, |device| {
        let bar = device.map_bar(0).map(|bar| bar.load(ID_AT));
        bar == Ok(Ok(ID))
    })
}

fn kernels_fault_during_a_reset_stalls_no_other_mmap() -> Result<()> {
    stalls_no_mmap(true, |device| {
        let bar = device.map_bar(0).map(|bar| mm::load_by_kernel(bar.address()));
        bar == Ok(Ok(()))
    })
}

/// As when user space serves its own page faults (userfaultfd) and takes its time.
fn call_that_waits_for_user_memory_stalls_nothing() -> Result<()> {
    let device = open_edu()?;
    let pci = edu()?;
    let [revoked, other] = [export_edu(&device)?, export_edu(&device)?];
    let mapping = other.map(0, PAGE)?;
    let export = || export_edu(&device).map(drop).map_err(|_| Errno::EIO);
    let revoke = || buffer::revoke(&device, &revoked);
    type Feature<'a> = &'a dyn Fn() -> Result<(), Errno>;
    let features: [(&str, Feature<'_>); 2] = [("export", &export), ("REVOKE", &revoke)];
    for (name, feature) in features {
        let (enters, feature) = Pause::call(windows::FEATURE, feature)?;
        let pause = Pause::of(feature.pid(), windows::USER_COPY)?;
        enters.end()?;
        pause.wait()?;
        check::works("VFIO_DEVICE_RESET", meanwhile(&pause, "reset", || device.reset())?.0)?;
        check::works("sysfs reset", meanwhile(&pause, "sysfs reset", || pci.reset())?.0)?;
        check::works("BAR mmap", meanwhile(&pause, "mmap", || device.map_bar(0))?.0)?;
        check::value("load", meanwhile(&pause, "load", || mapping.load(ID_AT))?.0, ID)?;
        let another = || buffer::revoke(&device, &export_edu(&device).map_err(|_| Errno::EIO)?);
        check::works("another REVOKE", meanwhile(&pause, "another REVOKE", another)?.0)?;
        pause.end()?;
        check::works(name, feature.finish()?)?;
    }
    check::errno("REVOKE, once more", buffer::revoke(&device, &revoked), Errno::EBADFD)
}
