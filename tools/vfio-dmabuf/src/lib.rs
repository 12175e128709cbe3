// SPDX-License-Identifier: GPL-2.0
//! Revocable slices of a PCI device's BARs for other processes: the user space side of the driver
//! `dmabuf-vfio-pci`.
//!
//! The **owner** of a device opens it ([`Device::open`]) and exports ranges of a BAR as a
//! [`Buffer`] ([`Device::export`]). It hands the buffer to another process: over a UNIX socket
//! ([`channel`]), or to a program that it starts ([`command`]). [`Device::revoke`] makes the buffer
//! unreachable for every process.
//!
//! A **client** maps the buffer ([`Buffer::map`]) and reads and writes registers
//! ([`Mapping::read`], [`Mapping::write`]). It needs no privileges and no VFIO fd. After the buffer
//! is revoked, the client's next access returns an error, [`AccessError::Lost`]. Through a plain
//! pointer the same access would end the process with SIGBUS; [`guard`] explains how that is done.
//!
//! ```no_run
//! use std::os::unix::net::UnixStream;
//! use vfio_dmabuf::channel::{receive_buffer, send_buffer, Label};
//! use vfio_dmabuf::{Access, AccessError, Device, Error};
//!
//! fn owner(client: &UnixStream) -> Result<(), Error> {
//!     let device = Device::open("0000:01:00.0".parse()?)?;
//!     let slice = device.export(0).range(0, 4096).create()?;
//!     let label = Label { address: device.address(), bar: 0, number: 0 };
//!     send_buffer(client, &slice, &label)?;
//!     // ... later:
//!     device.revoke(&slice)?;
//!     Ok(())
//! }
//!
//! fn client(owner: &UnixStream) -> Result<(), Error> {
//!     let (slice, _label) = receive_buffer(owner)?;
//!     let registers = slice.map(Access::ReadWrite)?;
//!     loop {
//!         match registers.read::<u32>(0) {
//!             Ok(value) => println!("{value:#x}"),
//!             Err(AccessError::Lost { .. }) if slice.is_gone()? => return Ok(()),
//!             Err(AccessError::Lost { .. }) => continue, // memory is disabled for now
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//! }
//! ```
//!
//! # Devices, drivers and DMA
//!
//! - [`pci`] finds devices and binds them to a driver.
//! - [`Device::from_fd`] takes any VFIO device fd, so another library may open the device. With the
//!   feature `vfio-ioctls`, `Device::from_rust_vmm` takes a `VfioDevice` of rust-vmm: a VMM keeps
//!   its container, its groups and its DMA mappings.
//! - [`Device::open`] does not use `vfio-ioctls`. That crate hides the errno and the call of most
//!   failures, cannot report a failed reset or region access, panics if the device is gone when it
//!   is dropped, and requires KVM for iommufd.
//! - This crate makes no DMA mappings. [`Device::iommu`] returns the container or the iommufd for
//!   them.
//!
//! # Units and errors
//!
//! Offsets, lengths and sizes are bytes. If the kernel refuses a call, the error is [`Error::Os`]
//! with the call, its object, and the errno. Each function documents the errnos that have a
//! particular meaning for it.
//!
//! # Safety
//!
//! The interface is safe. Unsafe code is in three modules: `sys` (ioctls, mmap), `arch` and
//! [`guard`]. No Rust reference ever points to device memory.

#![deny(missing_docs, unsafe_code)]

#[allow(unsafe_code)]
mod arch;
mod buffer;
pub mod channel;
pub mod command;
mod device;
mod error;
mod export;
#[allow(unsafe_code)]
pub mod guard;
mod mapping;
pub mod pci;
#[allow(unsafe_code)]
mod sys;
pub mod uapi;

pub use buffer::Buffer;
pub use device::{Device, Info, Iommu, Status, Via};
pub use error::{AccessError, Error, MessageError};
pub use export::{Attribute, Export};
pub use mapping::{Access, Mapping, Word};
pub use pci::PciAddress;
/// The errno of a failed call.
pub use rustix::io::Errno;
