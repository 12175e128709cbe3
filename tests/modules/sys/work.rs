// SPDX-License-Identifier: GPL-2.0

//! Cancelling delayed work, which the `kernel` crate cannot yet.
//!
//! C header: [`include/linux/workqueue.h`](srctree/include/linux/workqueue.h)

use crate::importer::Importer;
use kernel::{
    bindings,
    sync::{
        Arc,
        ArcBorrow, //
    },
    workqueue::{
        impl_has_delayed_work,
        HasWork,
        Work, //
    }, //
};

impl_has_delayed_work! {
    impl HasDelayedWork<Importer> for Importer { self.work }
}

/// Takes the work of `importer` out of its queue, or waits until it is done.
/// `cancel_delayed_work_sync()`
pub(crate) fn cancel(importer: ArcBorrow<'_, Importer>) {
    let ptr = Arc::into_raw(Arc::from(importer)).cast_mut();
    // SAFETY: The work is that of a valid importer.
    let work = unsafe { Importer::raw_get_work(ptr) };
    // SAFETY: As above.
    let work = unsafe { Work::raw_get(work) };
    // CAST: The work is the first member of the delayed work that it is part of, as
    // `HasDelayedWork` promises.
    let delayed = work.cast::<bindings::delayed_work>();
    // SAFETY: The delayed work was initialised; we hold a reference.
    if unsafe { bindings::cancel_delayed_work_sync(delayed) } {
        // SAFETY: The queue has let go of it without running it, so its reference is ours.
        drop(unsafe { Arc::from_raw(ptr) });
    }
    // SAFETY: From `into_raw` above.
    drop(unsafe { Arc::from_raw(ptr) });
}
