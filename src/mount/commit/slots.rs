//! Places of layers in a manifest, and what fills them.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use super::content::Content;
use super::habits::{About, Habits, has_metadata, has_path};
use super::items::Bytes;
use crate::artifact::attributes;
use crate::artifact::pack::{LayerPart, TITLE};
use crate::artifact::{names, producers};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, ImageManifest, media_type};
use crate::ops::Progress;

/// A layer of the parent, to be taken over.
pub(super) struct Slot {
    pub(super) layer: Descriptor,
    /// Where it is shown; `None`: nowhere, it is kept as it is.
    pub(super) path: Option<Vec<u8>>,
    pub(super) unpacked: bool,
}

/// A file that is a layer of its own.
pub(super) struct Unit {
    pub(super) path: Vec<u8>,
    pub(super) origin: Option<Vec<u8>>,
    pub(super) bytes: Option<Bytes>,
    /// The layer it is, or began as.
    pub(super) layer: Option<Arc<Descriptor>>,
    /// What its producer may say of it.
    pub(super) about: Option<About>,
}

/// Places with what fills them, and the files that do.
pub(super) struct Filled {
    pub(super) slots: Vec<Option<LayerPart>>,
    pub(super) units: Vec<Filling>,
}

/// A file on its way to be a layer.
pub(super) struct Filling {
    pub(super) at: Option<usize>,
    pub(super) descriptor: Descriptor,
    /// Its bytes, if they are to be hashed.
    pub(super) bytes: Option<Bytes>,
    /// What is to be said of it in its producer's words.
    pub(super) about: Option<About>,
}

/// Gives each file its place: its name's, else the one it had, else none. One that `is_published` is what its place says.
pub(super) fn fill(
    slots: &[Slot],
    units: Vec<Unit>,
    habits: Option<Habits<'_>>,
    is_published: impl Fn(&[u8]) -> bool,
) -> Result<Filled> {
    let places: HashMap<&[u8], usize> = slots
        .iter()
        .enumerate()
        .filter(|(_, slot)| !slot.unpacked)
        .filter_map(|(at, slot)| Some((slot.path.as_deref()?, at)))
        .collect();
    let mut taken: Vec<bool> = vec![false; slots.len()];
    let mut by_name: Vec<Option<usize>> = Vec::new();
    for unit in &units {
        let at = places.get(unit.path.as_slice()).copied();
        if let Some(at) = at {
            taken[at] = true;
        }
        by_name.push(at);
    }
    let mut filled = Filled { slots: Vec::new(), units: Vec::new() };
    for (unit, by_name) in units.into_iter().zip(by_name) {
        if let Some(at) = by_name.filter(|_| is_published(&unit.path)) {
            let descriptor = slots[at].layer.clone();
            filled.units.push(Filling { at: by_name, descriptor, bytes: None, about: None });
            continue;
        }
        let by_origin = || {
            let at = *places.get(unit.origin.as_deref()?)?;
            (!std::mem::replace(&mut taken[at], true)).then_some(at)
        };
        let at = by_name.or_else(by_origin);
        let mut descriptor = match (&unit.layer, at) {
            (Some(layer), _) => Descriptor::clone(layer),
            (None, Some(at)) => slots[at].layer.clone(),
            (None, None) => match habits {
                Some(habits) => habits.new_layer(&text(&unit.path)?)?,
                None => Descriptor::new(media_type::IMAGE_LAYER, Digest::of(b""), 0),
            },
        };
        let is_new = unit.layer.is_none() && at.is_none();
        let same = path_of(&descriptor).or_else(|| Some(names::of_digest(&descriptor.digest)));
        let renamed = same.as_deref() != Some(&unit.path);
        if renamed && !has_path(&descriptor) {
            if habits.is_some() && descriptor.annotation(TITLE).is_none() {
                return Err(no_words(&text(&unit.path)?, "has another name than its kind gives it"));
            }
            descriptor.annotations.insert(TITLE.into(), text(&unit.path)?);
        }
        let unchanged = unit.layer.is_some() && !matches!(&unit.bytes, Some(Bytes::Staged(_)));
        let about = unit
            .about
            .filter(|_| habits.is_some() || has_path(&descriptor))
            .map(|about| About { new: is_new, ..about });
        let about = match about {
            Some(about) if has_metadata(&descriptor) => Some(about).filter(|about| {
                is_new || renamed || !unchanged || producers::told(&descriptor).0 != Some(about.mode)
            }),
            Some(about) if about.mode != 0o644 && habits.is_some() => {
                return Err(no_words(&about.path, "has a mode other than 0644"));
            }
            about => about.filter(|_| is_new || renamed || !unchanged),
        };
        let bytes = unit.bytes.filter(|_| !unchanged);
        filled.units.push(Filling { at, descriptor, bytes, about });
    }
    filled.slots =
        slots.iter().map(|slot| slot.path.is_none().then(|| LayerPart::Known(slot.layer.clone()))).collect();
    Ok(filled)
}

