// SPDX-License-Identifier: GPL-2.0

//! KUnit suites of the pure files of `src/`, which are compiled here a second time.
//!
//! Loading the module runs them; the results are in the kernel log, as KTAP.

use kernel::{
    fmt,
    prelude::*, //
};

// The driver uses more of these files than the suites do.
#[path = "../../src/config_space.rs"]
mod config_space;
#[path = "../../src/denylist.rs"]
mod denylist;
#[path = "../../src/fault_around.rs"]
mod fault_around;
#[allow(dead_code, reason = "tested through the functions that use it")]
#[path = "../../src/feature.rs"]
mod feature;
#[path = "../../src/link.rs"]
mod link;
#[allow(dead_code, reason = "tested through the functions that use it")]
#[path = "../../src/memattr.rs"]
mod memattr;
#[allow(dead_code, reason = "tested through the functions that use it")]
#[path = "../../src/range.rs"]
mod range;
#[allow(dead_code, reason = "tested through the functions that use it")]
#[path = "../../src/state.rs"]
mod state;
#[path = "../../src/windows.rs"]
mod windows;

mod random;

mod config_space_test;
mod denylist_test;
mod fault_around_test;
mod feature_test;
mod link_test;
mod memattr_test;
mod range_model_test;
mod range_test;
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

/// Fails a test with both values in the log; `assert_eq!` of KUnit shows neither.
fn expect_eq<T: PartialEq + fmt::Debug>(what: fmt::Arguments<'_>, got: T, want: T) -> Result {
    if got == want {
        return Ok(());
    }
    pr_err!("{}: got {:?}, want {:?}\n", what, got, want);
    Err(EINVAL)
}
