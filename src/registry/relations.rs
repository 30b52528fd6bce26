//! The tag that stands in for the referrers API, kept up to date by whoever pushes or deletes a referrer.
//!
//! Reading, changing and putting it is a race no registry settles: it is read again after each change, and
//! changed again if somebody else's came in between (registry.md §3.4).

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::manifests::Shelf;
use super::referrers::fallback_tag;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Manifest, Name, Tag, media_type};
use crate::store::{Body, MANIFEST_LIMIT};

const ROUNDS: u32 = 6;
const PAUSE: Duration = Duration::from_millis(50);

impl Shelf {
    /// Lists a referrer under its subject, unless the registry does that itself.
    pub(super) async fn list_as_referrer(
        &self,
        subject: &Digest,
        referrer: &Descriptor,
        manifest: &Manifest,
    ) -> Result<()> {
        let mut entry = Descriptor::new(&referrer.media_type, referrer.digest.clone(), referrer.size);
        entry.artifact_type = manifest.artifact_type().map(str::to_owned);
        entry.annotations.clone_from(manifest.annotations());
        let entry = serde_json::to_value(&entry)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "describe a referrer", error))?;
        self.change_relations(subject, &referrer.digest, Some(entry)).await
    }

    /// Takes a referrer off its subject's list.
    pub(super) async fn unlist_referrer(&self, subject: &Digest, referrer: &Digest) -> Result<()> {
        self.change_relations(subject, referrer, None).await
    }

    async fn change_relations(
        &self,
        subject: &Digest,
        referrer: &Digest,
        entry: Option<Value>,
    ) -> Result<()> {
        if self.has_referrers_api(subject).await? {
            return Ok(());
        }
        let Ok(tag) = fallback_tag(subject).parse::<Tag>() else { return Ok(()) };
        let _alone = self.relations.lock().await;
        for round in 0..ROUNDS {
            let mut index = self.relations_at(&tag).await?;
            let Some(list) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
                return Err(Error::new(ErrorKind::Invalid, format!("{tag} is there and is no index")));
            };
            let at = list.iter().position(|listed| digest_of(listed) == Some(referrer.as_str()));
            match (&entry, at) {
                (Some(entry), Some(at)) if list[at] == *entry => return Ok(()),
                (Some(entry), Some(at)) => list[at] = entry.clone(),
                (Some(entry), None) => list.push(entry.clone()),
                (None, Some(at)) => drop(list.remove(at)),
                (None, None) => return Ok(()),
            }
            let bytes = Bytes::from(crate::oci::go_json(&index)?);
            let descriptor = Descriptor::of(media_type::IMAGE_INDEX, &bytes);
            // The index has no subject, so this comes back here no second time.
            Box::pin(self.push_manifest(&descriptor, &Body::Bytes(bytes), Some(&tag))).await?;
            if round > 0 {
                tokio::time::sleep(PAUSE.mul_f64(f64::from(round) * (0.5 + rand::random::<f64>()))).await;
            }
        }
        Err(Error::new(
            ErrorKind::Conflict,
            format!("others keep changing {tag}; push again: what is uploaded is not sent twice"),
        ))
    }

    async fn relations_at(&self, tag: &Tag) -> Result<Value> {
        match self.manifest(&Name::Tag(tag.clone()), MANIFEST_LIMIT).await {
            Ok((_, bytes)) => {
                let mut index: Value = serde_json::from_slice(&bytes)
                    .map_err(|error| Error::with_source(ErrorKind::Invalid, format!("{tag}"), error))?;
                if index.get("manifests").is_some_and(Value::is_null) {
                    index["manifests"] = json!([]);
                }
                Ok(index)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(json!({"schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX, "manifests": []}))
            }
            Err(error) => Err(error),
        }
    }
}

fn digest_of(entry: &Value) -> Option<&str> {
    entry.get("digest")?.as_str()
}