/// Finds out the digests of files that changed, several at a time, on threads that may wait.
pub(super) async fn hashed(
    units: Vec<Filling>,
    progress: &dyn Progress,
) -> Result<Vec<(Option<usize>, LayerPart)>> {
    let threads = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    let hashing = units.into_iter().map(|Filling { at, mut descriptor, bytes, about }| async move {
        let describe = |descriptor: &mut Descriptor| match &about {
            Some(about) => Habits::describe(descriptor, about),
            None => Ok(()),
        };
        let Some(bytes) = bytes else {
            describe(&mut descriptor)?;
            return Ok((at, LayerPart::Known(descriptor)));
        };
        let content = bytes.content()?;
        let digest = digest_of(&content, descriptor.annotation(TITLE).unwrap_or_default(), progress).await?;
        if digest == descriptor.digest && descriptor.size == content.size() && descriptor.size > 0 {
            return Ok((at, LayerPart::Known(descriptor)));
        }
        (descriptor.digest, descriptor.size) = (digest, content.size());
        (descriptor.data, descriptor.urls) = (None, None);
        describe(&mut descriptor)?;
        let body = content.body(&descriptor);
        Ok((at, LayerPart::New { descriptor, body }))
    });
    futures_util::stream::iter(hashing).buffered(threads).try_collect().await
}

async fn digest_of(content: &Content, name: &str, progress: &dyn Progress) -> Result<Digest> {
    progress.preparing(name, content.size());
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let content = content.clone();
    let mut hashing = tokio::task::spawn_blocking(move || {
        content.hash(|bytes| {
            // Who does not listen any more has given up.
            let _ = tell.send(bytes);
        })
    });
    let hashed = loop {
        tokio::select! {
            biased;
            Some(bytes) = told.recv() => progress.prepared(name, bytes),
            hashed = &mut hashing => break hashed,
        }
    };
    hashed.map_err(|error| Error::with_source(ErrorKind::Io, "hashing ended early", error))?
}

pub(super) fn slots(parent: &ImageManifest) -> Vec<Slot> {
    let any_named = any_named(parent);
    let kept =
        |layer: &&Descriptor| !crate::artifact::is_placeholder(layer) && !attributes::is_attributes(layer);
    parent.layers.iter().filter(kept).map(|layer| slot(layer, any_named)).collect()
}

pub(super) fn slot(layer: &Descriptor, any_named: bool) -> Slot {
    let by_digest = || (!any_named).then(|| names::of_digest(&layer.digest));
    let path = path_of(layer).or_else(by_digest);
    Slot { layer: layer.clone(), unpacked: path.is_some() && is_unpacked(layer), path }
}

pub(super) fn any_named(image: &ImageManifest) -> bool {
    let named = |layer: &Descriptor| layer.annotation(TITLE).is_some() || has_path(layer);
    image.config.iter().chain(&image.layers).any(named)
}

/// Where a layer is shown.
pub(super) fn shown_at(layer: &Descriptor, image: &ImageManifest) -> Option<Vec<u8>> {
    slot(layer, any_named(image)).path
}

pub(super) fn no_words(path: &str, what: &str) -> Error {
    let why = format!("{path}: an artifact of this kind has no place for it: it {what}");
    Error::new(ErrorKind::Unsupported, why)
}

/// The path a layer says, or its title means.
pub(super) fn path_of(layer: &Descriptor) -> Option<Vec<u8>> {
    if let Some(path) = producers::file_path(layer) {
        return Some(path.join(&b'/'));
    }
    let clean = names::clean(layer.annotation(TITLE)?.as_bytes()).ok()?;
    Some(clean.components.join(&b'/'))
}

pub(super) fn is_unpacked(layer: &Descriptor) -> bool {
    layer.annotation(crate::artifact::from_dir::CONTENT_UNPACK) == Some("true") && path_of(layer).is_some()
}

pub(super) fn text(path: &[u8]) -> Result<String> {
    String::from_utf8(path.to_vec()).map_err(|_| {
        let shown = String::from_utf8_lossy(path).into_owned();
        let why = format!("{shown:?} is not UTF-8, so it cannot be a layer's title; rename it");
        Error::new(ErrorKind::Unsupported, why)
    })
}
