//! `index.json`, changed without losing what we do not know.

use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Tag, media_type};

/// The annotation that makes an entry a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The parsed file. Fields and entries nobody here understands go back out as they came.
pub(super) struct Index(Map<String, Value>);

impl Index {
    pub(super) fn empty() -> Self {
        let mut fields = Map::new();
        fields.insert("schemaVersion".into(), json!(2));
        fields.insert("mediaType".into(), json!(media_type::IMAGE_INDEX));
        fields.insert("manifests".into(), json!([]));
        Self(fields)
    }

    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let fields: Map<String, Value> = serde_json::from_slice(text)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "it is no JSON object", error))?;
        match fields.get("manifests") {
            None | Some(Value::Null) => {}
            Some(Value::Array(entries)) => {
                for (number, entry) in entries.iter().enumerate() {
                    let broken = |error| {
                        let what = format!("entry {number} of \"manifests\" is no descriptor");
                        Error::with_source(ErrorKind::Invalid, what, error)
                    };
                    serde_json::from_value::<Descriptor>(entry.clone()).map_err(broken)?;
                }
            }
            Some(_) => return Err(Error::new(ErrorKind::Invalid, "\"manifests\" is no list")),
        }
        Ok(Self(fields))
    }

    pub(super) fn to_bytes(&self) -> Result<Vec<u8>> {
        serde_json::to_vec(&self.0)
            .map_err(|error| Error::with_source(ErrorKind::Io, "write index.json", error))
    }

    pub(super) fn entries(&self) -> Vec<Descriptor> {
        let entries = self.0.get("manifests").and_then(Value::as_array);
        let parse = |entry: &Value| serde_json::from_value(entry.clone()).ok();
        entries.into_iter().flatten().filter_map(parse).collect()
    }

    /// The last entry of that name: what writers that only ever append mean.
    pub(super) fn tagged(&self, tag: &Tag) -> Option<Descriptor> {
        self.entries().into_iter().rev().find(|entry| entry.annotation(REF_NAME) == Some(tag.as_str()))
    }

    pub(super) fn by_digest(&self, digest: &Digest) -> Option<Descriptor> {
        self.entries().into_iter().find(|entry| entry.digest == *digest)
    }

    /// All tags, sorted.
    pub(super) fn tags(&self) -> Vec<Tag> {
        let entries = self.entries();
        let names = entries.iter().filter_map(|entry| entry.annotation(REF_NAME));
        let mut tags: Vec<Tag> = names.filter_map(|name| Tag::of_layout(name).ok()).collect();
        tags.sort();
        tags.dedup();
        tags
    }

    /// Lists a manifest, without a tag, unless it is listed already.
    pub(super) fn add(&mut self, entry: Descriptor) -> Result<()> {
        if self.by_digest(&entry.digest).is_some() {
            return Ok(());
        }
        self.append(&listed(entry))
    }

    /// Makes `tag` name this manifest and no other.
    pub(super) fn tag(&mut self, entry: Descriptor, tag: &Tag) -> Result<()> {
        if self.tagged(tag).is_some_and(|now| now.digest == entry.digest) {
            return Ok(());
        }
        let mut entry = self.by_digest(&entry.digest).map_or(listed(entry), listed);
        let digest = entry.digest.to_string();
        self.unname(tag)?;
        self.list_nameless_once(Some(digest))?;
        entry.annotations.insert(REF_NAME.into(), tag.to_string());
        self.append(&entry)
    }

    /// Takes the name away. The manifest stays listed.
    pub(super) fn untag(&mut self, tag: &Tag) -> Result<()> {
        self.unname(tag)?;
        self.list_nameless_once(None)
    }

    /// Takes a manifest off the list, with all its names.
    pub(super) fn remove(&mut self, digest: &Digest) -> Result<()> {
        self.manifests()?.retain(|entry| digest_of(entry).as_deref() != Some(digest.as_str()));
        Ok(())
    }

    fn unname(&mut self, tag: &Tag) -> Result<()> {
        for other in self.manifests()?.iter_mut() {
            if name_of(other) == Some(tag.as_str())
                && let Some(annotations) = other.get_mut("annotations").and_then(Value::as_object_mut)
            {
                annotations.remove(REF_NAME);
                if annotations.is_empty()
                    && let Some(fields) = other.as_object_mut()
                {
                    fields.remove("annotations");
                }
            }
        }
        Ok(())
    }

    /// A manifest is listed without a name only while it has none, and then once. `named` is about to have one.
    fn list_nameless_once(&mut self, named: Option<String>) -> Result<()> {
        let manifests = self.manifests()?;
        let mut seen: Vec<String> =
            manifests.iter().filter(|other| name_of(other).is_some()).filter_map(digest_of).collect();
        seen.extend(named);
        manifests.retain(|other| {
            name_of(other).is_some()
                || digest_of(other).is_none_or(|digest| {
                    let new = !seen.contains(&digest);
                    if new {
                        seen.push(digest);
                    }
                    new
                })
        });
        Ok(())
    }

    fn append(&mut self, entry: &Descriptor) -> Result<()> {
        let entry = serde_json::to_value(entry)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "list a manifest", error))?;
        self.manifests()?.push(entry);
        Ok(())
    }

    fn manifests(&mut self) -> Result<&mut Vec<Value>> {
        let entries = self.0.entry("manifests").or_insert(Value::Null);
        if entries.is_null() {
            *entries = json!([]);
        }
        entries.as_array_mut().ok_or_else(|| Error::new(ErrorKind::Invalid, "\"manifests\" is no list"))
    }
}

