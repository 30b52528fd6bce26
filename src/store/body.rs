//! Content to be pushed, opened as often as it takes.

use std::fs::File;
use std::sync::Arc;

use futures_util::stream;

use super::{Body, ByteStream, local};
use crate::error::{Context as _, Result};

impl Body {
    /// The content from its beginning. Each call starts anew.
    pub async fn open(&self) -> Result<ByteStream> {
        match self {
            Self::Bytes(bytes) => Ok(Box::pin(stream::once(std::future::ready(Ok(bytes.clone()))))),
            Self::File(path) => {
                let open = || File::open(path).and_then(|file| Ok((file.metadata()?.len(), file)));
                let (length, file) = open().doing(|| format!("open {}", path.display()))?;
                Ok(local::stream(Arc::new(file), 0..length))
            }
            Self::Source(source, descriptor) => source.fetch(descriptor, 0..descriptor.size).await,
        }
    }
}
