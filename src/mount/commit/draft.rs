//! From a frozen tree to a draft, keeping the producer's habits.
//!
//! The parent's manifest gives the order: what is still there, under its name or under another, stays in its place;
//! what is new follows in the order of paths; what titles cannot say comes last (`artifact::attributes`). A file that
//! did not change keeps its descriptor, one that did keeps its media type and annotations. A layer that is a folder is
//! packed anew when anything in it changed, and takes up what was made inside it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::CommitOptions;
use super::folders::{self, FolderUnit};
use super::habits::{About, Habits};
use super::items::{self, Item, What, is_below};
use super::slots::{Slot, Unit, fill, hashed, is_unpacked, no_words, shown_at, slot, slots, text};
use crate::artifact::attributes::{self, AttributesEntry, AttributesLayer};
use crate::artifact::pack::{ConfigPart, Draft, LayerPart, TITLE};
use crate::artifact::tree::Folder;
use crate::error::{Error, ErrorKind, Result};
use crate::mount::overlay::{Change, Frozen};
use crate::oci::{Descriptor, ImageManifest};
use crate::ops::Progress;
use crate::store::Body;

/// What is to be published, and what of the tree cannot be.
pub(super) struct Plan {
    pub(super) draft: Draft,
    pub(super) left_out: Vec<String>,
}

/// What a plan is made from.
pub(super) struct Making<'a> {
    pub(super) frozen: &'a Frozen,
    /// What differs from the base, looked at after the tree was frozen.
    pub(super) changes: &'a [Change],
    /// The tree's base.
    pub(super) root: &'a Arc<dyn Folder>,
    pub(super) base: &'a ImageManifest,
    /// What was published last; the base if nothing was yet.
    pub(super) parent: &'a ImageManifest,
    /// The paths at which something changed since it was, if this mount published it.
    pub(super) fresh: Option<&'a BTreeSet<Vec<u8>>>,
    pub(super) scratch: &'a Path,
    pub(super) options: &'a CommitOptions,
    pub(super) progress: &'a dyn Progress,
    /// The base's config, if it tells of its layers.
    pub(super) config: Option<&'a [u8]>,
}

