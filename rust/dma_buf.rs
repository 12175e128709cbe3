// SPDX-License-Identifier: GPL-2.0

//! Exporting device memory as dma-bufs.
//!
//! A driver implements [`Exporter`]. [`Exported`] puts an exporter on top of a device and is what
//! `dma_buf.priv` points at; [`DmaBuf`] is a counted reference to the dma-buf itself.
//!
//! The files of all dma-bufs of a device have the device's own address space as `f_mapping`. So one
//! `unmap_mapping_range()` reaches all mappings of all of them, as it does for the device fds.
//!
//! C headers: [`include/linux/dma-buf.h`](srctree/include/linux/dma-buf.h),
//! [`include/linux/dma-buf-mapping.h`](srctree/include/linux/dma-buf-mapping.h)

use crate::{
    bindings,
    mm::{
        Fault,
        NewMapping,
        Outcome, //
    },
    vfio_pci_core::{
        Device,
        DeviceRef, //
    }, //
};
use core::{
    marker::PhantomData,
    ops::Deref,
    ptr::NonNull, //
};
use kernel::{
    error::{
        from_err_ptr,
        from_result, //
    },
    fmt,
    fs::file::FileDescriptorReservation,
    prelude::*,
    sync::{
        Arc,
        ArcBorrow, //
    }, //
};

/// `open_flags` of a dma-buf that can be written.
pub const O_RDWR: u32 = kernel::fs::file::flags::O_RDWR;

/// What stands behind a dma-buf.
pub trait Exporter: Sized + Send + Sync + 'static {
    /// The driver data of the device whose memory is exported.
    type DeviceData: Send + Sync + 'static;

    /// A process maps the dma-buf. The VMA lies within its size.
    ///
    /// `mmap_lock` is held for writing.
    fn mmap(exported: &Exported<Self>, mapping: NewMapping<'_, Self>) -> Result;

    /// A process accesses a page of a mapping that has no entry for it.
    fn fault(exported: &Exported<Self>, fault: &Fault<'_>) -> Outcome;

    /// The last file reference is gone, and with it the last mapping.
    fn release(exported: ArcBorrow<'_, Exported<Self>>);
}

/// An exporter and the device whose memory it exports.
pub struct Exported<T: Exporter> {
    device: DeviceRef<T::DeviceData>,
    exporter: T,
}

impl<T: Exporter> Exported<T> {
    /// Puts `exporter` on top of `device`.
    pub fn new(device: &Device<T::DeviceData>, exporter: T) -> Result<Arc<Self>> {
        let exported = Self {
            device: device.into(),
            exporter,
        };
        Ok(Arc::new(exported, GFP_KERNEL_ACCOUNT)?)
    }

    /// The device whose memory is exported.
    pub fn device(&self) -> &Device<T::DeviceData> {
        &self.device
    }

    /// The exporter behind an open dma-buf file.
    ///
    /// # Safety
    ///
    /// `file` is one of a dma-buf of exporter `T`, and somebody holds a reference during `'a`.
    pub(crate) unsafe fn from_file<'a>(file: *mut bindings::file) -> &'a Self {
        // SAFETY: The private data of a dma-buf file is the dma-buf.
        let dma_buf = unsafe { (*file).private_data }.cast::<bindings::dma_buf>();
        // SAFETY: By the requirements of this function.
        unsafe { &*(*dma_buf).priv_.cast() }
    }
}

impl<T: Exporter> Deref for Exported<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.exporter
    }
}

/// The `dma_buf_ops` of exporter `T`. For a `static`: its address tells the exporter's dma-bufs from
/// others, so there must be one per exporter.
pub struct Ops<T>(bindings::dma_buf_ops, PhantomData<T>);

// SAFETY: Never written.
unsafe impl<T> Sync for Ops<T> {}

impl<T: Exporter> Ops<T> {
    /// Makes the table.
    pub const fn new() -> Self {
        let mut ops: bindings::dma_buf_ops = pin_init::zeroed();
        ops.attach = Some(attach);
        ops.map_dma_buf = Some(map);
        ops.unmap_dma_buf = Some(unmap);
        ops.mmap = Some(mmap::<T>);
        ops.release = Some(release::<T>);
        Self(ops, PhantomData)
    }
}

unsafe extern "C" fn attach(
    _dma_buf: *mut bindings::dma_buf,
    _attachment: *mut bindings::dma_buf_attachment,
) -> c_int {
    EOPNOTSUPP.to_errno()
}

unsafe extern "C" fn map(
    _attachment: *mut bindings::dma_buf_attachment,
    _dir: bindings::dma_data_direction,
) -> *mut bindings::sg_table {
    EOPNOTSUPP.to_ptr()
}

unsafe extern "C" fn unmap(
    _attachment: *mut bindings::dma_buf_attachment,
    _sgt: *mut bindings::sg_table,
    _dir: bindings::dma_data_direction,
) {
}

