// SPDX-License-Identifier: GPL-2.0

//! The link to a device, and what errors of it do to the device's memory.
//!
//! Pure. After a fatal error the kernel resets the link, and the device with it. An error that was
//! not fatal changes nothing, as with in-tree vfio-pci: the device is lost only if it is.
//!
//! | link | fatal | gone: no | gone: yes | decodes | decodes not | abandoned | restored |
//! |---|---|---|---|---|---|---|---|
//! | `Works` | → `Recovering` | `Works` | → `Lost` | `Works` | `Works` | `Works` | `Works` |
//! | `Recovering` | same | → `Lost` | → `Lost` | → `Works` | → `Lost` | → `Lost` | same |
//! | `Lost` | → `Recovering` | `Lost` | `Lost` | → `Works` | `Lost` | `Lost` | → `Works` |
//!
//! *gone* is asked when the kernel has given up, *decodes* when its recovery has worked:
//! whether accesses to the device's memory are decoded. A reset of the link leaves it
//! without addresses and with memory disabled, until its owner restores both. *abandoned* says that
//! the device is being unbound, so the kernel does not tell how its recovery ends. *restored* says
//! that the device was opened anew, or that accesses are decoded after its owner enabled its memory
//! or a reset worked: none of these ends a recovery under way.

/// The state of the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// Accesses reach the device.
    Works,
    /// After a fatal error; the kernel is about to reset the link.
    Recovering,
    /// The recovery failed. Accesses fail until the device is restored.
    Lost,
}

/// What happens to the link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Event {
    /// An error that the kernel recovers from by a reset.
    Fatal,
    /// The kernel has given up; `answers` tells whether the config space can be read.
    NotRecovered {
        /// It can.
        answers: bool,
    },
    /// The kernel's recovery has worked; `decodes` tells whether memory is enabled in the device.
    Recovered {
        /// It is.
        decodes: bool,
    },
    /// The device is being unbound.
    Abandoned,
    /// The device is usable again.
    Restored,
}

impl Link {
    /// The state after `event`.
    pub(crate) fn after(self, event: Event) -> Self {
        match (self, event) {
            (_, Event::Fatal) => Self::Recovering,
            (Self::Works, Event::Recovered { .. }) => Self::Works,
            (_, Event::Recovered { decodes: true }) => Self::Works,
            (_, Event::Recovered { decodes: false }) => Self::Lost,
            (Self::Works, Event::NotRecovered { answers: true }) => Self::Works,
            (_, Event::NotRecovered { .. }) => Self::Lost,
            (Self::Recovering, Event::Abandoned) => Self::Lost,
            (same, Event::Abandoned) => same,
            (Self::Recovering, Event::Restored) => Self::Recovering,
            (_, Event::Restored) => Self::Works,
        }
    }
}
