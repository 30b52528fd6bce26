//! A decompressor that stays where its last reader left it.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::sync::Mutex;

use super::Checkpoint;
use super::codec::{Decoder, HISTORY, Packing, Resume};
use super::gzip::WINDOW;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Descriptor;
use crate::store::{Blob, Source};

/// Compressed bytes asked for at a time: decompresses in a few milliseconds, and read-ahead follows it.
const PIECE: u64 = 256 << 10;

/// A place for a decompressor. Reads of one stream queue up here instead of starting over side by side.
#[derive(Default)]
pub(super) struct Slot {
    cursor: Mutex<Option<Cursor>>,
    /// Where it will be when everybody in the queue is served.
    reach: AtomicU64,
}

struct Cursor {
    decoder: Decoder,
    blob: Arc<dyn Blob>,
    /// Compressed bytes not decompressed yet, and where the next ones are.
    input: Bytes,
    next: u64,
    end: u64,
    /// Decompressed bytes before the decoder.
    output: u64,
}

impl Slot {
    pub(super) fn reach(&self) -> u64 {
        self.reach.load(Ordering::Relaxed)
    }

    pub(super) fn will_reach(&self, end: u64) {
        self.reach.fetch_max(end, Ordering::Relaxed);
    }

    /// Reads `range`, from where the cursor is if that is between `checkpoint` and the range, else from there.
    pub(super) async fn read(
        &self,
        source: &Arc<dyn Source>,
        layer: &Arc<Descriptor>,
        packing: Packing,
        checkpoint: &Checkpoint,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let mut place = self.cursor.lock().await;
        let mut made = BytesMut::new();
        let usable = |cursor: &Cursor| {
            cursor.first() <= range.start
                && (cursor.output >= checkpoint.output || cursor.output >= range.start)
        };
        // Taken out: a read that fails or is given up leaves no cursor in an unknown place.
        let mut cursor = match place.take().filter(usable) {
            Some(cursor) => cursor,
            None => Cursor::at(source, layer, packing, checkpoint)?,
        };
        cursor.copy_history(&range, &mut made);
        while (made.len() as u64) < range.end - range.start {
            if cursor.input.is_empty() && cursor.next < cursor.end {
                let end = (cursor.next + PIECE).min(cursor.end);
                cursor.input = cursor.blob.read(cursor.next..end).await?;
                cursor.next = end;
            }
            let (range, from) = (range.clone(), made);
            let work = move || {
                let mut made = from;
                cursor.advance(&range, &mut made).map(|()| (cursor, made))
            };
            (cursor, made) = tokio::task::spawn_blocking(work)
                .await
                .map_err(|error| Error::with_source(ErrorKind::Io, "decompression ended early", error))??;
        }
        self.will_reach(cursor.output);
        *place = Some(cursor);
        Ok(made.freeze())
    }
}

impl Cursor {
    fn at(
        source: &Arc<dyn Source>,
        layer: &Arc<Descriptor>,
        packing: Packing,
        checkpoint: &Checkpoint,
    ) -> Result<Self> {
        Ok(Self {
            decoder: Decoder::new(packing, &unpack(&checkpoint.resume)?)?,
            blob: Arc::clone(source).open(layer)?,
            input: Bytes::new(),
            next: checkpoint.input,
            end: layer.size,
            output: checkpoint.output,
        })
    }

    /// The first decompressed byte still at hand.
    fn first(&self) -> u64 {
        self.output - self.decoder.history().len() as u64
    }

    fn copy_history(&self, range: &Range<u64>, made: &mut BytesMut) {
        copy_overlap(self.decoder.history(), self.first(), range, made);
    }

    /// Decompresses until the range is made or the input at hand is used up.
    fn advance(&mut self, range: &Range<u64>, made: &mut BytesMut) -> Result<()> {
        while (made.len() as u64) < range.end - range.start {
            let step = self.decoder.step(&self.input)?;
            self.input.advance(step.consumed);
            let fresh = self.decoder.fresh();
            copy_overlap(fresh, self.output, range, made);
            self.output += fresh.len() as u64;
            if step.consumed == 0 && fresh.is_empty() {
                if self.input.is_empty() && self.next < self.end {
                    return Ok(());
                }
                return Err(Error::new(ErrorKind::Corrupt, "the compressed layer ends early"));
            }
        }
        Ok(())
    }
}

/// Adds what of `bytes`, which lie at `at`, comes next in `range` to `made`.
fn copy_overlap(bytes: &[u8], at: u64, range: &Range<u64>, made: &mut BytesMut) {
    let wanted = range.start + made.len() as u64;
    let end = (at + bytes.len() as u64).min(range.end);
    if wanted >= at && wanted < end {
        made.extend_from_slice(&bytes[(wanted - at) as usize..(end - at) as usize]);
    }
}

/// A checkpoint as it is kept in memory and on disk: windows of text shrink to a third.
pub(super) fn pack(resume: Resume) -> Resume {
    match resume {
        Resume::Block { bits, held, window } => {
            let window = ::zstd::bulk::compress(&window, 1).unwrap_or(window);
            Resume::Block { bits, held, window }
        }
        Resume::Fresh => Resume::Fresh,
    }
}

fn unpack(resume: &Resume) -> Result<Resume> {
    match resume {
        Resume::Block { bits, held, window } => {
            let window = ::zstd::bulk::decompress(window, WINDOW.min(HISTORY)).map_err(|error| {
                Error::with_source(ErrorKind::Corrupt, "a checkpoint of the layer's index is damaged", error)
            })?;
            Ok(Resume::Block { bits: *bits, held: *held, window })
        }
        Resume::Fresh => Ok(Resume::Fresh),
    }
}