unsafe extern "C" fn mmap<T: Exporter>(
    dma_buf: *mut bindings::dma_buf,
    vma: *mut bindings::vm_area_struct,
) -> c_int {
    from_result(|| {
        // SAFETY: The dma-buf is one of `T` and open; the VMA is being set up with its file.
        let exported = unsafe { &*(*dma_buf).priv_.cast::<Exported<T>>() };
        // SAFETY: As above.
        T::mmap(exported, unsafe { NewMapping::from_raw(vma) })?;
        Ok(0)
    })
}

unsafe extern "C" fn release<T: Exporter>(dma_buf: *mut bindings::dma_buf) {
    // SAFETY: `DmaBuf::export` put the reference there, and this is called once.
    let exported = unsafe { Arc::from_raw((*dma_buf).priv_.cast::<Exported<T>>()) };
    T::release(exported.as_arc_borrow());
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
    /// `exp_name` and `name` identify it in bufinfo, fdinfo and maps. `open_flags` are those of
    /// open(2); of them `O_ACCMODE` and `O_NONBLOCK` count.
    pub fn export(
        ops: &'static Ops<T>,
        module: &'static ThisModule,
        exported: Arc<Exported<T>>,
        size: usize,
        open_flags: u32,
        name: fmt::Arguments<'_>,
    ) -> Result<Self> {
        let address_space = exported.device.core().address_space();
        // SAFETY: `%pA` formats a `fmt::Arguments`.
        let name = unsafe {
            bindings::kasprintf(
                bindings::GFP_KERNEL_ACCOUNT,
                c"%pA".as_char_ptr(),
                (&raw const name).cast::<c_void>(),
            )
        };
        if name.is_null() {
            return Err(ENOMEM);
        }
        let info = bindings::dma_buf_export_info {
            exp_name: Self::EXP_NAME.as_char_ptr(),
            owner: module.as_ptr(),
            ops: &ops.0,
            size,
            flags: open_flags as c_int,
            priv_: Arc::as_ptr(&exported).cast_mut().cast(),
            ..pin_init::zeroed()
        };
        // SAFETY: `info` is complete. No callback runs before somebody gets at the dma-buf.
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
        // SAFETY: Nobody else has the file yet. `exported` keeps the device, which keeps the
        // address space, until the file is gone.
        unsafe { (*(*ptr).file).f_mapping = address_space };
        // INVARIANT: Made with `ops`; `dma_buf_export()` gave us the reference.
        Ok(Self {
            // SAFETY: A valid dma-buf is not null.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _exporter: PhantomData,
        })
    }

    const EXP_NAME: &'static CStr = c"dmabuf-vfio-pci";

    /// The dma-buf behind a file descriptor of the current process. `dma_buf_get()`
    ///
    /// # Errors
    ///
    /// `EBADF` when it is not open, `EINVAL` when it is no dma-buf, `ENODEV` when it is not one with
    /// the table `ops`.
    pub fn from_fd(ops: &'static Ops<T>, fd: i32) -> Result<Self> {
        // SAFETY: Any number may be asked for.
        let ptr = from_err_ptr(unsafe { bindings::dma_buf_get(fd) })?;
        // SAFETY: We hold a reference.
        if !core::ptr::eq(unsafe { (*ptr).ops }, &ops.0) {
            // SAFETY: Drops the reference of `dma_buf_get()`.
            unsafe { bindings::dma_buf_put(ptr) };
            return Err(ENODEV);
        }
        // INVARIANT: Checked just now.
        Ok(Self {
            // SAFETY: A valid dma-buf is not null.
            ptr: unsafe { NonNull::new_unchecked(ptr) },
            _exporter: PhantomData,
        })
    }

    /// Publishes the dma-buf under a reserved file descriptor. Cannot fail, cannot be undone.
    pub fn install(self, reservation: FileDescriptorReservation) -> c_int {
        let fd = reservation.reserved_fd();
        // The fd is used up by `dma_buf_fd_install()`, and so is our reference.
        core::mem::forget(reservation);
        let this = core::mem::ManuallyDrop::new(self);
        // SAFETY: `fd` was reserved in this task's table, and the reference is ours.
        unsafe { bindings::dma_buf_fd_install(this.ptr.as_ptr(), fd as c_int) };
        fd as c_int
    }

    /// The exporter and its device.
    pub fn exported(&self) -> ArcBorrow<'_, Exported<T>> {
        // SAFETY: By the type invariant; `export` put an `Arc` there.
        unsafe { ArcBorrow::from_raw((*self.ptr.as_ptr()).priv_.cast::<Exported<T>>()) }
    }

    pub(crate) fn file(&self) -> *mut bindings::file {
        // SAFETY: We hold a reference, so the file is the dma-buf's.
        unsafe { (*self.ptr.as_ptr()).file }
    }
}

impl<T> Drop for DmaBuf<T> {
    fn drop(&mut self) {
        // SAFETY: We own a reference.
        unsafe { bindings::dma_buf_put(self.ptr.as_ptr()) };
    }
}
