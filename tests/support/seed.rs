//! Artifacts made for tests, exactly as ORAS packs them (oras.md §2.3, §2.4), and where to put them.

mod folder;
mod place;

use std::collections::BTreeMap;

use artifs::oci::{Descriptor, Digest, Manifest, Platform, media_type};
use base64::Engine as _;
use bytes::Bytes;
use serde_json::{Value, json};

pub use self::folder::Folder;
pub use self::place::Destination;
use crate::content::Content;

const TITLE: &str = "org.opencontainers.image.title";
const CREATED: &str = "org.opencontainers.image.created";
const UNKNOWN: &str = "application/vnd.unknown.artifact.v1";

/// When every artifact made here was created, so that the same artifact has the same digest every time.
pub const CREATED_AT: &str = "2020-01-01T00:00:00Z";

/// An image manifest with its blobs, as `oras push` makes it.
#[derive(Clone)]
pub struct Artifact {
    kind: Option<String>,
    config: (Descriptor, Content),
    layers: Vec<(Descriptor, Content)>,
    subject: Option<Descriptor>,
    annotations: BTreeMap<String, String>,
    tags: Vec<String>,
}

impl Default for Artifact {
    fn default() -> Self {
        Self::new()
    }
}

impl Artifact {
    /// An artifact without files: what `oras push` of nothing makes.
    pub fn new() -> Self {
        Self {
            kind: Some(UNKNOWN.into()),
            config: empty_json(),
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::from([(CREATED.to_owned(), CREATED_AT.to_owned())]),
            tags: Vec::new(),
        }
    }

    /// Its artifact type.
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// No artifact type: the config's media type is what says what this is (image-spec 1.0).
    pub fn without_kind(mut self) -> Self {
        self.kind = None;
        self
    }

    /// A config of its own.
    pub fn config(mut self, media_type: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        self.config = (content.descriptor(media_type), content);
        self
    }

    /// A file. The title may contain folders (`docs/a.txt`).
    pub fn file(self, title: &str, content: impl Into<Content>) -> Self {
        self.typed_file(title, media_type::IMAGE_LAYER, content)
    }

    /// A file with a media type.
    pub fn typed_file(self, title: &str, media_type: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        let mut layer = content.descriptor(media_type);
        layer.annotations.insert(TITLE.into(), title.into());
        self.layer(layer, content)
    }

    /// A file whose content is in the manifest as well (`data`).
    pub fn inline_file(self, title: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        let mut layer = content.descriptor(media_type::IMAGE_LAYER);
        layer.annotations.insert(TITLE.into(), title.into());
        layer.data = Some(base64::engine::general_purpose::STANDARD.encode(content.read(0..content.size())));
        self.layer(layer, content)
    }

    /// A layer without a name.
    pub fn unnamed(self, media_type: &str, content: impl Into<Content>) -> Self {
        let content = content.into();
        self.layer(content.descriptor(media_type), content)
    }

    /// A folder packed as ORAS packs it: tar and gzip, entries below the title, unpack annotation.
    pub fn folder(self, title: &str, folder: Folder) -> Self {
        let tar = folder.tar(title);
        let content = Content::from(folder::gzip(&tar));
        let mut layer = content.descriptor(media_type::IMAGE_LAYER_GZIP);
        layer.annotations.insert("io.deis.oras.content.digest".into(), Digest::of(&tar).to_string());
        layer.annotations.insert("io.deis.oras.content.unpack".into(), "true".into());
        layer.annotations.insert(TITLE.into(), title.into());
        self.layer(layer, content)
    }

    /// A layer described by hand. The content is pushed under the descriptor's digest.
    pub fn layer(mut self, descriptor: Descriptor, content: impl Into<Content>) -> Self {
        self.layers.push((descriptor, content.into()));
        self
    }

    /// An annotation of the layer added last.
    pub fn layer_annotation(mut self, key: &str, value: &str) -> Self {
        if let Some((layer, _)) = self.layers.last_mut() {
            layer.annotations.insert(key.into(), value.into());
        }
        self
    }

    /// An annotation of the manifest.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// Makes it a referrer of `subject`, as `oras attach` does.
    pub fn about(mut self, subject: &Descriptor) -> Self {
        self.subject = Some(Descriptor::new(&subject.media_type, subject.digest.clone(), subject.size));
        self
    }

    /// A tag; may be called again.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The layers so far.
    pub fn layers(&self) -> impl Iterator<Item = &Descriptor> {
        self.layers.iter().map(|(layer, _)| layer)
    }

