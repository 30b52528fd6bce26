//! Trees: what an artifact holds, as files.
//!
//! A [`Node`] is a folder, a file or a symbolic link. A [`Folder`] is a trait, because some folders
//! are known at once (titles in a manifest), some after one pass over an archive layer, and some, above
//! the artifacts, only by asking a registry: all of them are entered the same way. A [`File`] says where
//! its bytes lie ([`Content`]); reading them is the reader's business, so that `pull`, `cat` and the mount
//! each read their own way from the same tree.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::archive::Archive;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest};
use crate::store::Source;

/// A name inside a folder: bytes, never empty, `.` or `..`, without `/` and NUL, at most 255 long (formats.md R10).
pub type FileName = Vec<u8>;

/// Permission bits and modification time, stable for the same content (formats.md R12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Seconds and nanoseconds since the epoch.
    pub modified: (i64, u32),
    /// Owner, if the artifact says one that counts; otherwise who mounts.
    pub owner: Option<(u32, u32)>,
}

/// Extended attributes: `user.` ones only, by name.
pub type Xattrs = BTreeMap<Vec<u8>, Vec<u8>>;

impl Attributes {
    /// A folder's attributes where nothing is said.
    pub const FOLDER: Self = Self { mode: 0o755, modified: (0, 0), owner: None };
    /// A file's attributes where nothing is said.
    pub const FILE: Self = Self { mode: 0o644, modified: (0, 0), owner: None };
}

/// One thing in a folder. Cloning is shallow.
#[derive(Clone)]
pub enum Node {
    /// A folder.
    Folder(Arc<dyn Folder>),
    /// A file.
    File(Arc<File>),
    /// A symbolic link.
    Link(Arc<Link>),
}

impl Node {
    /// Its permission bits and time.
    pub fn attributes(&self) -> Attributes {
        match self {
            Self::Folder(folder) => folder.attributes(),
            Self::File(file) => file.attributes,
            Self::Link(link) => link.attributes,
        }
    }

    /// Its extended attributes, if the artifact says any.
    pub fn xattrs(&self) -> Option<&Arc<Xattrs>> {
        match self {
            Self::Folder(folder) => folder.xattrs(),
            Self::File(file) => file.xattrs.as_ref(),
            Self::Link(_) => None,
        }
    }

    /// A stable number for the same thing, the base of its inode number.
    pub fn id(&self) -> u64 {
        match self {
            Self::Folder(folder) => folder.id(),
            Self::File(file) => file.id,
            Self::Link(link) => link.id,
        }
    }
}

/// The listed entries of a folder, by name.
pub type Entries = BTreeMap<FileName, Node>;

/// A folder: entered by name or listed whole. Both may wait for the network the first time.
#[async_trait]
pub trait Folder: Send + Sync {
    /// Its permission bits and time.
    fn attributes(&self) -> Attributes;

    /// A stable number: the same folder of the same artifact has the same one (formats.md R12).
    fn id(&self) -> u64;

    /// The entry called `name`, listed or not (`.oci` is reachable and unlisted). `None` if there is none.
    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        Ok(self.list().await?.get(name).cloned())
    }

    /// What a listing shows.
    async fn list(&self) -> Result<Arc<Entries>>;

    /// How long names and attributes may be remembered. Content under a digest never changes, so: hours.
    fn lifetime(&self) -> Duration {
        IMMUTABLE
    }

    /// What an explicit entry of an archive says of the folder itself, if one does. For a directory layer
    /// that is known only after looking into it; [`attributes`](Self::attributes) stays the same all the time.
    async fn own_attributes(&self) -> Result<Option<Attributes>> {
        Ok(None)
    }

    /// Its extended attributes, if the artifact says any.
    fn xattrs(&self) -> Option<&Arc<Xattrs>> {
        None
    }

    /// What this folder is in a registry (`user.oci.*`): an artifact's manifest, a directory's layer.
    fn origin(&self) -> Option<&Descriptor> {
        None
    }
}

/// How long the kernel may remember what cannot change. A day: long enough to never be asked for again,
/// short enough that a clock set wrong heals by itself.
pub const IMMUTABLE: Duration = Duration::from_secs(24 * 3600);

/// A folder whose entries are all known.
pub struct Plain {
    /// Its permission bits and time.
    pub attributes: Attributes,
    /// See [`Folder::id`].
    pub id: u64,
    /// What is in it.
    pub entries: Arc<Entries>,
}

