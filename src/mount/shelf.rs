//! A repository whose tags stay where they were found: what a mount for writing builds on.
//!
//! A tag is resolved when somebody enters its folder. What it pointed at then is what changes in it build on, also in the
//! next mount that finds them staged: the journal says where each tag was that something was changed in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::catalog::{Fresh, LIFETIME, file_name, is_absence, tag_of};
use super::commit;
use super::follow::{Named, Pin};
use crate::artifact::tree::{Attributes, Entries, FileName, Folder, Node, stable_id};
use crate::artifact::{Artifact, View};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Digest, Name, Tag};
use crate::store::Source;

/// The tags of a repository.
pub(super) struct Shelf {
    source: Arc<dyn Source>,
    /// `host/repository`.
    base: String,
    view: View,
    listed: Fresh<BTreeSet<FileName>>,
    pins: Mutex<BTreeMap<FileName, Arc<Pin>>>,
}

impl Shelf {
    /// The tags of `source`. `base` is how references to them begin.
    pub(super) fn new(source: Arc<dyn Source>, base: &str, view: View) -> Arc<Self> {
        let (listed, pins) = (Fresh::default(), Mutex::default());
        Arc::new(Self { source, base: base.to_owned(), view, listed, pins })
    }

    /// Where the artifacts are.
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// What an artifact's folder is called by a person.
    pub(super) fn reference(&self, name: &[u8]) -> String {
        match tag(name) {
            Some(tag) => self.reference_to(&tag),
            None => format!("{}:{}", self.base, String::from_utf8_lossy(name)),
        }
    }

    fn reference_to(&self, tag: &Tag) -> String {
        format!("{}:{}", self.base, tag.as_str())
    }

    /// Says where a tag was when changes in it were begun. What is not a digest says nothing.
    pub(super) fn pin(&self, name: &[u8], digest: &str) {
        let Ok(digest) = digest.parse::<Digest>() else { return };
        let pin = self.make(Name::Digest(digest), self.reference(name));
        self.pins().insert(name.to_vec(), pin);
    }

    /// Where a tag was found, if somebody entered its folder.
    pub(super) fn pinned(&self, name: &[u8]) -> Option<Digest> {
        Some(self.known(name)?.entered()?.named.digest.clone())
    }

    /// Why an artifact that was entered cannot be changed, if it cannot.
    pub(super) async fn expect_changeable(&self, name: &[u8]) -> Result<()> {
        match self.known(name).as_ref().and_then(|pin| pin.entered()) {
            Some(artifact) => commit::expect_changeable(artifact).await,
            None => Ok(()),
        }
    }

    /// The artifact in a folder of the base.
    pub(super) async fn artifact(&self, name: &[u8]) -> Result<Artifact> {
        let pin = self
            .known(name)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{}: not found", self.reference(name))))?;
        pin.artifact().await.cloned()
    }

    fn known(&self, name: &[u8]) -> Option<Arc<Pin>> {
        self.pins().get(name).cloned()
    }

    /// The folder of a tag, if `name` can mean one; whether it is there is seen when it is entered.
    pub(super) fn node(&self, name: &[u8]) -> Option<Node> {
        let tag = tag(name)?;
        let reference = self.reference_to(&tag);
        let mut pins = self.pins();
        let pin = pins.entry(name.to_vec()).or_insert_with(|| self.make(Name::Tag(tag), reference));
        Some(Node::Folder(Arc::clone(pin) as Arc<dyn Folder>))
    }

    /// Asks for the tags.
    pub(super) async fn check(&self) -> Result<()> {
        self.names().await.map(drop)
    }

    fn make(&self, name: Name, reference: String) -> Arc<Pin> {
        let (source, view) = (Arc::clone(&self.source), self.view.clone());
        Arc::new(Pin::new(Named { source, name, reference, view }, None))
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, BTreeMap<FileName, Arc<Pin>>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn names(&self) -> Result<Arc<BTreeSet<FileName>>> {
        let ask = async {
            match self.source.tags().await {
                Ok(tags) => Ok(tags.iter().filter(|tag| !tag.is_for_tools()).filter_map(file_name).collect()),
                // A repository nobody pushed to yet.
                Err(error) if error.kind() == ErrorKind::NotFound => Ok(BTreeSet::new()),
                Err(error) => Err(error),
            }
        };
        self.listed.get(ask).await
    }
}

#[async_trait]
impl Folder for Shelf {
    fn attributes(&self) -> Attributes {
        Attributes::FOLDER
    }

    fn id(&self) -> u64 {
        stable_id(&[b"repository", self.base.as_bytes()])
    }

    fn lifetime(&self) -> Duration {
        LIFETIME
    }

    /// A tag that is listed, or one that is not: the list may be seconds old, and some registries hide tags. A registry
    /// that is gone has nothing new.
    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Some(tag) = tag(name) else { return Ok(None) };
        if let Some(pin) = self.known(name) {
            return Ok(Some(Node::Folder(pin)));
        }
        if self.names().await.is_ok_and(|names| names.contains(name)) {
            return Ok(self.node(name));
        }
        match self.source.resolve(&Name::Tag(tag)).await {
            Ok(_) => Ok(self.node(name)),
            Err(error) if is_absence(&error) || error.kind() == ErrorKind::Invalid => Ok(None),
            Err(error) => {
                tracing::debug!(%error, "cannot look for a new tag just now");
                Ok(None)
            }
        }
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        let names = self.names().await?;
        let node = |name: &FileName| Some((name.clone(), self.node(name)?));
        Ok(Arc::new(names.iter().filter_map(node).collect()))
    }
}

/// The tag a folder's name means, if it can be one.
pub(super) fn tag(name: &[u8]) -> Option<Tag> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.starts_with('.'))?;
    name.parse().ok().or_else(|| tag_of(name))
}

/// Whether a new folder may be called `name`: as a tag every registry takes.
pub(super) fn may_be_new(name: &[u8]) -> bool {
    std::str::from_utf8(name).is_ok_and(|name| name.parse::<Tag>().is_ok())
}
