// SPDX-License-Identifier: GPL-2.0
//! What most files of cases use.

pub use std::fs::{self, File};
pub use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
pub use std::path::{Path, PathBuf};
pub use std::thread::{self, sleep};
pub use std::time::{Duration, Instant};

pub use anyhow::{anyhow, bail, ensure, Context, Result};
pub use guest::buffer::{self, Buffer, Export, Range};
pub use guest::call::Call;
pub use guest::device::{Device, Via};
pub use guest::mm::{self, Mapping};
pub use guest::module::Module;
pub use guest::pause::{meanwhile, Pause};
pub use guest::pci::{Pci, BOCHS, EDU, IGB, IVSHMEM, TESTDEV};
pub use guest::peer::Peer;
pub use guest::ptes::Ptes;
pub use guest::testmod::{unmaps_after, Attach, Importer, NEVER_UNMAPS, UNMAPS_AT_ONCE};
pub use guest::timeout::scaled;
pub use guest::worker::Worker;
pub use guest::{feature, uapi, windows, Errno, PAGE};

pub(crate) use crate::case::{cases, Setup, Skip};
pub(crate) use crate::check;
pub(crate) use crate::fixture::*;
pub(crate) use crate::rig::{self, *};
