//! Inodes: a thing by its number, whatever it is called.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::refusal::{Answer, Refusal};
use crate::artifact::tree::{FileName, Folder, Node};
use crate::mount::handles::Backing;
use crate::mount::staging::{Contents, Time};

/// One thing.
pub(super) struct Inode {
    pub(super) what: What,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) accessed: Time,
    /// Of a staged file, its data file knows better.
    pub(super) modified: Time,
    /// Of a staged file, the later of this and its data file's.
    pub(super) changed: Time,
    /// How many names a file has; of a folder, 0 once it is removed and 1 before.
    pub(super) links: u32,
    pub(super) xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Where the base has it: one place, or several for names of one file in an archive.
    pub(super) origins: Vec<Origin>,
    /// Told by the artifact about itself (`.oci`): nobody changes it, and it is not in the journal.
    pub(super) fixed: bool,
    /// Whether mode, owner, times or xattrs were set since the base.
    pub(super) touched: bool,
    /// How often the kernel was told of it and has not forgotten it.
    pub(super) lookups: u64,
    /// How many descriptors are open on it.
    pub(super) opens: u64,
    /// What the kernel reads and writes by itself while it is open.
    pub(super) backing: Option<Backing>,
}

/// What kind of thing.
pub(super) enum What {
    Folder(Directory),
    File(Arc<Contents>),
    Link(Vec<u8>),
    /// A fifo, socket or device: the type bits of its mode, and the device number.
    Special {
        kind: u32,
        device: u32,
    },
}

/// A folder's part of an inode.
pub(super) struct Directory {
    pub(super) parent: u64,
    /// What it began as.
    pub(super) base: Option<Arc<dyn Folder>>,
    /// Whether the base's entries are among the entries, as far as they are still there.
    pub(super) entered: bool,
    pub(super) entries: BTreeMap<FileName, u64>,
    /// How many of the entries are folders.
    pub(super) folders: u32,
}

/// A place in the base: a name in a folder.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    pub(super) parent: u64,
    pub(super) name: FileName,
}

impl Inode {
    /// What a node of the base is before anybody changes it. Times it does not have are its modification time.
    pub(super) fn of(node: &Node, parent: u64, name: &[u8], owner: (u32, u32), fixed: bool) -> Self {
        let attributes = node.attributes();
        let (uid, gid) = attributes.owner.unwrap_or(owner);
        let (what, links) = match node {
            Node::Folder(folder) => (What::Folder(Directory::of(Arc::clone(folder), parent)), 1),
            Node::File(file) => (What::File(Arc::new(Contents::of(Arc::clone(file)))), file.links.max(1)),
            Node::Link(link) => (What::Link(link.target.clone()), 1),
        };
        Self {
            what,
            mode: attributes.mode & 0o7777,
            uid,
            gid,
            accessed: attributes.modified,
            modified: attributes.modified,
            changed: attributes.modified,
            links,
            xattrs: node.xattrs().map(|told| BTreeMap::clone(told)).unwrap_or_default(),
            origins: vec![Origin { parent, name: name.to_vec() }],
            fixed,
            touched: false,
            lookups: 0,
            opens: 0,
            backing: None,
        }
    }

    pub(super) fn is_folder(&self) -> bool {
        matches!(self.what, What::Folder(_))
    }

    pub(super) fn directory(&self) -> Answer<&Directory> {
        match &self.what {
            What::Folder(directory) => Ok(directory),
            _ => Err(Refusal::NotAFolder),
        }
    }

    pub(super) fn directory_mut(&mut self) -> Answer<&mut Directory> {
        match &mut self.what {
            What::Folder(directory) => Ok(directory),
            _ => Err(Refusal::NotAFolder),
        }
    }

    /// The bytes of a file.
    pub(super) fn contents(&self) -> Answer<&Arc<Contents>> {
        match &self.what {
            What::File(contents) => Ok(contents),
            What::Folder(_) => Err(Refusal::IsAFolder),
            _ => Err(Refusal::Invalid),
        }
    }

    /// Whether nothing leads to it any more.
    pub(super) fn is_gone(&self) -> bool {
        self.links == 0 && self.lookups == 0 && self.opens == 0
    }
}

impl Directory {
    /// An empty one.
    pub(super) fn new(parent: u64) -> Self {
        Self { parent, base: None, entered: true, entries: BTreeMap::new(), folders: 0 }
    }

    fn of(base: Arc<dyn Folder>, parent: u64) -> Self {
        Self { parent, base: Some(base), entered: false, entries: BTreeMap::new(), folders: 0 }
    }
}
