//! A store in memory.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream};

use super::referrers::as_referrer;
use super::{Blob, Body, ByteStream, Direct, Source, Target, expect_digest, expect_range};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name, Tag};

/// Content held in memory: small artifacts on their way somewhere, and tests.
#[derive(Default)]
pub struct Memory {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    content: HashMap<Digest, Bytes>,
    /// In digest order, so that lists made from it are always the same.
    manifests: BTreeMap<Digest, Descriptor>,
    tags: BTreeMap<Tag, Digest>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change is one insert: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what}: not found"))
}

#[async_trait]
impl Source for Memory {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        let state = self.state();
        let digest = match name {
            Name::Tag(tag) => state.tags.get(tag),
            Name::Digest(digest) => Some(digest),
        };
        digest.and_then(|digest| state.manifests.get(digest)).cloned().ok_or_else(|| missing(name))
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        expect_range(descriptor, &range)?;
        let whole = self.state().content.get(&descriptor.digest).cloned();
        let whole = whole.ok_or_else(|| missing(&descriptor.digest))?;
        if whole.len() as u64 != descriptor.size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} should have {} bytes and has {}",
                    descriptor.digest,
                    descriptor.size,
                    whole.len()
                ),
            ));
        }
        let part = whole.slice(range.start as usize..range.end as usize);
        Ok(Box::pin(stream::once(std::future::ready(Ok(part)))))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Ok(self.state().tags.keys().cloned().collect())
    }

    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let state = self.state();
        let referrer = |(digest, descriptor): (&Digest, &Descriptor)| {
            as_referrer(descriptor, state.content.get(digest)?.clone(), subject, artifact_type)
        };
        Ok(state.manifests.iter().filter_map(referrer).collect())
    }
}

#[async_trait]
impl Target for Memory {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        Ok(self.state().content.contains_key(&descriptor.digest))
    }

    async fn push(&self, descriptor: &Descriptor, body: &Body) -> Result<()> {
        let mut hasher = descriptor.digest.hasher()?;
        let mut whole = BytesMut::new();
        let mut pieces = body.open().await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            hasher.update(&piece);
            whole.extend_from_slice(&piece);
            super::expect_no_more_than(descriptor, whole.len() as u64)?;
        }
        expect_digest(hasher, &descriptor.digest)?;
        super::expect_size(descriptor, whole.len() as u64)?;
        let mut state = self.state();
        state.content.insert(descriptor.digest.clone(), whole.freeze());
        if descriptor.is_manifest() {
            let plain = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
            state.manifests.insert(descriptor.digest.clone(), plain);
        }
        Ok(())
    }

    async fn tag(&self, descriptor: &Descriptor, tag: &Tag) -> Result<()> {
        let mut state = self.state();
        if !state.manifests.contains_key(&descriptor.digest) {
            return Err(missing(&descriptor.digest));
        }
        state.tags.insert(tag.clone(), descriptor.digest.clone());
        Ok(())
    }

    async fn untag(&self, tag: &Tag) -> Result<()> {
        self.state().tags.remove(tag).map(drop).ok_or_else(|| missing(tag))
    }

    async fn delete(&self, descriptor: &Descriptor) -> Result<()> {
        let mut state = self.state();
        if state.content.remove(&descriptor.digest).is_none() {
            return Err(missing(&descriptor.digest));
        }
        state.manifests.remove(&descriptor.digest);
        state.tags.retain(|_, digest| *digest != descriptor.digest);
        Ok(())
    }
}
