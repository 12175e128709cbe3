// SPDX-License-Identifier: GPL-2.0
//! Temporary revocation by power states and by every kind of reset.
//!
//! Each case holds mappings of every kind: of BARs through the device fd, of buffers in a client
//! process, touched and untouched. See [`Watch`].

use nix::sys::eventfd::{EfdFlags, EventFd};

use crate::prelude::*;

cases! {
    Setup::Bound(&[IGB]) =>
        "D3hot: SIGBUS; the same mappings work in D0": [
            d3hot_takes_mappings_and_d0_heals_them, memory_bit_in_d3hot_changes_nothing,
            end_of_low_power_heals_mappings_of_a_device_that_was_in_d3hot,
        ],
        "function-level reset: the same mappings work afterwards": [
            express_flr_heals_mappings =>
                resets(IGB, &[(0, IGB_STATUS_AT)], |device, _| device.express_flr()),
            reset_of_a_function_with_flr_heals_mappings,
        ],
        "hot reset, also by a sibling: the same mappings work afterwards": [
            // The kernel waits until the link is up again.
            hot_reset_of_an_express_function_heals_mappings =>
                resets(IGB, &[(0, IGB_STATUS_AT)], hot_reset),
        ];
    Setup::Bound(&[BOCHS]) =>
        "low-power entry: SIGBUS; the same mappings work afterwards": [
            low_power_takes_mappings_and_its_end_heals_them,
            low_power_with_wakeup_ends_by_an_event,
        ],
        "VFIO_DEVICE_RESET, sysfs reset: faults wait; the same mappings work afterwards": [
            resets_heal_mappings_of_every_bar, reset_while_memory_is_off_leaves_it_off,
        ];
    Setup::Bound(&[EDU]) =>
        "hot reset, also by a sibling: the same mappings work afterwards": [
            hot_reset_heals_mappings => resets(EDU, &[(0, ID_AT)], hot_reset),
            siblings_hot_reset_heals_mappings,
        ];
}

/// igb's device status register: the same before and after a reset, and never all ones.
const IGB_STATUS_AT: u64 = 0x8;

/// Mappings of one device, and what is to be read through them.
struct Watch {
    here: Vec<(Mapping, u64, u32)>,
    client: Peer,
    there: Vec<(usize, u32)>,
    buffers: Vec<Buffer>,
    untouched: Vec<(Mapping, u64, u32)>,
}

impl Watch {
    /// Maps the page with each of the given registers: (BAR, offset).
    fn new(device: &Device, registers: &[(u32, u64)]) -> Result<Watch> {
        let client = Peer::fork()?;
        let (mut here, mut there) = (Vec::new(), Vec::new());
        let (mut buffers, mut untouched) = (Vec::new(), Vec::new());
        for &(bar, at) in registers {
            let (page, within) = (at & !(PAGE - 1), at % PAGE);
            let through_bar = device.map_bar_part(bar, page, PAGE)?;
            let want = through_bar.load(within)?;
            anyhow::ensure!(want != u32::MAX, "BAR{bar} at {at:#x} reads as if it were off");
            let buffer = Buffer::export(device, bar, page, PAGE)?;
            let address = map_in(&client, &buffer)?;
            there.push((address + within as usize, want));
            here.push((buffer.map(0, PAGE)?, within, want));
            here.push((through_bar, within, want));
            untouched.push((buffer.map(0, PAGE)?, within, want));
            buffers.push(buffer);
        }
        let watch = Watch { here, client, there, buffers, untouched };
        watch.alive("before")?;
        Ok(watch)
    }

    fn alive(&self, when: &str) -> Result<()> {
        for (number, (mapping, at, want)) in self.here.iter().enumerate() {
            check::value(&format!("mapping {number}, {when}"), mapping.load(*at), *want)?;
        }
        for (number, (address, want)) in self.there.iter().enumerate() {
            let got = self.client.load(*address)?;
            check::value(&format!("client's mapping {number}, {when}"), got, *want)?;
        }
        Ok(())
    }

    fn dead(&self, when: &str) -> Result<()> {
        for (number, (mapping, at, _)) in self.here.iter().chain(&self.untouched).enumerate() {
            check::bus_error(&format!("mapping {number}, {when}"), mapping.load(*at))?;
        }
        for (number, (address, _)) in self.there.iter().enumerate() {
            let got = self.client.load(*address)?;
            check::bus_error(&format!("client's mapping {number}, {when}"), got)?;
        }
        Ok(())
    }

