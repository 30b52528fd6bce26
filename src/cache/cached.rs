//! The store in front of a store.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::Cache;
use super::blob_reader::BlobReader;
use super::inflight::Origin;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Manifest, Name, Tag};
use crate::store::{Blob, ByteStream, HOME, Source, Trust, expect_range};

/// How much a stream through the cache asks for at a time.
const STREAM_STEP: u64 = 1 << 20;

/// The most that is read back of what was learned from a blob.
const KNOWLEDGE_LIMIT: u64 = 1 << 30;

/// Blobs from this size on are remembered with the repository they were in: smaller ones are sent as fast.
const WORTH_A_HOME: u64 = 1 << 20;

/// A [`Source`] that remembers blobs, manifests and what tags pointed at.
pub struct Cached {
    cache: Cache,
    source: Option<Arc<dyn Source>>,
    scope: String,
    fills: bool,
}

impl Cached {
    pub(super) fn new(cache: Cache, source: Option<Arc<dyn Source>>, scope: &str) -> Self {
        Self { cache, source, scope: scope.to_owned(), fills: true }
    }

    /// The same, but it only gives what the cache has whole, and keeps no blob it fetches. For verbs that put
    /// the bytes elsewhere anyway: nobody wants them on disk twice.
    #[must_use]
    pub fn without_filling(&self) -> Arc<Self> {
        Arc::new(Self {
            cache: self.cache.clone(),
            source: self.source.clone(),
            scope: self.scope.clone(),
            fills: false,
        })
    }

    fn offline(&self, what: &str) -> Error {
        let message = format!("{what} of {} is not in the cache, and --offline forbids asking", self.scope);
        Error::new(ErrorKind::Offline, message)
    }

    /// What a tag pointed at when it was last asked for.
    fn last_known(&self, tag: &Tag) -> Option<Descriptor> {
        let text = fs::read(self.cache.shared.place.reference(&self.scope, tag)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    fn remember(&self, name: &Name, descriptor: &Descriptor) {
        let Name::Tag(tag) = name else { return };
        if self.last_known(tag).as_ref() == Some(descriptor) {
            return;
        }
        let path = self.cache.shared.place.reference(&self.scope, tag);
        let kept = serde_json::to_vec(descriptor).map_err(std::io::Error::other);
        let kept =
            kept.doing(|| "remember a tag").and_then(|text| self.cache.shared.place.replace(&path, &text));
        if let Err(error) = kept {
            tracing::warn!("{error}");
        }
    }

    /// Keeps which repository has a blob, so that it can be taken from there into another ([`HOME`]).
    fn remember_home(&self, blob: &Descriptor) {
        if !self.fills || self.source.is_none() || blob.size < WORTH_A_HOME {
            return;
        }
        let path = self.cache.shared.place.home(&blob.digest);
        if !path.exists()
            && let Err(error) = self.cache.shared.place.replace(&path, self.scope.as_bytes())
        {
            tracing::warn!("{error}");
        }
    }

    /// A manifest that is here and whole.
    fn manifest_here(&self, digest: &Digest, limit: u64) -> Option<Bytes> {
        let path = self.cache.shared.place.blob(digest);
        if fs::metadata(&path).ok()?.len() > limit {
            return None;
        }
        let bytes = fs::read(&path).ok()?;
        if digest.matches(&bytes) {
            return Some(bytes.into());
        }
        tracing::warn!("{} is damaged in the cache and is fetched again", digest);
        let _ = fs::remove_file(&path);
        None
    }

    fn keep_manifest(&self, digest: &Digest, bytes: &Bytes) {
        let path = self.cache.shared.place.blob(digest);
        let kept = self.cache.shared.place.replace(&path, bytes).and_then(|()| {
            fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).doing(|| "protect a manifest")
        });
        if let Err(error) = kept {
            tracing::warn!("{error}");
        }
    }

    async fn manifest_from(
        &self,
        source: &Arc<dyn Source>,
        name: &Name,
        limit: u64,
    ) -> Result<(Descriptor, Bytes)> {
        if let Name::Tag(tag) = name
            && let Some(known) = self.last_known(tag)
            && let Some(bytes) = self.manifest_here(&known.digest, limit)
        {
            // A HEAD costs no transfer, and Docker Hub does not count it.
            let now = source.resolve(name).await?;
            if now.digest == known.digest {
                return Ok((known, bytes));
            }
        }
        let (descriptor, bytes) = source.manifest(name, limit).await?;
        self.keep_manifest(&descriptor.digest, &bytes);
        self.remember(name, &descriptor);
        Ok((descriptor, bytes))
    }
}

/// A descriptor of a manifest of which only the bytes are known.
fn describe(digest: &Digest, bytes: &Bytes) -> Result<Descriptor> {
    let manifest = Manifest::parse(bytes.clone(), None)?;
    Ok(Descriptor::new(manifest.media_type(), digest.clone(), bytes.len() as u64))
}

#[async_trait]
impl Source for Cached {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        if let Some(source) = &self.source {
            let descriptor = source.resolve(name).await?;
            self.remember(name, &descriptor);
            return Ok(descriptor);
        }
        let known = match name {
            Name::Tag(tag) => self.last_known(tag),
            Name::Digest(digest) => {
                self.manifest_here(digest, u64::MAX).map(|bytes| describe(digest, &bytes)).transpose()?
            }
        };
        known.ok_or_else(|| self.offline(&format!("the manifest {name}")))
    }

