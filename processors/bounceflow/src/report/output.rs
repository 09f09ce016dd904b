//! Where a report goes: standard output, or a file that has its name once it is whole. Owns no format.

use std::fs::{self, File};
use std::io::{BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A place to write to. Dropped before [`Output::keep`], it leaves no file behind.
pub(super) struct Output {
    file: Option<Part>,
}

struct Part {
    file: File,
    part: PathBuf,
    whole: PathBuf,
}

impl Output {
    /// None: standard output.
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(whole) = path else { return Ok(Self { file: None }) };
        let name = whole.file_name().with_context(|| format!("{} is no name of a file", whole.display()))?;
        anyhow::ensure!(!whole.is_dir(), "{} is a folder: name a file in it", whole.display());
        let part = whole.with_file_name(format!(".{}.{}.part", name.to_string_lossy(), std::process::id()));
        let file = File::options().read(true).write(true).create_new(true).open(&part);
        let file = file.with_context(|| format!("cannot write to {}", whole.display()))?;
        Ok(Self { file: Some(Part { file, part, whole: whole.to_owned() }) })
    }

    /// Whether somebody sees it as it comes.
    pub(super) fn is_terminal(&self) -> bool {
        self.file.is_none() && std::io::stdout().is_terminal()
    }

    pub(super) fn writer(&self) -> anyhow::Result<Box<dyn Write>> {
        Ok(match &self.file {
            Some(part) => Box::new(BufWriter::new(part.file.try_clone()?)),
            None => Box::new(BufWriter::new(std::io::stdout())),
        })
    }

    /// For formats that go back and forth while they write; none: there is no going back.
    pub(super) fn file(&self) -> anyhow::Result<Option<File>> {
        Ok(self.file.as_ref().map(|part| part.file.try_clone()).transpose()?)
    }

    /// All is written: the file gets its name.
    pub(super) fn keep(mut self) -> anyhow::Result<()> {
        if let Some(part) = &self.file {
            part.file.sync_all()?;
            fs::rename(&part.part, &part.whole).with_context(|| format!("cannot write to {}", part.whole.display()))?;
            self.file = None;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some(part) = &self.file {
            let _ = fs::remove_file(&part.part);
        }
    }
}
