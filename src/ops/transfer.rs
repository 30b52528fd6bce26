//! One file's way to disk: beside its target first, under its name when it is right.
//!
//! Nothing is synced: after a power cut a file may be wrong, and the next pull, which hashes what is
//! there, sees it.

use std::fs::File as DiskFile;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::Progress;
use super::output::{self, Place, part_name};
use crate::artifact::File;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Hasher};
use crate::store::{Source, expect_digest};

/// Pieces between the network and the disk: enough that neither waits for the other's hiccups.
const PIECES: usize = 16;
/// What a member is read by: large enough to decompress in strides, small enough to hold a few.
const STRIDE: u64 = 1 << 20;

/// What it took.
pub(super) enum Outcome {
    /// Bytes came over the network.
    Fetched,
    /// The right file was there already.
    Right,
}

/// Brings a whole blob to `place`.
pub(super) async fn blob(
    source: &Arc<dyn Source>,
    layer: &Arc<Descriptor>,
    place: &Place,
    shown: &str,
    progress: &dyn Progress,
) -> Result<Outcome> {
    let mut hasher = layer.digest.hasher()?;
    if let Some(file) = place.existing()
        && is_right(file, layer).await?
    {
        return Ok(Outcome::Right);
    }
    progress.started(layer, shown);
    let name = part_name(&place.name, layer.digest.as_str().as_bytes());
    let part = place.part(&name, 0o666)?;
    let mut resumed = 0;
    if let Some((length, so_far)) = take_up(&part, layer).await? {
        (resumed, hasher) = (length, so_far);
        progress.advanced(layer, resumed);
    }
    loop {
        let whole = fetch(source, layer, &part, resumed, hasher, progress).await?;
        match expect_digest(whole, &layer.digest) {
            Ok(()) => break,
            // What was left from last time may have been damaged since: once more, from the start.
            Err(_) if resumed > 0 => {
                tracing::debug!(path = shown, "what was left of an earlier pull is not right; starting over");
                (resumed, hasher) = (0, layer.digest.hasher()?);
                part.set_len(0).doing(|| format!("empty {name}"))?;
            }
            Err(error) => {
                place.discard(&name);
                return Err(error);
            }
        }
    }
    place.take(&name)?;
    Ok(Outcome::Fetched)
}

/// Streams the blob from `from` on to the file, hashing and writing on a thread of their own.
async fn fetch(
    source: &Arc<dyn Source>,
    layer: &Arc<Descriptor>,
    part: &DiskFile,
    from: u64,
    mut hasher: Hasher,
    progress: &dyn Progress,
) -> Result<Hasher> {
    let mut file = part.try_clone().doing(|| "open the part file again")?;
    let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES);
    let writer = tokio::task::spawn_blocking(move || -> Result<Hasher> {
        file.seek(SeekFrom::Start(from)).doing(|| "seek in the part file")?;
        while let Some(piece) = arriving.blocking_recv() {
            hasher.update(&piece);
            file.write_all(&piece).doing(|| "write the part file")?;
        }
        Ok(hasher)
    });
    let sent = send(source, layer, from, &pieces, progress).await;
    drop(pieces);
    let written = joined(writer.await)?;
    sent.map(|()| written)
}

async fn send(
    source: &Arc<dyn Source>,
    layer: &Arc<Descriptor>,
    from: u64,
    pieces: &mpsc::Sender<Bytes>,
    progress: &dyn Progress,
) -> Result<()> {
    if let (Some(bytes), 0) = (layer.inline(), from) {
        progress.advanced(layer, layer.size);
        let _ = pieces.send(bytes).await;
        return Ok(());
    }
    if from >= layer.size {
        return Ok(());
    }
    let mut stream = source.fetch(layer, from..layer.size).await?;
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        progress.advanced(layer, piece.len() as u64);
        // Nobody takes it any more: the writer failed and says why itself.
        if pieces.send(piece).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// How much of the blob an earlier pull left, and its hash so far.
async fn take_up(part: &DiskFile, layer: &Descriptor) -> Result<Option<(u64, Hasher)>> {
    let length = part.metadata().doing(|| "look at the part file")?.len();
    if length == 0 {
        return Ok(None);
    }
    let file = part.try_clone().doing(|| "open the part file again")?;
    if length > layer.size {
        file.set_len(0).doing(|| "empty the part file")?;
        return Ok(None);
    }
    let hasher = layer.digest.hasher()?;
    blocking(move || hash(file, hasher)).await.map(Some)
}

/// Whether a file on disk is this blob.
async fn is_right(file: DiskFile, layer: &Descriptor) -> Result<bool> {
    if file.metadata().doing(|| "look at the file that is there")?.len() != layer.size {
        return Ok(false);
    }
    let hasher = layer.digest.hasher()?;
    let (_, hasher) = blocking(move || hash(file, hasher)).await?;
    Ok(expect_digest(hasher, &layer.digest).is_ok())
}

fn hash(mut file: DiskFile, mut hasher: Hasher) -> Result<(u64, Hasher)> {
    let mut buffer = vec![0; 1 << 18];
    let mut length = 0;
    file.seek(SeekFrom::Start(0)).doing(|| "read what is on disk")?;
    loop {
        let read = file.read(&mut buffer).doing(|| "read what is on disk")?;
        if read == 0 {
            return Ok((length, hasher));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
}

/// Gives content that is on disk already a second name, as a file of its own.
pub(super) async fn copy(first: &Place, place: Place, layer: &Arc<Descriptor>) -> Result<()> {
    if let Some(file) = place.existing()
        && is_right(file, layer).await?
    {
        return Ok(());
    }
    let missing = || Error::new(ErrorKind::Io, format!("{} is gone again", first.path.display()));
    let mut from = first.existing().ok_or_else(missing)?;
    let digest = layer.digest.clone();
    blocking(move || {
        let name = part_name(&place.name, digest.as_str().as_bytes());
        let mut part = place.part(&name, 0o666)?;
        part.set_len(0).doing(|| "empty the part file")?;
        std::io::copy(&mut from, &mut part).doing(|| format!("copy to {}", place.path.display()))?;
        place.take(&name)
    })
    .await
}

/// Brings a file out of an archive to `place`, with its permissions and time.
pub(super) async fn member(file: &File, place: &Place) -> Result<()> {
    let name = part_name(&place.name, b"member");
    let part = place.fresh_part(&name, file.attributes.mode & 0o777)?;
    let reader = file.reader()?;
    let mut at = 0;
    while at < file.size {
        let bytes = reader.read(at..(at + STRIDE).min(file.size)).await?;
        if bytes.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, "the file ends early"));
        }
        at += bytes.len() as u64;
        let mut part = part.try_clone().doing(|| "open the part file again")?;
        blocking(move || part.write_all(&bytes).doing(|| "write the part file")).await?;
    }
    if let Some(xattrs) = &file.xattrs {
        output::set_xattrs(part.as_fd(), xattrs, &place.path)?;
    }
    output::set_owner(part.as_fd(), file.attributes.owner, &place.path)?;
    if file.attributes.modified.0 > 0 {
        output::set_modified(part.as_fd(), file.attributes.modified, &place.path)?;
    }
    place.take(&name)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(result: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    result.map_err(|error| Error::with_source(ErrorKind::Io, "a worker thread ended early", error))?
}
