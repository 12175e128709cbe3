// SPDX-License-Identifier: GPL-2.0
//! Memory cgroups (version 2).

use nix::mount::{mount, MsFlags};

use crate::prelude::*;

const ROOT: &str = "/sys/fs/cgroup";

/// A cgroup, for processes whose memory is counted. It must be empty when dropped.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// A new one.
    pub fn new(name: &str) -> Result<Cgroup> {
        let root = Path::new(ROOT);
        if !root.join("cgroup.procs").exists() {
            let none: Option<&str> = None;
            mount(Some("cgroup2"), root, Some("cgroup2"), MsFlags::empty(), none)
                .context("mount cgroup2")?;
        }
        fs::write(root.join("cgroup.subtree_control"), "+memory").context("memory cgroups")?;
        let path = root.join(name);
        if path.exists() {
            fs::remove_dir(&path).with_context(|| path.display().to_string())?;
        }
        fs::create_dir(&path)?;
        Ok(Cgroup(path))
    }

    /// Puts this process into it.
    pub fn enter(&self) -> Result<()> {
        self.write("cgroup.procs", "0")
    }

    /// Bytes that are charged to it now.
    pub fn charged(&self) -> Result<u64> {
        Ok(self.read("memory.current")?.trim().parse()?)
    }

    /// Sets one of its limits.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        fs::write(self.0.join(file), value).with_context(|| format!("{file} = {value}"))
    }

    /// The number behind `key` in one of its files.
    pub fn value(&self, file: &str, key: &str) -> Result<u64> {
        let text = self.read(file)?;
        let line = text.lines().find(|line| line.split(' ').next() == Some(key));
        let value = line.and_then(|line| line.split(' ').nth(1));
        Ok(value.with_context(|| format!("{file} has no {key}"))?.parse()?)
    }

    fn read(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.0.join(file)).with_context(|| file.to_string())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
