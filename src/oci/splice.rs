//! Splice: an index with one of its manifests replaced, and else the same to the byte.
//!
//! Whoever made an index wrote it in his own way: indented or not, in his own order, with fields nobody else knows. Only
//! what must change is cut out of his text and written anew.

use std::ops::Range;

use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Descriptor, Digest, Index};
use crate::error::{Error, ErrorKind, Result};

/// The annotations by which an index says that one of its manifests speaks of another (Buildx).
const ABOUT: [&str; 2] = ["vnd.docker.reference.type", "vnd.docker.reference.digest"];

/// An index, made from another.
pub struct Spliced {
    /// Its bytes.
    pub bytes: Bytes,
    /// The attestations that are not in it any more: they spoke of the manifest that was replaced.
    pub dropped: Vec<Digest>,
}

#[derive(Deserialize)]
struct Whole<'a> {
    #[serde(borrow)]
    manifests: Vec<&'a RawValue>,
}

/// What a descriptor says of content that is another now.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    #[serde(borrow)]
    digest: &'a RawValue,
    #[serde(borrow)]
    size: &'a RawValue,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    artifact_type: Option<&'a RawValue>,
}

impl Index {
    /// The same with `new`, whose bytes are `content`, in place of the manifest at `place`: under the platform, the
    /// annotations and whatever else is said there.
    pub fn spliced(&self, place: usize, new: &Descriptor, content: &[u8]) -> Result<Spliced> {
        let unread = |error| Error::with_source(ErrorKind::Invalid, "read the index again", error);
        let missing = || Error::new(ErrorKind::Invalid, "the index has no such manifest");
        let text = std::str::from_utf8(&self.raw)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "read the index again", error))?;
        let whole: Whole<'_> = serde_json::from_str(text).map_err(unread)?;
        let old = self.manifests.get(place).ok_or_else(missing)?;
        if old.digest == new.digest {
            return Ok(Spliced { bytes: self.raw.clone(), dropped: Vec::new() });
        }
        let entry = whole.manifests.get(place).ok_or_else(missing)?;
        let entry: Entry<'_> = serde_json::from_str(entry.get()).map_err(unread)?;
        let mut edits = vec![
            (within(text, entry.digest), quoted(new.digest.as_str())),
            (within(text, entry.size), new.size.to_string()),
        ];
        if let Some(data) = entry.data {
            let inline = base64::engine::general_purpose::STANDARD.encode(content);
            edits.push((within(text, data), quoted(&inline)));
        }
        if let (Some(before), Some(kind)) = (entry.artifact_type, &new.artifact_type) {
            edits.push((within(text, before), quoted(kind)));
        }
        let gone = self.attestations(place);
        let entries: Vec<Range<usize>> = whole.manifests.iter().map(|part| within(text, part)).collect();
        edits.extend(cuts(&entries, &gone));
        let dropped = gone.iter().filter_map(|at| self.manifests.get(*at)).map(|gone| gone.digest.clone());
        Ok(Spliced { bytes: edited(text, edits).into(), dropped: dropped.collect() })
    }

    /// Where the attestations are that speak of the manifest at `place`, and of no other place's.
    fn attestations(&self, place: usize) -> Vec<usize> {
        let Some(subject) = self.manifests.get(place) else { return Vec::new() };
        if self.manifests.iter().filter(|other| other.digest == subject.digest).count() > 1 {
            return Vec::new();
        }
        let [kind, about] = ABOUT;
        let speaks = |entry: &Descriptor| {
            entry.annotation(kind) == Some("attestation-manifest")
                && entry.annotation(about) == Some(subject.digest.as_str())
        };
        let all = self.manifests.iter().enumerate();
        all.filter(|(at, entry)| *at != place && speaks(entry)).map(|(at, _)| at).collect()
    }
}

