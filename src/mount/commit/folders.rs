//! Layers that are folders: which of them changed, and those packed anew.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufWriter;
use std::sync::Arc;

use super::draft::Making;
use super::items::{Item, What, is_below};
use super::slots::text;
use crate::artifact::attributes::OWNERS;
use crate::artifact::from_dir::{CONTENT_DIGEST, CONTENT_UNPACK, FolderWriter};
use crate::artifact::go_tar::{Kind, Member};
use crate::artifact::pack::{LayerPart, TITLE};
use crate::artifact::tree::{Attributes, Node, walk};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::mount::overlay::{Change, Difference};
use crate::oci::{Descriptor, Digest, media_type};
use crate::store::Body;

/// A folder that is a layer.
pub(super) struct FolderUnit {
    /// Where the parent has it.
    pub(super) title: Vec<u8>,
    /// Where it is now.
    pub(super) at: Vec<u8>,
    pub(super) changed: bool,
    attributes: Option<Attributes>,
    origin: Option<Vec<u8>>,
}

/// The layers with these titles that are still there, and whether anything in them changed.
pub(super) fn find(titles: Vec<Vec<u8>>, items: &[Item], changes: &[Change]) -> Vec<FolderUnit> {
    let mut found: Vec<FolderUnit> = Vec::new();
    for title in titles {
        if found.iter().any(|folder| folder.title == title) {
            continue;
        }
        let is_folder = |item: &&Item| matches!(item.what, What::Folder | What::Kept(_));
        let above = items.iter().any(|item| {
            matches!(item.what, What::Kept(_)) && (item.path == title || is_below(&title, &item.path))
        });
        let named = items.iter().filter(is_folder).find(|item| item.path == title);
        let moved = || items.iter().filter(is_folder).find(|item| item.origin.as_deref() == Some(&title));
        let item = named.or_else(|| if above { None } else { moved() });
        if item.is_none() && !above && !title.is_empty() {
            continue;
        }
        let at = item.map_or_else(|| title.clone(), |item| item.path.clone());
        let touches = |path: &str| path.as_bytes() == title || is_below(path.as_bytes(), &title);
        let is_changed = at != title
            || changes.iter().any(|change| {
                let from = matches!(&change.difference, Difference::Renamed { from, .. } if touches(from));
                from || touches(&change.path)
            });
        let said = item.filter(|item| item.touched || item.origin.is_none());
        let attributes = said.map(own_attributes);
        let origin = item.map_or_else(|| Some(title.clone()), |item| item.origin.clone());
        found.push(FolderUnit { title, at, changed: is_changed, attributes, origin });
    }
    found
}

/// Adds the topmost folders that are new, each to be a layer.
pub(super) fn add_new(folders: &mut Vec<FolderUnit>, items: &[Item]) {
    let new = items.iter().filter(|item| matches!(item.what, What::Folder) && item.origin.is_none());
    let mut new: Vec<&Item> = new.collect();
    new.sort_by(|one, other| one.path.cmp(&other.path));
    for item in new {
        if owner(folders, &item.path).is_none() {
            let (title, attributes) = (item.path.clone(), Some(own_attributes(item)));
            folders.push(FolderUnit { at: title.clone(), title, changed: true, attributes, origin: None });
        }
    }
}

/// The layer of a folder nobody packed yet, as ORAS would call it.
pub(super) fn unpacked(title: &[u8]) -> Result<Descriptor> {
    let mut layer = Descriptor::new(media_type::IMAGE_LAYER_GZIP, Digest::of(b""), 0);
    layer.annotations.insert(CONTENT_UNPACK.into(), "true".into());
    layer.annotations.insert(TITLE.into(), text(title)?);
    Ok(layer)
}

fn own_attributes(item: &Item) -> Attributes {
    Attributes { mode: item.mode, modified: item.modified, owner: Some(item.owner) }
}

/// Which of `folders` something at `path` belongs to: the innermost.
pub(super) fn owner(folders: &[FolderUnit], path: &[u8]) -> Option<usize> {
    let inside = |folder: &FolderUnit| path == folder.at || is_below(path, &folder.at);
    let candidates = folders.iter().enumerate().filter(|(_, folder)| inside(folder));
    candidates.max_by_key(|(_, folder)| folder.at.len()).map(|(number, _)| number)
}

