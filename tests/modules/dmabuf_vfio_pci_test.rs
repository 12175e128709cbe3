// SPDX-License-Identifier: GPL-2.0

//! A module for the tests only: it does what user space cannot.
//!
//! Six misc devices, whose interface is [`uapi`]:
//!
//! - [`claim`]: claims the region of a BAR, so that no driver can.
//! - [`disguise`]: makes a PCI device look like one that no emulator has.
//! - [`importer`]: imports dma-bufs as a driver does, and unmaps at once, late or never.
//! - [`pause`]: stops a task in the window of a race.
//! - [`ptes`]: reads page table entries of device memory.
//! - [`race`]: has a data race, which KCSAN must find.
//!
//! And a PCI driver that asks for resets ([`sys::reset`]).
//!
//! All unsafe code is in [`sys`].

#![deny(unsafe_code)]

use kernel::{
    miscdevice::{
        MiscDeviceOptions,
        MiscDeviceRegistration, //
    },
    prelude::*, //
};

mod claim;
mod disguise;
mod importer;
mod ioctl;
#[cfg_attr(not(CONFIG_KPROBES), path = "no_pause.rs")]
mod pause;
mod ptes;
mod race;
#[allow(unsafe_code, reason = "the layer that has all of it")]
mod sys;
#[allow(
    dead_code,
    unreachable_pub,
    reason = "the guest programs use what we do not, and want it public"
)]
mod uapi;

#[pin_data]
struct Test {
    #[pin]
    _claim: MiscDeviceRegistration<claim::Owner>,
    #[pin]
    _disguise: MiscDeviceRegistration<disguise::Disguise>,
    #[pin]
    _importer: MiscDeviceRegistration<importer::Importer>,
    #[pin]
    _pause: pause::Registration,
    #[pin]
    _ptes: MiscDeviceRegistration<ptes::Reader>,
    #[pin]
    _race: MiscDeviceRegistration<race::Racer>,
    _reset: sys::reset::Driver,
}

impl kernel::InPlaceModule for Test {
    fn init(_module: &'static ThisModule) -> impl PinInit<Self, Error> {
        try_pin_init!(Self {
            _claim <- MiscDeviceRegistration::register(MiscDeviceOptions { name: uapi::CLAIMS }),
            _disguise <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: uapi::DISGUISES,
            }),
            _importer <- MiscDeviceRegistration::register(MiscDeviceOptions {
                name: uapi::IMPORTER,
            }),
            _pause <- pause::register(),
            _ptes <- MiscDeviceRegistration::register(MiscDeviceOptions { name: uapi::PTES }),
            _race <- MiscDeviceRegistration::register(MiscDeviceOptions { name: uapi::RACE }),
            _reset: sys::reset::Driver::register(uapi::RESETTER)?,
        })
    }
}

module! {
    type: Test,
    name: "dmabuf_vfio_pci_test",
    authors: ["The dmabuf-vfio-pci authors"],
    description: "Importer, pauses and page table reader for the tests of dmabuf-vfio-pci",
    license: "GPL",
    imports_ns: ["DMA_BUF"],
}
