//! The folders of one artifact.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;

use super::directory::Directory;
use super::draft::{Child, Draft, ROOT};
use super::members::Members;
use super::tree::{
    Attributes, Content, Entries, File, FileName, Folder, Link, Node, Xattrs, blob_id, stable_id,
};
use super::{Warnings, names};
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
    /// What is said of layers that are files, by layer.
    pub(super) said: HashMap<usize, Said>,
    /// Layers that are one file with another one: which one.
    pub(super) twins: HashMap<usize, usize>,
    /// Symbolic links; their numbers in the draft follow those of the layers.
    pub(super) links: Vec<Arc<Link>>,
    /// Layers that are unpacked, by the folder of the draft they are unpacked into.
    pub(super) directories: HashMap<usize, Vec<Arc<Directory>>>,
    pub(super) warnings: Arc<Warnings>,
}

/// What a layer of attributes says of a file.
#[derive(Clone)]
pub(super) struct Said {
    pub(super) attributes: Attributes,
    pub(super) xattrs: Option<Arc<Xattrs>>,
    /// How many names it has.
    pub(super) links: u32,
    /// What makes it another file than one with the same content and mode, if anything does.
    pub(super) mark: Option<u64>,
}

impl Shown {
    /// What a leaf of the draft is: a layer as the file it is, or a link.
    fn leaf(&self, number: usize) -> Option<Node> {
        let Some(layer) = self.layers.get(number) else {
            let link = self.links.get(number.checked_sub(self.layers.len())?)?;
            return Some(Node::Link(Arc::clone(link)));
        };
        let Some(said) = self.said.get(self.twins.get(&number).unwrap_or(&number)) else {
            let attributes = Attributes { modified: self.modified, ..Attributes::FILE };
            return Some(Node::File(Arc::new(whole_blob(&self.source, layer, attributes))));
        };
        let mut file = whole_blob(&self.source, layer, said.attributes);
        file.id = said.mark.unwrap_or(file.id);
        (file.links, file.xattrs) = (said.links, said.xattrs.clone());
        Some(Node::File(Arc::new(file)))
    }

    /// What is said of a folder of the draft. Said of a layer that is unpacked there, the layer says more.
    fn said_of(&self, number: usize) -> Option<(usize, Attributes)> {
        Some((0, self.draft.folder(number).attributes?))
    }

    /// Everything a folder of the draft is made of.
    fn parts(&self, number: usize) -> Vec<Part> {
        let directories = self.directories.get(&number).map(Vec::as_slice).unwrap_or_default();
        let packed = directories.iter().map(|directory| Part::Packed(Arc::clone(directory), ROOT));
        std::iter::once(Part::Named(number)).chain(packed).collect()
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
        xattrs: None,
        content,
        layer: Some(Arc::clone(layer)),
    }
}

/// One folder of an artifact: what titles say is in it, and what layers unpacked there hold, as one.
pub(super) struct Branch {
    shown: Arc<Shown>,
    path: Vec<FileName>,
    /// What an archive's entry says of it.
    explicit: Option<Attributes>,
    xattrs: Option<Arc<Xattrs>>,
    parts: Vec<Part>,
    entries: OnceLock<Arc<Entries>>,
}

/// Where some of a folder's entries come from.
#[derive(Clone)]
enum Part {
    /// The folder of this number in the artifact's draft.
    Named(usize),
    /// The folder of this number in what a layer holds.
    Packed(Arc<Directory>, usize),
}

/// What was found under one name so far.
#[derive(Default)]
struct Found {
    leaf: Option<(usize, Node)>,
    parts: Vec<Part>,
    /// What the last explicit entry says of the folder.
    attributes: Option<(usize, Attributes)>,
    xattrs: Option<Arc<Xattrs>>,
}

impl Branch {
    /// The artifact's root folder.
    pub(super) fn root(shown: Arc<Shown>) -> Self {
        let (parts, xattrs) = (shown.parts(ROOT), shown.draft.folder(ROOT).xattrs.clone());
        Self { path: Vec::new(), explicit: None, xattrs, parts, shown, entries: OnceLock::new() }
    }

    fn below(&self, name: &FileName, found: Found) -> Self {
        Self {
            shown: Arc::clone(&self.shown),
            path: [self.path.as_slice(), std::slice::from_ref(name)].concat(),
            explicit: found.attributes.map(|(_, attributes)| attributes),
            xattrs: found.xattrs,
            parts: found.parts,
            entries: OnceLock::new(),
        }
    }

    /// What titles alone say is under `name`.
    fn named(&self, name: &[u8]) -> Option<Node> {
        self.parts.iter().find_map(|part| {
            let Part::Named(number) = part else { return None };
            match self.shown.draft.folder(*number).children.get_key_value(name)? {
                (_, Child::Leaf(number)) => self.shown.leaf(*number),
                (name, Child::Folder(below)) => {
                    let (parts, attributes) = (self.shown.parts(*below), self.shown.said_of(*below));
                    let xattrs = self.shown.draft.folder(*below).xattrs.clone();
                    let found = Found { leaf: None, parts, attributes, xattrs };
                    Some(Node::Folder(Arc::new(self.below(name, found))))
                }
            }
        })
    }

