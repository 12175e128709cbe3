// SPDX-License-Identifier: GPL-2.0
//! The program `vfio-dmabuf`: slices of PCI devices from the command line.
//!
//! | module | content |
//! |---|---|
//! | [`args`] | the command line |
//! | [`target`] | arguments that name slices, ranges and numbers |
//! | [`bind`] | `devices`, `bind`, `unbind` |
//! | [`mod@slice`] | `export`, `map`, `peek`, `poke` |
//! | [`holders`] | the processes that hold devices and buffers, from `/proc` |
//! | [`buffers`] | `buffers`, `revoke` |
//! | [`output`] | text and JSON; exit statuses |

#![forbid(unsafe_code)]

pub mod args;
pub mod bind;
pub mod buffers;
pub mod holders;
pub mod output;
pub mod slice;
pub mod target;
