// SPDX-License-Identifier: GPL-2.0

//! Exporting device memory as dma-bufs.
//!
//! A driver implements [`Exporter`]. [`Exported`] is that and an address space, and what
//! `dma_buf.priv` points at; [`DmaBuf`] is a counted reference to the dma-buf itself.
//!
//! The files of all dma-bufs of a device have the device's own address space as `f_mapping`. So one
//! `unmap_mapping_range()` reaches all mappings of all of them, as it does for the device fds.
//!
//! C header: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h)

use crate::{
    address_space::AddressSpace,
    bindings,
    dma_buf_mapping::{
        DeviceMapping,
        MapRequest, //
    },
    dma_fence,
    dma_resv::LockedReservation,
    fault::{
        Fault,
        Outcome, //
    },
    mm::{
        Installed,
        NewMapping, //
    },
    wait::Wait, //
};
use core::{
    any::TypeId,
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::from_err_ptr,
    fs::file::FileDescriptorReservation,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    },
    types::Opaque, //
};

mod ops;

pub use ops::Ops;

/// `open_flags` of a dma-buf that can be written.
pub const O_RDWR: u32 = kernel::fs::file::flags::O_RDWR;

/// What stands behind a dma-buf.
pub trait Exporter: Sized + Send + Sync + 'static {
    /// What tracepoints call the device: its PCI address.
    fn device_name(&self) -> &CStr;

    /// A process maps the dma-buf. The VMA lies within its size.
    ///
    /// `mmap_lock` is held for writing.
    fn mmap<'a>(exported: &Exported<Self>, mapping: NewMapping<'a, Self>) -> Result<Installed<'a>>;

    /// A process accesses a page of a mapping that has no entry for it.
    ///
    /// `mmap_lock` or the lock of the VMA is held: what takes long is left to [`Exporter::wait`].
    fn fault(exported: &Exported<Self>, fault: &Fault<'_>) -> Outcome;

    /// Waits until the access of a fault that was [`Outcome::Unavailable`] may be tried again.
    ///
    /// If possible no lock is held. `again`: the same access has waited before.
    ///
    /// # Errors
    ///
    /// Something else has ended the wait.
    fn wait(exported: &Exported<Self>, wait: Wait, again: bool) -> Result;

    /// There is one more mapping in some process: by mmap, or by a copy of one.
    fn mapping_added(exported: &Exported<Self>);

    /// A mapping in some process is gone.
    fn mapping_removed(exported: &Exported<Self>);

    /// A device wants to import the dma-buf.
    ///
    /// No reservation lock is held.
    fn attach(dma_buf: &DmaBuf<Self>, attachment: &Attachment) -> Result;

    /// The device of an attachment gives up; it has nothing mapped.
    fn detach(exported: &Exported<Self>);

    /// An importing device maps the dma-buf. The reservation lock is held.
    fn map<'a>(exported: &Exported<Self>, request: MapRequest<'a>) -> Result<DeviceMapping<'a>>;

    /// An importing device has unmapped the dma-buf. The reservation lock is held.
    fn unmapped(exported: &Exported<Self>);

    /// The last file reference is gone, and with it the last mapping.
    fn release(exported: ArcBorrow<'_, Exported<Self>>);
}

/// An exporter, and the address space in which its mappings are.
#[repr(C)]
pub struct Exported<T: Exporter> {
    /// The first member for every exporter.
    exporter_type: TypeId,
    /// Goes first: it may have the address space, too.
    exporter: T,
    space: Arc<AddressSpace>,
}

impl<T: Exporter> Exported<T> {
    /// Puts mappings of `exporter` into `space`.
    pub fn new(space: Arc<AddressSpace>, exporter: T) -> Result<Arc<Self>> {
        let exported = Self {
            exporter_type: TypeId::of::<T>(),
            exporter,
            space,
        };
        Ok(Arc::new(exported, GFP_KERNEL_ACCOUNT)?)
    }

    /// The exporter behind an open dma-buf file.
    ///
    /// # Safety
    ///
    /// `file` is one of a dma-buf of exporter `T`, and a reference is held during `'a`.
    pub(crate) unsafe fn from_file<'a>(file: *mut bindings::file) -> &'a Self {
        // SAFETY: The private data of a dma-buf file is the dma-buf.
        let dma_buf = unsafe { (*file).private_data }.cast::<bindings::dma_buf>();
        // SAFETY: By the requirements of this function.
        unsafe { Self::from_dma_buf(dma_buf) }
    }

    /// The exporter behind a dma-buf.
    ///
    /// # Safety
    ///
    /// `dma_buf` is one of exporter `T`, and a reference is held during `'a`.
    unsafe fn from_dma_buf<'a>(dma_buf: *mut bindings::dma_buf) -> &'a Self {
        // SAFETY: By the requirements of this function; `DmaBuf::export` put it there.
        unsafe { &*(*dma_buf).priv_.cast() }
    }
}

