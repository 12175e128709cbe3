// SPDX-License-Identifier: GPL-2.0

//! An allocating maple tree that threads may share.
//!
//! `kernel::maple_tree` leaves out `Send` and `Sync`, though its trees have a lock of their own.
//!
//! C header: [`include/linux/maple_tree.h`](srctree/include/linux/maple_tree.h)

use core::ops::Deref;
use kernel::{
    maple_tree::MapleTreeAlloc,
    prelude::*,
    types::ForeignOwnable, //
};

/// A [`MapleTreeAlloc`] that can be in something shared.
#[pin_data]
pub struct SharedTree<T: ForeignOwnable> {
    #[pin]
    tree: MapleTreeAlloc<T>,
}

impl<T: ForeignOwnable> SharedTree<T> {
    /// Makes an empty tree.
    pub fn new() -> impl PinInit<Self> {
        pin_init!(Self {
            tree <- MapleTreeAlloc::new(),
        })
    }
}

impl<T: ForeignOwnable> Deref for SharedTree<T> {
    type Target = MapleTreeAlloc<T>;

    fn deref(&self) -> &Self::Target {
        &self.tree
    }
}

// SAFETY: The tree owns its values and no thread-bound state.
unsafe impl<T: ForeignOwnable + Send> Send for SharedTree<T> {}
// SAFETY: All methods with `&self` take the tree's lock. Values move in and out (`Send`), and are
// borrowed by one thread at a time.
unsafe impl<T: ForeignOwnable + Send> Sync for SharedTree<T> {}
