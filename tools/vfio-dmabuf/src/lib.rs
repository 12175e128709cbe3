// SPDX-License-Identifier: GPL-2.0
//! Slices of a PCI device's BARs for other processes, to be taken back at will: the user space
//! side of the driver `dmabuf-vfio-pci`.
//!
//! The **owner** of a device opens it ([`Device::open`]), makes a [`Buffer`] over ranges of a BAR
//! ([`Device::export`]), and hands it to another process: over a UNIX socket ([`channel`]), or to a
//! program that it starts ([`command`]). It takes the buffer back with [`Device::revoke`].
//!
//! A **client** maps the buffer ([`Buffer::map`]) and reads and writes registers
//! ([`Mapping::read`], [`Mapping::write`]). It needs no privileges and nothing of VFIO. When the
//! buffer is revoked, its next access is an error, [`AccessError::Lost`], where a plain pointer
//! would end the process with SIGBUS; [`guard`] tells how.
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
//!     // ... until the client has had it for long enough:
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
//!             Err(AccessError::Lost { .. }) => continue, // the device is off for a while
//!             Err(error) => return Err(error.into()),
//!         }
//!     }
//! }
//! ```
//!
//! # What goes along with it
//!
//! - [`pci`] finds devices and gives them to a driver.
//! - A device that another library has opened stays where it is: [`Device::from_fd`] takes any
//!   VFIO device fd, and with the feature `vfio-ioctls`, `Device::from_rust_vmm` one of rust-vmm's
//!   `VfioDevice`s, so that a VMM keeps its container, its groups and its DMA mappings. Opening by
//!   [`Device::open`] does not go through `vfio-ioctls`: that crate tells neither errno nor call of
//!   most failures, has resets and region accesses that cannot fail visibly, panics when a device
//!   has gone by the time it is dropped, and brings KVM in as soon as iommufd is wanted.
//! - DMA mappings are not in here: [`Device::iommu`] has the container or the iommufd for them.
//!
//! # Units and errors
//!
//! Offsets, lengths and sizes are bytes. Whatever the kernel refuses is [`Error::Os`], with the
//! call, what it was made on, and the errno; the documentation of each function says what the
//! errnos mean that have a meaning of their own there.
//!
//! # Safety
//!
//! The interface is safe. Unsafe code is in two modules: `sys` (ioctls, mmap) and [`guard`].
//! Memory of a device is never behind a Rust reference.

#![deny(missing_docs, unsafe_code)]

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
/// What the kernel answered.
pub use rustix::io::Errno;
