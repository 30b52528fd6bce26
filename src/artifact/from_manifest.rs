//! An image manifest as a tree of files: what ORAS pushes, and raw layers for everything else.
//!
//! First every layer is given a place ([`Placed`], formats.md R5, R6, R14), then places become a draft
//! of folders (R11), then the draft is shown. Rules of other producers belong in the first step only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::attributes::{self, AttributesEntry, AttributesLayer};
use super::directory::{Directory, shown};
use super::draft::{Clash, Draft, Found};
use super::folder::{Branch, Said, Shown};
use super::tree::{Attributes, FileName, Folder, Link, Xattrs, stable_id};
use super::{Unnamed, View, Warnings, names, producers};
use crate::oci::{Descriptor, Digest, ImageManifest};
use crate::store::Source;

/// Where a layer's file name is.
pub(super) const TITLE: &str = "org.opencontainers.image.title";

/// Annotations that say when an artifact was made, most telling first (formats.md R12).
const CREATED: [&str; 2] = ["org.opencontainers.image.created", "org.opencontainers.artifact.created"];

/// Says that a layer is a folder; only this very word counts (oras.md §2.3).
const UNPACK: (&str, &str) = ("io.deis.oras.content.unpack", "true");

/// A layer and where it is shown.
struct Placed {
    layer: Arc<Descriptor>,
    path: Vec<FileName>,
    how: How,
}

/// What a layer is shown as.
enum How {
    /// A file with its bytes.
    Raw,
    /// A folder with its members.
    Unpacked,
}

/// The files of an image manifest. Asks no network.
pub(super) fn folder(
    source: &Arc<dyn Source>,
    descriptor: &Descriptor,
    image: &ImageManifest,
    view: &View,
    warnings: &Arc<Warnings>,
) -> Arc<dyn Folder> {
    let modified = created(&image.annotations);
    let mut draft = Draft::new();
    let mut layers = Vec::new();
    let mut said = HashMap::new();
    let mut directories: HashMap<usize, Vec<Arc<Directory>>> = HashMap::new();
    for placed in place(image, view, warnings) {
        let number = layers.len();
        layers.push(Arc::clone(&placed.layer));
        let mut clashes = Vec::new();
        match placed.how {
            How::Raw => {
                draft.put(&placed.path, number, &mut clashes);
                said.extend(told(&placed.layer, modified).map(|said| (number, said)));
            }
            How::Unpacked => {
                let path = placed.path.clone();
                let at = draft.make(&path, &mut clashes);
                let directory = Directory::new(source, &placed.layer, path, number, modified, warnings);
                directories.entry(at).or_default().push(Arc::new(directory));
            }
        }
        for clash in clashes {
            warn_of(&clash, &placed, &layers, warnings);
        }
    }
    let attributes = image.layers.iter().filter(|layer| attributes::is_attributes(layer));
    let mut saying = Saying {
        draft,
        layers: &layers,
        packed: &directories,
        said,
        twins: HashMap::new(),
        links: Vec::new(),
        modified,
    };
    for layer in attributes {
        match AttributesLayer::of(layer) {
            Some(said) => said.entries.iter().for_each(|entry| saying.say(entry, descriptor, warnings)),
            None => {
                warnings.add("R12", layer.digest.as_str(), "what it says of modes and links cannot be read");
            }
        }
    }
    let Saying { draft, said, twins, links, .. } = saying;
    let shown = Shown {
        source: Arc::clone(source),
        digest: descriptor.digest.clone(),
        modified,
        draft,
        layers,
        said,
        twins,
        links,
        directories,
        warnings: Arc::clone(warnings),
    };
    Arc::new(Branch::root(Arc::new(shown)))
}

/// What a layer's own metadata says of the file it is.
fn told(layer: &Descriptor, modified: (i64, u32)) -> Option<Said> {
    producers::file_path(layer)?;
    let (mode, time) = producers::told(layer);
    let (mode, modified) = (mode.unwrap_or(Attributes::FILE.mode), time.unwrap_or(modified));
    let mark = stable_id(&[
        b"told",
        layer.digest.as_str().as_bytes(),
        &mode.to_le_bytes(),
        &modified.0.to_le_bytes(),
        &modified.1.to_le_bytes(),
    ]);
    let attributes = Attributes { mode, modified, owner: None };
    Some(Said { attributes, xattrs: None, links: 1, mark: Some(mark) })
}

