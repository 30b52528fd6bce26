//! What a layer with a title cannot say of a file: one small layer that says it.
//!
//! A titled layer has a name and bytes. A mode other than 0644 (a folder's other than 0755), a symbolic link and an
//! empty folder have no place in it, so an artifact that has any of these carries one layer more, the last one,
//! without a title (ORAS passes it over) and with its content in the descriptor's `data`, so that showing the
//! artifact costs no request more. Its media type is [`MEDIA_TYPE`], its content JSON:
//!
//! ```json
//! {"entries":[
//!   {"path":"bin/run","mode":493},
//!   {"path":"empty","folder":true,"mode":448},
//!   {"path":"latest","link":"bin/run"}
//! ]}
//! ```
//! Entries are sorted by path; a path is one of a title's grammar, relative to the root. `mode` is the permission
//! bits as a number, left out where they are the usual ones. An entry with `folder` is a folder, one with `link` a
//! symbolic link to that target, any other says the mode of the file with this title. What is inside a layer that
//! is a folder is said by its archive, never here. Fields that are not known are passed over.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::oci::{Descriptor, go_json, media_type};

/// The media type of the layer.
pub const MEDIA_TYPE: &str = "application/vnd.artifs.attributes.v1+json";

/// The whole content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttributesLayer {
    /// What is said, by path.
    pub entries: Vec<AttributesEntry>,
}

/// What is said of one path.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AttributesEntry {
    /// Which.
    pub path: String,
    /// Whether it is a folder.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub folder: bool,
    /// Where it points, if it is a symbolic link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Its permission bits, if they are not the usual ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

impl AttributesLayer {
    /// The layer's descriptor, its content inside, and that content. The same entries make the same bytes.
    pub fn seal(mut self) -> Result<(Descriptor, Vec<u8>)> {
        use base64::Engine as _;
        self.entries.sort();
        let bytes = go_json(&self)?;
        let mut descriptor = Descriptor::of(MEDIA_TYPE, &bytes);
        descriptor.data = Some(base64::engine::general_purpose::STANDARD.encode(&bytes));
        Ok((descriptor, bytes))
    }

    /// What a layer says; `None` if its content is not in its descriptor, or not what it should be.
    pub fn of(layer: &Descriptor) -> Option<Self> {
        serde_json::from_slice(&layer.inline()?).ok()
    }
}

/// Whether a layer is such a one.
pub fn is_attributes(layer: &Descriptor) -> bool {
    media_type::same(&layer.media_type, MEDIA_TYPE) && layer.annotation(super::from_manifest::TITLE).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_back_and_always_the_same_bytes() {
        let entry = |path: &str| AttributesEntry { path: path.into(), ..AttributesEntry::default() };
        let run = AttributesEntry { mode: Some(0o755), ..entry("bin/run") };
        let link = AttributesEntry { link: Some("bin/run".into()), ..entry("latest") };
        let empty = AttributesEntry { folder: true, ..entry("empty") };
        let one = AttributesLayer { entries: vec![link.clone(), run.clone(), empty.clone()] };
        let other = AttributesLayer { entries: vec![run.clone(), empty.clone(), link.clone()] };
        let (descriptor, bytes) = one.seal().unwrap();
        assert_eq!(other.seal().unwrap(), (descriptor.clone(), bytes));
        assert!(is_attributes(&descriptor));
        assert_eq!(
            AttributesLayer::of(&descriptor),
            Some(AttributesLayer { entries: vec![run, empty, link] })
        );
        let wrong = Descriptor { data: Some("e30=".into()), ..descriptor };
        assert_eq!(AttributesLayer::of(&wrong), None);
    }
}
