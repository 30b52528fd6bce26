//! An image manifest as a tree of files: what ORAS pushes, and raw layers for everything else.
//!
//! First every layer is given a place ([`Placed`], formats.md R5, R6, R14), then places become a draft
//! of folders (R11), then the draft is shown. Rules of other producers belong in the first step only.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draft::{Clash, Draft};
use super::folder::{Branch, Shown};
use super::tree::{FileName, Folder};
use super::{Unnamed, View, Warnings, names};
use crate::oci::{Descriptor, Digest, ImageManifest};
use crate::store::Source;

/// Where a layer's file name is.
pub(super) const TITLE: &str = "org.opencontainers.image.title";

/// Annotations that say when an artifact was made, most telling first (formats.md R12).
const CREATED: [&str; 2] = ["org.opencontainers.image.created", "org.opencontainers.artifact.created"];

/// A layer and the path its bytes are shown under.
struct Placed {
    layer: Arc<Descriptor>,
    path: Vec<FileName>,
}

/// The files of an image manifest. Asks no network.
pub(super) fn folder(
    source: &Arc<dyn Source>,
    descriptor: &Descriptor,
    image: &ImageManifest,
    view: &View,
    warnings: &Arc<Warnings>,
) -> Arc<dyn Folder> {
    let mut draft = Draft::new();
    let mut layers = Vec::new();
    for placed in place(image, view, warnings) {
        let number = layers.len();
        layers.push(Arc::clone(&placed.layer));
        let mut clashes = Vec::new();
        draft.put(&placed.path, number, &mut clashes);
        for clash in clashes {
            warn_of(&clash, &placed, &layers, warnings);
        }
    }
    let shown = Shown {
        source: Arc::clone(source),
        digest: descriptor.digest.clone(),
        modified: created(&image.annotations),
        draft,
        layers,
        warnings: Arc::clone(warnings),
    };
    Arc::new(Branch::root(Arc::new(shown)))
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
        .chain(image.layers.iter().filter(|layer| !is_placeholder(layer)))
        .filter(|layer| {
            let fits = i64::try_from(layer.size).is_ok();
            if !fits {
                warnings.add("R13", layer.digest.as_str(), "its size cannot be real; not shown");
            }
            fits
        })
        .collect();
    let any_named = layers.iter().any(|layer| layer.annotation(TITLE).is_some());
    let show_unnamed = match view.unnamed {
        Unnamed::Show => true,
        Unnamed::Hide => false,
        Unnamed::Auto => !any_named,
    };
    layers
        .into_iter()
        .filter_map(|layer| {
            let path = match layer.annotation(TITLE) {
                Some(title) => path_of_title(title, layer, warnings),
                None if show_unnamed => vec![names::of_digest(&layer.digest)],
                None => return None,
            };
            Some(Placed { layer: Arc::new(layer.clone()), path })
        })
        .collect()
}

/// The placeholder for "no layers" (formats.md R14); what has a name is a file, whatever is in it.
fn is_placeholder(layer: &Descriptor) -> bool {
    layer.annotation(TITLE).is_none()
        && (layer.is_empty_json() || layer.digest.as_str() == Digest::EMPTY_JSON)
}

fn path_of_title(title: &str, layer: &Descriptor, warnings: &Warnings) -> Vec<FileName> {
    let why = match names::clean(title.as_bytes()) {
        Ok(clean) => {
            if let Some(change) = clean.change {
                warnings.add("R10", title, change);
            }
            if !clean.components.is_empty() {
                return clean.components;
            }
            "it names no file"
        }
        Err(why) => why,
    };
    warnings.add("R10", title, format!("{why}; shown under its digest"));
    vec![names::of_digest(&layer.digest)]
}

fn warn_of(clash: &Clash<usize>, placed: &Placed, layers: &[Arc<Descriptor>], warnings: &Warnings) {
    let path = String::from_utf8_lossy(&placed.path.join(&b'/')).into_owned();
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
