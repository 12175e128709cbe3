// SPDX-License-Identifier: GPL-2.0
//! Events of which the owner is told by eventfds, with the in-tree driver and with this one.

use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

use anyhow::{anyhow, ensure, Context, Result};
use guest::device::{Device, Via};
use guest::host::{self, LinkError};
use guest::pause::Pause;
use guest::pci::IGB;
use guest::timeout::scaled;
use guest::{uapi, windows};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::EventFd;

use crate::case::{cases, Setup, Skip};
use crate::check;
use crate::fixture::in_tree;
use crate::fixture::{driver, nth};

cases! {
    Setup::Bound(&[IGB]) =>
        "REQ and ERR: unbind and link errors reach the owner's eventfds, as in-tree": [
            unbind_asks_the_owner_for_the_device, link_errors_reach_the_owner,
        ];
}

/// Long enough for an event to come.
const LIMIT: Duration = Duration::from_secs(20);

/// An eventfd that the device signals for interrupt `index`.
fn eventfd(device: &Device, index: u32) -> Result<EventFd> {
    let event = EventFd::new()?;
    let flags = uapi::VFIO_IRQ_SET_DATA_EVENTFD | uapi::VFIO_IRQ_SET_ACTION_TRIGGER;
    let mut arg = [24, flags, index, 0, 1, event.as_raw_fd() as u32];
    check::works("SET_IRQS", device.ioctl_with(uapi::VFIO_DEVICE_SET_IRQS, &mut arg))?;
    Ok(event)
}

/// Whether it is signalled within that time.
fn is_signalled(event: &EventFd, time: Duration) -> Result<bool> {
    let mut fds = [PollFd::new(event.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut fds, PollTimeout::try_from(time)?)? == 1)
}

/// Calls `check` with a device of the in-tree driver, then with one of ours, and their eventfd.
fn with_each(index: u32, check: impl Fn(Device, EventFd) -> Result<()>) -> Result<()> {
    in_tree()?.load()?;
    let pci = nth(IGB, 0)?;
    for name in ["vfio-pci".to_string(), driver()] {
        for &via in Via::all() {
            pci.bind(&name)?;
            let device = Device::open(&pci, via)?;
            let event = eventfd(&device, index)?;
            let what = || format!("{name}, {via:?}");
            ensure!(!is_signalled(&event, Duration::ZERO)?, "signalled at first, {}", what());
            check(device, event).with_context(what)?;
        }
    }
    Ok(())
}

fn unbind_asks_the_owner_for_the_device() -> Result<()> {
    let pci = nth(IGB, 0)?;
    with_each(uapi::VFIO_PCI_REQ_IRQ_INDEX, |device, event| {
        thread::scope(|scope| {
            let unbind = scope.spawn(|| pci.unbind());
            let asked = is_signalled(&event, scaled(LIMIT));
            let over = unbind.is_finished();
            // The scope ends when unbind does, which waits for this.
            drop(device);
            ensure!(asked?, "the owner was not asked");
            ensure!(!over, "unbind did not wait for the owner");
            unbind.join().map_err(|_| anyhow!("unbind: panic"))?
        })?;
        check::equal("driver", pci.driver(), None)
    })
}

fn link_errors_reach_the_owner() -> Result<()> {
    let pci = nth(IGB, 0)?;
    for error in [LinkError::NonFatal, LinkError::Fatal] {
        with_each(uapi::VFIO_PCI_ERR_IRQ_INDEX, |_device, event| {
            let end = Pause::of_any(windows::RECOVERY_ENDS)?;
            if !host::port_has_error(&pci, error)? {
                return Err(Skip("the host injects no errors".into()).into());
            }
            end.wait()?;
            end.end()?;
            let told = is_signalled(&event, Duration::ZERO)?;
            ensure!(told, "no event of an error, {error:?}");
            check::equal("events", event.read()?, 1)
        })?;
    }
    Ok(())
}
