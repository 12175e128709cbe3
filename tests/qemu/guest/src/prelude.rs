// SPDX-License-Identifier: GPL-2.0
//! What most guest programs, and most files of this crate, use.

pub use std::fs::{self, File};
pub use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
pub use std::path::{Path, PathBuf};
pub use std::thread::{self, sleep};
pub use std::time::{Duration, Instant};

pub use anyhow::{anyhow, bail, ensure, Context, Result};
pub use nix::errno::Errno;

pub use crate::buffer::{self, Buffer, Export, Range};
pub use crate::device::{Device, Via};
pub use crate::fault::{self, Fault};
pub use crate::mm::{self, Mapping};
pub use crate::module::Module;
pub use crate::pci::{self, Id, Pci, BOCHS, EDU, IGB, IVSHMEM, TESTDEV};
pub use crate::timeout::{scaled, wait_until};
pub use crate::worker::Worker;
pub use crate::{feature, raw, uapi, BLOCK, PAGE};
