// SPDX-License-Identifier: GPL-2.0

//! Decoding of arguments from user space, including hostile ones.

use crate::{
    pure::{
        memattr::Memattr,
        request::{
            Export,
            Request, //
        }, //
    }, //
};
use kernel::{
    prelude::*,
    transmute::FromBytes, //
};
use kernel_ext::mm::Followers;
use kernel_ext::uapi::{
    FeatureDmaBuf,
    FEATURE_GET as GET,
    FEATURE_PROBE as PROBE,
    FEATURE_SET as SET,
    MAX_RANGES, //
};

const HEADER: usize = 16;
const RANGE: usize = 16;

/// The payload as it lies in user memory: four 32-bit numbers.
fn raw(open_flags: u32, flags: u32, nr_ranges: u32) -> FeatureDmaBuf {
    let mut bytes = [0; HEADER];
    for (chunk, word) in bytes
        .chunks_exact_mut(4)
        .zip([2, open_flags, flags, nr_ranges])
    {
        chunk.copy_from_slice(&u32::to_ne_bytes(word));
    }
    FeatureDmaBuf::from_bytes_copy(&bytes).expect("16 bytes")
}

#[kunit_tests(dmabuf_vfio_pci_feature)]
mod tests {
    use super::*;

    #[test]
    fn flag_of_a_buffer_goes_with_each_attribute() -> Result {
        for (flags, want) in [
            (1 << 27, Ok(Memattr::Noncached)),
            (1 << 27 | 1 << 28, Ok(Memattr::WriteCombining)),
            (1 << 27 | 1 << 25, Err(EINVAL)),
            (1 << 27 | 2 << 28, Err(EINVAL)),
        ] {
            let got = Export::decode(&raw(2, flags, 1), HEADER + RANGE);
            expect_eq!(got.map(|export| export.memattr), want, "{flags:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn operations_are_checked_as_vfio_does() -> Result {
        for (flags, argsz, ops, want) in [
            (GET, 8, GET, Ok(Request::Get)),
            (SET, 8, SET, Ok(Request::Set)),
            (GET, usize::MAX, GET | SET, Ok(Request::Get)),
            (SET, 8, GET | SET, Ok(Request::Set)),
            (GET, 8, SET, Err(EINVAL)),
            (SET, 8, GET, Err(EINVAL)),
            (0, 8, GET | SET, Err(EINVAL)),
            (GET | SET, 8, GET, Err(EINVAL)),
            (GET | SET, 8, GET | SET, Err(EINVAL)),
            (GET, 7, GET, Err(EINVAL)),
            (GET, 0, GET, Err(EINVAL)),
        ] {
            let got = Request::check(flags | 0xff0d, argsz, ops, 8);
            expect_eq!(got, want, "{flags:#x} of {ops:#x}, {argsz} bytes")?;
        }
        Ok(())
    }

    #[test]
    fn a_probe_needs_no_payload_but_known_operations() -> Result {
        for (flags, ops, want) in [
            (PROBE, GET, Ok(Request::Probe)),
            (PROBE | GET, GET, Ok(Request::Probe)),
            (PROBE | GET | SET, GET | SET, Ok(Request::Probe)),
            (PROBE | SET, GET, Err(EINVAL)),
            (PROBE | GET | SET, SET, Err(EINVAL)),
        ] {
            let got = Request::check(flags, 0, ops, 8);
            expect_eq!(got, want, "{flags:#x} of {ops:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn an_export_is_decoded() -> Result {
        let got = Export::decode(&raw(0o2000002, 1 << 28, 3), HEADER + 3 * RANGE)?;
        let want = Export {
            followers: Followers::Notified,
            region: 2,
            open_flags: 0o2000002,
            memattr: Memattr::WriteCombining,
            nr_ranges: 3,
        };
        expect_eq!(got, want, "export")
    }

    #[test]
    fn type1_follows_only_what_is_exported_for_it() -> Result {
        for (flags, want) in [
            (0, Followers::Notified),
            (1 << 27, Followers::Notified),
            (1 << 26, Followers::All),
            (1 << 28 | 1 << 27 | 1 << 26, Followers::All),
        ] {
            let got = Export::decode(&raw(0, flags, 1), HEADER + RANGE).map(|it| it.followers);
            expect_eq!(got, Ok(want), "{flags:#x}")?;
        }
        Ok(())
    }

    #[test]
    fn the_number_of_ranges_is_bounded() -> Result {
        let room = usize::MAX;
        for (nr_ranges, argsz, want) in [
            (0, room, Err(EINVAL)),
            (1, room, Ok(1)),
            (MAX_RANGES, room, Ok(MAX_RANGES as usize)),
            (MAX_RANGES + 1, room, Err(E2BIG)),
            (u32::MAX, room, Err(E2BIG)),
            (1, HEADER, Err(EINVAL)),
            (1, HEADER + RANGE - 1, Err(EINVAL)),
            (1, HEADER + RANGE, Ok(1)),
            (2, HEADER + RANGE, Err(EINVAL)),
            (
                MAX_RANGES,
                HEADER + MAX_RANGES as usize * RANGE - 1,
                Err(EINVAL),
            ),
        ] {
            let got = Export::decode(&raw(0, 0, nr_ranges), argsz).map(|it| it.nr_ranges);
            expect_eq!(got, want, "{nr_ranges} ranges in {argsz} bytes")?;
        }
        Ok(())
    }

    #[test]
    fn open_flags_are_those_of_a_file_that_can_be_mapped() -> Result {
        let (nonblock, cloexec) = (0o4000, 0o2000000);
        for (open_flags, ok) in [
            (0, true),
            (1, false),
            (2, true),
            (3, false),
            (2 | cloexec, true),
            (2 | cloexec | nonblock, true),
            (0o100, false),
            (1 << 31, false),
            (u32::MAX, false),
        ] {
            let got = Export::decode(&raw(open_flags, 0, 1), HEADER + RANGE);
            let want = if ok { Ok(open_flags) } else { Err(EINVAL) };
            expect_eq!(got.map(|it| it.open_flags), want, "{open_flags:#o}")?;
        }
        Ok(())
    }

    #[test]
    fn flags_without_a_meaning_are_refused() -> Result {
        for flags in [1, 1 << 25, 2 << 28, 0xf << 28, u32::MAX] {
            let got = Export::decode(&raw(0, flags, 1), HEADER + RANGE);
            expect_eq!(got, Err(EINVAL), "{flags:#x}")?;
        }
        Ok(())
    }
}
