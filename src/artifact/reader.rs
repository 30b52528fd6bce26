//! Reading one file of a tree.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::archive::Opened;
use super::tree::{Content, File};
use crate::error::Result;
use crate::store::{Blob, Trust};

/// An open file: random access to its bytes, wherever they lie.
pub struct Reader {
    size: u64,
    from: From,
}

enum From {
    Memory(Bytes),
    Blob { blob: Arc<dyn Blob>, offset: u64, whole: bool },
    Packed { archive: Opened, offset: u64 },
}

impl File {
    /// Opens it. Asks no network.
    pub fn reader(&self) -> Result<Reader> {
        let from = match &self.content {
            Content::Inline(bytes) => From::Memory(bytes.clone()),
            Content::Blob { source, blob, offset } => From::Blob {
                whole: *offset == 0 && self.size == blob.size,
                blob: Arc::clone(source).open(blob)?,
                offset: *offset,
            },
            Content::Packed { archive, offset } => {
                From::Packed { archive: Opened::new(archive), offset: *offset }
            }
        };
        Ok(Reader { size: self.size, from })
    }
}

impl Reader {
    /// The bytes `range`, cut at the file's end. Ready at the first poll when they are at hand.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let (start, end) = (range.start, range.end.min(self.size));
        if start >= end {
            return Ok(Bytes::new());
        }
        match &self.from {
            From::Memory(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            From::Blob { blob, offset, .. } => blob.read(offset + start..offset + end).await,
            From::Packed { archive, offset } => archive.read(offset + start..offset + end).await,
        }
    }

    /// The file's length.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The blob behind it, when the file is one whole blob, byte for byte.
    pub fn blob(&self) -> Option<&Arc<dyn Blob>> {
        match &self.from {
            From::Blob { blob, whole: true, .. } => Some(blob),
            _ => None,
        }
    }

    /// What its bytes rest on. Bytes from memory were checked when they came.
    pub fn trust(&self) -> Trust {
        match &self.from {
            From::Memory(_) => Trust::Blob,
            From::Blob { blob, .. } => blob.trust(),
            From::Packed { archive, .. } => archive.blob().map_or(Trust::Pending, |blob| blob.trust()),
        }
    }

    /// Fetches what is missing and checks the blob it lies in against its digest.
    pub async fn complete(&self) -> Result<()> {
        match &self.from {
            From::Memory(_) => Ok(()),
            From::Blob { blob, .. } => blob.complete().await,
            From::Packed { archive, .. } => archive.blob()?.complete().await,
        }
    }
}
