// SPDX-License-Identifier: GPL-2.0
//! A broker: the owner of a device, who hands slices of a BAR to whoever asks at a socket.
//!
//! An example of what an owner process looks like that trusts no client, and a library for those
//! who want one like that.
//!
//! - Each client gets a slice of its own, all of the same size, and reaches nothing else. Who comes
//!   when all are given away waits, in the order of coming.
//! - A slice comes back when its client closes the connection, dies, sends nonsense, or has not
//!   been heard of for longer than the heartbeat. **It is revoked first**: only when no process
//!   reaches it any more, whoever the client passed it on to, does the next one get it, as a buffer
//!   of its own.
//! - A reset of the device takes nothing from anybody: accesses wait for its end.
//! - When the broker dies, the kernel closes the device, and with it all slices.
//!
//! [`broker`] is the owner's side, [`client`] the others', [`protocol`] what they say to each
//! other. The programs are `vfio-dmabuf-broker` and `vfio-dmabuf-broker-client`.
//!
//! # Limits
//!
//! - One thread does everything. Revoking waits for other *devices* that have imported the slice,
//!   so a broker whose clients pass their slices to importing drivers revokes in threads.
//! - Who may ask is a matter of the permissions of the socket.
//! - The next client finds the slice as the last one left it, unless it is memory and the broker
//!   was told to clear it. Registers have to be put in order by who knows the device.

#![forbid(unsafe_code)]

pub mod broker;
pub mod client;
pub mod protocol;
