// SPDX-License-Identifier: GPL-2.0

//! Arithmetic, transitions and decoding: no calls of the kernel but allocations. KUnit compiles
//! this folder a second time.

pub(crate) mod config_space;
pub(crate) mod denylist;
pub(crate) mod fault_around;
pub(crate) mod link;
pub(crate) mod memattr;
pub(crate) mod range;
pub(crate) mod request;
pub(crate) mod state;
pub(crate) mod windows;
