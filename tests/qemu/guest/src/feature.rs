// SPDX-License-Identifier: GPL-2.0
//! `VFIO_DEVICE_FEATURE` calls: the well-formed ones, and any that a hostile caller could make.

use std::mem::{offset_of, size_of};

use crate::prelude::*;

/// GET.
pub const GET: u32 = uapi::VFIO_DEVICE_FEATURE_GET;
/// SET.
pub const SET: u32 = uapi::VFIO_DEVICE_FEATURE_SET;
/// PROBE.
pub const PROBE: u32 = uapi::VFIO_DEVICE_FEATURE_PROBE;

/// Bytes of the header: `argsz` and `flags`.
pub const HEADER: usize = size_of::<uapi::vfio_device_feature>();

/// One call, every word of which can be chosen.
pub struct Call {
    /// Operation bits and the number of the feature.
    pub flags: u32,
    /// What `argsz` says; [`Call::new`] says the truth.
    pub argsz: u32,
    /// The memory behind the header.
    pub payload: Vec<u32>,
}

impl Call {
    /// A call whose argsz holds header and payload.
    pub fn new(flags: u32, payload: Vec<u32>) -> Call {
        Call { flags, argsz: (HEADER + payload.len() * 4) as u32, payload }
    }

    /// The same call, for [`Prepared::make`].
    pub fn prepared(&self) -> Prepared {
        Prepared(self.words())
    }

    /// Makes the call; the kernel may change the payload.
    pub fn make(&mut self, device: &Device) -> Result<i32, Errno> {
        let mut words = self.words();
        let result = device.ioctl(uapi::VFIO_DEVICE_FEATURE, words.as_mut_ptr() as usize);
        self.payload.copy_from_slice(&words[2..]);
        result
    }

    /// Makes the call with the structure at the very end of a page, so that whatever of it the
    /// kernel reads or writes behind the given payload is an EFAULT.
    pub fn make_at_edge(&mut self, device: &Device) -> Result<i32, Errno> {
        let words = self.words();
        let area = (words.len() as u64 * 4).next_multiple_of(PAGE);
        let area = Mapping::anonymous(area + PAGE)?;
        area.protect_part(area.size() - PAGE, PAGE, libc::PROT_NONE)?;
        let start = area.size() - PAGE - words.len() as u64 * 4;
        for (at, word) in words.iter().enumerate() {
            area.store(start + at as u64 * 4, *word).map_err(|_| Errno::EFAULT)?;
        }
        device.ioctl(uapi::VFIO_DEVICE_FEATURE, area.address() + start as usize)
    }

    /// The call as it lies in memory.
    fn words(&self) -> Vec<u32> {
        let mut words = vec![self.argsz, self.flags];
        words.extend(&self.payload);
        words
    }
}

/// A call that can be made over and over without any memory of this process but its own.
pub struct Prepared(Vec<u32>);

impl Prepared {
    /// Makes the call; what the kernel changes stays changed.
    pub fn make(&mut self, device: &Device) -> Result<i32, Errno> {
        device.ioctl(uapi::VFIO_DEVICE_FEATURE, self.0.as_mut_ptr() as usize)
    }
}

/// The words of a payload of type `T`, all zero but what `fill` puts in.
pub fn payload<T: Default>(fill: impl FnOnce(&mut T)) -> Vec<u32> {
    let mut value = T::default();
    fill(&mut value);
    words_of(&value)
}

/// GET of a feature whose payload is a `T`, which goes in and comes out.
pub fn get<T: Default + Copy>(device: &Device, feature: u32, value: &mut T) -> Result<(), Errno> {
    let mut call = Call::new(GET | feature, words_of(value));
    call.make(device)?;
    assert!(size_of::<T>() <= call.payload.len() * 4);
    // SAFETY: the structures of the UAPI header are plain numbers, and the payload has the size.
    *value = unsafe { call.payload.as_ptr().cast::<T>().read_unaligned() };
    Ok(())
}

/// SET of a feature whose payload is a `T`.
pub fn set<T>(device: &Device, feature: u32, value: &T) -> Result<(), Errno> {
    Call::new(SET | feature, words_of(value)).make(device).map(drop)
}

/// PROBE of a feature with operations `ops`, without any payload.
pub fn probe(device: &Device, feature: u32, ops: u32) -> Result<i32, Errno> {
    Call::new(PROBE | ops | feature, Vec::new()).make(device)
}

fn words_of<T>(value: &T) -> Vec<u32> {
    let words = size_of::<T>().div_ceil(4);
    let mut out = vec![0u32; words];
    // SAFETY: `value` has size_of::<T>() bytes, and so many fit in `out`; T has no padding that
    // matters, since the kernel gets plain numbers.
    unsafe {
        let from = std::ptr::from_ref(value).cast::<u8>();
        from.copy_to_nonoverlapping(out.as_mut_ptr().cast(), size_of::<T>());
    }
    out
}

const _: () = assert!(offset_of!(uapi::vfio_device_feature, data) == HEADER);
