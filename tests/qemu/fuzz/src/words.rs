// SPDX-License-Identifier: GPL-2.0
//! Random numbers that are often at a boundary.

use guest::{feature, uapi};
use rand::seq::IndexedRandom;
use rand::Rng;
use rand_pcg::Pcg64Mcg;

/// The features of this driver, one of the core, and unknown ones.
pub const FEATURES: [u32; 10] = [
    uapi::VFIO_DEVICE_FEATURE_DMA_BUF,
    uapi::VFIO_DEVICE_FEATURE_DMA_BUF,
    uapi::VFIO_DMABUF_REVOKE,
    uapi::VFIO_DMABUF_MEMATTR,
    uapi::VFIO_DMABUF_INFO,
    uapi::VFIO_DMABUF_IOMMUFD,
    uapi::VFIO_DEVICE_FEATURE_LOW_POWER_EXIT,
    0xff0c,
    0xff11,
    0xffff,
];

/// A random 32-bit number.
pub fn word(rng: &mut Pcg64Mcg) -> u32 {
    match rng.random_range(0..6) {
        0 => rng.random(),
        1 => 1u32 << rng.random_range(0..32),
        2 => (1u32 << rng.random_range(0..32)).wrapping_sub(1),
        3 => u32::MAX - rng.random_range(0..20),
        _ => rng.random_range(0..20),
    }
}

/// A random 64-bit number, often page-aligned.
pub fn long(rng: &mut Pcg64Mcg) -> u64 {
    let value = match rng.random_range(0..6) {
        0 => rng.random(),
        1 => 1u64 << rng.random_range(0..64),
        2 => (1u64 << rng.random_range(0..64)).wrapping_sub(1 << rng.random_range(0..13)),
        3 => u64::MAX << rng.random_range(0..20),
        4 => u64::from(word(rng)),
        _ => rng.random_range(0..4096) << 12,
    };
    if rng.random_bool(0.7) {
        value & !0xfff
    } else {
        value
    }
}

/// Random operation bits with the number of a feature.
pub fn flags(rng: &mut Pcg64Mcg) -> u32 {
    let number = *FEATURES.choose(rng).unwrap_or(&0);
    let ops = match rng.random_range(0..16) {
        0..6 => feature::GET,
        6..10 => feature::SET,
        10 => feature::PROBE,
        11 => feature::PROBE | feature::GET,
        12 => feature::PROBE | feature::SET,
        13 => feature::GET | feature::SET,
        14 => 0,
        _ => 1 << rng.random_range(16..32),
    };
    number | ops
}