/// What a layer of attributes tells of, put among what has titles.
struct Saying<'a> {
    draft: Draft<usize>,
    layers: &'a [Arc<Descriptor>],
    packed: &'a HashMap<usize, Vec<Arc<Directory>>>,
    said: HashMap<usize, Said>,
    twins: HashMap<usize, usize>,
    links: Vec<Arc<Link>>,
    modified: (i64, u32),
}

impl Saying<'_> {
    fn say(&mut self, entry: &AttributesEntry, manifest: &Descriptor, warnings: &Warnings) {
        let Some(path) = path_of_title(&entry.path, warnings) else { return };
        if let Some(target) = &entry.link {
            self.link(&path, target.as_bytes(), entry, manifest, warnings);
        } else if let Some(first) = &entry.hardlink {
            if !self.twin(&path, first, manifest, warnings) {
                warnings.add("R9", shown(&path), format!("not the same as {first:?}, though it should be"));
            }
        } else if entry.folder {
            self.folder(&path, entry);
        } else if let Some(Found::Leaf(number)) = self.draft.find(&path)
            && *number < self.layers.len()
        {
            let number = *number;
            let told = (entry.owner().is_some() || entry.modified.is_some() || !entry.xattrs.is_empty())
                .then(|| stable_id(&[b"said", manifest.digest.as_str().as_bytes(), entry.path.as_bytes()]));
            let said = self.said_of(number);
            let mode = entry.mode.map_or(said.attributes.mode, |mode| mode & 0o777 | 0o400);
            let modified = entry.modified.unwrap_or(said.attributes.modified);
            said.attributes = Attributes { mode, modified, owner: entry.owner() };
            said.xattrs = told_of(entry);
            said.mark = told.or(said.mark);
        }
    }

    fn said_of(&mut self, number: usize) -> &mut Said {
        let attributes = Attributes { modified: self.modified, ..Attributes::FILE };
        self.said.entry(number).or_insert(Said { attributes, xattrs: None, links: 1, mark: None })
    }

    fn folder(&mut self, path: &[FileName], entry: &AttributesEntry) {
        let folder = self.draft.make(path, &mut Vec::new());
        if let Some(xattrs) = told_of(entry) {
            self.draft.mark(folder, xattrs);
        }
        // Of a layer that is a folder, its archive says the rest.
        if entry.mode.is_none() && entry.modified.is_none() && self.packed.contains_key(&folder) {
            return;
        }
        let mode = entry.mode.unwrap_or(Attributes::FOLDER.mode) & 0o777 | 0o500;
        let modified = entry.modified.unwrap_or(self.modified);
        self.draft.describe(folder, Attributes { mode, modified, owner: entry.owner() });
    }

    /// Makes two layers with the same content one file, if that is what they are.
    fn twin(&mut self, path: &[FileName], first: &str, manifest: &Descriptor, warnings: &Warnings) -> bool {
        let Some(Found::Leaf(number)) = self.draft.find(path) else { return false };
        let Some(target) = path_of_title(first, warnings) else { return false };
        let Some(Found::Leaf(other)) = self.draft.find(&target) else { return false };
        let (number, other) = (*number, *other);
        let (Some(one), Some(two)) = (self.layers.get(number), self.layers.get(other)) else { return false };
        let known = self.twins.contains_key(&number) || self.twins.contains_key(&other);
        // A name others are linked to is no link itself.
        let leads = self.twins.values().any(|leader| *leader == number);
        if number == other || one.digest != two.digest || known || leads {
            return false;
        }
        self.twins.insert(number, other);
        let id = stable_id(&[b"twins", manifest.digest.as_str().as_bytes(), first.as_bytes()]);
        let said = self.said_of(other);
        said.links = said.links.saturating_add(1);
        said.mark = Some(id);
        true
    }

    fn link(
        &mut self,
        path: &[FileName],
        target: &[u8],
        entry: &AttributesEntry,
        manifest: &Descriptor,
        warnings: &Warnings,
    ) {
        if path.is_empty() || !stays_inside(path.len() - 1, target) {
            let target = String::from_utf8_lossy(target);
            warnings.add("R9", shown(path), format!("a link to {target:?}, outside the artifact; not shown"));
            return;
        }
        if self.draft.find(path).is_some() {
            warnings.add("R11", shown(path), "a file and a link have this name; the file is shown");
            return;
        }
        let id = stable_id(&[b"link", manifest.digest.as_str().as_bytes(), &path.join(&b'/')]);
        let modified = entry.modified.unwrap_or(self.modified);
        let attributes = Attributes { mode: 0o777, modified, owner: entry.owner() };
        self.links.push(Arc::new(Link { attributes, id, target: target.to_vec() }));
        self.draft.put(path, self.layers.len() + self.links.len() - 1, &mut Vec::new());
    }
}