    /// At the end: mappings that were never touched before, and a revoke.
    fn finish(&self, device: &Device) -> Result<()> {
        self.alive("at the end")?;
        for (mapping, at, want) in &self.untouched {
            check::value("a mapping never touched before", mapping.load(*at), *want)?;
        }
        for buffer in &self.buffers {
            check::works("REVOKE", buffer::revoke(device, buffer))?;
        }
        for (address, _) in &self.there {
            check::bus_error("after REVOKE", self.client.load(*address)?)?;
        }
        Ok(())
    }
}

fn open(id: Id, via: Via) -> Result<Device> {
    Device::open(&nth(id, 0)?, via)
}

/// Takes the memory away and gives it back, a few times, for both ways of opening.
fn off_and_on(
    id: Id,
    registers: &[(u32, u64)],
    off: fn(&Device) -> Result<()>,
    on: fn(&Device) -> Result<()>,
) -> Result<()> {
    for &via in Via::all() {
        let device = open(id, via)?;
        let watch = Watch::new(&device, registers)?;
        for round in 0..3 {
            off(&device)?;
            watch.dead(&format!("off, {via:?}, round {round}"))?;
            on(&device)?;
            watch.alive(&format!("on, {via:?}, round {round}"))?;
        }
        watch.finish(&device)?;
    }
    Ok(())
}

fn hot_reset(device: &Device, via: Via) -> Result<()> {
    check::works("HOT_RESET", device.hot_reset(&rig::groups(device, via)))
}

/// Resets a few times, for both ways of opening.
fn resets(
    id: Id,
    registers: &[(u32, u64)],
    reset: impl Fn(&Device, Via) -> Result<()>,
) -> Result<()> {
    for &via in Via::all() {
        let device = open(id, via)?;
        let watch = Watch::new(&device, registers)?;
        for round in 0..3 {
            reset(&device, via)?;
            watch.alive(&format!("after the reset, {via:?}, round {round}"))?;
        }
        watch.finish(&device)?;
    }
    Ok(())
}

fn d3hot_takes_mappings_and_d0_heals_them() -> Result<()> {
    off_and_on(
        IGB,
        &[(0, IGB_STATUS_AT)],
        |device| device.set_power_state(3),
        |device| device.set_power_state(0),
    )
}

fn memory_bit_in_d3hot_changes_nothing() -> Result<()> {
    let device = open(IGB, Via::Group)?;
    let watch = Watch::new(&device, &[(0, IGB_STATUS_AT)])?;
    device.set_power_state(3)?;
    watch.dead("D3hot")?;
    device.set_memory(false)?;
    watch.dead("D3hot, memory off")?;
    device.set_memory(true)?;
    watch.dead("D3hot, memory on")?;
    device.set_memory(false)?;
    device.set_power_state(0)?;
    watch.dead("D0, memory off")?;
    device.set_memory(true)?;
    watch.alive("D0, memory on")?;
    watch.finish(&device)
}

fn reset_of_a_function_with_flr_heals_mappings() -> Result<()> {
    resets(IGB, &[(0, IGB_STATUS_AT)], |device, _| check::works("reset", device.reset()))?;
    let pci = nth(IGB, 0)?;
    resets(IGB, &[(0, IGB_STATUS_AT)], |_, _| check::works("reset", pci.reset()))
}

/// bochs-display: video memory far in BAR0, a register in BAR2.
const BOCHS_PLACES: [(u32, u64); 3] = [(0, 0), (0, 777 * PAGE + 8), (2, BOCHS_SIZE_AT)];

fn low_power_takes_mappings_and_its_end_heals_them() -> Result<()> {
    off_and_on(
        BOCHS,
        &BOCHS_PLACES,
        |device| check::works("LOW_POWER_ENTRY", device.enter_low_power()),
        |device| check::works("LOW_POWER_EXIT", device.leave_low_power()),
    )
}

/// The core raises the device before low power, and it is in D0 afterwards.
fn end_of_low_power_heals_mappings_of_a_device_that_was_in_d3hot() -> Result<()> {
    let pci = nth(IGB, 0)?;
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        let watch = Watch::new(&device, &[(0, IGB_STATUS_AT)])?;
        for (name, wake) in WAKERS {
            device.set_power_state(3)?;
            watch.dead("D3hot")?;
            let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
            check::works("ENTRY_WITH_WAKEUP", device.enter_low_power_with(&event))?;
            wait_for("the device to sleep", || Ok(pci.runtime_status()? == "suspended"))?;
            watch.dead("low power")?;
            check::works(name, wake(&device, &pci))?;
            watch.alive(name)?;
            check::works("power/control", pci.keep_awake(false))?;
            check::works("LOW_POWER_EXIT", device.leave_low_power())?;
        }
        watch.finish(&device)?;
    }
    Ok(())
}

