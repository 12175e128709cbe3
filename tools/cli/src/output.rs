// SPDX-License-Identifier: GPL-2.0
//! Output and exit statuses.

use std::io::{self, Write};

use serde::Serialize;
use vfio_dmabuf::Error;

/// The reason why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// An error of the crate or of the kernel.
    #[error(transparent)]
    Device(#[from] Error),
    /// An error of a file or a pipe.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The named object does not exist.
    #[error("{0}")]
    NotFound(String),
    /// Refused without `--force`.
    #[error("{0}")]
    Refused(String),
    /// The slice was revoked, or its device was closed.
    #[error("{0}")]
    Gone(String),
}

impl Failure {
    /// The exit status for it.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Device(error) if error.is_lost() => 4,
            Failure::Gone(_) => 4,
            Failure::Refused(_) => 3,
            _ => 1,
        }
    }

    fn errno(&self) -> Option<i32> {
        match self {
            Failure::Device(error) => error.errno().map(|errno| errno.raw_os_error()),
            Failure::Io(_, error) => error.raw_os_error(),
            _ => None,
        }
    }
}

impl From<vfio_dmabuf::AccessError> for Failure {
    fn from(error: vfio_dmabuf::AccessError) -> Failure {
        Failure::Device(error.into())
    }
}

/// Adds a description to errors of input and output.
pub trait Doing<T> {
    /// Adds the name of the operation.
    fn doing(self, what: &str) -> Result<T, Failure>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: &str) -> Result<T, Failure> {
        self.map_err(|error| Failure::Io(what.to_string(), error))
    }
}

/// The output format.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Print JSON.
    pub json: bool,
}

impl Output {
    /// Prints a result: as JSON, or the text of `text`.
    ///
    /// # Errors
    ///
    /// [`Failure::Io`]: the output cannot be written.
    pub fn result(
        self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let text = match self.json {
            true => serde_json::to_string(value).map_err(io::Error::from).doing("JSON")? + "\n",
            false => text(),
        };
        self.bytes(text.as_bytes())
    }

    /// Prints bytes.
    ///
    /// # Errors
    ///
    /// [`Failure::Io`]: the output cannot be written.
    pub fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush()).doing("write")
    }

    /// Reports a failure on standard error.
    pub fn failure(self, failure: &Failure, status: u8) {
        let text = match self.json {
            true => serde_json::json!({
                "error": failure.to_string(),
                "errno": failure.errno(),
                "exit": status,
            })
            .to_string(),
            false => format!("vfio-dmabuf: {failure}"),
        };
        let _ = writeln!(io::stderr(), "{text}");
    }
}

/// Formats rows under headings, in columns as wide as their longest cell.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let headings: Vec<String> = headings.iter().map(|&heading| heading.to_string()).collect();
    let mut text = String::new();
    for row in std::iter::once(&headings).chain(rows) {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells.map(|(cell, &width)| format!("{cell:<width$}")).collect();
        text += line.join("  ").trim_end();
        text.push('\n');
    }
    text
}

/// Formats bytes in the largest unit that gives a whole number.
pub fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    match units.iter().find(|(shift, _)| bytes != 0 && bytes % (1 << shift) == 0) {
        Some((shift, unit)) => format!("{} {unit}", bytes >> shift),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vfio_dmabuf::AccessError;

    #[test]
    fn exit_statuses_are_those_of_the_manual() {
        assert_eq!(Failure::NotFound(String::new()).status(), 1);
        assert_eq!(Failure::Refused(String::new()).status(), 3);
        assert_eq!(Failure::Gone(String::new()).status(), 4);
        assert_eq!(Failure::from(AccessError::Lost { offset: 0 }).status(), 4);
        assert_eq!(Failure::from(AccessError::ReadOnly).status(), 1);
    }

    #[test]
    fn sizes_are_exact() {
        let sizes = [(0, "0 B"), (100, "100 B"), (4096, "4 KiB"), (1 << 20, "1 MiB")];
        for (bytes, text) in sizes.into_iter().chain([(4097, "4097 B"), (5 << 30, "5 GiB")]) {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn tables_have_straight_columns() {
        let rows = [vec!["a".into(), "b".into()], vec!["long".into(), "".into()]];
        assert_eq!(table(&["X", "YY"], &rows), "X     YY\na     b\nlong\n");
    }
}
