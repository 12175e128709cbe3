// SPDX-License-Identifier: GPL-2.0

//! The life of a buffer: every event in every state.

use crate::pure::state::{
    Event::{
        self,
        *, //
    },
    Life::{
        self,
        *, //
    },
    Status, //
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
                expect_eq!(life.after(event), want, "{event:?} in {life:?}")?;
            }
        }
        Ok(())
    }

    #[test]
    fn nothing_comes_back_to_life() -> Result {
        for life in [Revoking, Revoked, Closed] {
            for event in EVENTS {
                let dead = life.after(event).map_or(true, |after| !after.is_live());
                expect_eq!(dead, true, "{event:?} in {life:?}")?;
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
            expect_eq!(life.status(true), enabled, "{life:?}, memory on")?;
            expect_eq!(life.status(false), disabled, "{life:?}, memory off")?;
        }
        Ok(())
    }

    #[test]
    fn numbers_decode_to_what_they_encode() -> Result {
        for life in LIVES {
            expect_eq!(Life::from_raw(life as u32), life, "{life:?}")?;
            expect_eq!(life.is_live(), life == Live, "{life:?}")?;
            expect_eq!(life.is_closed(), life == Closed, "{life:?}")?;
        }
        for raw in [4, 5, u32::MAX] {
            expect_eq!(Life::from_raw(raw), Closed, "{raw}")?;
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
            expect_eq!(status as u32, number, "{status:?}")?;
        }
        Ok(())
    }
}
