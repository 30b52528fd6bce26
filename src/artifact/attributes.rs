//! What a layer with a title cannot say of a file: one small layer that says it.
//!
//! A titled layer has a name and bytes. A mode other than 0644 (a folder's other than 0755), a symbolic link, an
//! empty folder, that two names are one file, extended attributes, an owner and a time have no place in it, so an
//! artifact that has any of these carries one layer more, the last one, without a title (ORAS passes it over) and
//! with its content in the descriptor's `data`, so that showing the artifact costs no request more. Its media type
//! is [`MEDIA_TYPE`], its content JSON:
//!
//! ```json
//! {"entries":[
//!   {"path":"bin/run","mode":493,"xattrs":{"user.note":"bWluZQ=="}},
//!   {"path":"bin/run2","hardlink":"bin/run"},
//!   {"path":"empty","folder":true,"mode":448},
//!   {"path":"latest","link":"bin/run"},
//!   {"path":"mine","uid":1000,"gid":100,"modified":[1700000000,5]}
//! ]}
//! ```
//! Entries are sorted by path; a path is one of a title's grammar, relative to the root. `mode` is the permission
//! bits as a number, left out where they are the usual ones. An entry with `folder` is a folder, one with `link` a
//! symbolic link to that target, any other is about the file with this title. `hardlink` names the title of another
//! layer with the same content: both are names of one file, and what is said of that title holds for this one.
//! `xattrs` are `user.` attributes with their values in base64; `uid` and `gid` are numbers, `modified` is seconds and
//! nanoseconds since 1970; these three are there only if a person asked for them. What is inside a layer that is a
//! folder is said by its archive, never here. Fields that are not known are passed over.
//!
//! In an archive, extended attributes are PAX records `SCHILY.xattr.NAME`, a further name of a file is a copy of it
//! with the PAX record `ARTIFS.hardlink` (the first name's path in the archive), and owners count only if the layer's
//! annotation [`OWNERS`] is `true`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::tree::Xattrs;
use crate::error::Result;
use crate::oci::{Descriptor, go_json, media_type};

/// The media type of the layer.
pub const MEDIA_TYPE: &str = "application/vnd.artifs.attributes.v1+json";

/// The annotation of a layer that is a folder whose archive's owners count.
pub const OWNERS: &str = "land.artifs.owners";

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
    /// Of which other path it is one more name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardlink: Option<String>,
    /// Its extended attributes, base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
    /// Its user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// When it was changed, in seconds and nanoseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<(i64, u32)>,
}

impl AttributesEntry {
    /// Nothing but a path.
    pub fn new(path: String) -> Self {
        Self { path, ..Self::default() }
    }

    /// Whether it says nothing of its path.
    pub fn is_silent(&self) -> bool {
        *self == Self::new(self.path.clone())
    }

    /// Says these extended attributes. Names that are no text are passed over (see [`can_tell`]).
    pub fn tell(&mut self, xattrs: &Xattrs) {
        let text = |name: &[u8]| Some(std::str::from_utf8(name).ok()?.to_owned());
        let told = xattrs.iter().filter_map(|(name, value)| Some((text(name)?, STANDARD.encode(value))));
        self.xattrs = told.collect();
    }

    /// The extended attributes it says.
    pub fn told(&self) -> Xattrs {
        let told = self.xattrs.iter().filter(|(name, _)| is_told(name.as_bytes()));
        told.filter_map(|(name, value)| Some((name.clone().into_bytes(), STANDARD.decode(value).ok()?)))
            .collect()
    }

    /// The owner it says.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.uid.zip(self.gid)
    }
}

/// Whether an extended attribute is one that artifacts tell: a person's, and not ours about the artifact.
pub fn is_told(name: &[u8]) -> bool {
    name.starts_with(b"user.") && !name.starts_with(b"user.oci.")
}

/// Whether an extended attribute of this name has a place in an artifact.
pub fn can_tell(name: &[u8]) -> bool {
    is_told(name) && !name.contains(&b'=') && std::str::from_utf8(name).is_ok()
}

impl AttributesLayer {
    /// The layer's descriptor, its content inside, and that content. The same entries make the same bytes.
    pub fn seal(mut self) -> Result<(Descriptor, Vec<u8>)> {
        self.entries.sort();
        let bytes = go_json(&self)?;
        let mut descriptor = Descriptor::of(MEDIA_TYPE, &bytes);
        descriptor.data = Some(STANDARD.encode(&bytes));
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
        let entry = |path: &str| AttributesEntry::new(path.into());
        let mut run = AttributesEntry { mode: Some(0o755), modified: Some((-1, 5)), ..entry("bin/run") };
        let xattrs = Xattrs::from([(b"user.note".to_vec(), vec![0, 255])]);
        run.tell(&xattrs);
        assert_eq!(run.told(), xattrs);
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