    /// The manifest's exact bytes and their descriptor.
    pub fn manifest(&self) -> (Descriptor, Bytes) {
        let mut fields = json!({"schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST});
        if let Some(kind) = &self.kind {
            fields["artifactType"] = json!(kind);
        }
        fields["config"] = json!(self.config.0);
        let layers: Vec<&Descriptor> = self.layers().collect();
        fields["layers"] = if layers.is_empty() { json!([empty_json().0]) } else { json!(layers) };
        if let Some(subject) = &self.subject {
            fields["subject"] = json!(subject);
        }
        fields["annotations"] = json!(self.annotations);
        let bytes = Bytes::from(fields.to_string());
        (Descriptor::of(media_type::IMAGE_MANIFEST, &bytes), bytes)
    }

    /// Puts blobs, manifest and tags into a registry, a layout or memory.
    pub fn push(&self, to: &impl Destination, repository: &str) -> Descriptor {
        let (empty, nothing) = empty_json();
        if self.layers.is_empty() {
            to.blob(repository, &empty, &nothing);
        }
        for (descriptor, content) in self.layers.iter().chain([&self.config]) {
            to.blob(repository, descriptor, content);
        }
        let (descriptor, bytes) = self.manifest();
        push_manifest(to, repository, &descriptor, &bytes, &self.tags);
        descriptor
    }
}

/// An index with its manifests.
#[derive(Clone, Default)]
pub struct Index {
    kind: Option<String>,
    children: Vec<(Artifact, Option<Platform>)>,
    more: Vec<Descriptor>,
    annotations: BTreeMap<String, String>,
    tags: Vec<String>,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        Self::default()
    }

    /// Its artifact type.
    pub fn kind(mut self, kind: &str) -> Self {
        self.kind = Some(kind.to_owned());
        self
    }

    /// A child for a platform (`linux/amd64`).
    pub fn image(mut self, platform: &str, child: Artifact) -> Self {
        self.children.push((child, Some(platform.parse().expect("a platform"))));
        self
    }

    /// A child without a platform.
    pub fn child(mut self, child: Artifact) -> Self {
        self.children.push((child, None));
        self
    }

    /// A child that is not pushed with it (another index, or nothing at all).
    pub fn entry(mut self, descriptor: Descriptor) -> Self {
        self.more.push(descriptor);
        self
    }

    /// An annotation of the index.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.into(), value.into());
        self
    }

    /// A tag; may be called again.
    pub fn tag(mut self, tag: &str) -> Self {
        self.tags.push(tag.into());
        self
    }

    /// The index's exact bytes and their descriptor.
    pub fn manifest(&self) -> (Descriptor, Bytes) {
        let mut fields = json!({"schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX});
        if let Some(kind) = &self.kind {
            fields["artifactType"] = json!(kind);
        }
        let children = self.children.iter().map(|(child, platform)| {
            let mut descriptor = child.manifest().0;
            descriptor.platform.clone_from(platform);
            descriptor.artifact_type.clone_from(&child.kind);
            descriptor
        });
        fields["manifests"] = json!(children.chain(self.more.iter().cloned()).collect::<Vec<_>>());
        if !self.annotations.is_empty() {
            fields["annotations"] = json!(self.annotations);
        }
        let bytes = Bytes::from(fields.to_string());
        (Descriptor::of(media_type::IMAGE_INDEX, &bytes), bytes)
    }

    /// Puts children, index and tags into a registry, a layout or memory.
    pub fn push(&self, to: &impl Destination, repository: &str) -> Descriptor {
        for (child, _) in &self.children {
            child.push(to, repository);
        }
        let (descriptor, bytes) = self.manifest();
        push_manifest(to, repository, &descriptor, &bytes, &self.tags);
        descriptor
    }
}

fn push_manifest(
    to: &impl Destination,
    repository: &str,
    descriptor: &Descriptor,
    bytes: &Bytes,
    tags: &[String],
) {
    if tags.is_empty() {
        to.manifest(repository, descriptor, bytes, None);
    }
    for tag in tags {
        to.manifest(repository, descriptor, bytes, Some(tag));
    }
}

/// `{}`, with itself inline, as ORAS writes it.
fn empty_json() -> (Descriptor, Content) {
    let content = Content::from("{}");
    let mut descriptor = content.descriptor(media_type::EMPTY_JSON);
    descriptor.data = Some("e30=".into());
    (descriptor, content)
}

/// The tag under which a registry without a Referrers API lists this manifest, if it has a subject.
pub fn fallback_tag(descriptor: &Descriptor, bytes: &Bytes) -> Option<String> {
    let manifest = Manifest::parse(bytes.clone(), Some(&descriptor.media_type)).ok()?;
    let subject = &manifest.subject()?.digest;
    Some(format!("{}-{:.64}", subject.algorithm(), subject.encoded()))
}

/// A fallback tag's list, with one more referrer.
pub(crate) fn with_referrer(list: Option<&Bytes>, descriptor: &Descriptor, bytes: &Bytes) -> Bytes {
    let mut index: Value = list.map_or_else(
        || json!({"schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX, "manifests": []}),
        |list| serde_json::from_slice(list).expect("a list of referrers"),
    );
    let manifest = Manifest::parse(bytes.clone(), Some(&descriptor.media_type)).expect("a manifest");
    let mut entry = descriptor.clone();
    entry.artifact_type = manifest.artifact_type().map(str::to_owned);
    entry.annotations.clone_from(manifest.annotations());
    let entries = index["manifests"].as_array_mut().expect("a list of referrers");
    if !entries.iter().any(|other| other["digest"] == entry.digest.as_str()) {
        entries.push(json!(entry));
    }
    index.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// oras.md, appendix B: what `oras push X:1 hi.txt` gives with a fixed time.
    #[test]
    fn an_artifact_is_what_oras_makes_to_the_byte() {
        let (descriptor, _) = Artifact::new().file("hi.txt", "hi").manifest();
        assert_eq!(
            descriptor.digest.as_str(),
            "sha256:441939cd73050ccd5a10c828ca6393f2a8f3cdecac49c747ecf34583a07b04da"
        );
        assert_eq!(descriptor.size, 584);
    }
}
