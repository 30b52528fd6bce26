//! What a frozen tree holds, laid out for publishing.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::Content;
use crate::artifact::tree::{self, Folder, Node};
use crate::error::Result;
use crate::mount::overlay::{Frozen, FrozenContent, FrozenEntry};
use crate::mount::staging::LocalBytes;
use crate::oci::Descriptor;

/// One thing, by its path now.
#[derive(Clone)]
pub(super) struct Item {
    pub(super) path: Vec<u8>,
    /// Where the base has it.
    pub(super) origin: Option<Vec<u8>>,
    pub(super) mode: u32,
    pub(super) modified: (i64, u32),
    pub(super) touched: bool,
    pub(super) what: What,
}

#[derive(Clone)]
pub(super) enum What {
    Folder,
    /// A folder where and as the base has it, with all below.
    Kept(Arc<dyn Folder>),
    /// A file, and the layer it is or began as, if it was a whole one.
    File {
        content: Bytes,
        layer: Option<Arc<Descriptor>>,
    },
    Link(Vec<u8>),
}

/// Where a file's bytes are.
#[derive(Clone)]
pub(super) enum Bytes {
    Base(Arc<tree::File>),
    Staged(Content),
}

impl Bytes {
    pub(super) fn content(&self) -> Result<Content> {
        match self {
            Self::Base(file) => Content::of_base(file),
            Self::Staged(content) => Ok(content.clone()),
        }
    }
}

/// Everything in a frozen tree that can be published, and the paths of what cannot.
pub(super) async fn of(frozen: &Frozen) -> Result<(Vec<Item>, Vec<String>)> {
    let (mut items, mut left_out) = (Vec::new(), Vec::new());
    let by_path: HashMap<&[u8], &FrozenEntry> =
        frozen.entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
    for entry in &frozen.entries {
        let shown = || String::from_utf8_lossy(&entry.path).into_owned();
        if !entry.xattrs.is_empty() {
            left_out.push(format!("{}: its extended attributes", shown()));
        }
        let mut content = &entry.content;
        if let FrozenContent::HardLink(first) = content
            && let Some(first) = by_path.get(first.as_slice())
        {
            content = &first.content;
        }
        let what = match content {
            FrozenContent::Folder => What::Folder,
            FrozenContent::Untouched(folder) => What::Kept(Arc::clone(folder)),
            FrozenContent::Base(file) => of_base(file),
            FrozenContent::Staged { local, base: Some(base) } if is_whole(local, base) => of_base(base),
            FrozenContent::Staged { local, base } => What::File {
                content: Bytes::Staged(Content::staged(local, base.as_ref())?),
                layer: base.as_ref().and_then(|base| base.whole_layer().cloned()),
            },
            FrozenContent::Link(target) => What::Link(target.clone()),
            FrozenContent::HardLink(_) | FrozenContent::Special(_) => {
                left_out.push(format!("{}: a fifo, socket or device", shown()));
                continue;
            }
        };
        let item = Item {
            path: entry.path.clone(),
            origin: entry.origin.clone(),
            mode: entry.attributes.mode & 0o777,
            modified: entry.attributes.modified,
            touched: entry.touched,
            what,
        };
        if matches!(&item.what, What::Kept(_)) && item.origin.as_deref() != Some(&item.path) {
            expand(item, &mut items).await?;
        } else {
            items.push(item);
        }
    }
    Ok((items, left_out))
}

/// Folders the base has at their places, looked into where `wanted` says so.
pub(super) async fn open(items: Vec<Item>, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<Item>> {
    let mut opened = Vec::with_capacity(items.len());
    for item in items {
        if matches!(&item.what, What::Kept(_)) && wanted(&item.path) {
            expand(item, &mut opened).await?;
        } else {
            opened.push(item);
        }
    }
    Ok(opened)
}

/// A folder of the base with everything below it, each thing by itself.
async fn expand(item: Item, into: &mut Vec<Item>) -> Result<()> {
    let mut waiting = vec![item];
    while let Some(mut item) = waiting.pop() {
        let What::Kept(folder) = item.what else {
            into.push(item);
            continue;
        };
        for (name, node) in folder.list().await?.iter() {
            let below = |path: &[u8]| [path, b"/", name].concat();
            let attributes = node.attributes();
            waiting.push(Item {
                path: below(&item.path),
                origin: item.origin.as_deref().map(below),
                mode: attributes.mode & 0o777,
                modified: attributes.modified,
                touched: false,
                what: match node {
                    Node::Folder(folder) => What::Kept(Arc::clone(folder)),
                    Node::File(file) => of_base(file),
                    Node::Link(link) => What::Link(link.target.clone()),
                },
            });
        }
        item.what = What::Folder;
        into.push(item);
    }
    Ok(())
}

/// Whether nothing was written: every byte is the base's, and all of its bytes are there.
fn is_whole(local: &LocalBytes, base: &tree::File) -> bool {
    local.size() == base.size && (base.size == 0 || local.from_base() == [(0, base.size)])
}

fn of_base(file: &Arc<tree::File>) -> What {
    What::File { content: Bytes::Base(Arc::clone(file)), layer: file.whole_layer().cloned() }
}

/// Whether `path` lies below `folder`. Everything lies below the root.
pub(super) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}
