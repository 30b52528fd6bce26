//! Who refers to whom, found by reading manifests.

use bytes::Bytes;

use crate::oci::{Descriptor, Manifest};

/// `manifest` as a referrers list gives it, if it is about `subject` and of the type asked for:
/// with its artifact type, and with its annotations in place of the descriptor's.
pub(super) fn as_referrer(
    descriptor: &Descriptor,
    raw: Bytes,
    subject: &Descriptor,
    artifact_type: Option<&str>,
) -> Option<Descriptor> {
    let manifest = Manifest::parse(raw, Some(&descriptor.media_type)).ok()?;
    if manifest.subject()?.digest != subject.digest {
        return None;
    }
    if artifact_type.is_some() && manifest.artifact_type() != artifact_type {
        return None;
    }
    let mut referrer = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
    referrer.artifact_type = manifest.artifact_type().map(str::to_owned);
    referrer.annotations.clone_from(manifest.annotations());
    Some(referrer)
}
