//! Manifests and indexes (image-spec manifest.md, image-index.md; formats.md R1, R2).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;

use super::{Descriptor, media_type};
use crate::error::{Error, ErrorKind, Result};

/// A manifest of either kind, with the very bytes its digest was made of.
#[derive(Clone, Debug)]
pub enum Manifest {
    /// An image manifest, or a withdrawn artifact manifest read as one.
    Image(ImageManifest),
    /// An index of manifests.
    Index(Index),
}

/// A manifest with layers.
#[derive(Clone, Debug)]
pub struct ImageManifest {
    /// The exact bytes.
    pub raw: Bytes,
    /// The type it was served or described as, else what its body says, else what its shape says.
    pub media_type: String,
    /// `artifactType`, when said and not empty.
    pub artifact_type: Option<String>,
    /// The config; artifact manifests have none.
    pub config: Option<Descriptor>,
    /// The layers, in order (`blobs` of an artifact manifest).
    pub layers: Vec<Descriptor>,
    /// What this manifest is about.
    pub subject: Option<Descriptor>,
    /// Key and value pairs.
    pub annotations: BTreeMap<String, String>,
}

/// A manifest of manifests.
#[derive(Clone, Debug)]
pub struct Index {
    /// The exact bytes.
    pub raw: Bytes,
    /// The type it was served or described as, else what its body says, else what its shape says.
    pub media_type: String,
    /// `artifactType`, when said and not empty.
    pub artifact_type: Option<String>,
    /// The manifests pointed at, in order.
    pub manifests: Vec<Descriptor>,
    /// What this index is about.
    pub subject: Option<Descriptor>,
    /// Key and value pairs.
    pub annotations: BTreeMap<String, String>,
}

/// Every field any kind has; which ones are present decides the kind.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    fs_layers: Option<serde_json::Value>,
    subject: Option<Descriptor>,
    annotations: Option<BTreeMap<String, String>>,
}

