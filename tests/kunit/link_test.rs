// SPDX-License-Identifier: GPL-2.0

//! The state of a link: every event in every state.

use crate::pure::link::{
    Event::*,
    Link::*, //
};
use kernel::prelude::*;

#[kunit_tests(dmabuf_vfio_pci_link)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_link_is_as_documented() -> Result {
        let events = [
            Fatal,
            NotRecovered { answers: true },
            NotRecovered { answers: false },
            Recovered { decodes: true },
            Recovered { decodes: false },
            Abandoned,
            Restored,
        ];
        let table = [
            (Works, [Recovering, Works, Lost, Works, Works, Works, Works]),
            (
                Recovering,
                [Recovering, Lost, Lost, Works, Lost, Lost, Recovering],
            ),
            (Lost, [Recovering, Lost, Lost, Works, Lost, Lost, Works]),
        ];
        for (link, row) in table {
            for (event, want) in events.into_iter().zip(row) {
                expect_eq!(link.after(event), want, "{event:?} in {link:?}")?;
            }
        }
        Ok(())
    }
}
