// SPDX-License-Identifier: GPL-2.0
//! What the cases about importers start with.

use std::env;
use std::process::Command;

use guest::arch::host_bridge_is_trusted;
use guest::fence::Fence;
use guest::waiting::is_in_driver;
use guest::windows::{self, Window};

use crate::prelude::*;

/// Long enough to see that something waits.
pub const WHILE: Duration = Duration::from_millis(300);
/// How long a [`SLOW`] importer takes to unmap.
pub const DELAY: Duration = Duration::from_millis(700);
/// An importer that unmaps after [`DELAY`].
pub const SLOW: Attach = unmaps_after(DELAY.as_millis() as u32);
/// What does not wait is over by then.
pub const SOON: Duration = Duration::from_secs(5);

/// An exporting device with a buffer, and a device that may import it.
pub struct Rig {
    /// Open, bound to the driver under test.
    pub device: Device,
    /// Its first page.
    pub buffer: Buffer,
    /// Another device; it has no driver.
    pub importing: Pci,
    /// The address of the exporting one.
    pub pci: Pci,
}

impl Rig {
    /// With the first edu as the exporter.
    pub fn new() -> Result<Rig> {
        Rig::with(edu()?)
    }

    /// With the device at `pci` as the exporter.
    pub fn with(pci: Pci) -> Result<Rig> {
        let importing = importing()?;
        let device = Device::open(&pci, Via::Group)?;
        let buffer = export_edu(&device)?;
        Ok(Rig { device, buffer, importing, pci })
    }

    /// An importer that is attached to the buffer.
    pub fn attached(&self, how: Attach) -> Result<Importer> {
        self.attached_to(&self.buffer, how)
    }

    /// An importer that is attached to another buffer.
    pub fn attached_to(&self, buffer: &Buffer, how: Attach) -> Result<Importer> {
        attach(buffer, &self.importing, how)
    }

    /// An importer that has the buffer mapped.
    pub fn mapped(&self, how: Attach) -> Result<Importer> {
        peers_reach_each_other()?;
        let importer = self.attached(how)?;
        check::works("map", importer.map())?;
        Ok(importer)
    }

    /// A new rig, and an importer that is attached to the buffer.
    pub fn new_attached(how: Attach) -> Result<(Rig, Importer)> {
        let rig = Rig::new()?;
        let importer = rig.attached(how)?;
        Ok((rig, importer))
    }

    /// A new rig, and an importer that has the buffer mapped.
    pub fn new_mapped(how: Attach) -> Result<(Rig, Importer)> {
        let rig = Rig::new()?;
        let importer = rig.mapped(how)?;
        Ok((rig, importer))
    }

    /// A mapping of the buffer, after a load that worked.
    pub fn touched(&self) -> Result<Mapping> {
        let mapping = self.buffer.map(0, PAGE)?;
        check::value("before", mapping.load(ID_AT), ID)?;
        Ok(mapping)
    }

    /// REVOKE of a buffer that is revoked.
    pub fn revoke_again(&self) -> Result<()> {
        let again = buffer::revoke(&self.device, &self.buffer);
        check::errno("REVOKE once more", again, Errno::EBADFD)
    }

    /// Checks that attaching and mapping fail, also for an importer that was attached before.
    pub fn refuses(&self, when: &str, attached: &Importer) -> Result<()> {
        check::errno(&format!("map {when}"), attached.map(), Errno::ENODEV)?;
        let late = Importer::new()?.attach(&self.buffer, &self.importing, UNMAPS_AT_ONCE);
        check::errno(&format!("attach {when}"), late, Errno::ENODEV)
    }

    /// Checks the status that INFO gives.
    pub fn has_status(&self, when: &str, want: u32) -> Result<()> {
        has_status(&self.device, &self.buffer, when, want)
    }

    /// REVOKE, that has to work.
    pub fn revoke(&self) -> Result<()> {
        check::works("REVOKE", buffer::revoke(&self.device, &self.buffer))?;
        self.has_status("after REVOKE", uapi::VFIO_DMABUF_STATUS_REVOKED)
    }
}

/// An importer that attaches the device at `pci` to `buffer`.
pub fn attach(buffer: &Buffer, pci: &Pci, how: Attach) -> Result<Importer> {
    let importer = Importer::new()?;
    check::works("attach", importer.attach(buffer, pci, how))?;
    Ok(importer)
}

/// Adds a fence that is not signalled to a buffer.
pub fn add_fence(buffer: &Buffer) -> Result<Fence> {
    let fence = Fence::new()?.ok_or_else(|| Skip("the kernel has no CONFIG_SW_SYNC".into()))?;
    check::works("DMA_BUF_IOCTL_IMPORT_SYNC_FILE", fence.add_to(buffer))?;
    Ok(fence)
}

/// Starts a call in a child and checks that it comes to wait.
pub fn waiting(call: impl FnOnce() -> Result<(), Errno>) -> Result<Call> {
    let mut call = Call::start(call)?;
    call.hangs_for(WHILE)?;
    Ok(call)
}

/// A call that comes to the gate while a fault is inside, where it spins. Made before that: what
/// sets a probe may wait for CPUs that spin.
pub struct HeldUp {
    gate: Pause,
    go: OwnedFd,
    call: Call,
}

