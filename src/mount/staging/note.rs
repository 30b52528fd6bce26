//! What is written down beside the journal, and the end of a staging folder.

use std::fs::File;
use std::io::{ErrorKind, Write as _};

use super::Staging;
use crate::error::{Context as _, Result};

/// What became of the work, see `commit::publication`.
const NOTE: &str = "publication.json";

impl Staging {
    /// What was [noted](Self::note) last.
    pub(in crate::mount) fn noted(&self) -> Result<Option<Vec<u8>>> {
        let path = self.folder.join(NOTE);
        match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            text => text.doing(|| format!("read {}", path.display())).map(Some),
        }
    }

    /// Writes down what becomes of the work, for certain.
    pub(in crate::mount) fn note(&self, text: &[u8]) -> Result<()> {
        self.write(NOTE, text)
    }

    /// Forgets what was noted: of work that is not there any more.
    pub(in crate::mount) fn forget_note(&self) -> Result<()> {
        match std::fs::remove_file(self.folder.join(NOTE)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).doing(|| format!("empty the staging folder {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Writes a whole file of the folder: after this the new one is there, before it the old one.
    pub(super) fn write(&self, name: &str, text: &[u8]) -> Result<()> {
        let (path, new) = (self.folder.join(name), self.folder.join(format!("{name}.new")));
        File::create(&new)
            .and_then(|mut file| file.write_all(text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .doing(|| format!("write {}", path.display()))
    }

    /// Throws everything in it away: it is published, or nobody wants it. For when nobody writes any more.
    ///
    /// The journal goes first. A kill after that leaves bytes nothing leads to, which the next mount sweeps away.
    pub(in crate::mount) fn clear(&self) -> Result<()> {
        let doing = || format!("empty the staging folder {}", self.folder.display());
        std::fs::remove_file(self.folder.join("journal"))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .and_then(|()| std::fs::remove_dir_all(&self.folder))
            .doing(doing)
    }

    /// How many bytes of the disk changed files take.
    pub(in crate::mount) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let files = std::fs::read_dir(self.folder.join("data")).into_iter().flatten().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.blocks() * 512).sum()
    }
}