    /// The layers this folder is partly made of, looked into.
    async fn members(&self) -> Result<Vec<(&Arc<Directory>, usize, Arc<Members>)>> {
        let mut all = Vec::new();
        for part in &self.parts {
            if let Part::Packed(directory, number) = part {
                all.push((directory, *number, directory.members().await?));
            }
        }
        Ok(all)
    }

    /// All parts as one: of two leaves the later layer's is shown, folders merge (R11).
    fn merge(&self, packed: &[(&Arc<Directory>, usize, Arc<Members>)]) -> Entries {
        let mut all: BTreeMap<FileName, Found> = BTreeMap::new();
        for part in &self.parts {
            let Part::Named(number) = part else { continue };
            for (name, child) in &self.shown.draft.folder(*number).children {
                match child {
                    Child::Folder(below) => {
                        let found = all.entry(name.clone()).or_default();
                        found.parts.extend(self.shown.parts(*below));
                        found.attributes = found.attributes.or(self.shown.said_of(*below));
                        found.xattrs.clone_from(&self.shown.draft.folder(*below).xattrs);
                    }
                    Child::Leaf(number) => {
                        let Some(node) = self.shown.leaf(*number) else { continue };
                        self.leaf(all.entry(name.clone()).or_default(), name, *number, node);
                    }
                }
            }
        }
        for (directory, number, members) in packed {
            for (name, child) in &members.draft.folder(*number).children {
                let found = all.entry(name.clone()).or_default();
                match child {
                    Child::Folder(below) => {
                        found.parts.push(Part::Packed(Arc::clone(directory), *below));
                        if let Some(xattrs) = &members.draft.folder(*below).xattrs {
                            found.xattrs = Some(Arc::clone(xattrs));
                        }
                        if let Some(attributes) = members.draft.folder(*below).attributes
                            && found.attributes.is_none_or(|(position, _)| position <= directory.position)
                        {
                            found.attributes = Some((directory.position, attributes));
                        }
                    }
                    Child::Leaf(member) => {
                        self.leaf(found, name, directory.position, members.node(directory, *member));
                    }
                }
            }
        }
        self.nodes(all)
    }

    fn leaf(&self, found: &mut Found, name: &FileName, position: usize, node: Node) {
        let Some((before, other)) = &found.leaf else {
            found.leaf = Some((position, node));
            return;
        };
        if other.id() != node.id() {
            self.warn(name, "two layers have this file; the later one's is shown");
        }
        if *before < position {
            found.leaf = Some((position, node));
        }
    }

    fn nodes(&self, all: BTreeMap<FileName, Found>) -> Entries {
        let mut entries = Entries::new();
        for (name, mut found) in all {
            let leaf = found.leaf.take();
            if found.parts.is_empty() {
                entries.extend(leaf.map(|(_, node)| (name, node)));
                continue;
            }
            if let Some((_, node)) = leaf {
                let other = names::beside(&name, &name);
                let message = format!(
                    "a folder and a file have this name; the file is {:?}",
                    String::from_utf8_lossy(&other)
                );
                self.warn(&name, &message);
                entries.entry(other).or_insert(node);
            }
            let folder = self.below(&name, found);
            entries.insert(name, Node::Folder(Arc::new(folder)));
        }
        entries
    }

    fn warn(&self, name: &FileName, message: &str) {
        let path = [self.path.as_slice(), std::slice::from_ref(name)].concat();
        self.shown.warnings.add("R11", super::directory::shown(&path), message);
    }

    /// The layer that is unpacked to this very folder, the last one if there are several.
    fn directory(&self) -> Option<&Arc<Directory>> {
        self.parts.iter().rev().find_map(|part| match part {
            Part::Packed(directory, ROOT) => Some(directory),
            _ => None,
        })
    }
}

#[async_trait]
impl Folder for Branch {
    fn attributes(&self) -> Attributes {
        self.explicit.unwrap_or(Attributes { modified: self.shown.modified, ..Attributes::FOLDER })
    }

    fn id(&self) -> u64 {
        let path = self.path.join(&b'/');
        stable_id(&[b"folder", self.shown.digest.as_str().as_bytes(), &path])
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        match self.list().await {
            Ok(entries) => Ok(entries.get(name).cloned()),
            // A layer that cannot be looked into takes nothing away but its own members.
            Err(error) => self.named(name).map(Some).ok_or(error),
        }
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        if let Some(entries) = self.entries.get() {
            return Ok(Arc::clone(entries));
        }
        let packed = self.members().await?;
        Ok(Arc::clone(self.entries.get_or_init(|| Arc::new(self.merge(&packed)))))
    }

    async fn own_attributes(&self) -> Result<Option<Attributes>> {
        let Some(directory) = self.directory() else { return Ok(self.explicit) };
        let members = directory.members().await?;
        Ok(members.draft.folder(ROOT).attributes.or(self.explicit))
    }

    fn xattrs(&self) -> Option<&Arc<Xattrs>> {
        self.xattrs.as_ref()
    }

    fn origin(&self) -> Option<&Descriptor> {
        self.directory().map(|directory| &*directory.layer)
    }
}