/// An entry as it is listed: without the content and without another entry's name.
fn listed(mut entry: Descriptor) -> Descriptor {
    entry.data = None;
    entry.annotations.remove(REF_NAME);
    entry
}

fn name_of(entry: &Value) -> Option<&str> {
    entry.get("annotations")?.get(REF_NAME)?.as_str().filter(|name| !name.is_empty())
}

fn digest_of(entry: &Value) -> Option<String> {
    Some(entry.get("digest")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(content: &[u8]) -> Descriptor {
        Descriptor::of(media_type::IMAGE_MANIFEST, content)
    }

    fn tag(text: &str) -> Tag {
        Tag::of_layout(text).unwrap()
    }

    #[test]
    fn a_tag_moves_and_its_old_manifest_stays_listed_once() {
        let (one, two) = (manifest(b"1"), manifest(b"2"));
        let mut index = Index::empty();
        index.add(one.clone()).unwrap();
        index.add(one.clone()).unwrap();
        index.tag(one.clone(), &tag("v1")).unwrap();
        index.tag(one.clone(), &tag("latest")).unwrap();
        index.tag(two.clone(), &tag("v1")).unwrap();
        index.tag(two.clone(), &tag("latest")).unwrap();
        assert_eq!(index.tagged(&tag("latest")).unwrap().digest, two.digest);
        assert_eq!(index.tags(), [tag("latest"), tag("v1")]);
        let digests: Vec<_> = index.entries().into_iter().map(|entry| entry.digest).collect();
        assert_eq!(digests, [one.digest, two.digest.clone(), two.digest]);
    }

    #[test]
    fn what_we_do_not_know_survives_a_change() {
        let text = format!(
            r#"{{"schemaVersion":2,"x":{{"y":[1]}},"manifests":[{{"mediaType":"a/b","digest":"{}","size":0,"z":1,"annotations":{{"{REF_NAME}":"v1","k":"v"}}}}]}}"#,
            Digest::ZERO
        );
        let mut index = Index::parse(text.as_bytes()).unwrap();
        assert_eq!(index.to_bytes().unwrap(), text.as_bytes());
        index.tag(manifest(b"2"), &tag("v1")).unwrap();
        let after: Value = serde_json::from_slice(&index.to_bytes().unwrap()).unwrap();
        assert_eq!(after["x"], json!({"y": [1]}));
        assert_eq!(after["manifests"][0]["z"], 1);
        assert_eq!(after["manifests"][0]["annotations"], json!({"k": "v"}));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        for text in ["", "[]", r#"{"manifests":{}}"#, r#"{"manifests":[1]}"#, r#"{"manifests":[{}]}"#] {
            assert!(Index::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(Index::parse(b"{}").unwrap().entries().is_empty());
    }
}
