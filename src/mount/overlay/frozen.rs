//! A frozen tree: what a commit publishes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::changes::join;
use super::inode::{Inode, What};
use super::tree::{Tree, attributes};
use super::{Overlay, unexpected};
use crate::artifact::tree::{self, Attributes, Folder, stable_id};
use crate::error::Result;
use crate::mount::inodes::ROOT;
use crate::mount::staging::LocalBytes;

/// The whole tree at one moment. Its names do not change any more; the bytes of a file that is open for
/// writing may, which [`LocalBytes::is_unchanged`] tells.
#[derive(Clone)]
pub struct Frozen {
    /// Every thing, folders before what is in them.
    pub entries: Vec<FrozenEntry>,
    /// When the root folder was changed last.
    pub modified: (i64, u32),
    /// Whose everything is that says nothing else.
    pub owner: (u32, u32),
}

/// One thing in a frozen tree.
#[derive(Clone)]
pub struct FrozenEntry {
    /// Its path from the root, without a `/` in front.
    pub path: Vec<u8>,
    /// Where the base has it, or its bytes, if it came from there.
    pub origin: Option<Vec<u8>>,
    /// Its mode, owner and modification time.
    pub attributes: Attributes,
    /// Whether these or the extended attributes were set since the base.
    pub touched: bool,
    /// Its `user.` attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// What all names of one file have in common, if it has several.
    pub twin: Option<u64>,
    /// What it is.
    pub content: FrozenContent,
}

/// What a thing in a frozen tree is.
#[derive(Clone)]
pub enum FrozenContent {
    /// A folder; what is in it follows.
    Folder,
    /// A folder nobody entered: all below it is as the base has it, and does not follow.
    Untouched(Arc<dyn Folder>),
    /// A file as the base has it.
    Base(Arc<tree::File>),
    /// A file with local bytes.
    Staged {
        /// The local bytes, and which ranges are not among them.
        local: LocalBytes,
        /// The file of the base these come from.
        base: Option<Arc<tree::File>>,
    },
    /// A symbolic link.
    Link(Vec<u8>),
    /// One more name of the file at this path.
    HardLink(Vec<u8>),
    /// A fifo, socket or device (the type bits of its mode): not to be published.
    Special(u32),
}

impl Overlay {
    /// The tree as it is now.
    pub(in crate::mount) fn freeze(&self) -> Result<Frozen> {
        let tree = self.tree();
        let mut entries = Vec::new();
        let mut first_names = HashMap::new();
        let mut folders = vec![(Vec::new(), ROOT)];
        while let Some((folder, number)) = folders.pop() {
            let Ok(directory) = tree.inode(number).and_then(Inode::directory) else { continue };
            for (name, number) in &directory.entries {
                let Ok(inode) = tree.inode(*number) else { continue };
                let path = join(&folder, name);
                if inode.is_folder() {
                    folders.push((path.clone(), *number));
                }
                let mut entry = frozen(&tree, inode, path.clone())?;
                if inode.links > 1 && !inode.is_folder() {
                    let own = || stable_id(&[b"twin", &number.to_le_bytes()]);
                    entry.twin = Some(entry.twin.unwrap_or_else(own));
                    match first_names.get(number) {
                        Some(first) => entry.content = FrozenContent::HardLink(Vec::clone(first)),
                        None => drop(first_names.insert(*number, path)),
                    }
                }
                entries.push(entry);
            }
        }
        let modified = tree.inode(ROOT).map_or((0, 0), |root| root.modified);
        Ok(Frozen { entries, modified, owner: tree.owner })
    }
}

fn frozen(tree: &Tree, inode: &Inode, path: Vec<u8>) -> Result<FrozenEntry> {
    let mut modified = inode.modified;
    let mut copied = None;
    let content = match &inode.what {
        What::Folder(directory) => match &directory.base {
            Some(base) if !directory.entered => FrozenContent::Untouched(Arc::clone(base)),
            _ => FrozenContent::Folder,
        },
        What::Link(target) => FrozenContent::Link(target.clone()),
        What::Special { kind, .. } => FrozenContent::Special(*kind),
        What::File(contents) => {
            let disk = |error| unexpected(super::Refusal::Disk(error));
            if let Some(shape) = contents.shape().map_err(disk)? {
                modified = shape.modified;
            }
            let shows = contents.shows();
            copied = shows.as_ref().and_then(|(_, copied)| *copied);
            match (contents.frozen().map_err(disk)?, shows.map(|(base, _)| base)) {
                // Nothing was written to it, or it is a copy.
                (Some(local), Some(base)) if local.is_all(base.size) => FrozenContent::Base(base),
                (Some(local), base) => FrozenContent::Staged { local, base },
                (None, Some(base)) => FrozenContent::Base(base),
                (None, None) => {
                    let what = "a file that is neither in the base nor staged";
                    return Err(crate::error::Error::new(crate::error::ErrorKind::Corrupt, what));
                }
            }
        }
    };
    let origin = match copied {
        Some(number) => tree.origin(number),
        None => inode.origins.first(),
    };
    Ok(FrozenEntry {
        path,
        origin: origin.map(|origin| tree.original(origin)),
        attributes: attributes(inode, modified),
        touched: inode.touched,
        xattrs: inode.xattrs.clone(),
        // Names in folders nobody entered are not here, and are the base's.
        twin: match (&content, copied) {
            (FrozenContent::Base(base) | FrozenContent::Staged { base: Some(base), .. }, None)
                if base.links > 1 && inode.links > 1 =>
            {
                Some(base.id)
            }
            _ => None,
        },
        content,
    })
}