fn told_of(entry: &AttributesEntry) -> Option<Arc<Xattrs>> {
    let told = entry.told();
    (!told.is_empty()).then(|| Arc::new(told))
}

/// Whether a link in a folder so deep leads nowhere outside, whatever lies on its way: it climbs at its beginning
/// only, and no further than the root.
pub(crate) fn stays_inside(depth: usize, target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let parts: Vec<&[u8]> =
        target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    let climbs = parts.iter().take_while(|part| **part == b"..").count();
    climbs <= depth && !parts.iter().skip(climbs).any(|part| *part == b"..")
}

/// When the artifact was made, if it says so; never "now", so that it is the same every time.
pub(super) fn created(annotations: &BTreeMap<String, String>) -> (i64, u32) {
    CREATED
        .iter()
        .filter_map(|key| annotations.get(*key)?.parse::<jiff::Timestamp>().ok())
        .map(|time| (time.as_second(), time.subsec_nanosecond().max(0).unsigned_abs()))
        .find(|time| time.0 > 0)
        .unwrap_or((0, 0))
}

/// Every layer that is shown, with its place.
fn place(image: &ImageManifest, view: &View, warnings: &Warnings) -> Vec<Placed> {
    // A config is a file only when somebody named it.
    let named_config = image.config.iter().filter(|config| config.annotation(TITLE).is_some());
    let layers: Vec<&Descriptor> = named_config
        .chain(
            image.layers.iter().filter(|layer| !is_placeholder(layer) && !attributes::is_attributes(layer)),
        )
        .filter(|layer| {
            let fits = i64::try_from(layer.size).is_ok();
            if !fits {
                warnings.add("R13", layer.digest.as_str(), "its size cannot be real; not shown");
            }
            fits
        })
        .collect();
    let named =
        |layer: &&Descriptor| layer.annotation(TITLE).is_some() || producers::file_path(layer).is_some();
    let any_named = layers.iter().any(named);
    let show_unnamed = match view.unnamed {
        Unnamed::Show => true,
        Unnamed::Hide => false,
        Unnamed::Auto => !any_named,
    };
    layers
        .into_iter()
        .filter_map(|layer| {
            let by_digest = || vec![names::of_digest(&layer.digest)];
            let unpack = layer.annotation(UNPACK.0) == Some(UNPACK.1);
            if let (Some(path), false) = (producers::file_path(layer), unpack) {
                return Some(Placed { layer: Arc::new(layer.clone()), path, how: How::Raw });
            }
            let (path, how) = match layer.annotation(TITLE).map(|title| path_of_title(title, warnings)) {
                Some(Some(path)) if unpack => (path, How::Unpacked),
                Some(Some(path)) if !path.is_empty() => (path, How::Raw),
                Some(Some(_)) => {
                    warnings.add(
                        "R10",
                        layer.digest.as_str(),
                        "its title names no file; shown under its digest",
                    );
                    (by_digest(), How::Raw)
                }
                Some(None) => (by_digest(), How::Raw),
                None if show_unnamed => (by_digest(), How::Raw),
                None => return None,
            };
            Some(Placed { layer: Arc::new(layer.clone()), path, how })
        })
        .collect()
}

/// The placeholder for "no layers" (formats.md R14); what has a name is a file, whatever is in it.
pub(crate) fn is_placeholder(layer: &Descriptor) -> bool {
    layer.annotation(TITLE).is_none()
        && (layer.is_empty_json() || layer.digest.as_str() == Digest::EMPTY_JSON)
}

/// The path a title means; empty for `.`, `None` if it means none.
fn path_of_title(title: &str, warnings: &Warnings) -> Option<Vec<FileName>> {
    match names::clean(title.as_bytes()) {
        Ok(clean) => {
            if let Some(change) = clean.change {
                warnings.add("R10", title, change);
            }
            Some(clean.components)
        }
        Err(why) => {
            warnings.add("R10", title, format!("{why}; shown under its digest"));
            None
        }
    }
}

fn warn_of(clash: &Clash<usize>, placed: &Placed, layers: &[Arc<Descriptor>], warnings: &Warnings) {
    let path = shown(&placed.path);
    match clash {
        Clash::Replaced(old) => {
            if layers.get(*old).is_some_and(|old| old.digest != placed.layer.digest) {
                warnings.add("R11", path, "two layers have this name; the later one is shown");
            }
        }
        Clash::Moved(name) => {
            let name = String::from_utf8_lossy(name);
            warnings.add("R11", path, format!("a folder and a file have this name; the file is {name:?}"));
        }
    }
}