impl Making<'_> {
    pub(super) async fn plan(&self) -> Result<Plan> {
        let (items, mut left_out) = items::of(self.frozen).await?;
        let mut slots = slots(self.parent);
        let config = self.parent.config.as_ref().filter(|config| config.annotation(TITLE).is_some());
        if let Some(config) = config {
            slots.insert(0, slot(config, true));
        }
        let unpacked = slots.iter().filter(|slot| slot.unpacked).filter_map(|slot| slot.path.clone());
        let mut folders = folders::find(unpacked.collect(), &items, self.changes);
        let habits = Habits::of(self.base);
        if self.options.pack && habits.is_none() {
            folders::add_new(&mut folders, &items);
        }
        let dirty = |path: &[u8]| {
            folders.iter().any(|folder| folder.changed && (path == folder.at || is_below(path, &folder.at)))
        };
        let all = self.options.preserve;
        let items = items::open(items, self.frozen.owner, |path| all || dirty(path)).await?;
        let (units, mut said, inside) = self.sort(items, &folders, &mut left_out)?;
        if let (Some(unsaid), true) = (said.first(), habits.is_some()) {
            return Err(no_words(&unsaid.path, "is more than a file with a mode"));
        }
        let mut filled = fill(&slots, units, habits, |path| self.is_published(path))?;
        let mut packed = self.pack(&slots, &folders, inside).await?;
        let files = hashed(std::mem::take(&mut filled.units), self.progress).await?;
        let mut parts: Vec<Option<LayerPart>> = Vec::new();
        for (at, part) in files {
            let taken = at.map(|at| &mut filled.slots[at]);
            match taken {
                Some(place) => *place = Some(part),
                None => parts.push(Some(part)),
            }
        }
        for (at, part) in packed.drain(..) {
            match at {
                Some(at) => filled.slots[at] = Some(part),
                None => parts.push(Some(part)),
            }
        }
        parts.sort_by(|one, other| title(one.as_ref()).cmp(&title(other.as_ref())));
        let mut draft = self.frame()?;
        let mut layers = filled.slots.into_iter();
        if let Some(config) = config {
            draft.config = ConfigPart::Part(layers.next().flatten().unwrap_or_else(|| {
                let mut config = config.clone();
                config.annotations.remove(TITLE);
                LayerPart::Known(config)
            }));
        }
        draft.layers = layers.chain(parts).flatten().collect();
        if let (Some(habits), Some(config)) = (habits, self.config) {
            habits.tell(config, &mut draft)?;
        }
        said.sort();
        if !said.is_empty() {
            let (descriptor, bytes) = AttributesLayer { entries: said }.seal()?;
            draft.layers.push(LayerPart::New { descriptor, body: Body::Bytes(bytes.into()) });
        }
        // The placeholder for "no layers" has no place among layers.
        let placeholder = self.parent.layers.iter().find(|layer| crate::artifact::is_placeholder(layer));
        if let Some(layer) = placeholder.filter(|_| draft.layers.is_empty()) {
            draft.layers.push(LayerPart::Known(layer.clone()));
        }
        Ok(Plan { draft, left_out })
    }

    /// Whether the parent has what is at `path` as it is, with everything below.
    fn is_published(&self, path: &[u8]) -> bool {
        let Some(fresh) = self.fresh else { return false };
        let below = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let inside = fresh.range(below.clone()..).next().is_some_and(|other| other.starts_with(&below));
        !inside && !fresh.contains(path)
    }

    /// Everything of the parent's manifest but the layers.
    fn frame(&self) -> Result<Draft> {
        let config = self.parent.config.clone().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "a manifest without a config cannot be made anew")
        })?;
        let mut other: BTreeMap<String, Value> = serde_json::from_slice(&self.parent.raw)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "read the manifest again", error))?;
        let untyped = !other.contains_key("mediaType");
        for known in
            ["schemaVersion", "mediaType", "artifactType", "config", "layers", "subject", "annotations"]
        {
            other.remove(known);
        }
        Ok(Draft {
            media_type: self.parent.media_type.clone(),
            artifact_type: self.parent.artifact_type.clone(),
            config: ConfigPart::Part(LayerPart::Known(config)),
            subject: self.parent.subject.clone(),
            annotations: self.parent.annotations.clone(),
            other,
            untyped,
            ..Draft::default()
        })
    }

    /// Parts things into files that are layers, what is said beside them, and what is inside folders that are layers.
    #[allow(clippy::type_complexity)]
    fn sort(
        &self,
        items: Vec<Item>,
        folders: &[FolderUnit],
        left_out: &mut Vec<String>,
    ) -> Result<(Vec<Unit>, Vec<AttributesEntry>, Vec<(usize, Item)>)> {
        let (mut units, mut said, mut inside) = (Vec::new(), Vec::new(), Vec::new());
        let full: std::collections::HashSet<Vec<u8>> =
            items.iter().filter_map(|item| parent(&item.path)).collect();
        let before = self.base.layers.iter().filter(|layer| attributes::is_attributes(layer));
        let before = before.filter_map(AttributesLayer::of).flat_map(|layer| layer.entries);
        let before: HashMap<Vec<u8>, AttributesEntry> =
            before.map(|entry| (entry.path.clone().into_bytes(), entry)).collect();
        let strict = Habits::of(self.base).is_some();
        let first_names = first_names(&items, folders);
        for item in items {
            let owner = folders::owner(folders, &item.path);
            let own_layer = matches!(&item.what, What::File { layer: Some(_), .. });
            let kept = matches!(&item.what, What::Kept(_));
            if let Some(owner) = owner.filter(|_| !own_layer && !kept) {
                // What a folder that is a layer has itself can be seen without looking into the layer.
                if let (Some(xattrs), true) = (&item.xattrs, item.path == folders[owner].at) {
                    let mut entry =
                        AttributesEntry { folder: true, ..AttributesEntry::new(text(&item.path)?) };
                    entry.tell(xattrs);
                    said.push(entry);
                }
                inside.push((owner, item));
                continue;
            }
            let about = About::of(&item);
            let mut entry = AttributesEntry::default();
            if !kept {
                entry = self.entry(&item, &before)?;
            }
            match item.what {
                What::Kept(_) => {
                    let shown = |layer: &&Descriptor| {
                        shown_at(layer, self.base).is_some_and(|path| is_below(&path, &item.path))
                    };
                    for layer in self.base.layers.iter().filter(|layer| !is_unpacked(layer)).filter(shown) {
                        let path = shown_at(layer, self.base).unwrap_or_default();
                        let layer = Some(Arc::new(layer.clone()));
                        units.push(Unit {
                            origin: Some(path.clone()),
                            path,
                            bytes: None,
                            layer,
                            about: None,
                        });
                    }
                    let below = |entry: &&AttributesEntry| {
                        let path = entry.path.as_bytes();
                        path == item.path || is_below(path, &item.path)
                    };
                    said.extend(before.values().filter(below).cloned());
                }
                What::Folder => {
                    entry.mode = Some(item.mode).filter(|mode| *mode != 0o755);
                    if !entry.is_silent() || !full.contains(&item.path) {
                        entry.folder = true;
                        said.push(entry);
                    }
                }
                What::Link(target) => {
                    let depth = entry.path.matches('/').count();
                    if !crate::artifact::stays_inside(depth, &target) {
                        let (path, target) = (&entry.path, String::from_utf8_lossy(&target));
                        left_out.push(format!("{path}: a link to {target}, outside the artifact"));
                        continue;
                    }
                    entry.link = Some(text(&target)?);
                    said.push(entry);
                }
                What::File { content, layer } => {
                    entry.mode = Some(item.mode).filter(|mode| *mode != 0o644 && !strict);
                    let first = item.twin.and_then(|twin| first_names.get(&twin));
                    if let Some(first) = first.filter(|first| **first != item.path) {
                        let hardlink = Some(text(first)?);
                        entry = AttributesEntry { hardlink, ..AttributesEntry::new(entry.path) };
                    }
                    if !entry.is_silent() {
                        said.push(entry);
                    }
                    let (path, origin) = (item.path, item.origin);
                    units.push(Unit { path, origin, bytes: Some(content), layer, about: Some(about) });
                }
            }
        }
        Ok((units, said, inside))
    }

    /// What is said of a thing beside its layer, and would be of any kind of thing.
    fn entry(&self, item: &Item, before: &HashMap<Vec<u8>, AttributesEntry>) -> Result<AttributesEntry> {
        let mut entry = AttributesEntry::new(text(&item.path)?);
        if let Some(xattrs) = &item.xattrs {
            entry.tell(xattrs);
        }
        let said = item.origin.as_ref().and_then(|origin| before.get(origin));
        if self.options.preserve {
            (entry.uid, entry.gid) = (Some(item.owner.0), Some(item.owner.1));
            entry.modified = Some(item.modified);
        } else if let Some(said) = said {
            // Who once said owners and times goes on saying them.
            if said.owner().is_some() {
                (entry.uid, entry.gid) = (Some(item.owner.0), Some(item.owner.1));
            }
            entry.modified = said.modified.map(|_| item.modified);
        }
        Ok(entry)
    }

    /// The layers that are folders, those that changed packed anew, each with its slot.
    async fn pack(
        &self,
        slots: &[Slot],
        folders: &[FolderUnit],
        inside: Vec<(usize, Item)>,
    ) -> Result<Vec<(Option<usize>, LayerPart)>> {
        let mut members: HashMap<usize, Vec<Item>> = HashMap::new();
        for (owner, item) in inside {
            members.entry(owner).or_default().push(item);
        }
        let mut packed = Vec::new();
        for (number, folder) in folders.iter().enumerate() {
            let at = |slot: &Slot| slot.unpacked && slot.path.as_deref() == Some(&folder.title);
            let found = slots.iter().enumerate().find(|(_, slot)| at(slot));
            if !folder.changed {
                // All that have this title, as the base has them.
                let base = self.base.layers.iter().filter(|layer| is_unpacked(layer));
                let mut base =
                    base.filter(|layer| shown_at(layer, self.base).as_deref() == Some(&folder.title));
                for (place, slot) in slots.iter().enumerate().filter(|(_, slot)| at(slot)) {
                    let layer = base.next().unwrap_or(&slot.layer);
                    packed.push((Some(place), LayerPart::Known(layer.clone())));
                }
                continue;
            }
            if let Some((place, slot)) = found
                && folder.at == folder.title
                && !self.options.preserve
                && self.is_published(&folder.at)
            {
                packed.push((Some(place), LayerPart::Known(slot.layer.clone())));
                continue;
            }
            let members = members.remove(&number).unwrap_or_default();
            let layer = match found {
                Some((_, slot)) => slot.layer.clone(),
                None => folders::unpacked(&folder.title)?,
            };
            let part = folders::pack(folder, members, &layer, self).await?;
            packed.push((found.map(|(place, _)| place), part));
        }
        Ok(packed)
    }
}

/// The first names of files that are layers and have several, by what the names have in common.
fn first_names(items: &[Item], folders: &[FolderUnit]) -> HashMap<u64, Vec<u8>> {
    let mut first: HashMap<u64, Vec<u8>> = HashMap::new();
    for item in items {
        let What::File { layer, .. } = &item.what else { continue };
        let Some(twin) =
            item.twin.filter(|_| layer.is_some() || folders::owner(folders, &item.path).is_none())
        else {
            continue;
        };
        let known = first.entry(twin).or_insert_with(|| item.path.clone());
        if item.path < *known {
            known.clone_from(&item.path);
        }
    }
    first
}

fn title(part: Option<&LayerPart>) -> Option<&str> {
    part?.descriptor().annotation(TITLE)
}

fn parent(path: &[u8]) -> Option<Vec<u8>> {
    let cut = path.iter().rposition(|byte| *byte == b'/')?;
    Some(path.get(..cut)?.to_vec())
}