impl Manifest {
    /// Parses a manifest. `told` is the type its descriptor or the registry's header gives, if any.
    ///
    /// Refused: both `layers` and `manifests` (the ambiguity of CVE-2021-41190), a body type that
    /// contradicts `told`, Docker's schema 1, anything that is not the JSON of a manifest. Nesting is
    /// bounded by the JSON parser; how many bytes there may be is bounded by who fetched them.
    pub fn parse(raw: Bytes, told: Option<&str>) -> Result<Self> {
        let body: Body = serde_json::from_slice(&raw).map_err(|error| {
            let start = String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned();
            Error::with_source(
                ErrorKind::Invalid,
                format!("not a manifest (it begins with {start:?})"),
                error,
            )
        })?;
        if body.fs_layers.is_some() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "this is a Docker schema 1 manifest, which nobody should use any more; push the image again with a current tool",
            ));
        }
        if body.manifests.is_some() && (body.layers.is_some() || body.blobs.is_some()) {
            return Err(Error::new(
                ErrorKind::Invalid,
                "the manifest has both \"layers\" and \"manifests\", so it can be read in two ways; refusing (CVE-2021-41190)",
            ));
        }
        let told = told.map(media_type::essence).filter(|told| media_type::is_manifest(told));
        let said = body.media_type.as_deref().filter(|said| !said.is_empty());
        if let (Some(told), Some(said)) = (told, said)
            && !media_type::same(told, said)
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the manifest calls itself {said:?} but is described as {told:?}; refusing (CVE-2021-41190)"
                ),
            ));
        }
        let named = said.or(told);
        let is_index = match named {
            Some(named) if media_type::is_index(named) => true,
            Some(named) if media_type::is_manifest(named) => false,
            Some(other) => {
                return Err(Error::new(ErrorKind::Unsupported, format!("{other:?} is not a manifest type")));
            }
            None if body.manifests.is_some() => true,
            None if body.layers.is_some() || body.blobs.is_some() || body.config.is_some() => false,
            None => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the JSON has neither \"layers\" nor \"manifests\", so it is not a manifest",
                ));
            }
        };
        let artifact_type = body.artifact_type.filter(|text| !text.is_empty());
        let annotations = body.annotations.unwrap_or_default();
        if is_index {
            if body.layers.is_some() {
                return Err(Error::new(ErrorKind::Invalid, "an index cannot have \"layers\""));
            }
            return Ok(Self::Index(Index {
                media_type: named.unwrap_or(media_type::IMAGE_INDEX).to_owned(),
                raw,
                artifact_type,
                manifests: body.manifests.unwrap_or_default(),
                subject: body.subject,
                annotations,
            }));
        }
        if body.manifests.is_some() {
            return Err(Error::new(ErrorKind::Invalid, "an image manifest cannot have \"manifests\""));
        }
        let fallback =
            if body.blobs.is_some() { media_type::ARTIFACT_MANIFEST } else { media_type::IMAGE_MANIFEST };
        Ok(Self::Image(ImageManifest {
            media_type: named.unwrap_or(fallback).to_owned(),
            raw,
            artifact_type,
            config: body.config,
            layers: body.layers.or(body.blobs).unwrap_or_default(),
            subject: body.subject,
            annotations,
        }))
    }

    /// The exact bytes.
    pub fn raw(&self) -> &Bytes {
        match self {
            Self::Image(manifest) => &manifest.raw,
            Self::Index(index) => &index.raw,
        }
    }

    /// Its media type.
    pub fn media_type(&self) -> &str {
        match self {
            Self::Image(manifest) => &manifest.media_type,
            Self::Index(index) => &index.media_type,
        }
    }

    /// Its annotations.
    pub fn annotations(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Image(manifest) => &manifest.annotations,
            Self::Index(index) => &index.annotations,
        }
    }

    /// What it is about, if it is a referrer.
    pub fn subject(&self) -> Option<&Descriptor> {
        match self {
            Self::Image(manifest) => manifest.subject.as_ref(),
            Self::Index(index) => index.subject.as_ref(),
        }
    }

    /// The artifact type a referrers list gives for it: its own, else its config's type.
    pub fn artifact_type(&self) -> Option<&str> {
        match self {
            Self::Image(manifest) => manifest
                .artifact_type
                .as_deref()
                .or(manifest.config.as_ref().map(|config| config.media_type.as_str())),
            Self::Index(index) => index.artifact_type.as_deref(),
        }
    }

    /// Everything it points at directly: config, layers, manifests; not the subject.
    pub fn successors(&self) -> Vec<&Descriptor> {
        match self {
            Self::Image(manifest) => manifest.config.iter().chain(&manifest.layers).collect(),
            Self::Index(index) => index.manifests.iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, told: Option<&str>) -> Result<Manifest> {
        Manifest::parse(Bytes::copy_from_slice(text.as_bytes()), told)
    }

    #[test]
    fn shape_decides_where_no_type_is_given() {
        assert!(matches!(parse(r#"{"layers":[]}"#, None), Ok(Manifest::Image(_))));
        assert!(matches!(parse(r#"{"manifests":[]}"#, None), Ok(Manifest::Index(_))));
        assert!(matches!(
            parse(r#"{"blobs":null}"#, Some(media_type::ARTIFACT_MANIFEST)),
            Ok(Manifest::Image(_))
        ));
        assert!(matches!(parse(r#"{"layers":[]}"#, Some("text/plain")), Ok(Manifest::Image(_))));
    }

    #[test]
    fn ambiguity_and_nonsense_are_refused() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let negative = format!(
            r#"{{"layers":[{{"mediaType":"a/b","digest":"{}","size":-1}}]}}"#,
            super::super::Digest::ZERO
        );
        for (text, told) in [
            (r#"{"layers":[],"manifests":[]}"#, None),
            (
                r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
                Some(media_type::IMAGE_MANIFEST),
            ),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#, None),
            (r#"{"layers":"no"}"#, None),
            ("{}", None),
            ("<html>", None),
            (r#"{"manifests":[]}"#, Some(media_type::IMAGE_MANIFEST)),
            (&deep, None),
            (&negative, None),
        ] {
            assert!(parse(text, told).is_err(), "{}", &text[..text.len().min(60)]);
        }
    }
}
