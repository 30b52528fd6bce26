//! The folders of one artifact.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;

use super::Warnings;
use super::draft::{Child, Draft, ROOT};
use super::tree::{Attributes, Content, Entries, File, Folder, Node, blob_id, stable_id};
use crate::error::Result;
use crate::oci::{Descriptor, Digest};
use crate::store::Source;

/// What all folders of an artifact share.
pub(super) struct Shown {
    pub(super) source: Arc<dyn Source>,
    /// The manifest's digest: what makes folder ids different from another artifact's.
    pub(super) digest: Digest,
    /// The time of everything that does not say its own.
    pub(super) modified: (i64, u32),
    /// Where each of `layers` is shown.
    pub(super) draft: Draft<usize>,
    pub(super) layers: Vec<Arc<Descriptor>>,
    pub(super) warnings: Arc<Warnings>,
}

impl Shown {
    /// A layer as the file it is.
    fn file(&self, layer: &Arc<Descriptor>) -> Node {
        let attributes = Attributes { modified: self.modified, ..Attributes::FILE };
        Node::File(Arc::new(whole_blob(&self.source, layer, attributes)))
    }
}

/// A file that is a whole blob.
pub(super) fn whole_blob(source: &Arc<dyn Source>, layer: &Arc<Descriptor>, attributes: Attributes) -> File {
    let content = match layer.inline() {
        Some(bytes) => Content::Inline(bytes),
        None if layer.size == 0 => Content::Inline(Bytes::new()),
        None => Content::Blob { source: Arc::clone(source), blob: Arc::clone(layer), offset: 0 },
    };
    File {
        attributes,
        id: blob_id(&layer.digest, attributes.mode),
        size: layer.size,
        links: 1,
        content,
        layer: Some(Arc::clone(layer)),
    }
}

/// One folder of an artifact.
pub(super) struct Branch {
    shown: Arc<Shown>,
    number: usize,
    path: Vec<u8>,
    entries: OnceLock<Arc<Entries>>,
}

impl Branch {
    /// The artifact's root folder.
    pub(super) fn root(shown: Arc<Shown>) -> Self {
        Self { shown, number: ROOT, path: Vec::new(), entries: OnceLock::new() }
    }

    fn below(&self, name: &[u8], number: usize) -> Self {
        let path = if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() };
        Self { shown: Arc::clone(&self.shown), number, path, entries: OnceLock::new() }
    }

    fn entries(&self) -> Entries {
        let children = &self.shown.draft.folder(self.number).children;
        let node = |name: &[u8], child: &Child<usize>| match child {
            Child::Folder(number) => Some(Node::Folder(Arc::new(self.below(name, *number)))),
            Child::Leaf(layer) => self.shown.layers.get(*layer).map(|layer| self.shown.file(layer)),
        };
        children.iter().filter_map(|(name, child)| Some((name.clone(), node(name, child)?))).collect()
    }
}

#[async_trait]
impl Folder for Branch {
    fn attributes(&self) -> Attributes {
        let known = self.shown.draft.folder(self.number).attributes;
        known.unwrap_or(Attributes { modified: self.shown.modified, ..Attributes::FOLDER })
    }

    fn id(&self) -> u64 {
        stable_id(&[b"folder", self.shown.digest.as_str().as_bytes(), &self.path])
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        Ok(Arc::clone(self.entries.get_or_init(|| Arc::new(self.entries()))))
    }
}
