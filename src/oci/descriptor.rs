//! Descriptors (image-spec, descriptor.md).

use std::collections::BTreeMap;

use base64::Engine as _;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Digest, Platform, media_type};

/// A typed, sized pointer to content. Fields we do not know stay in `other` and go back out unchanged;
/// that is why this is not `oci-spec`'s type, which drops them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type as its producer wrote it; compare with [`media_type::same`].
    #[serde(default)]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The length of the content in bytes.
    pub size: u64,
    /// Where else the content may be had. Never followed without being asked to (formats.md R16).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Key and value pairs, sorted by key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The content itself, base64, when it is small; read it through [`Descriptor::inline`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// What an image in an index runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// The artifact type of the manifest pointed at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Fields of other specifications and producers (`name`, `from`, `modelMetadata`, …).
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Descriptor {
    /// A descriptor of `size` bytes under `digest`, with nothing else said.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            urls: None,
            annotations: BTreeMap::new(),
            data: None,
            platform: None,
            artifact_type: None,
            other: BTreeMap::new(),
        }
    }

    /// The descriptor of these very bytes.
    pub fn of(media_type: impl Into<String>, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::of(bytes), bytes.len() as u64)
    }

    /// An annotation's value, if it is there and not empty.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The inline content, only if its length and digest are right (formats.md R15).
    pub fn inline(&self) -> Option<Bytes> {
        let data = self.data.as_deref()?;
        // Decoding is bounded before it starts: 4 characters carry at most 3 bytes.
        if (data.len() / 4 * 3) as u64 > self.size.saturating_add(3) {
            return None;
        }
        let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
        (bytes.len() as u64 == self.size && self.digest.matches(&bytes)).then(|| Bytes::from(bytes))
    }

    /// Whether this points at a manifest or index rather than at a blob.
    pub fn is_manifest(&self) -> bool {
        media_type::is_manifest(&self.media_type)
    }

    /// The placeholder for "nothing here": the empty JSON type, or its digest without a name.
    pub fn is_empty_json(&self) -> bool {
        media_type::same(&self.media_type, media_type::EMPTY_JSON)
    }
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    Ok(Option::<BTreeMap<String, String>>::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_nobody_knows_survive() {
        let text = format!(
            r#"{{"mediaType":"a/b","digest":"{}","size":0,"from":"x","name":{{"deep":1}}}}"#,
            Digest::ZERO
        );
        let descriptor: Descriptor = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&descriptor).unwrap(), text);
    }

    #[test]
    fn inline_content_counts_only_when_it_is_right() {
        let mut descriptor = Descriptor::of(media_type::EMPTY_JSON, b"{}");
        descriptor.data = Some("e30=".into());
        assert_eq!(descriptor.inline().as_deref(), Some(&b"{}"[..]));
        descriptor.data = Some("e31=".into());
        assert_eq!(descriptor.inline(), None);
        descriptor.data = Some("A".repeat(1 << 20));
        assert_eq!(descriptor.inline(), None);
    }
}
