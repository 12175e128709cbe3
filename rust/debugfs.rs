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

/// What is in a file.
pub trait Text: 'static {
    /// What it is about.
    type Of: AlwaysRefCounted + Send + Sync + 'static;

    /// The file's name.
    const NAME: &'static CStr;

    /// Writes it. The file is not removed meanwhile.
    fn write(of: &Self::Of, f: &mut fmt::Formatter<'_>) -> fmt::Result;
}

/// The `file_operations` of files with a text. For a `static`: they outlive the file.
pub struct File<W>(bindings::file_operations, PhantomData<W>);

// SAFETY: Never written.
unsafe impl<W> Sync for File<W> {}

impl<W: Text> File<W> {
    /// Makes the table; open files keep `module` loaded.
    pub const fn build(module: &'static ThisModule) -> Self {
        let mut operations: bindings::file_operations = pin_init::zeroed();
        operations.owner = module.as_ptr();
        operations.open = Some(open::<W>);
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
/// Called by debugfs for a file of text `W`.
unsafe extern "C" fn open<W: Text>(
    inode: *mut bindings::inode,
    file: *mut bindings::file,
) -> c_int {
    // SAFETY: The inode is valid.
    let of = unsafe { (*inode).i_private };
    // SAFETY: The file is being opened.
    unsafe { bindings::single_open(file, Some(show::<W>), of) }
}

/// `seq_operations.show`
///
/// # Safety
///
/// Called for a file that was opened by [`open`], which debugfs does not remove meanwhile.
unsafe extern "C" fn show<W: Text>(seq: *mut bindings::seq_file, _: *mut c_void) -> c_int {
    // SAFETY: What `Files::add` passed; its reference lasts until the file is removed.
    let of = unsafe { &*(*seq).private.cast::<W::Of>() };
    // SAFETY: Nobody else has it meanwhile.
    let seq = unsafe { SeqFile::from_raw(seq) };
    seq_print!(seq, "{}", Show::<W>(of));
    0
}

struct Show<'a, W: Text>(&'a W::Of);

impl<W: Text> fmt::Display for Show<'_, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        W::write(self.0, f)
    }
}

/// A directory, which goes with all that is in it when this is dropped.
///
/// Nothing depends on what is in debugfs: there is no directory if it could not be made.
///
/// # Invariants
///
/// `dentry` is what `debugfs_create_dir()` gave, and nobody else removes it.
pub struct Dir {
    dentry: *mut bindings::dentry,
    /// What it is in goes later.
    _parent: Option<Arc<Dir>>,
}

// SAFETY: debugfs may be called on any thread.
unsafe impl Send for Dir {}
// SAFETY: As above.
unsafe impl Sync for Dir {}

impl Dir {
    /// A directory in that of debugfs itself.
    pub fn new(name: &CStr) -> Result<Arc<Self>> {
        Ok(Arc::new(Self::new_in(name, None), GFP_KERNEL)?)
    }

    fn new_in(name: &CStr, parent: Option<Arc<Dir>>) -> Self {
        let above = parent
            .as_ref()
            .map_or(core::ptr::null_mut(), |dir| dir.dentry);
        // SAFETY: A string, and null, an error or a directory, by the type invariant.
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
        // SAFETY: By the type invariant. Nothing is done about errors.
        unsafe { bindings::kernel_ext_debugfs_remove(self.dentry) };
    }
}

/// A directory with files about something.
pub struct Files<T: AlwaysRefCounted> {
    /// Goes first, which waits until nobody reads the files.
    dir: Dir,
    of: ARef<T>,
}

impl<T: AlwaysRefCounted + Send + Sync + 'static> Files<T> {
    /// A directory without files.
    pub fn new_in(parent: &Arc<Dir>, name: &CStr, of: &T) -> Self {
        Self {
            dir: Dir::new_in(name, Some(parent.clone())),
            of: of.into(),
        }
    }

    /// Adds a file that its owner may read.
    pub fn add<W: Text<Of = T>>(&self, file: &'static File<W>) {
        let of: *const T = &*self.of;
        // SAFETY: A string, and an error or a directory; `of` stays valid until `drop` has removed
        // the file, and the table is one for a `T`.
        unsafe {
            bindings::kernel_ext_debugfs_create_file(
                W::NAME.as_char_ptr(),
                0o400,
                self.dir.dentry,
                of.cast_mut().cast(),
                &file.0,
            )
        };
    }
}
