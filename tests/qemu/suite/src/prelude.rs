// SPDX-License-Identifier: GPL-2.0
//! What most files of cases use.

pub use guest::call::Call;
pub use guest::pause::{meanwhile, Pause};
pub use guest::peer::Peer;
pub use guest::prelude::*;
pub use guest::ptes::Ptes;
pub use guest::testmod::{unmaps_after, Attach, Importer, NEVER_UNMAPS, UNMAPS_AT_ONCE};
pub use guest::windows;

pub(crate) use crate::case::{cases, Setup, Skip};
pub(crate) use crate::check;
pub(crate) use crate::fixture::*;
pub(crate) use crate::rig::{self, *};
