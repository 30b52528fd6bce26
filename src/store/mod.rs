//! Where content lives.
//!
//! Everything that holds content is a store: a registry, an OCI layout folder, memory, the cache in
//! front of one of them. A [`Source`] can be read, a [`Target`] can also be written; every verb is a
//! walk between two of them. Ease lives in [`SourceExt`], not in the contract.

mod body;
mod direct;
pub mod layout;
mod local;
mod memory;
mod read;
mod referrers;

use std::ops::Range;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name, Repository, Tag};

pub use direct::Direct;
pub use layout::Layout;
pub use memory::Memory;
pub use read::{MANIFEST_LIMIT, SourceExt};

/// Bytes as they arrive: pieces of any size, in order, until the end or the first error.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// One repository's content, readable.
///
/// Reads are by digest and never change; only [`resolve`](Self::resolve) may answer differently
/// tomorrow. A missing thing is [`NotFound`](crate::error::ErrorKind::NotFound).
#[async_trait]
pub trait Source: Send + Sync {
    /// What `name` points at now: media type, digest and size of a manifest.
    async fn resolve(&self, name: &Name) -> Result<Descriptor>;

    /// The manifest `name` points at, at most `limit` bytes long, its digest the hash of these very bytes.
    ///
    /// The same as resolving and then fetching, for stores that can do both in one request.
    /// [`TooLarge`](crate::error::ErrorKind::TooLarge) beyond the limit.
    async fn manifest(&self, name: &Name, limit: u64) -> Result<(Descriptor, Bytes)> {
        let descriptor = self.resolve(name).await?;
        let bytes = self.fetch_all(&descriptor, limit).await?;
        Ok((descriptor, bytes))
    }

    /// The bytes `range` of the content, exactly as many as asked for, or an error at their end.
    ///
    /// The range must lie within `0..descriptor.size`. Bytes are *not* checked against the digest here:
    /// a part of a blob cannot be. [`SourceExt::fetch_all`] checks whole ones.
    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream>;

    /// Random access to one blob, for one reader: what an open file holds. Opening asks no network.
    ///
    /// Stores without a better idea answer [`Direct`], which fetches each range as it is asked for; the
    /// cache answers a reader that remembers and reads ahead.
    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>>;

    /// All tags, in the store's own order.
    async fn tags(&self) -> Result<Vec<Tag>>;

    /// The manifests whose subject is `subject`, only those of `artifact_type` if one is given.
    /// Each once; each with its artifact type and annotations. None is an empty list, not an error.
    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>>;

    /// What was [`keep`](Self::keep)t beside a blob under `kind`, if this store remembers such things.
    async fn recall(&self, _blob: &Digest, _kind: &str) -> Option<Bytes> {
        None
    }

    /// Offers knowledge derived from a blob (where members lie in a layer) for the next time. May be forgotten.
    async fn keep(&self, _blob: &Digest, _kind: &str, _knowledge: Bytes) {}
}

/// The kind of knowledge that says which repository (`host/path`) has a blob, see [`Source::recall`].
pub const HOME: &str = "home";

/// Random access to one blob's bytes.
#[async_trait]
pub trait Blob: Send + Sync {
    /// The bytes `range`, which must lie within the blob. Ready at the first poll when they are at hand.
    async fn read(&self, range: Range<u64>) -> Result<Bytes>;

    /// What the bytes handed out so far rest on.
    fn trust(&self) -> Trust;

    /// Fetches what is missing and checks the whole against its digest.
    /// [`Corrupt`](crate::error::ErrorKind::Corrupt) if it does not match.
    async fn complete(&self) -> Result<()>;

    /// The local file that is this blob, byte for byte, once it is complete *and* verified.
    fn file(&self) -> Option<Arc<std::fs::File>> {
        None
    }
}

/// What a byte's trust is (`user.oci.verified`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// The registry said so over its connection; the blob's digest is checked once all of it is here.
    Pending,
    /// The whole blob was checked against its digest.
    Blob,
}

/// All repositories of a registry, or those below one namespace of it.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// Paths of repositories, whole (`ns/a/b`). [`Unsupported`](crate::error::ErrorKind::Unsupported) or
    /// [`Denied`](crate::error::ErrorKind::Denied) where the registry does not list them.
    async fn repositories(&self) -> Result<Vec<String>>;

    /// One repository, listed or not. Asks no network.
    fn repository(&self, path: &str) -> Result<Arc<dyn Source>>;
}