/// Packs a folder with its members as ORAS would, in the place of `before`.
pub(super) async fn pack(
    folder: &FolderUnit,
    members: Vec<Item>,
    before: &Descriptor,
    making: &Making<'_>,
) -> Result<LayerPart> {
    let exact = making.options.preserve;
    let owners = exact || before.annotation(OWNERS) == Some("true");
    let own = match (&folder.attributes, &folder.origin) {
        (Some(said), _) => Some(*said),
        (None, Some(origin)) => match walk(&Node::Folder(Arc::clone(making.root)), origin).await {
            Ok(Node::Folder(folder)) => folder.own_attributes().await?,
            _ => None,
        },
        (None, None) => None,
    };
    let own = own.unwrap_or(Attributes::FOLDER);
    let root = Item {
        path: folder.at.clone(),
        origin: None,
        mode: own.mode,
        modified: own.modified,
        touched: false,
        owner: own.owner.unwrap_or(making.frozen.owner),
        xattrs: None,
        twin: None,
        what: What::Folder,
    };
    // Go's order: each folder's names sorted, what is in a folder right behind it.
    let parts = |item: &Item| item.path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    let mut sorted: BTreeMap<Vec<Vec<u8>>, Item> =
        members.into_iter().map(|item| (parts(&item), item)).collect();
    sorted.remove(&parts(&root));
    let title = if folder.at.is_empty() { ".".to_owned() } else { text(&folder.at)? };
    let (name, scratch) = (title.clone(), making.scratch.to_owned());
    let writing = move || {
        let doing = || format!("pack {name}");
        let (file, path) = tempfile::NamedTempFile::new_in(&scratch)
            .and_then(|file| file.keep().map_err(|error| error.error))
            .doing(doing)?;
        let mut writer = FolderWriter::new(BufWriter::with_capacity(1 << 20, file))?;
        let mut first_names: HashMap<u64, &[u8]> = HashMap::new();
        for item in std::iter::once(&root).chain(sorted.values()) {
            let twin = item.twin.and_then(|twin| match first_names.entry(twin) {
                Entry::Occupied(first) => Some(*first.get()),
                Entry::Vacant(first) => {
                    first.insert(&item.path);
                    None
                }
            });
            let said = Said { twin, exact, owners };
            member(&mut writer, item, &said).map_err(|error| error.context(doing()))?;
        }
        let (layer, out) = writer.finish().doing(doing)?;
        out.into_inner().map_err(|error| Error::io(doing(), error.into_error()))?;
        Ok((layer, path))
    };
    let (layer, path) = tokio::task::spawn_blocking(writing)
        .await
        .map_err(|error| Error::with_source(ErrorKind::Io, "packing ended early", error))??;
    let mut descriptor = before.clone();
    if folder.at != folder.title {
        descriptor.annotations.insert(TITLE.into(), title);
    }
    if owners {
        descriptor.annotations.insert(OWNERS.into(), "true".into());
    }
    if descriptor.annotation(CONTENT_DIGEST) == Some(layer.content.as_str()) {
        return Ok(LayerPart::Known(descriptor));
    }
    descriptor.annotations.insert(CONTENT_DIGEST.into(), layer.content.to_string());
    if !descriptor.media_type.contains("gzip") {
        descriptor.media_type = media_type::IMAGE_LAYER_GZIP.into();
    }
    (descriptor.digest, descriptor.size) = (layer.digest, layer.size);
    (descriptor.data, descriptor.urls) = (None, None);
    Ok(LayerPart::New { descriptor, body: Body::File(path) })
}

/// What is said of a member besides what it is.
struct Said<'a> {
    /// Of which other member it is one more name.
    twin: Option<&'a [u8]>,
    /// Its time to the nanosecond.
    exact: bool,
    owners: bool,
}

fn member(writer: &mut FolderWriter<BufWriter<File>>, item: &Item, said: &Said<'_>) -> Result<()> {
    let doing = || String::from_utf8_lossy(&item.path).into_owned();
    let (mut kind, mut size, mut target) = (Kind::Folder, 0, Vec::new());
    let mut content = None;
    match &item.what {
        What::Folder | What::Kept(_) => {}
        What::Link(to) => (kind, target) = (Kind::Link, to.clone()),
        What::File { content: bytes, .. } => {
            let bytes = bytes.content()?;
            (kind, size) = (Kind::File, bytes.size());
            content = Some(bytes);
        }
    }
    let (seconds, nanoseconds) = item.modified;
    let path: &[u8] = if item.path.is_empty() { b"." } else { &item.path };
    let rounded = seconds + i64::from(nanoseconds >= 500_000_000);
    let (modified, nanoseconds) = if said.exact { (seconds, nanoseconds) } else { (rounded, 0) };
    let member = Member {
        path,
        kind,
        mode: item.mode,
        size,
        modified,
        nanoseconds,
        owner: if said.owners { item.owner } else { (0, 0) },
        xattrs: item.xattrs.as_deref(),
        twin: said.twin,
        target: &target,
        device: (0, 0),
    };
    writer.member(&member).doing(doing)?;
    match content {
        Some(content) => content.each(|bytes| writer.content(bytes).doing(doing)),
        None => Ok(()),
    }
}