impl HeldUp {
    /// A child that will make the call, and stops in `windows` then.
    pub fn new(windows: &[&Pause], call: impl FnOnce() -> Result<(), Errno>) -> Result<HeldUp> {
        let gate = Pause::at(windows::GATE_IS_TAKEN)?;
        let (told, go) = nix::unistd::pipe()?;
        let call = Call::start(|| {
            [&[&gate], windows].concat().iter().try_for_each(|pause| pause.arm_here())?;
            nix::unistd::read(&told, &mut [0])?;
            call()
        })?;
        Ok(HeldUp { gate, go, call })
    }

    /// Lets the child make the call, and waits until it has come to the gate.
    pub fn comes(&self) -> Result<()> {
        nix::unistd::write(&self.go, &[0])?;
        self.gate.wait()?;
        self.gate.release()
    }

    /// The call, which nobody holds up any more.
    pub fn call(self) -> Call {
        self.call
    }
}

/// A child that has the last fds of a device, once this process has closed its own.
pub struct Heir {
    call: Call,
    end: OwnedFd,
}

impl Heir {
    /// One that waits to be told.
    pub fn new() -> Result<Heir> {
        let (told, end) = nix::unistd::pipe()?;
        let call = Call::start(|| nix::unistd::read(&told, &mut [0]).map(drop))?;
        Ok(Heir { call, end })
    }

    /// Lets it end, which closes the fds.
    pub fn ends(self) -> Result<Call> {
        nix::unistd::write(&self.end, &[0])?;
        Ok(self.call)
    }

    /// As [`Heir::ends`]; returns when the close waits in the driver.
    pub fn closes(self) -> Result<Call> {
        let mut call = self.ends()?;
        wait_for("the close to wait", || {
            ensure!(!call.is_over()?, "it did not wait");
            Ok(is_in_driver(call.pid()))
        })?;
        call.hangs_for(WHILE)?;
        Ok(call)
    }
}

/// The device that imports: the second edu, without a driver.
pub fn importing() -> Result<Pci> {
    let pci = nth(pci::EDU, 1)?;
    pci.release()?;
    Ok(pci)
}

/// Two edu functions in one slot.
pub fn siblings() -> Result<[Pci; 2]> {
    let edus = Pci::find(pci::EDU)?;
    let slot = |pci: &Pci| pci.address().split('.').next().unwrap_or_default().to_string();
    for pair in edus.windows(2) {
        if slot(&pair[0]) == slot(&pair[1]) {
            return Ok([pair[0].clone(), pair[1].clone()]);
        }
    }
    Err(Skip("no two edu functions in one slot".into()).into())
}

/// Two edu functions in one slot: the first is bound to the driver, the second one has none.
pub fn pair() -> Result<[Pci; 2]> {
    let [ours, sibling] = siblings()?;
    sibling.release()?;
    ours.bind(&driver())?;
    Ok([ours, sibling])
}

/// The groups that a hot reset of the device names: none if it was opened through its cdev.
pub fn groups(device: &Device, via: Via) -> Vec<RawFd> {
    match via {
        Via::Group => vec![device.holders[0].as_raw_fd()],
        Via::Cdev => Vec::new(),
    }
}

/// Skips the case on a machine where devices may not reach each other through the host bridge:
/// those behind different root ports have no other way.
pub fn peers_reach_each_other() -> Result<()> {
    if host_bridge_is_trusted()? {
        return Ok(());
    }
    Err(Skip("the kernel does not trust this host bridge with peer-to-peer DMA".into()).into())
}

/// Checks that `done` works, and soon.
pub fn soon(what: &str, done: impl FnOnce() -> Result<(), Errno>) -> Result<()> {
    let start = Instant::now();
    check::works(what, done())?;
    let took = start.elapsed();
    ensure!(took < scaled(SOON), "{what} took {took:?}");
    Ok(())
}

/// Stops a call of another thread in `window`, lets `others` act, and ends the call. Returns the
/// results of both.
pub fn overtaken<T: Send, U>(
    window: Window,
    call: impl FnOnce() -> T + Send,
    others: impl FnOnce(&Pause) -> Result<U>,
) -> Result<(T, U)> {
    let pause = Pause::at(window)?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pause.arm_here()?;
            Ok::<T, Errno>(call())
        });
        pause.wait()?;
        let other = others(&pause)?;
        pause.release()?;
        let called = thread.join().map_err(|_| anyhow!("the call that was stopped: panic"))?;
        Ok((called?, other))
    })
}

/// Starts a REVOKE of a buffer, which waits.
pub fn waiting_revoke(rig: &Rig) -> Result<Call> {
    waiting(|| buffer::revoke(&rig.device, &rig.buffer))
}

/// Checks that an importer is mapped still, invalidated `times` times.
pub fn still_mapped(importer: &Importer, times: u32) -> Result<()> {
    let stats = importer.stats()?;
    check::equal("importer: mapped, times invalidated", (stats.mapped, stats.hits), (1, times))
}

/// Checks that the importer was invalidated `times` times in all while it was mapped, and unmapped.
pub fn invalidated(what: &str, importer: &Importer, times: u32) -> Result<()> {
    let stats = importer.stats()?;
    let got = (stats.attached, stats.mapped, stats.hits);
    check::equal(&format!("{what}: attached, mapped, times invalidated"), got, (1, 0, times))
}

/// Runs a program that makes random calls, with the seed of this run of the suite (`$SEED`).
pub fn agrees(program: &mut Command) -> Result<()> {
    let seed = env::var("SEED").unwrap_or_else(|_| "1".into());
    let name = program.get_program().to_string_lossy().into_owned();
    let status = program.args(["--seed", &seed]).status().with_context(|| name.clone())?;
    ensure!(status.success(), "{name}: {status}; SEED={seed} repeats it");
    Ok(())
}
