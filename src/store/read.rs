//! Ease on top of [`Source`].

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::Source;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Manifest, Name};

/// The largest manifest we read: registries refuse larger ones on push (distribution-spec, registry.md §2.1).
pub const MANIFEST_LIMIT: u64 = 4 << 20;

/// What can be said in terms of [`Source`] alone.
#[async_trait]
pub trait SourceExt: Source {
    /// The whole content, its size and digest checked, at most `limit` bytes of memory.
    async fn fetch_all(&self, descriptor: &Descriptor, limit: u64) -> Result<Bytes> {
        if let Some(bytes) = descriptor.inline() {
            return Ok(bytes);
        }
        if descriptor.size > limit {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "{} is {} bytes long, more than the limit of {limit}",
                    descriptor.digest, descriptor.size
                ),
            ));
        }
        if descriptor.size == 0 && descriptor.digest.matches(b"") {
            return Ok(Bytes::new());
        }
        let mut stream = self.fetch(descriptor, 0..descriptor.size).await?;
        // Grown as bytes arrive: a forged size must not cost memory.
        let mut whole = BytesMut::new();
        while let Some(piece) = stream.next().await {
            whole.extend_from_slice(&piece?);
            if whole.len() as u64 > descriptor.size {
                break;
            }
        }
        let whole = whole.freeze();
        if whole.len() as u64 != descriptor.size {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{} should have {} bytes and came with {}",
                    descriptor.digest,
                    descriptor.size,
                    whole.len()
                ),
            ));
        }
        descriptor.digest.hasher()?;
        if !descriptor.digest.matches(&whole) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the content of {} does not match its digest", descriptor.digest),
            ));
        }
        Ok(whole)
    }

    /// The manifest `name` points at, parsed.
    async fn fetch_manifest(&self, name: &Name) -> Result<(Descriptor, Manifest)> {
        let (descriptor, bytes) = self.manifest(name, MANIFEST_LIMIT).await?;
        let manifest = Manifest::parse(bytes, Some(&descriptor.media_type))
            .map_err(|error| error.context(format!("manifest {name}")))?;
        Ok((descriptor, manifest))
    }
}

impl<S: Source + ?Sized> SourceExt for S {}
