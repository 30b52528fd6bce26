//! A blob that is a local file.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream;

use super::{Blob, ByteStream, Trust, expect_digest, expect_range};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Descriptor;

/// How much of a file is read at once: large enough that the calls do not count, small enough that many
/// streams at once stay small in memory.
const PIECE: u64 = 1 << 20;

/// Reads a blob from the file that holds all of it.
pub(super) struct Local {
    file: Arc<File>,
    blob: Descriptor,
    verified: Arc<AtomicBool>,
}

impl Local {
    pub(super) fn new(file: Arc<File>, blob: &Descriptor) -> Self {
        Self { file, blob: blob.clone(), verified: Arc::default() }
    }
}

#[async_trait]
impl Blob for Local {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        expect_range(&self.blob, &range)?;
        read(&self.file, range).doing(|| format!("read {}", self.blob.digest))
    }

    fn trust(&self) -> Trust {
        if self.verified.load(Ordering::Acquire) { Trust::Blob } else { Trust::Pending }
    }

    async fn complete(&self) -> Result<()> {
        if self.trust() == Trust::Blob {
            return Ok(());
        }
        let (file, blob, verified) = (Arc::clone(&self.file), self.blob.clone(), Arc::clone(&self.verified));
        blocking(move || {
            let mut hasher = blob.digest.hasher()?;
            let mut at = 0;
            while at < blob.size {
                let end = blob.size.min(at + PIECE);
                hasher.update(&read(&file, at..end).doing(|| format!("read {}", blob.digest))?);
                at = end;
            }
            expect_digest(hasher, &blob.digest)?;
            verified.store(true, Ordering::Release);
            Ok(())
        })
        .await
    }

    fn file(&self) -> Option<Arc<File>> {
        (self.trust() == Trust::Blob).then(|| Arc::clone(&self.file))
    }
}

/// Opens the file at `path` as the content of `blob`: a regular file of exactly its size.
///
/// A FIFO left in the blob's place must not hang whoever looks, hence the non-blocking open.
pub(super) fn open(path: &Path, blob: &Descriptor) -> Result<Arc<File>> {
    let doing = || format!("open {}", path.display());
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).doing(doing)?;
    let metadata = file.metadata().doing(doing)?;
    if !metadata.is_file() {
        return Err(Error::new(ErrorKind::Corrupt, format!("{} is not a regular file", path.display())));
    }
    if metadata.len() != blob.size {
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{} should have {} bytes and has {}", path.display(), blob.size, metadata.len()),
        ));
    }
    Ok(Arc::new(file))
}

/// The bytes `range` of a file, piece by piece, each read off the runtime's own threads.
pub(super) fn stream(file: Arc<File>, range: Range<u64>) -> ByteStream {
    Box::pin(stream::try_unfold((file, range), |(file, range)| async move {
        if range.is_empty() {
            return Ok(None);
        }
        let end = range.end.min(range.start + PIECE);
        let (reader, piece) = (Arc::clone(&file), range.start..end);
        let bytes = blocking(move || read(&reader, piece).doing(|| "read a blob's file")).await?;
        Ok(Some((bytes, (file, end..range.end))))
    }))
}

/// Runs `work` where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::with_source(ErrorKind::Io, "a task on local files ended early", error))?
}

fn read(file: &File, range: Range<u64>) -> io::Result<Bytes> {
    let length = usize::try_from(range.end.saturating_sub(range.start)).map_err(io::Error::other)?;
    let mut bytes = BytesMut::zeroed(length);
    file.read_exact_at(&mut bytes, range.start)?;
    Ok(bytes.freeze())
}
