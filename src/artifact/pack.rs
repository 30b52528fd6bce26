//! From parts to a manifest, byte for byte as ORAS packs it.
//!
//! A [`Draft`] says what is to be published, [`Draft::seal`] makes its manifest. Nothing here asks a network or reads
//! a clock, so the same draft always has the same digest.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{self, Descriptor, go_json, media_type};
use crate::store::{Body, Source};

/// When the artifact was made, RFC 3339.
pub const CREATED: &str = "org.opencontainers.image.created";
/// The name of a layer's file.
pub const TITLE: &str = "org.opencontainers.image.title";
/// The type of an artifact nobody gave a type.
pub const UNKNOWN_ARTIFACT: &str = "application/vnd.unknown.artifact.v1";
/// The type of a config nobody gave a type.
pub const UNKNOWN_CONFIG: &str = "application/vnd.unknown.config.v1+json";

/// Which image-spec a manifest follows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImageSpec {
    /// Without artifact type and subject: the config's type is the artifact's.
    V1_0,
    /// As of today.
    #[default]
    V1_1,
}

/// What is to be published.
#[derive(Clone)]
pub struct Draft {
    /// The manifest's own type.
    pub media_type: String,
    /// What kind of artifact it is.
    pub artifact_type: Option<String>,
    /// The config.
    pub config: ConfigPart,
    /// The layers, in order.
    pub layers: Vec<LayerPart>,
    /// What it is about.
    pub subject: Option<Descriptor>,
    /// Key and value pairs.
    pub annotations: BTreeMap<String, String>,
    /// Which specification it follows.
    pub image_spec: ImageSpec,
    /// Whether the manifest is silent about its own type, as some producers' are.
    pub untyped: bool,
    /// Fields we do not know, put behind those we do.
    pub other: BTreeMap<String, Value>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            media_type: media_type::IMAGE_MANIFEST.into(),
            artifact_type: None,
            config: ConfigPart::Empty(BTreeMap::new()),
            layers: Vec::new(),
            subject: None,
            annotations: BTreeMap::new(),
            image_spec: ImageSpec::V1_1,
            untyped: false,
            other: BTreeMap::new(),
        }
    }
}

/// What is to be the config.
#[derive(Clone)]
pub enum ConfigPart {
    /// `{}`, with these annotations.
    Empty(BTreeMap<String, String>),
    /// Something.
    Part(LayerPart),
}

/// One blob of the artifact.
#[derive(Clone)]
pub enum LayerPart {
    /// The target has it already.
    Known(Descriptor),
    /// It is to be sent.
    New {
        /// What it is.
        descriptor: Descriptor,
        /// Its content.
        body: Body,
    },
    /// Another repository has it: taken from there without sending it, where the target can.
    Elsewhere {
        /// What it is.
        descriptor: Descriptor,
        /// Who has it.
        home: oci::Repository,
        /// The same, to be read from.
        source: Arc<dyn Source>,
    },
}

impl LayerPart {
    /// What it is.
    pub fn descriptor(&self) -> &Descriptor {
        match self {
            Self::Known(descriptor) | Self::New { descriptor, .. } | Self::Elsewhere { descriptor, .. } => {
                descriptor
            }
        }
    }

    /// The same, to be changed before it is packed.
    pub fn descriptor_mut(&mut self) -> &mut Descriptor {
        match self {
            Self::Known(descriptor) | Self::New { descriptor, .. } | Self::Elsewhere { descriptor, .. } => {
                descriptor
            }
        }
    }
}

/// A draft with its manifest.
#[derive(Clone)]
pub struct Packed {
    /// The manifest, with its artifact type and annotations.
    pub descriptor: Descriptor,
    /// The manifest's bytes.
    pub bytes: Bytes,
    /// The config and the layers, in that order. One that occurs twice is there twice.
    pub parts: Vec<LayerPart>,
}

/// The fields in the order Go writes them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Fields<'a> {
    schema_version: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    media_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    config: &'a Descriptor,
    layers: Vec<&'a Descriptor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a Descriptor>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    #[serde(flatten)]
    other: &'a BTreeMap<String, Value>,
}

