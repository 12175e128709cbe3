// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of `src/pure/`, which is compiled into this module too.
//!
//! Loading the module runs them. The kernel log has the results as KTAP.

use kernel::{
    fmt,
    prelude::*, //
};

#[allow(dead_code, reason = "the driver uses more than the suites do")]
#[path = "../../src/pure/mod.rs"]
mod pure;

mod random;

/// Fails a test with a message and both values in the log. KUnit's `assert_eq!` logs no values.
macro_rules! expect_eq {
    ($got:expr, $want:expr, $($what:tt)+) => {
        crate::expect_eq(fmt!($($what)+), $got, $want)
    };
}

mod config_space_test;
mod denylist_test;
mod fault_around_test;
mod link_test;
mod memattr_test;
mod range_model_test;
mod range_test;
mod request_test;
mod state_test;
mod windows_test;

struct Suites;

impl kernel::Module for Suites {
    fn init(_module: &'static ThisModule) -> Result<Self> {
        Ok(Self)
    }
}

module! {
    type: Suites,
    name: "dmabuf_vfio_pci_kunit",
    authors: ["The dmabuf-vfio-pci authors"],
    description: "KUnit suites of dmabuf-vfio-pci",
    license: "GPL",
}

fn expect_eq<T: PartialEq + fmt::Debug>(what: fmt::Arguments<'_>, got: T, want: T) -> Result {
    if got == want {
        return Ok(());
    }
    pr_err!("{}: got {:?}, want {:?}\n", what, got, want);
    Err(EINVAL)
}
