//! Names: lookup, attributes, listings, links and extended attributes.

use std::sync::Arc;
use std::time::Duration;

use super::fs::{Counts, Filesystem, may_be_kept};
use super::handles::Listing;
use super::inodes::{Inode, ROOT};
use crate::artifact::tree::{File, IMMUTABLE, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Descriptor;
use crate::store::Trust;

/// What kind of thing an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) size: u64,
    pub(super) mode: u32,
    pub(super) modified: (i64, u32),
    pub(super) owner: (u32, u32),
    pub(super) links: u32,
}

/// The answer to a lookup: what the name is, if anything, and for how long that holds.
pub(super) struct Found {
    pub(super) entry: Option<(Inode, Stat)>,
    pub(super) lifetime: Duration,
}

/// The xattrs we answer for.
const DIGEST: &str = "user.oci.digest";
const MEDIA_TYPE: &str = "user.oci.mediatype";
const ANNOTATIONS: &str = "user.oci.annotations";
const VERIFIED: &str = "user.oci.verified";

impl Filesystem {
    /// The entry called `name`. Not being there is an answer, and remembered like any other.
    pub(super) async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Found> {
        Counts::add(&self.counts.lookups, 1);
        let folder = self.folder(parent)?;
        let lifetime = self.lifetime(parent, &*folder);
        let node = self.in_time("look up a name", folder.lookup(name)).await?;
        let entry = node.map(|node| {
            let inode = self.inodes.tell(parent, name, &node);
            (inode, self.stat(inode.number, &node))
        });
        // Looking for what is not there may cost a request each time; a second is soon enough to find it.
        let lifetime = if entry.is_none() { lifetime.max(Duration::from_secs(1)) } else { lifetime };
        Ok(Found { entry, lifetime })
    }

    /// What an inode is, and for how long that holds.
    pub(super) fn getattr(&self, number: u64) -> Result<(Stat, Duration)> {
        let node = self.node(number)?;
        let lifetime = match &node {
            Node::Folder(folder) => self.lifetime(number, &**folder),
            Node::File(_) | Node::Link(_) => IMMUTABLE,
        };
        Ok((self.stat(number, &node), lifetime))
    }

    /// Where a link points.
    pub(super) fn readlink(&self, number: u64) -> Result<Vec<u8>> {
        match self.node(number)? {
            Node::Link(link) => Ok(link.target.clone()),
            _ => Err(Error::new(ErrorKind::Invalid, "not a symbolic link")),
        }
    }

    /// Opens a folder: what is in it now is what this handle lists. Says whether the kernel may keep the list.
    pub(super) async fn open_folder(&self, number: u64) -> Result<(u64, bool)> {
        Counts::add(&self.counts.listings, 1);
        let folder = self.folder(number)?;
        let lifetime = self.lifetime(number, &*folder);
        let listed = self.in_time("list a folder", folder.list()).await?;
        let entries = listed.iter().map(|(name, node)| (name.clone(), node.clone())).collect();
        Ok((self.handles.open_folder(Listing { lifetime, entries }), may_be_kept(lifetime)))
    }

    /// The snapshot an open folder lists.
    pub(super) fn listing(&self, handle: u64) -> Result<Arc<Listing>> {
        self.handles.folder(handle).ok_or_else(|| Error::new(ErrorKind::Io, "this folder is not open"))
    }

    /// The folder a folder is in; the root is in itself.
    pub(super) fn parent(&self, number: u64) -> u64 {
        if number == ROOT { ROOT } else { self.inodes.parent(number) }
    }

    /// The value of an extended attribute, if there is one of this name.
    pub(super) async fn xattr(&self, number: u64, name: &[u8]) -> Result<Option<Vec<u8>>> {
        if !name.starts_with(b"user.oci.") {
            let node = self.node(number)?;
            return Ok(node.xattrs().and_then(|told| told.get(name)).cloned());
        }
        match self.node(number)? {
            Node::Folder(folder) => {
                if folder.origin().is_none() {
                    // A tag says what it is once it has been entered.
                    self.in_time("enter a folder", folder.lookup(b".oci")).await?;
                }
                told_of(&Node::Folder(folder), name)
            }
            node => told_of(&node, name),
        }
    }

    /// The names of the extended attributes an inode is known to have.
    pub(super) fn xattrs(&self, number: u64) -> Result<Vec<Vec<u8>>> {
        let node = self.node(number)?;
        let ours = all_told_of(&node).into_iter().map(|name| name.as_bytes().to_vec());
        let told = node.xattrs().into_iter().flat_map(|told| told.keys().cloned());
        Ok(told.chain(ours).collect())
    }

    /// What `stat` shows of a node.
    pub(super) fn stat(&self, number: u64, node: &Node) -> Stat {
        let attributes = node.attributes();
        let (kind, size, links) = match node {
            Node::Folder(_) => (Kind::Folder, 0, 2),
            Node::File(file) => (Kind::File, file.size, file.links.max(1)),
            Node::Link(link) => (Kind::Link, link.target.len() as u64, 1),
        };
        Stat {
            number,
            kind,
            size,
            mode: attributes.mode & 0o7777,
            modified: attributes.modified,
            owner: attributes.owner.unwrap_or(self.owner),
            links,
        }
    }
}

/// What the artifact says of a node under the name of an xattr.
pub(super) fn told_of(node: &Node, name: &[u8]) -> Result<Option<Vec<u8>>> {
    match node {
        Node::File(file) if name == VERIFIED.as_bytes() => trust(file).map(|trust| Some(trust.into())),
        Node::File(file) => Ok(file.layer.as_deref().and_then(|layer| told(layer, name))),
        Node::Folder(folder) => Ok(folder.origin().and_then(|origin| told(origin, name))),
        Node::Link(_) => Ok(None),
    }
}

/// The names of the xattrs the artifact says something under.
pub(super) fn all_told_of(node: &Node) -> Vec<&'static str> {
    let of = |descriptor: &Descriptor| {
        let mut names = vec![DIGEST, MEDIA_TYPE];
        if !descriptor.annotations.is_empty() {
            names.push(ANNOTATIONS);
        }
        names
    };
    match node {
        Node::File(file) => {
            let mut names = file.layer.as_deref().map(of).unwrap_or_default();
            names.push(VERIFIED);
            names
        }
        Node::Folder(folder) => folder.origin().map(of).unwrap_or_default(),
        Node::Link(_) => Vec::new(),
    }
}

/// What a descriptor says under the name of an xattr.
fn told(descriptor: &Descriptor, name: &[u8]) -> Option<Vec<u8>> {
    match std::str::from_utf8(name).ok()? {
        DIGEST => Some(descriptor.digest.as_str().into()),
        MEDIA_TYPE => Some(descriptor.media_type.as_str().into()),
        ANNOTATIONS if !descriptor.annotations.is_empty() => serde_json::to_vec(&descriptor.annotations).ok(),
        _ => None,
    }
}

/// What a file's bytes rest on.
fn trust(file: &File) -> Result<&'static str> {
    Ok(match file.reader()?.trust() {
        Trust::Pending => "pending",
        Trust::Blob => "blob",
    })
}

/// The kind a node is listed as.
pub(super) fn kind(node: &Node) -> Kind {
    match node {
        Node::Folder(_) => Kind::Folder,
        Node::File(_) => Kind::File,
        Node::Link(_) => Kind::Link,
    }
}