impl<T: Exporter> Deref for Exported<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.exporter
    }
}

/// A device that imports a dma-buf. `struct dma_buf_attachment`
#[repr(transparent)]
pub struct Attachment(Opaque<bindings::dma_buf_attachment>);

impl Attachment {
    /// Whether the importer can do without `struct page`.
    pub fn is_peer_to_peer(&self) -> bool {
        // SAFETY: Set before the exporter sees the attachment.
        unsafe { (*self.0.get()).peer2peer }
    }

    /// Whether the importer has an invalidate callback. `dma_buf_attach_revocable()`
    pub fn is_revocable(&self) -> bool {
        // SAFETY: The attachment is valid.
        unsafe { bindings::dma_buf_attach_revocable(self.0.get()) }
    }
}

/// A reference to a dma-buf of exporter `T`.
///
/// # Invariants
///
/// `ptr` is a dma-buf with a table `Ops<T>`; we own one reference to its file.
pub struct DmaBuf<T> {
    ptr: NonNull<bindings::dma_buf>,
    _exporter: PhantomData<T>,
}

// SAFETY: The reference may be dropped on any thread.
unsafe impl<T: Exporter> Send for DmaBuf<T> {}
// SAFETY: `&DmaBuf` gives out `&Exported<T>`, which is `Sync`.
unsafe impl<T: Exporter> Sync for DmaBuf<T> {}

impl<T: Exporter> DmaBuf<T> {
    /// Makes a dma-buf of `size` bytes over `exported`. `dma_buf_export()`
    ///
    /// `name` identifies it in bufinfo, fdinfo and maps. `open_flags` are those of open(2); of them
    /// `O_ACCMODE` and `O_NONBLOCK` count.
    pub fn export(
        ops: &'static Ops<T>,
        module: &'static ThisModule,
        exported: Arc<Exported<T>>,
        size: usize,
        open_flags: u32,
        name: &CStr,
    ) -> Result<Self> {
        let address_space = exported.space.as_ptr();
        // SAFETY: A NUL-terminated string.
        let name = unsafe { bindings::kstrdup(name.as_char_ptr(), bindings::GFP_KERNEL_ACCOUNT) };
        if name.is_null() {
            return Err(ENOMEM);
        }
        let info = bindings::dma_buf_export_info {
            exp_name: ops.name.as_char_ptr(),
            owner: module.as_ptr(),
            ops: &ops.table,
            size,
            flags: open_flags as c_int,
            priv_: Arc::as_ptr(&exported).cast_mut().cast(),
            ..pin_init::zeroed()
        };
        // SAFETY: `info` is complete. No callback runs before the dma-buf has an fd.
        let ptr = match from_err_ptr(unsafe { bindings::dma_buf_export(&info) }) {
            Ok(ptr) => ptr,
            Err(err) => {
                // SAFETY: Allocated above.
                unsafe { bindings::kfree(name.cast()) };
                return Err(err);
            }
        };
        // The dma-buf owns the reference from here on.
        let _ = Arc::into_raw(exported);
        // SAFETY: `name_lock` protects `name`, which the dma-buf frees.
        unsafe {
            bindings::spin_lock(&raw mut (*ptr).name_lock);
            (*ptr).name = name;
            bindings::spin_unlock(&raw mut (*ptr).name_lock);
        }
        // SAFETY: Nobody else has the file yet: it has no fd, and walkers of the list of all
        // dma-bufs do not look at `f_mapping`. `exported` keeps the address space until the file is
        // gone.
        unsafe { (*(*ptr).file).f_mapping = address_space };
        // SAFETY: Made with `ops`; `dma_buf_export()` gave us the reference.
        Ok(unsafe { Self::from_raw(ptr) })
    }

    /// The dma-buf of an open file.
    ///
    /// # Safety
    ///
    /// `file` is one of a dma-buf of exporter `T`, and a reference is held.
    pub(crate) unsafe fn from_file(file: *mut bindings::file) -> Self {
        // SAFETY: By the requirements of this function.
        unsafe { bindings::get_file(file) };
        // SAFETY: The private data of a dma-buf file is the dma-buf.
        let dma_buf = unsafe { (*file).private_data }.cast();
        // SAFETY: By the requirements of this function, with the reference just taken.
        unsafe { Self::from_raw(dma_buf) }
    }

    /// # Safety
    ///
    /// `ptr` is a dma-buf with a table `Ops<T>`, and a reference to it passes to the new value.
    unsafe fn from_raw(ptr: *mut bindings::dma_buf) -> Self {
        // INVARIANT: By the requirements of this function.
        Self {
            // SAFETY: A valid dma-buf is not null.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _exporter: PhantomData,
        }
    }