/// One repository's content, writable.
#[async_trait]
pub trait Target: Source {
    /// Whether this content is here already.
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool>;

    /// Stores `body` under its digest, visible whole or not at all. Content that does not match is refused
    /// ([`Corrupt`](crate::error::ErrorKind::Corrupt)). A manifest is pushed like any content and has no tag yet.
    async fn push(&self, descriptor: &Descriptor, body: &Body) -> Result<()>;

    /// Points `tag` at a manifest that is here.
    async fn tag(&self, descriptor: &Descriptor, tag: &Tag) -> Result<()>;

    /// Stores a manifest and points `tag` at it: the same as both, for stores that can do it in one request.
    async fn publish(&self, manifest: &Descriptor, body: &Body, tag: &Tag) -> Result<()> {
        self.push(manifest, body).await?;
        self.tag(manifest, tag).await
    }

    /// The same, if the tag is at `base` (nowhere if `None`) or at this manifest in the very moment it is moved, else
    /// [`Conflict`](ErrorKind::Conflict). `None` where a store cannot look and move in one step: then nothing was done.
    async fn publish_over(
        &self,
        _manifest: &Descriptor,
        _body: &Body,
        _tag: &Tag,
        _base: Option<&Digest>,
    ) -> Option<Result<()>> {
        None
    }

    /// Takes a blob that the repository `home` has, if this store can without being sent the bytes; else stores
    /// `body`. Whether nothing had to be sent.
    async fn adopt(&self, blob: &Descriptor, _home: &Repository, body: &Body) -> Result<bool> {
        self.push(blob, body).await?;
        Ok(false)
    }

    /// Takes a tag away. The manifest stays. [`Unsupported`](crate::error::ErrorKind::Unsupported) where tags stay forever.
    async fn untag(&self, tag: &Tag) -> Result<()>;

    /// Deletes a manifest with its tags, or a blob. [`Unsupported`](crate::error::ErrorKind::Unsupported) where
    /// nothing is deleted.
    async fn delete(&self, descriptor: &Descriptor) -> Result<()>;
}

/// Content to be pushed. It can be opened again, so that retry and resume stay inside the store.
#[derive(Clone)]
pub enum Body {
    /// Bytes in memory.
    Bytes(Bytes),
    /// A file's whole content.
    File(PathBuf),
    /// Content of another store.
    Source(Arc<dyn Source>, Descriptor),
}

/// [`Corrupt`](crate::error::ErrorKind::Corrupt) unless what went through `hasher` has this digest.
pub fn expect_digest(hasher: crate::oci::Hasher, digest: &Digest) -> Result<()> {
    let found = hasher.finish();
    if found == *digest {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("the content of {digest} does not match its digest (it hashes to {found})"),
    ))
}

/// [`Invalid`](ErrorKind::Invalid) unless `range` lies within the content.
pub fn expect_range(descriptor: &Descriptor, range: &Range<u64>) -> Result<()> {
    if range.start <= range.end && range.end <= descriptor.size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Invalid,
        format!(
            "bytes {}..{} of {} were asked for, and it has {}",
            range.start, range.end, descriptor.digest, descriptor.size
        ),
    ))
}

/// [`Conflict`](ErrorKind::Conflict) unless a tag, which is at `now`, is where it is expected, or where it is to go.
pub fn expect_tag(tag: &Tag, now: Option<&Digest>, base: Option<&Digest>, goal: &Digest) -> Result<()> {
    if now == base || now == Some(goal) {
        return Ok(());
    }
    let shown = |digest: Option<&Digest>| digest.map_or_else(|| "not there".into(), ToString::to_string);
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "{tag} was moved by somebody else: {} → {}; nothing was published under it",
            shown(base),
            shown(now)
        ),
    ))
}

/// [`Corrupt`](ErrorKind::Corrupt) once more bytes came than the content has.
fn expect_no_more_than(descriptor: &Descriptor, came: u64) -> Result<()> {
    if came <= descriptor.size { Ok(()) } else { expect_size(descriptor, came) }
}

/// [`Corrupt`](ErrorKind::Corrupt) unless exactly as many bytes came as the content has.
fn expect_size(descriptor: &Descriptor, came: u64) -> Result<()> {
    if came == descriptor.size {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Corrupt,
        format!("{} should have {} bytes and came with {came}", descriptor.digest, descriptor.size),
    ))
}
