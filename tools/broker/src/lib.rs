// SPDX-License-Identifier: GPL-2.0
//! A broker: an owner process that hands slices of a BAR to clients at a UNIX socket.
//!
//! It is an example of an owner that trusts no client, and a library for programs of that kind.
//!
//! - Each client gets one slice and reaches nothing else. All slices have the same size. Clients
//!   that arrive when no slice is free wait in order of arrival.
//! - The broker reclaims a slice when its client closes the connection, ends, sends an invalid
//!   packet, or stays silent for longer than the heartbeat. **It revokes the slice first**: the
//!   next client gets it, as a new buffer, only after no process reaches the old one.
//! - A reset of the device revokes nothing: accesses wait for its end.
//! - When the broker dies, the kernel closes the device, which kills all slices.
//!
//! [`broker`] is the owner's side, [`client`] the clients' side, [`protocol`] their packets. The
//! programs are `vfio-dmabuf-broker` and `vfio-dmabuf-broker-client`.
//!
//! # Limits
//!
//! - One thread does all the work, and a revoke waits for other *devices* that have imported the
//!   slice. A broker whose clients pass slices to importing drivers should revoke in separate
//!   threads.
//! - The permissions of the socket decide who may connect.
//! - A client finds its slice as the previous client left it, unless the slice is memory and the
//!   broker clears it. Resetting registers needs knowledge of the device.

#![forbid(unsafe_code)]

pub mod broker;
pub mod client;
pub mod protocol;