impl Draft {
    /// Says when it was made, unless that is said already. [`Invalid`](ErrorKind::Invalid) if what is said is no date.
    pub fn created_at(&mut self, now: jiff::Timestamp) -> Result<()> {
        if let Some(said) = self.annotations.get(CREATED) {
            return said.parse::<jiff::Timestamp>().map(drop).map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("invalid date and time format: {error}"))
            });
        }
        let now = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        self.annotations.insert(CREATED.into(), now);
        Ok(())
    }

    /// Makes the manifest.
    pub fn seal(self) -> Result<Packed> {
        let v1_1 = self.image_spec == ImageSpec::V1_1;
        let named = self.artifact_type.clone().filter(|text| !text.is_empty());
        let (config, artifact_type) = match self.config {
            ConfigPart::Part(part) => (part, named.filter(|_| v1_1)),
            ConfigPart::Empty(annotations) if v1_1 => {
                (empty(true, annotations), Some(named.unwrap_or_else(|| UNKNOWN_ARTIFACT.into())))
            }
            ConfigPart::Empty(annotations) => {
                let mut config = empty(false, annotations);
                config.descriptor_mut().media_type = named.unwrap_or_else(|| UNKNOWN_CONFIG.into());
                (config, None)
            }
        };
        if let Some(kind) = &artifact_type {
            expect_media_type("artifactType", kind)?;
        }
        expect_media_type("config mediaType", &config.descriptor().media_type)?;
        if self.subject.is_some() && !v1_1 {
            let why = "subject is not supported by OCI image-spec v1.0";
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let mut layers = self.layers;
        if layers.is_empty() && v1_1 {
            layers.push(empty(true, BTreeMap::new()));
        }
        let fields = Fields {
            schema_version: 2,
            media_type: Some(self.media_type.as_str()).filter(|_| !self.untyped),
            artifact_type: artifact_type.as_deref(),
            config: config.descriptor(),
            layers: layers.iter().map(LayerPart::descriptor).collect(),
            subject: self.subject.as_ref(),
            annotations: &self.annotations,
            other: &self.other,
        };
        let bytes = Bytes::from(go_json(&fields)?);
        let mut descriptor = Descriptor::of(&self.media_type, &bytes);
        descriptor.artifact_type =
            Some(artifact_type.unwrap_or_else(|| config.descriptor().media_type.clone()));
        descriptor.annotations = self.annotations;
        let parts = std::iter::once(config).chain(layers).collect();
        Ok(Packed { descriptor, bytes, parts })
    }
}

/// `{}`, its content in the descriptor if that is wanted.
fn empty(inline: bool, annotations: BTreeMap<String, String>) -> LayerPart {
    let content = Bytes::from_static(b"{}");
    let mut descriptor = Descriptor::of(media_type::EMPTY_JSON, &content);
    descriptor.data = inline.then(|| base64::engine::general_purpose::STANDARD.encode(&content));
    descriptor.annotations = annotations;
    LayerPart::New { descriptor, body: Body::Bytes(content) }
}

/// RFC 6838 §4.2, as the image-spec's schema has it.
fn expect_media_type(what: &str, text: &str) -> Result<()> {
    let name = |part: &str| {
        let rest = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&byte);
        part.len() <= 127
            && part.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
            && part.bytes().all(rest)
    };
    let essence = text.split(';').next().unwrap_or_default();
    if essence.split_once('/').is_some_and(|(kind, subtype)| name(kind) && name(subtype)) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("invalid {what} format: {text}: invalid media type")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hi() -> LayerPart {
        let content = Bytes::from_static(b"hi");
        let mut descriptor = Descriptor::of(media_type::IMAGE_LAYER, &content);
        descriptor.annotations.insert(TITLE.into(), "hi.txt".into());
        LayerPart::New { descriptor, body: Body::Bytes(content) }
    }

    fn dated(layers: Vec<LayerPart>) -> Draft {
        let mut draft = Draft { layers, ..Draft::default() };
        draft.annotations.insert(CREATED.into(), "2020-01-01T00:00:00Z".into());
        draft
    }

    #[test]
    fn the_digest_is_the_one_oras_makes() {
        let mut draft = dated(vec![hi()]);
        let packed = draft.clone().seal().unwrap();
        assert_eq!(packed.bytes.len(), 584);
        assert_eq!(
            packed.descriptor.digest.as_str(),
            "sha256:441939cd73050ccd5a10c828ca6393f2a8f3cdecac49c747ecf34583a07b04da"
        );
        draft.annotations.insert("k".into(), "v".into());
        assert_eq!(
            draft.seal().unwrap().descriptor.digest.as_str(),
            "sha256:82a5c59708d5489cc07096b529e1722fe3584e8de38377a30f9be64d3a1c57b4"
        );
    }

    #[test]
    fn version_1_0_has_neither_artifact_type_nor_inline_content() {
        let draft = Draft { image_spec: ImageSpec::V1_0, ..dated(Vec::new()) };
        let text = String::from_utf8(draft.clone().seal().unwrap().bytes.to_vec()).unwrap();
        assert_eq!(
            text,
            "{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
             \"config\":{\"mediaType\":\"application/vnd.unknown.config.v1+json\",\
             \"digest\":\"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a\",\"size\":2},\
             \"layers\":[],\"annotations\":{\"org.opencontainers.image.created\":\"2020-01-01T00:00:00Z\"}}"
        );
        let subject = Some(hi().descriptor().clone());
        assert_eq!(Draft { subject, ..draft }.seal().err().unwrap().kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn types_and_dates_that_cannot_be_are_refused() {
        for bad in ["x", "a/", "/b", "a/b/c", "a b/c", "-a/b"] {
            let draft = Draft { artifact_type: Some(bad.into()), ..Draft::default() };
            let error = draft.seal().err().unwrap();
            assert_eq!(error.to_string(), format!("invalid artifactType format: {bad}: invalid media type"));
        }
        let mut draft = Draft::default();
        draft.annotations.insert(CREATED.into(), "yesterday".into());
        let error = draft.created_at(jiff::Timestamp::UNIX_EPOCH).unwrap_err();
        assert!(error.to_string().starts_with("invalid date and time format: "), "{error}");
        let mut draft = Draft::default();
        draft.created_at(jiff::Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(draft.annotations[CREATED], "1970-01-01T00:00:00Z");
    }
}