    async fn manifest(&self, name: &Name, limit: u64) -> Result<(Descriptor, Bytes)> {
        if let Name::Digest(digest) = name
            && let Some(bytes) = self.manifest_here(digest, limit)
        {
            return Ok((describe(digest, &bytes)?, bytes));
        }
        if let Some(source) = &self.source {
            return self.manifest_from(source, name, limit).await;
        }
        let descriptor = self.resolve(name).await?;
        match self.manifest_here(&descriptor.digest, limit) {
            Some(bytes) => Ok((descriptor, bytes)),
            None => Err(self.offline(&format!("the manifest {name}"))),
        }
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        expect_range(descriptor, &range)?;
        if descriptor.is_manifest() {
            let (_, bytes) = self.manifest(&Name::Digest(descriptor.digest.clone()), descriptor.size).await?;
            if bytes.len() as u64 != descriptor.size {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{} has another size than described", descriptor.digest),
                ));
            }
            let part = bytes.slice(range.start as usize..range.end as usize);
            return Ok(stream::once(async { Ok(part) }).boxed());
        }
        if !self.fills
            && let Some(source) = &self.source
            && !self.cache.has_whole(descriptor)
        {
            return source.fetch(descriptor, range).await;
        }
        let blob = open(&self.cache, self.source.clone(), descriptor)?;
        Ok(stream::try_unfold((blob, range), |(blob, left)| async move {
            if left.is_empty() {
                return Ok(None);
            }
            let end = left.end.min(left.start + STREAM_STEP);
            let bytes = blob.read(left.start..end).await?;
            Ok(Some((bytes, (blob, end..left.end))))
        })
        .boxed())
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        self.remember_home(blob);
        open(&self.cache, self.source.clone(), blob)
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        if let Some(source) = &self.source {
            return source.tags().await;
        }
        let known =
            fs::read_dir(self.cache.shared.place.refs(&self.scope)).map_err(|_| self.offline("every tag"))?;
        let mut tags: Vec<Tag> = known
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| Tag::of_layout(&name.strip_prefix(':')?.replace("%2f", "/")).ok())
            .collect();
        tags.sort();
        Ok(tags)
    }

    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let offline = || self.offline(&format!("the list of referrers of {}", subject.digest));
        self.source.as_ref().ok_or_else(offline)?.referrers(subject, artifact_type).await
    }

    async fn recall(&self, blob: &Digest, kind: &str) -> Option<Bytes> {
        let place = &self.cache.shared.place;
        let path = if kind == HOME { place.home(blob) } else { place.index(blob, kind) };
        let read = tokio::task::spawn_blocking(move || {
            let size = fs::metadata(&path).ok()?.len();
            if size > KNOWLEDGE_LIMIT { None } else { fs::read(&path).ok().map(Bytes::from) }
        });
        read.await.ok().flatten()
    }

    async fn keep(&self, blob: &Digest, kind: &str, knowledge: Bytes) {
        let cache = self.cache.clone();
        let path = self.cache.shared.place.index(blob, kind);
        let kept = tokio::task::spawn_blocking(move || cache.shared.place.replace(&path, &knowledge));
        if let Ok(Err(error)) = kept.await {
            tracing::warn!("{error}");
        }
    }
}

/// A reader of a blob: from the descriptor itself, from the cache, or through it.
fn open(cache: &Cache, source: Option<Arc<dyn Source>>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
    if let Some(bytes) = blob.inline() {
        return Ok(Arc::new(Inline { blob: blob.clone(), bytes }));
    }
    if blob.size == 0 {
        crate::store::expect_digest(blob.digest.hasher()?, &blob.digest)?;
        return Ok(Arc::new(Inline { blob: blob.clone(), bytes: Bytes::new() }));
    }
    let entry = cache.entry(blob)?;
    Ok(Arc::new(BlobReader::new(entry, Origin { source, blob: blob.clone() })))
}

/// A blob that came with its descriptor.
struct Inline {
    blob: Descriptor,
    bytes: Bytes,
}

#[async_trait]
impl Blob for Inline {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        expect_range(&self.blob, &range)?;
        Ok(self.bytes.slice(range.start as usize..range.end as usize))
    }

    fn trust(&self) -> Trust {
        Trust::Blob
    }

    async fn complete(&self) -> Result<()> {
        Ok(())
    }
}
