// SPDX-License-Identifier: GPL-2.0

//! Files in debugfs that keep the module loaded while they are open.
//!
//! Those of the `kernel` crate do not, and closing one calls into the module.
//!
//! C header: [`include/linux/debugfs.h`](srctree/include/linux/debugfs.h)

use crate::bindings;
use core::marker::PhantomData;
use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print,
    str::CStr,
    sync::{
        aref::{
            ARef,
            AlwaysRefCounted, //
        },
        Arc, //
    }, //
};

/// The contents of a kind of file.
pub trait Contents: 'static {
    /// What the file is about.
    type Object: AlwaysRefCounted + Send + Sync + 'static;

    /// The file's name.
    const NAME: &'static CStr;

    /// Writes the text. A read calls this in the context of its process, again if the text did not
    /// fit into the buffer. The file is not removed meanwhile.
    fn write(object: &Self::Object, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// The `file_operations` of files with the contents `C`. For a `static`, as files refer to it.
pub struct File<C>(bindings::file_operations, PhantomData<C>);

// SAFETY: The table is never written, and its functions may be called on any thread. There is no
// `C` in it.
unsafe impl<C> Sync for File<C> {}

impl<C: Contents> File<C> {
    /// Makes the table; open files keep `module` loaded.
    pub const fn build(module: &'static ThisModule) -> Self {
        let mut operations: bindings::file_operations = pin_init::zeroed();
        operations.owner = module.as_ptr();
        operations.open = Some(open::<C>);
        operations.read = Some(bindings::seq_read);
        operations.llseek = Some(bindings::seq_lseek);
        operations.release = Some(bindings::single_release);
        Self(operations, PhantomData)
    }
}

/// `file_operations.open`
///
/// # Safety
///
/// Called by debugfs for a file that [`Files::add`] made with contents `C`.
unsafe extern "C" fn open<C: Contents>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The inode is valid; debugfs sets `i_private` before anyone can open the file.
    let object = unsafe { (*inode).i_private };
    // SAFETY: The file is being opened, and nobody else uses its private data. `show` is for files
    // with contents `C`, as this is by the requirements of this function.
    unsafe { bindings::single_open(file, Some(show::<C>), object) }
}

/// `seq_operations.show`
///
/// # Safety
///
/// Called for a file that was opened by [`open`], before debugfs has removed it.
unsafe extern "C" fn show<C: Contents>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: `open` put there what `Files::add` passed: a `C::Object`. The `Files` keeps its
    // reference until it has removed the file. debugfs reads through a function of its own, which
    // holds up the removal, and fails after it.
    let object = unsafe { &*(*seq).private.cast::<C::Object>() };
    // SAFETY: `seq_read()` has locked the file for this call.
    let seq = unsafe { SeqFile::from_raw(seq) };
    seq_print!(seq, "{}", Show::<C>(object));
    0
}

struct Show<'a, C: Contents>(&'a C::Object);

impl<C: Contents> fmt::Display for Show<'_, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        C::write(self.0, f)
    }
}

/// A directory, removed with all that is in it when this is dropped.
///
/// Nothing depends on debugfs: if the directory could not be made, there is none.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_dir()` returned, and only `drop` removes it.
pub struct Dir {
    dentry: *mut bindings::dentry,
    /// Removed later than what is in it.
    _parent: Option<Arc<Dir>>,
}

// SAFETY: The functions of debugfs may be called on any thread, and the dentry belongs to none.
unsafe impl Send for Dir {}
// SAFETY: As above; the functions that take a shared `Dir` may run at the same time.
unsafe impl Sync for Dir {}

impl Dir {
    /// A directory at the top of debugfs.
    pub fn new(name: &CStr) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::new_in(name, None), GFP_KERNEL)?)
    }

    fn new_in(name: &CStr, parent: Option<Arc<Dir>>) -> Self {
        let above = parent
            .as_ref()
            .map_or(core::ptr::null_mut(), |dir| dir.dentry);
        // SAFETY: `name` is NUL-terminated. `above` is null, an error, or by the type invariant a
        // directory that is there: `parent` is a reference.
        let dentry = unsafe { bindings::kernel_ext_debugfs_create_dir(name.as_char_ptr(), above) };
        // INVARIANT: Made just now.
        Self {
            dentry,
            _parent: parent,
        }
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // SAFETY: By the type invariant nothing else has removed it. Errors are ignored.
        unsafe { bindings::kernel_ext_debugfs_remove(self.dentry) };
    }
}

/// A directory with files about an object.
pub struct Files<T: AlwaysRefCounted> {
    /// Dropped first: that waits for readers, which use `object`.
    dir: Dir,
    object: ARef<T>,
}

impl<T: AlwaysRefCounted + Send + Sync + 'static> Files<T> {
    /// A directory without files.
    pub fn new_in(parent: &Arc<Dir>, name: &CStr, object: &T) -> Self {
        Self {
            dir: Dir::new_in(name, Some(parent.clone())),
            object: object.into(),
        }
    }

    /// Adds a file that only root may read.
    pub fn add<C: Contents<Object = T>>(&self, file: &'static File<C>) {
        let object: *const T = &*self.object;
        // SAFETY: The name is NUL-terminated; `dir` is an error, or a directory that is there. The
        // table is static and for a `T`, which `object` keeps until `dir` is removed.
        unsafe {
            bindings::kernel_ext_debugfs_create_file(
                C::NAME.as_char_ptr(),
                0o400,
                self.dir.dentry,
                object.cast_mut().cast(),
                &file.0,
            )
        };
    }
}
