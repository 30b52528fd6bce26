//! Archive layers: where their members lie, and reading them from the middle.
//!
//! One pass over a layer (`scan`) finds its members (`tar`) and, where it is compressed, places at
//! which decompression can begin (`codec`, `gzip`, `zstd`). What it found is an `Index`, kept by the
//! store beside the layer (`saved`). An [`Archive`] reads ranges of the decompressed bytes with it.

mod codec;
mod cursor;
mod gzip;
mod saved;
pub(super) mod scan;
pub(super) mod tar;
mod zstd;

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use self::codec::{HISTORY, Packing, Resume};
use self::cursor::Slot;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest};
use crate::store::Source;

/// Decompressors kept for readers who come back, per archive: a data loader's worker threads.
/// One holds about 1.5 MiB.
const MAX_SLOTS: usize = 8;
/// As many for zstd, where a frame may ask for a window of 128 MiB.
const MAX_ZSTD_SLOTS: usize = 2;

/// What one pass over a layer found.
pub(super) struct Index {
    packing: Packing,
    /// Length when decompressed.
    length: u64,
    /// Where decompression can begin, in order; the first one is the start.
    checkpoints: Vec<Checkpoint>,
    /// Digests of the decompressed bytes that were computed.
    digests: Vec<Digest>,
    /// The members in the archive's order; `None` if it is no tar.
    pub(super) members: Option<Vec<tar::Member>>,
}

/// A place where decompression can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Checkpoint {
    /// Bytes of the layer before it.
    input: u64,
    /// Decompressed bytes before it.
    output: u64,
    /// How; a window in it is packed by [`cursor::pack`].
    resume: Resume,
}

impl Index {
    /// The last checkpoint at or before `output`.
    fn before(&self, output: u64) -> Option<&Checkpoint> {
        let after = self.checkpoints.partition_point(|checkpoint| checkpoint.output <= output);
        self.checkpoints.get(after.checked_sub(1)?)
    }
}

/// A compressed layer, readable anywhere.
pub struct Archive {
    source: Arc<dyn Source>,
    layer: Arc<Descriptor>,
    index: Index,
    slots: Mutex<Vec<Arc<Slot>>>,
    readers: AtomicUsize,
}

impl Archive {
    pub(super) fn new(source: Arc<dyn Source>, layer: Arc<Descriptor>, index: Index) -> Self {
        Self { source, layer, index, slots: Mutex::default(), readers: AtomicUsize::new(0) }
    }

    /// Whether the layer is not compressed: its bytes are read from the blob itself then.
    pub(super) fn is_plain(&self) -> bool {
        self.index.packing == Packing::Plain
    }

    /// The bytes `range` of what the layer holds when decompressed. Ready at the first poll when they
    /// were decompressed a moment ago.
    ///
    /// Whoever reads on where another read ended continues that one's decompressor; any other read
    /// begins at the nearest checkpoint.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        if range.start > range.end || range.end > self.index.length {
            let message = format!("bytes {range:?} are not in {}", self.layer.digest);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        let Some(checkpoint) = self.index.before(range.start) else {
            return Err(Error::new(ErrorKind::Corrupt, format!("{} has no start", self.layer.digest)));
        };
        let slot = self.slot(&range, checkpoint.output);
        slot.read(&self.source, &self.layer, self.index.packing, checkpoint, range).await
    }

    /// The decompressor that is, or will be, nearest to the range; a fresh one if none is near.
    fn slot(&self, range: &Range<u64>, checkpoint: u64) -> Arc<Slot> {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let near = slots.iter().position(|slot| {
            let reach = slot.reach();
            let behind = range.start < reach && range.start + HISTORY as u64 >= reach;
            behind || (range.start >= reach && checkpoint <= reach)
        });
        // The most recently used one is last.
        let slot = match near {
            Some(near) => slots.remove(near),
            None => Arc::new(Slot::default()),
        };
        slot.will_reach(range.end);
        slots.push(Arc::clone(&slot));
        let most = if self.index.packing == Packing::Zstd { MAX_ZSTD_SLOTS } else { MAX_SLOTS };
        if slots.len() > most {
            slots.remove(0);
        }
        slot
    }
}

/// Somebody has a file of the archive open; when nobody has, decompressors and the blob are let go.
pub(super) struct Opened(Arc<Archive>);

impl Opened {
    pub(super) fn new(archive: &Arc<Archive>) -> Self {
        archive.readers.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(archive))
    }

    pub(super) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.0.read(range).await
    }

    /// The layer itself, opened.
    pub(super) fn blob(&self) -> Result<Arc<dyn crate::store::Blob>> {
        Arc::clone(&self.0.source).open(&self.0.layer)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if self.0.readers.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.slots.lock().unwrap_or_else(PoisonError::into_inner).clear();
        }
    }
}