#[async_trait]
impl Folder for Plain {
    fn attributes(&self) -> Attributes {
        self.attributes
    }

    fn id(&self) -> u64 {
        self.id
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        Ok(Arc::clone(&self.entries))
    }
}

/// A regular file.
pub struct File {
    /// Its permission bits and time.
    pub attributes: Attributes,
    /// See [`Folder::id`]. The same blob under five tags has one id, so one inode and one page-cache copy.
    pub id: u64,
    /// Its length in bytes.
    pub size: u64,
    /// How many names it has; 1 unless hard links say more.
    pub links: u32,
    /// Its extended attributes, if the artifact says any.
    pub xattrs: Option<Arc<Xattrs>>,
    /// Where its bytes are.
    pub content: Content,
    /// The layer it is, or the layer it is a member of. `None` for files we make (`manifest.json`, …).
    pub layer: Option<Arc<Descriptor>>,
}

impl File {
    /// The layer this file is, byte for byte; `None` for members of a layer and files we make.
    pub fn whole_layer(&self) -> Option<&Arc<Descriptor>> {
        let layer = self.layer.as_ref().filter(|layer| layer.size == self.size)?;
        match &self.content {
            Content::Inline(bytes) => layer.digest.matches(bytes).then_some(layer),
            Content::Blob { offset, .. } => (*offset == 0).then_some(layer),
            Content::Packed { .. } => None,
        }
    }

    /// Where its bytes begin in the blob or archive that holds them: reading in this order reads once through.
    pub fn position(&self) -> u64 {
        match &self.content {
            Content::Inline(_) => 0,
            Content::Blob { offset, .. } | Content::Packed { offset, .. } => *offset,
        }
    }
}

/// Where a file's bytes are.
#[derive(Clone)]
pub enum Content {
    /// Here.
    Inline(Bytes),
    /// The bytes `offset .. offset + file.size` of a blob. A file that is a whole blob has offset 0 and the blob's size.
    Blob {
        /// The store it is in.
        source: Arc<dyn Source>,
        /// The blob.
        blob: Arc<Descriptor>,
        /// Where in it the file begins: 0, or where a member of an uncompressed tar lies.
        offset: u64,
    },
    /// The bytes `offset .. offset + file.size` of what a compressed layer holds when decompressed.
    Packed {
        /// The layer, with the places where decompression can begin.
        archive: Arc<Archive>,
        /// Where in the decompressed bytes the file begins.
        offset: u64,
    },
}

/// A symbolic link.
pub struct Link {
    /// Its permission bits and time.
    pub attributes: Attributes,
    /// See [`Folder::id`].
    pub id: u64,
    /// Where it points, verbatim; inside the tree (formats.md R9).
    pub target: Vec<u8>,
}

/// Something about an artifact a person should know; listed in `.oci/warnings.json`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Warning {
    /// The rule that was applied, e.g. `R10`, as formats.md numbers them.
    pub rule: &'static str,
    /// The path or layer it is about.
    pub subject: String,
    /// What was found and what was done about it.
    pub message: String,
}

/// The node at `path` (components separated by `/`, a leading one and empty ones ignored) below `root`.
///
/// [`NotFound`](ErrorKind::NotFound) if a component is missing, [`Invalid`](ErrorKind::Invalid) if one
/// in the middle is not a folder. Links are not followed.
pub async fn walk(root: &Node, path: &[u8]) -> Result<Node> {
    let mut node = root.clone();
    for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".") {
        let shown = || String::from_utf8_lossy(path).into_owned();
        let Node::Folder(folder) = &node else {
            return Err(Error::new(ErrorKind::Invalid, format!("{:?}: not a folder on the way", shown())));
        };
        node = folder.lookup(name).await?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("{:?}: no such file in the artifact", shown()))
        })?;
    }
    Ok(node)
}

/// A stable id from what makes a thing itself. Never 0 or 1, which mean "none" and "the root" to FUSE.
pub fn stable_id(parts: &[&[u8]]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.digest().max(2)
}

/// The id of a file that is a whole blob: its digest and what else an inode shows of it.
pub fn blob_id(digest: &Digest, mode: u32) -> u64 {
    stable_id(&[b"blob", digest.as_str().as_bytes(), &mode.to_le_bytes()])
}
