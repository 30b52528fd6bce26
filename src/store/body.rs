//! Content to be pushed, opened as often as it takes.

use std::fs::File;
use std::ops::Range;
use std::sync::Arc;

use futures_util::stream;

use super::{Body, ByteStream, local};
use crate::error::{Context as _, Result};

impl Body {
    /// The content from its beginning. Each call starts anew.
    pub async fn open(&self) -> Result<ByteStream> {
        self.open_part(0..u64::MAX).await
    }

    /// The bytes `range` of the content, as far as there are so many. Each call starts anew.
    pub async fn open_part(&self, range: Range<u64>) -> Result<ByteStream> {
        let within = |length: u64| range.start.min(length)..range.end.min(length);
        match self {
            Self::Bytes(bytes) => {
                let part = within(bytes.len() as u64);
                let part = bytes.slice(part.start as usize..part.end as usize);
                Ok(Box::pin(stream::once(std::future::ready(Ok(part)))))
            }
            Self::File(path) => {
                let open = || File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (length, file) = open().doing(|| format!("open {}", path.display()))?;
                Ok(local::stream(Arc::new(file), within(length)))
            }
            Self::Source(source, descriptor) => source.fetch(descriptor, within(descriptor.size)).await,
        }
    }
}
