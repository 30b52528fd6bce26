//! What became of staged work that was published while its mount went on.
//!
//! `publication.json`: the manifest that is about to be published is written down before it is, so that a kill
//! between the two leaves nobody in doubt whose manifest the tag points at.

use std::fs::File;
use std::io::Write as _;

use serde::{Deserialize, Serialize};

use super::Staging;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Digest;

/// What became of staged work.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::mount) struct Publication {
    /// What was about to be published last; it may or may not have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::mount) attempt: Option<Digest>,
    /// What was published last: the next commit builds on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::mount) published: Option<Digest>,
    /// Where the mounted tag was seen last, if that is not the base any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::mount) tag_at: Option<Digest>,
}

impl Staging {
    /// What became of the work in it.
    pub(in crate::mount) fn publication(&self) -> Result<Publication> {
        let path = self.folder.join("publication.json");
        match std::fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Publication::default()),
            text => {
                let text = text.doing(|| format!("read {}", path.display()))?;
                serde_json::from_slice(&text).map_err(|error| {
                    Error::with_source(ErrorKind::Corrupt, format!("read {}", path.display()), error)
                })
            }
        }
    }

    /// Writes down what becomes of the work, for certain.
    pub(in crate::mount) fn note(&self, publication: &Publication) -> Result<()> {
        let (path, new) = (self.folder.join("publication.json"), self.folder.join("publication.json.new"));
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec(publication)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, doing(), error))?;
        File::create(&new)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| std::fs::rename(&new, &path))
            .and_then(|()| File::open(&self.folder)?.sync_all())
            .doing(doing)
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
