// SPDX-License-Identifier: GPL-2.0

//! Which writes to the config space may switch the device's memory off or reset the function.
//!
//! Pure. A write is judged by its offset, not by its value: the core reads the value from user
//! memory itself, and it may have changed since the driver read it. So importers are also
//! invalidated for a write that leaves memory enabled; they map again at their next use.

/// Where the capabilities are that matter, bytes; `None` when the function does not have one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capabilities {
    /// Power management.
    pub(crate) pm: Option<u64>,
    /// PCI Express.
    pub(crate) express: Option<u64>,
    /// Advanced features.
    pub(crate) af: Option<u64>,
}

/// Low byte of the command register, which has the memory enable bit.
const COMMAND: u64 = 4;
/// Low byte of PMCSR in the capability, which has the power state.
const PM_STATE: u64 = 4;
/// High byte of Device Control in the capability, which has Initiate FLR.
const EXPRESS_FLR: u64 = 9;
/// AF Control in the capability, which has Initiate FLR.
const AF_FLR: u64 = 4;

impl Capabilities {
    /// Whether a write of `count` bytes at `offset` is one of those.
    pub(crate) fn memory_may_change(&self, offset: u64, count: usize) -> bool {
        let end = offset.saturating_add(count as u64);
        [
            Some(COMMAND),
            self.pm.map(|cap| cap + PM_STATE),
            self.express.map(|cap| cap + EXPRESS_FLR),
            self.af.map(|cap| cap + AF_FLR),
        ]
        .into_iter()
        .flatten()
        .any(|byte| (offset..end).contains(&byte))
    }
}