/// A way to wake a device.
type Waker = fn(&Device, &Pci) -> Result<(), Errno>;

/// Any call to a device that sleeps wakes it, and so can the host. Low power is over then: its
/// event comes once, and mappings work at once.
const WAKERS: [(&str, Waker); 3] = [
    ("LOW_POWER_EXIT", |device, _| device.leave_low_power()),
    ("another call", |device, _| device.region(0).map(drop)),
    ("the host", |_, pci| pci.keep_awake(true)),
];

fn low_power_with_wakeup_ends_by_an_event() -> Result<()> {
    let pci = nth(BOCHS, 0)?;
    for &via in Via::all() {
        let device = Device::open(&pci, via)?;
        let watch = Watch::new(&device, &BOCHS_PLACES)?;
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK)?;
        for (name, wake) in WAKERS {
            let when = |what| format!("{what}, by {name}, {via:?}");
            check::works("ENTRY_WITH_WAKEUP", device.enter_low_power_with(&event))?;
            watch.dead(&when("low power"))?;
            wait_for("the device to sleep", || Ok(pci.runtime_status()? == "suspended"))?;
            watch.dead(&when("asleep"))?;
            check::equal(&when("event before"), event.read(), Err(Errno::EAGAIN))?;
            check::works(&when("wake"), wake(&device, &pci))?;
            check::equal(&when("events"), event.read(), Ok(1))?;
            watch.alive(&when("woken"))?;
            check::works("power/control", pci.keep_awake(false))?;
            check::works("LOW_POWER_EXIT", device.leave_low_power())?;
            check::equal(&when("event after"), event.read(), Err(Errno::EAGAIN))?;
            watch.alive(&when("awake"))?;
        }
        let bad = device.enter_low_power_with(std::fs::File::open("/dev/null")?);
        check::errno("ENTRY_WITH_WAKEUP with what is no eventfd", bad, Errno::EINVAL)?;
        watch.finish(&device)?;
    }
    Ok(())
}

fn resets_heal_mappings_of_every_bar() -> Result<()> {
    resets(BOCHS, &BOCHS_PLACES, |device, _| check::works("reset", device.reset()))?;
    let pci = nth(BOCHS, 0)?;
    resets(BOCHS, &BOCHS_PLACES, |_, _| check::works("sysfs reset", pci.reset()))
}

fn reset_while_memory_is_off_leaves_it_off() -> Result<()> {
    let pci = nth(BOCHS, 0)?;
    let device = Device::open(&pci, Via::Group)?;
    let watch = Watch::new(&device, &BOCHS_PLACES)?;
    device.set_memory(false)?;
    check::works("VFIO_DEVICE_RESET", device.reset())?;
    watch.dead("after VFIO_DEVICE_RESET")?;
    check::works("sysfs reset", pci.reset())?;
    watch.dead("after a sysfs reset")?;
    device.set_memory(true)?;
    watch.alive("on again")?;
    watch.finish(&device)
}

/// Two functions in one slot, the second one with the in-tree driver: its hot reset resets both.
fn siblings_hot_reset_heals_mappings() -> Result<()> {
    let [ours, sibling] = rig::siblings()?;
    in_tree()?.load()?;
    ours.bind(&crate::fixture::driver())?;
    sibling.bind("vfio-pci")?;
    for &via in Via::all() {
        let device = Device::open(&ours, via)?;
        let second = device.open_sibling(&sibling, via).context("the sibling")?;
        let watch = Watch::new(&device, &[(0, ID_AT)])?;
        let groups = rig::groups(&device, via);
        for round in 0..3 {
            check::works("HOT_RESET by the sibling", second.hot_reset(&groups))?;
            watch.alive(&format!("{via:?}, round {round}"))?;
        }
        // With the sibling's memory off nothing of ours may change.
        second.set_memory(false)?;
        watch.alive("with the sibling's memory off")?;
        check::works("HOT_RESET by the sibling", second.hot_reset(&groups))?;
        watch.alive("after the last reset")?;
        device.set_memory(false)?;
        watch.dead("memory off")?;
        check::works("HOT_RESET by the sibling", second.hot_reset(&groups))?;
        watch.dead("after a reset with memory off")?;
        device.set_memory(true)?;
        watch.finish(&device)?;
    }
    sibling.release()?;
    Ok(())
}
