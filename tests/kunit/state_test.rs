// SPDX-License-Identifier: GPL-2.0

//! The life of a buffer: every event in every state.

use crate::{
    expect_eq,
    pure::state::{
        Event::{
            self,
            Close,
            Drained,
            Revoke, //
        },
        Life::{
            self,
            Closed,
            Live,
            Revoked,
            Revoking, //
        },
        Status, //
    }, //
};
use kernel::prelude::*;
use kernel_ext::errno::EBADFD;

const LIVES: [Life; 4] = [Live, Revoking, Revoked, Closed];
const EVENTS: [Event; 3] = [Revoke, Drained, Close];

#[kunit_tests(dmabuf_vfio_pci_state)]
mod tests {
    use super::*;

    #[test]
    fn every_transition_is_as_documented() -> Result {
        let table = [
            [Ok(Revoking), Ok(Live), Ok(Closed)],
            [Ok(Revoking), Ok(Revoked), Ok(Closed)],
            [Err(EBADFD), Ok(Revoked), Ok(Closed)],
            [Err(ENODEV), Ok(Closed), Ok(Closed)],
        ];
        for (life, row) in LIVES.into_iter().zip(table) {
            for (event, want) in EVENTS.into_iter().zip(row) {
                expect_eq(fmt!("{:?} in {:?}", event, life), life.after(event), want)?;
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_comes_back_to_life() -> Result {
        for life in [Revoking, Revoked, Closed] {
            for event in EVENTS {
                let dead = life.after(event).map_or(true, |after| !after.is_live());
                expect_eq(fmt!("{:?} in {:?}", event, life), dead, true)?;
            }
        }
        Ok(())
    }

    #[test]
    fn status_is_temporary_only_for_the_living() -> Result {
        for (life, enabled, disabled) in [
            (Live, Status::Live, Status::RevokedTemporarily),
            (Revoking, Status::Revoked, Status::Revoked),
            (Revoked, Status::Revoked, Status::Revoked),
            (Closed, Status::Closed, Status::Closed),
        ] {
            expect_eq(fmt!("{:?}, memory on", life), life.status(true), enabled)?;
            expect_eq(fmt!("{:?}, memory off", life), life.status(false), disabled)?;
        }
        Ok(())
    }

    #[test]
    fn numbers_decode_to_what_they_encode() -> Result {
        for life in LIVES {
            expect_eq(fmt!("{:?}", life), Life::from_raw(life as u32), life)?;
            expect_eq(fmt!("{:?}", life), life.is_live(), life == Live)?;
            expect_eq(fmt!("{:?}", life), life.is_closed(), life == Closed)?;
        }
        for raw in [4, 5, u32::MAX] {
            expect_eq(fmt!("{}", raw), Life::from_raw(raw), Closed)?;
        }
        Ok(())
    }

    #[test]
    fn status_numbers_are_those_of_the_uapi() -> Result {
        for (status, number) in [
            (Status::Live, 0),
            (Status::RevokedTemporarily, 1),
            (Status::Revoked, 2),
            (Status::Closed, 3),
        ] {
            expect_eq(fmt!("{:?}", status), status as u32, number)?;
        }
        Ok(())
    }
}
