//! An artifact that was chosen from an index, published in a new index.
//!
//! The new index is made from the one the work builds on, not from the last one: only this one manifest is ever another,
//! so the same manifest gives the same index, whichever commit made it.

use bytes::Bytes;

use super::branch::{Branch, Parent};
use super::publication::Written;
use super::{Base, possible, unsupported};
use crate::artifact::pack::Packed;
use crate::artifact::{Artifact, Choice};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, Manifest};

/// An index that is to be published.
pub(super) struct Listed {
    pub(super) packed: Packed,
    /// What it was made from.
    from: Digest,
    dropped: Vec<Digest>,
}

/// A manifest that is to be published, and the index it is in, if it is in one.
pub(super) struct Goal {
    pub(super) packed: Packed,
    pub(super) listed: Option<Listed>,
}

impl Goal {
    /// What the tags are to point at.
    pub(super) fn named(&self) -> &Digest {
        let packed = self.listed.as_ref().map_or(&self.packed, |listed| &listed.packed);
        &packed.descriptor.digest
    }

    pub(super) fn written(&self) -> Result<Written> {
        let Packed { descriptor, bytes, .. } = &self.packed;
        let written = Written::new(descriptor.digest.clone(), &descriptor.media_type, bytes)?;
        Ok(written.reached_by(self.named()))
    }
}

impl Listed {
    /// What was in the index `parent` is in, and is not any more.
    pub(super) fn left_out(&self, parent: Option<&Parent>) -> Vec<String> {
        let first = parent.is_some_and(|parent| parent.named == self.from);
        let say = |gone: &Digest| format!("{gone}: an attestation of the manifest that was replaced");
        self.dropped.iter().filter(|_| first).map(say).collect()
    }
}

impl Branch<'_> {
    /// The index with this manifest in it, if the mounted artifact was chosen from one.
    pub(super) fn listed(&self, manifest: &Descriptor, content: &Bytes) -> Result<Option<Listed>> {
        let Base::Artifact(artifact, _) = &self.publisher.base else { return Ok(None) };
        let Some(Choice { digest, index, place }) = artifact.chosen_from.as_deref() else { return Ok(None) };
        let mut entry = Descriptor::new(&manifest.media_type, manifest.digest.clone(), manifest.size);
        if let (Manifest::Image(before), Manifest::Image(now)) =
            (&artifact.manifest, Manifest::parse(content.clone(), Some(&manifest.media_type))?)
            && before.artifact_type != now.artifact_type
        {
            entry.artifact_type = now.artifact_type;
        }
        let spliced = index.spliced(*place, &entry, content)?;
        let mut descriptor = Descriptor::of(&index.media_type, &spliced.bytes);
        if spliced.bytes == index.raw {
            descriptor.digest.clone_from(digest);
        }
        descriptor.artifact_type.clone_from(&index.artifact_type);
        descriptor.annotations.clone_from(&index.annotations);
        let packed = Packed { descriptor, bytes: spliced.bytes, parts: Vec::new() };
        Ok(Some(Listed { packed, from: digest.clone(), dropped: spliced.dropped }))
    }
}

/// Why an artifact that is mounted by itself cannot be changed, if it cannot.
pub(super) async fn expect_changeable(artifact: &Artifact) -> Result<()> {
    let Manifest::Image(image) = &artifact.manifest else {
        return Err(unsupported(&artifact.reference, "it is an index; mount one of its manifests"));
    };
    let nested = |choice: &Choice| choice.digest != artifact.named.digest;
    if artifact.chosen_from.as_deref().is_some_and(nested) {
        let child = &artifact.descriptor.digest;
        let why = format!("it is an index of indexes; mount the manifest of one by its digest: {child}");
        return Err(unsupported(&artifact.reference, &why));
    }
    possible::expect(artifact, image).await
}