/// Where a part of `text` lies in it.
fn within(text: &str, part: &RawValue) -> Range<usize> {
    let begin = part.get().as_ptr().addr() - text.as_ptr().addr();
    begin..begin + part.get().len()
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// What of a list's text goes with the entries that are `gone`: their comma, too, and the space around it.
fn cuts(entries: &[Range<usize>], gone: &[usize]) -> Vec<(Range<usize>, String)> {
    let first = (0..entries.len()).find(|at| !gone.contains(at)).unwrap_or_default();
    let cut = |at: &usize| {
        let own = entries.get(*at)?;
        let range = if *at < first {
            own.start..entries.get(at + 1)?.start
        } else {
            entries.get(at.checked_sub(1)?)?.end..own.end
        };
        Some((range, String::new()))
    };
    gone.iter().filter_map(cut).collect()
}

/// `text` with other text in some places, which do not overlap.
fn edited(text: &str, mut edits: Vec<(Range<usize>, String)>) -> String {
    edits.sort_by_key(|(range, _)| range.start);
    let (mut made, mut done) = (String::with_capacity(text.len()), 0);
    for (range, new) in edits {
        made.push_str(text.get(done..range.start).unwrap_or_default());
        made.push_str(&new);
        done = range.end;
    }
    made.push_str(text.get(done..).unwrap_or_default());
    made
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Manifest;

    /// An index in nobody's usual way of writing.
    fn index(order: &[&str]) -> (Index, String) {
        let digest = |letter: &str| format!("sha256:{}", letter.repeat(64));
        let entry = |letter: &&str| match *letter {
            "x" | "y" => format!(
                "{{\"digest\":\"{}\", \"annotations\": {{\"vnd.docker.reference.type\":\"attestation-manifest\",\
                 \"vnd.docker.reference.digest\":\"{}\"}},\"size\":1,\"mediaType\":\"{}\"}}",
                digest(if *letter == "x" { "d" } else { "e" }),
                digest("a"),
                crate::oci::media_type::IMAGE_MANIFEST
            ),
            letter => format!(
                "{{ \"size\" : 1, \"new\": 1.50e2, \"digest\":\"{}\", \"data\": \"AA==\",\n \"platform\": {{\"os\":\"linux\",\"architecture\":\"{letter}\",\"x\":1}}, \"artifactType\":\"t/t\", \"mediaType\":\"{}\"}}",
                digest(letter),
                crate::oci::media_type::IMAGE_MANIFEST
            ),
        };
        let entries: Vec<String> = order.iter().map(entry).collect();
        let text = format!(
            "{{\n  \"z\": \"\\u003c\",\n  \"manifests\": [\n    {}\n  ],\n  \"schemaVersion\": 2\n}}\n",
            entries.join(" ,\n    ")
        );
        match Manifest::parse(text.clone().into(), None).unwrap() {
            Manifest::Index(index) => (index, text),
            Manifest::Image(_) => panic!("an image"),
        }
    }

    #[test]
    fn only_what_must_change_changes() {
        for order in [["a", "b", "x", "y"], ["x", "y", "a", "b"], ["b", "x", "a", "y"], ["x", "b", "y", "a"]]
        {
            let (before, _) = index(&order);
            let place = order.iter().position(|letter| *letter == "a").unwrap();
            let new = Descriptor::of(crate::oci::media_type::IMAGE_MANIFEST, b"new");
            let spliced = before.spliced(place, &new, b"new").unwrap();
            assert_eq!(spliced.dropped.len(), 2, "{order:?}");
            let without: Vec<&str> =
                order.into_iter().filter(|letter| !["x", "y"].contains(letter)).collect();
            let (_, wanted) = index(&without);
            let change = |text: &str| {
                text.replace(&format!("sha256:{}", "a".repeat(64)), new.digest.as_str())
                    .replace("\"size\" : 1", "\"size\" : 3")
                    .replace("AA==", "bmV3")
            };
            let (first, second) = wanted.split_once(" ,\n    ").unwrap();
            let wanted = match without[0] {
                "a" => format!("{} ,\n    {second}", change(first)),
                _ => format!("{first} ,\n    {}", change(second)),
            };
            assert_eq!(String::from_utf8_lossy(&spliced.bytes), wanted, "{order:?}");
        }
    }

    #[test]
    fn an_attestation_of_a_manifest_two_platforms_have_stays() {
        let (before, _) = index(&["a", "a", "x"]);
        let mut new = Descriptor::of(crate::oci::media_type::IMAGE_MANIFEST, b"new");
        new.artifact_type = Some("a\"/b".into());
        let spliced = before.spliced(1, &new, b"new").unwrap();
        assert!(spliced.dropped.is_empty());
        let Manifest::Index(after) = Manifest::parse(spliced.bytes, None).unwrap() else {
            panic!("an image")
        };
        assert_eq!((&after.manifests[0], &after.manifests[2]), (&before.manifests[0], &before.manifests[2]));
        assert_eq!(after.manifests[1].artifact_type, new.artifact_type);
        assert_eq!(after.manifests[1].platform, before.manifests[1].platform);
        let same = before.spliced(0, &before.manifests[0], b"").unwrap();
        assert_eq!(same.bytes, before.raw);
        assert!(before.spliced(3, &new, b"new").is_err());
    }
}
