//! What a manifest says of itself, and whether it says anything new.

use super::branch::Parent;
use super::{CommitOptions, MESSAGE, PARENT};
use crate::artifact::attributes;
use crate::artifact::pack::{CREATED, ConfigPart, Draft, LayerPart, Packed};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::overlay::{Frozen, FrozenContent};
use crate::oci::{Descriptor, ImageManifest};
use crate::store::MANIFEST_LIMIT;

/// What the manifest says of itself.
pub(super) fn describe(draft: &mut Draft, options: &CommitOptions, parent: Option<&Parent>, frozen: &Frozen) {
    if let Some(parent) = parent {
        draft.annotations.insert(PARENT.into(), parent.digest.to_string());
    }
    match &options.message {
        Some(message) => draft.annotations.insert(MESSAGE.into(), message.clone()),
        None => draft.annotations.remove(MESSAGE),
    };
    if let Some(kind) = &options.artifact_type {
        draft.artifact_type = Some(kind.clone());
    }
    if let Some(before) = parent.and_then(|parent| parent.image.annotations.get(CREATED)) {
        let before = before.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
        let seconds = options.created.unwrap_or_else(|| newest(frozen).max(before));
        if let Ok(time) = jiff::Timestamp::from_second(seconds) {
            draft.annotations.insert(CREATED.into(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
    }
    draft.annotations.extend(options.annotations.clone());
}

/// When the newest change was made; what says it is of the future was made now.
fn newest(frozen: &Frozen) -> i64 {
    let changed = frozen.entries.iter().filter(|entry| {
        let local = matches!(entry.content, FrozenContent::Staged { .. } | FrozenContent::Folder);
        local || entry.touched || entry.origin.is_none()
    });
    let times = changed.map(|entry| entry.attributes.modified.0);
    times.chain([frozen.modified.0]).max().unwrap_or(0).min(jiff::Timestamp::now().as_second())
}

/// Whether a draft's files are other files than the manifest's.
pub(super) fn differs(draft: &Draft, image: &ImageManifest) -> bool {
    let config = match &draft.config {
        ConfigPart::Part(part) => Some(part.descriptor()),
        ConfigPart::Empty(_) => None,
    };
    let layers: Vec<&Descriptor> = draft.layers.iter().map(LayerPart::descriptor).collect();
    // Two layers of attributes that say the same are the same.
    let same = |one: &Descriptor, other: &Descriptor| {
        one == other || attributes::is_attributes(one) && one.digest == other.digest
    };
    config != image.config.as_ref()
        || layers.len() != image.layers.len()
        || layers.iter().zip(&image.layers).any(|(one, other)| !same(one, other))
}

pub(super) fn expect_size(packed: &Packed) -> Result<()> {
    let size = packed.bytes.len() as u64;
    if size <= MANIFEST_LIMIT {
        return Ok(());
    }
    let why = format!(
        "the manifest would have {size} bytes, and registries take {MANIFEST_LIMIT}; put some of the files into an archive"
    );
    Err(Error::new(ErrorKind::TooLarge, why))
}
