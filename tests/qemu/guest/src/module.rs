// SPDX-License-Identifier: GPL-2.0
//! Kernel modules: the driver under test and what it depends on.

use std::env;
use std::ffi::{CStr, CString};

use nix::kmod::{delete_module, finit_module, DeleteModuleFlags, ModuleInitFlags};

use crate::prelude::*;

/// A kernel module in a file.
pub struct Module {
    path: PathBuf,
    name: String,
}

impl Module {
    /// The driver under test: `$DRIVER_KO`, by default `/lib/modules/dmabuf-vfio-pci.ko`.
    pub fn driver() -> Module {
        let path = env::var_os("DRIVER_KO").unwrap_or("/lib/modules/dmabuf-vfio-pci.ko".into());
        Module::new(path)
    }

    /// The module in the file `path`.
    pub fn new(path: impl Into<PathBuf>) -> Module {
        let path = path.into();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let name = stem.replace('-', "_");
        Module { path, name }
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its name as the kernel spells it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is loaded. `/sys/module` has directories of built-in modules, too.
    pub fn is_loaded(&self) -> bool {
        Path::new("/sys/module").join(&self.name).join("initstate").exists()
    }

    /// insmod, after the modules that it depends on.
    pub fn load(&self) -> Result<()> {
        if self.is_loaded() {
            return Ok(());
        }
        self.load_dependencies()?;
        self.insert(c"").with_context(|| format!("insmod {}", self.path.display()))
    }

    /// insmod with parameters, after the modules that it depends on. The inner result is insmod's.
    pub fn load_with(&self, parameters: &CStr) -> Result<Result<(), Errno>> {
        self.load_dependencies()?;
        Ok(self.insert(parameters))
    }

    /// Sets a parameter of type bool, of the loaded module.
    pub fn set_parameter(&self, name: &str, on: bool) -> Result<()> {
        let path = Path::new("/sys/module").join(&self.name).join("parameters").join(name);
        fs::write(&path, if on { "Y" } else { "N" }).with_context(|| path.display().to_string())
    }

    fn load_dependencies(&self) -> Result<()> {
        for name in self.dependencies()? {
            let sibling = self.path.with_file_name(format!("{}.ko", name.replace('_', "-")));
            let dependency = Module::new(&sibling);
            if !dependency.is_loaded() && !Path::new("/sys/module").join(&name).exists() {
                dependency.load()?;
            }
        }
        Ok(())
    }

    fn insert(&self, parameters: &CStr) -> Result<(), Errno> {
        let file = File::open(&self.path)
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        finit_module(file, parameters, ModuleInitFlags::empty())
    }

    /// rmmod, without waiting: EWOULDBLOCK if the module is in use.
    pub fn unload(&self) -> Result<(), Errno> {
        let name = CString::new(self.name.as_str()).map_err(|_| Errno::EINVAL)?;
        delete_module(&name, DeleteModuleFlags::O_NONBLOCK)
    }

    /// rmmod, waiting a little for references that a file's deferred release still holds.
    pub fn unload_soon(&self) -> Result<()> {
        let done = wait_until(Duration::from_secs(10), "EWOULDBLOCK", || match self.unload() {
            Err(Errno::EWOULDBLOCK) => Ok(false),
            done => Ok(done.map(|()| true)?),
        });
        done.with_context(|| format!("rmmod {}, refcnt {:?}", self.name, self.references()))
    }

    /// How many references to it there are.
    pub fn references(&self) -> Result<u32> {
        let path = Path::new("/sys/module").join(&self.name).join("refcnt");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        Ok(text.trim().parse()?)
    }

    /// What `modinfo -F depends` says.
    fn dependencies(&self) -> Result<Vec<String>> {
        const KEY: &[u8] = b"\0depends=";
        let bytes = fs::read(&self.path).with_context(|| self.path.display().to_string())?;
        let Some(at) = bytes.windows(KEY.len()).position(|window| window == KEY) else {
            return Ok(Vec::new());
        };
        let value = &bytes[at + KEY.len()..];
        let value = &value[..value.iter().position(|&byte| byte == 0).unwrap_or(0)];
        let value = String::from_utf8_lossy(value);
        Ok(value.split(',').filter(|name| !name.is_empty()).map(str::to_string).collect())
    }
}
