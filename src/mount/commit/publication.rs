//! What became of staged work that was published while its mount went on.
//!
//! `publication.json` in the staging folder has one entry for each artifact: for a mounted artifact under "", for the
//! tags of a mounted repository under their names. The manifest that is about to be published is written down before it
//! is, so that a kill between the two leaves nobody in doubt whose manifest the tag points at. What was published is
//! written down whole: the next mount goes on from it with the registry gone. Of what is in an index this is the manifest
//! with the files, and the index's digest beside it: the index is made from the one the work builds on.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::since::Since;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::staging::Staging;
use crate::oci::{Digest, ImageManifest, Manifest};

/// What became of the changes of one artifact.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Publication {
    /// What was about to be published last; it may or may not have been.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) attempt: Option<Written>,
    /// What was published last: the next commit builds on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) published: Option<Written>,
    /// Where the tag was seen last, if that is not the base any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tag_at: Option<Digest>,
    /// The tree that was published, to tell what changed since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<Since>,
    /// Whether the tag was deleted last.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) deleted: bool,
}

/// A manifest, written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) digest: Digest,
    media_type: String,
    /// Its very bytes, which are JSON and so are text.
    text: String,
    /// The index it is in, if that is what the tag points at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    index: Option<Digest>,
}

impl Written {
    pub(super) fn new(digest: Digest, media_type: &str, bytes: &Bytes) -> Result<Self> {
        let text = String::from_utf8(bytes.to_vec())
            .map_err(|error| Error::with_source(ErrorKind::Corrupt, "a manifest that is not text", error))?;
        Ok(Self { digest, media_type: media_type.to_owned(), text, index: None })
    }

    /// The same, reached through `named`: itself, or the index it is in.
    pub(super) fn reached_by(mut self, named: &Digest) -> Self {
        self.index = Some(named.clone()).filter(|named| *named != self.digest);
        self
    }

    /// What the tag points at.
    pub(super) fn named(&self) -> &Digest {
        self.index.as_ref().unwrap_or(&self.digest)
    }

    pub(super) fn image(&self) -> Result<ImageManifest> {
        match Manifest::parse(Bytes::from(self.text.clone()), Some(&self.media_type))? {
            Manifest::Image(image) => Ok(image),
            Manifest::Index(_) => Err(Error::new(ErrorKind::Corrupt, "what was published is an index")),
        }
    }
}

/// What became of all of them, by name.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Publications(pub(super) BTreeMap<String, Publication>);

impl Publications {
    pub(super) fn read(staging: &Staging) -> Result<Self> {
        let Some(text) = staging.noted()? else { return Ok(Self::default()) };
        serde_json::from_slice(&text).map_err(|error| {
            let doing = format!(
                "{}/publication.json, which says what was published of the staged work, cannot be read; the work is whole: move it away, mount again, and commit with --force if the tag is where you left it",
                staging.folder().display()
            );
            Error::with_source(ErrorKind::Corrupt, doing, error)
        })
    }

    pub(super) fn write(&self, staging: &Staging) -> Result<()> {
        let text = serde_json::to_vec(self)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "write down what is published", error))?;
        staging.note(&text)
    }

    /// What became of `name`.
    pub(super) fn of(&mut self, name: &str) -> &mut Publication {
        self.0.entry(name.to_owned()).or_default()
    }
}