    /// The dma-buf behind a file descriptor of the current process. `dma_buf_get()`
    ///
    /// # Errors
    ///
    /// `EBADF` when it is not open, `EINVAL` when it is no dma-buf, `ENODEV` when it is not one
    /// with the table `ops`.
    pub fn from_fd(ops: &'static Ops<T>, fd: i32) -> Result<Self> {
        // SAFETY: Any number may be asked for.
        let ptr = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;
        // SAFETY: We hold a reference.
        let is_ours = core::ptr::eq(unsafe { (*ptr).ops }, &ops.table)
            // The compiler may give one address to the tables of two exporters.
            // SAFETY: With a table of this module, it has an `Exported`, which begins with that.
            && unsafe { *(*ptr).priv_.cast::<TypeId>() } == TypeId::of::<T>();
        if !is_ours {
            // SAFETY: Drops the reference of `dma_buf_get()`.
            unsafe { bindings::dma_buf_put(ptr) };
            return Err(ENODEV);
        }
        // SAFETY: Checked just now; `dma_buf_get()` gave us the reference.
        Ok(unsafe { Self::from_raw(ptr) })
    }

    /// Publishes the dma-buf under a reserved file descriptor. Cannot fail, cannot be undone.
    pub fn install(self, reservation: FileDescriptorReservation) -> c_int {
        let fd = reservation.reserved_fd();
        // The fd is used up by `dma_buf_fd_install()`, and so is our reference.
        core::mem::forget(reservation);
        let this = ManuallyDrop::new(self);
        // SAFETY: `fd` was reserved in this task's table, and the reference is ours.
        unsafe { bindings::dma_buf_fd_install(this.ptr.as_ptr(), fd as c_int) };
        fd as c_int
    }

    /// Tells all importers that their mappings are void. `dma_buf_invalidate_mappings()`
    ///
    /// Takes the reservation lock. Importers may still have to unmap when this returns.
    ///
    /// # Errors
    ///
    /// As [`LockedReservation::new`]: they were not told.
    pub fn invalidate(&self, wait: Wait) -> Result {
        let dma_buf = self.ptr.as_ptr();
        // SAFETY: We hold a reference to the dma-buf, which has the reservation object.
        let _locked = unsafe { LockedReservation::new((*dma_buf).resv, wait) }?;
        // SAFETY: The reservation is locked.
        unsafe { bindings::dma_buf_invalidate_mappings(dma_buf) };
        Ok(())
    }

    /// Waits for what devices are doing with the memory, less what they begin after this is called.
    ///
    /// Takes the reservation lock, but does not wait under it: others would hang on it as long.
    ///
    /// # Errors
    ///
    /// As [`dma_fence::wait_for_all`].
    pub fn wait_for_fences(&self, wait: Wait) -> Result {
        // SAFETY: We hold a reference to the dma-buf, which has the reservation object.
        unsafe { dma_fence::wait_for_all((*self.ptr.as_ptr()).resv, wait) }
    }

    /// The exporter, to be kept beyond the dma-buf.
    pub fn exported(&self) -> ArcBorrow<'_, Exported<T>> {
        // SAFETY: By the type invariant; `export` put an `Arc` there.
        unsafe { ArcBorrow::from_raw((*self.ptr.as_ptr()).priv_.cast::<Exported<T>>()) }
    }

    /// The inode number of its file, as in fdinfo and bufinfo.
    pub fn inode(&self) -> u64 {
        // SAFETY: We hold a reference, and the number of an inode does not change.
        unsafe { (*(*self.file()).f_inode).i_ino }
    }

    pub(crate) fn file(&self) -> *mut bindings::file {
        // SAFETY: We hold a reference, so the file is the dma-buf's.
        unsafe { (*self.ptr.as_ptr()).file }
    }
}

impl<T: Exporter> Deref for DmaBuf<T> {
    type Target = Exported<T>;

    #[inline(always)]
    fn deref(&self) -> &Exported<T> {
        // SAFETY: By the type invariant, with the reference that we own.
        unsafe { Exported::from_dma_buf(self.ptr.as_ptr()) }
    }
}

impl<T: Exporter> Clone for DmaBuf<T> {
    fn clone(&self) -> Self {
        // SAFETY: We hold a reference.
        unsafe { bindings::get_file(self.file()) };
        // SAFETY: The same dma-buf, with the reference just taken.
        unsafe { Self::from_raw(self.ptr.as_ptr()) }
    }
}

impl<T> Drop for DmaBuf<T> {
    fn drop(&mut self) {
        // SAFETY: We own a reference.
        unsafe { bindings::dma_buf_put(self.ptr.as_ptr()) };
    }
}
