// SPDX-License-Identifier: GPL-2.0
//! The kernel's user space interface: `include/uapi/linux/vfio_dmabuf.h` and what it builds on,
//! as bindgen reads it.

#![allow(missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#![allow(unsafe_op_in_unsafe_fn, clippy::all, clippy::undocumented_unsafe_blocks)]

include!(concat!(env!("OUT_DIR"), "/uapi.rs"));
