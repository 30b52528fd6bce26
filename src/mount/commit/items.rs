//! What a frozen tree holds, laid out for publishing.

use std::collections::HashMap;
use std::sync::Arc;

use super::content::Content;
use crate::artifact::attributes::can_tell;
use crate::artifact::tree::{self, Folder, Node, Xattrs};
use crate::error::Result;
use crate::mount::overlay::{Frozen, FrozenContent, FrozenEntry};
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
    pub(super) owner: (u32, u32),
    pub(super) xattrs: Option<Arc<Xattrs>>,
    /// What all names of one file have in common.
    pub(super) twin: Option<u64>,
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

/// So many bytes of extended attributes and no more for one thing: archives' headers are read whole.
const MAX_XATTRS: usize = 256 << 10;

/// Everything in a frozen tree that can be published, and the paths of what cannot.
pub(super) async fn of(frozen: &Frozen) -> Result<(Vec<Item>, Vec<String>)> {
    let (mut items, mut left_out) = (Vec::new(), Vec::new());
    let by_path: HashMap<&[u8], &FrozenEntry> =
        frozen.entries.iter().map(|entry| (entry.path.as_slice(), entry)).collect();
    let stays = Stays { owner: frozen.owner, changed: HashMap::new() };
    for entry in &frozen.entries {
        let shown = || String::from_utf8_lossy(&entry.path).into_owned();
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
        let (xattrs, untold): (Xattrs, Xattrs) =
            entry.xattrs.clone().into_iter().partition(|(name, _)| can_tell(name));
        let bytes: usize = xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > MAX_XATTRS {
            left_out.push(format!("{}: {bytes} bytes of extended attributes", shown()));
        }
        for name in untold.keys() {
            left_out.push(format!("{}: its extended attribute {}", shown(), String::from_utf8_lossy(name)));
        }
        let item = Item {
            path: entry.path.clone(),
            origin: entry.origin.clone(),
            mode: entry.attributes.mode & 0o777,
            modified: entry.attributes.modified,
            touched: entry.touched,
            owner: entry.attributes.owner.unwrap_or(frozen.owner),
            xattrs: (!xattrs.is_empty() && bytes <= MAX_XATTRS).then(|| Arc::new(xattrs)),
            twin: entry.twin,
            what,
        };
        if matches!(&item.what, What::Kept(_)) && item.origin.as_deref() != Some(&item.path) {
            expand(item, &stays, &mut items).await?;
        } else {
            items.push(item);
        }
    }
    Ok((items, left_out))
}

/// What is known of the base's things that are looked at one by one.
struct Stays {
    owner: (u32, u32),
    /// Names of files that were changed under another name, by what they have in common.
    changed: HashMap<u64, Item>,
}

/// Folders the base has at their places, looked into where `wanted` says so, and everywhere if a file was changed
/// that may have another name there.
pub(super) async fn open(
    items: Vec<Item>,
    owner: (u32, u32),
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<Vec<Item>> {
    let is_changed = |item: &&Item| {
        let staged = matches!(&item.what, What::File { content: Bytes::Staged(_), .. });
        item.twin.is_some() && item.origin.is_some() && (staged || item.touched)
    };
    let changed = items.iter().filter(is_changed);
    let changed = changed.filter_map(|item| Some((item.twin?, item.clone()))).collect();
    let stays = Stays { owner, changed };
    let mut opened = Vec::with_capacity(items.len());
    for item in items {
        if matches!(&item.what, What::Kept(_)) && (wanted(&item.path) || !stays.changed.is_empty()) {
            expand(item, &stays, &mut opened).await?;
        } else {
            opened.push(item);
        }
    }
    Ok(opened)
}

/// A folder of the base with everything below it, each thing by itself.
async fn expand(item: Item, stays: &Stays, into: &mut Vec<Item>) -> Result<()> {
    let mut waiting = vec![item];
    while let Some(mut item) = waiting.pop() {
        let What::Kept(folder) = item.what else {
            into.push(item);
            continue;
        };
        for (name, node) in folder.list().await?.iter() {
            let below = |path: &[u8]| [path, b"/", name].concat();
            let attributes = node.attributes();
            let twin = match node {
                Node::File(file) if file.links > 1 => Some(file.id),
                _ => None,
            };
            let mut found = Item {
                path: below(&item.path),
                origin: item.origin.as_deref().map(below),
                mode: attributes.mode & 0o777,
                modified: attributes.modified,
                touched: false,
                owner: attributes.owner.unwrap_or(stays.owner),
                xattrs: node.xattrs().cloned(),
                twin,
                what: match node {
                    Node::Folder(folder) => What::Kept(Arc::clone(folder)),
                    Node::File(file) => of_base(file),
                    Node::Link(link) => What::Link(link.target.clone()),
                },
            };
            if let Some(changed) = twin.and_then(|twin| stays.changed.get(&twin)) {
                let (path, origin, layer) = (found.path, found.origin, layer_of(&found.what));
                found = Item { path, origin, ..changed.clone() };
                if let What::File { layer: kept, .. } = &mut found.what {
                    *kept = layer;
                }
            }
            waiting.push(found);
        }
        item.what = What::Folder;
        into.push(item);
    }
    Ok(())
}

fn layer_of(what: &What) -> Option<Arc<Descriptor>> {
    match what {
        What::File { layer, .. } => layer.clone(),
        _ => None,
    }
}

fn of_base(file: &Arc<tree::File>) -> What {
    What::File { content: Bytes::Base(Arc::clone(file)), layer: file.whole_layer().cloned() }
}

/// Whether `path` lies below `folder`. Everything lies below the root.
pub(super) fn is_below(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.first() == Some(&b'/'))
}
