//! A [`Blob`] without memory: every read is a fetch.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::{Blob, Source, Trust};
use crate::error::Result;
use crate::oci::Descriptor;

/// Reads each range straight from a store.
pub struct Direct {
    source: Arc<dyn Source>,
    blob: Descriptor,
}

impl Direct {
    /// A reader of `blob` in `source`.
    pub fn new(source: Arc<dyn Source>, blob: &Descriptor) -> Self {
        Self { source, blob: blob.clone() }
    }
}

#[async_trait]
impl Blob for Direct {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        super::expect_range(&self.blob, &range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let mut bytes = BytesMut::with_capacity((range.end - range.start).min(1 << 20) as usize);
        let mut stream = self.source.fetch(&self.blob, range).await?;
        while let Some(piece) = stream.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(bytes.freeze())
    }

    fn trust(&self) -> Trust {
        Trust::Pending
    }

    async fn complete(&self) -> Result<()> {
        let mut hasher = self.blob.digest.hasher()?;
        if self.blob.size > 0 {
            let mut stream = self.source.fetch(&self.blob, 0..self.blob.size).await?;
            while let Some(piece) = stream.next().await {
                hasher.update(&piece?);
            }
        }
        crate::store::expect_digest(hasher, &self.blob.digest)
    }
}
