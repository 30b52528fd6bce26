//! Writing what came to the cache file, behind the readers' backs.

use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use xxhash_rust::xxh3::Xxh3;

use super::chunks::{self, Chunk};
use super::entry::{Entry, State};
use super::map::{Map, checksum};
use super::ring::Piece;
use crate::error::Error;

/// So much is worth waking a writer for; less waits for more, or for its flight to land. A tenth of the ring.
const WORTH_WRITING: u64 = 4 << 20;

/// Pieces in one system call, at most. The kernel's own limit is 1,024.
const GATHER: usize = 64;

impl Entry {
    /// Starts the writer if there is enough to write, or anything at all when `now`. One writer per blob,
    /// on a thread that may wait for the disk.
    pub(super) fn write_if_due(self: &Arc<Self>, state: &mut State, now: bool) {
        let least = if now { 1 } else { WORTH_WRITING };
        if state.bytes_to_write >= least && !state.writing {
            state.writing = true;
            let entry = Arc::clone(self);
            tokio::task::spawn_blocking(move || entry.write_all());
        }
    }

    fn write_all(self: Arc<Self>) {
        loop {
            let batch: Vec<_> = {
                let mut state = self.state();
                if state.to_write.is_empty() {
                    state.writing = false;
                    if state.chunks.all_stored() {
                        self.finish_if_due(&mut state);
                    }
                    return;
                }
                state.bytes_to_write = 0;
                state.to_write.drain(..).collect()
            };
            let Some(map) = &self.map else { continue };
            // Nobody else wants this lock: one writer runs at a time. Only it may be held while the disk works.
            let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
            match self.write(&batch, &mut begun) {
                Ok(done) => self.record(map, &done),
                Err(error) => {
                    let error = Error::io(format!("write {} to the cache", self.digest), error);
                    tracing::warn!("{error}");
                    begun.clear();
                    self.could_not_write(map, &batch, &error);
                }
            }
        }
    }

    /// Writes pieces; answers the chunks that are whole now, with their checksums, in order of completion.
    fn write(&self, batch: &[(u64, Piece)], begun: &mut Begun) -> io::Result<Vec<(usize, u64)>> {
        let mut rest = batch;
        while let Some((at, _)) = rest.first() {
            let mut end = *at;
            let together = rest
                .iter()
                .take(GATHER)
                .take_while(|(at, piece)| {
                    let follows = *at == end;
                    end += piece.bytes.len() as u64;
                    follows
                })
                .count();
            let (now, later) = rest.split_at(together);
            write_all_at(&self.file, now, *at)?;
            rest = later;
        }
        let mut done = Vec::new();
        for (at, piece) in batch {
            let chunk = chunks::index(*at);
            let bytes = chunks::bytes(chunk, self.size());
            if *at == bytes.start {
                begun.insert(chunk, BegunChunk { hash: Xxh3::new(), next: *at });
            }
            let Some(hashed) = begun.get_mut(&chunk).filter(|hashed| hashed.next == *at) else { continue };
            hashed.hash.update(&piece.bytes);
            hashed.next += piece.bytes.len() as u64;
            if hashed.next == bytes.end {
                done.push((chunk, checksum(hashed.hash.digest())));
                begun.remove(&chunk);
            }
        }
        Ok(done)
    }

    /// Says in the map and to readers that these chunks are in the file now.
    fn record(self: &Arc<Self>, map: &Map, done: &[(usize, u64)]) {
        for group in done.chunk_by(|one, other| one.0 + 1 == other.0) {
            let run = group[0].0..group[0].0 + group.len();
            let checksums: Vec<u64> = group.iter().map(|(_, checksum)| *checksum).collect();
            if let Err(error) = map.record(run.start, &checksums) {
                tracing::warn!("write the map of {}: {error}", self.digest);
            }
            {
                let mut state = self.state();
                for chunk in run.clone() {
                    state.chunks.set(chunk, Chunk::Here);
                }
                forget(&mut state, &chunks::bytes_of(&run, self.size()));
            }
            map.release(&run);
        }
    }

    /// Lets go of chunks that could not be written: they are absent, and readers who come now fetch again.
    fn could_not_write(&self, map: &Map, batch: &[(u64, Piece)], error: &Error) {
        let mut state = self.state();
        state.unwritable = Some(error.clone());
        for (at, _) in batch {
            let chunk = chunks::index(*at);
            if state.chunks.get(chunk) == Chunk::Loading {
                state.chunks.set(chunk, Chunk::Absent);
                forget(&mut state, &chunks::bytes(chunk, self.size()));
                map.release(&(chunk..chunk + 1));
            }
        }
    }
}

/// Chunks of which a part is written, with the checksum of that part. A chunk whose pieces stopped coming
/// begins anew with its first byte.
pub(super) type Begun = HashMap<usize, BegunChunk>;

pub(super) struct BegunChunk {
    hash: Xxh3,
    next: u64,
}

fn forget(state: &mut State, range: &Range<u64>) {
    let written: Vec<_> = state.ring.range(range.clone()).map(|(at, _)| *at).collect();
    for at in written {
        state.ring.remove(&at);
    }
}

fn write_all_at(file: &std::fs::File, pieces: &[(u64, Piece)], mut at: u64) -> io::Result<()> {
    let mut slices: Vec<_> = pieces.iter().map(|(_, piece)| IoSlice::new(&piece.bytes)).collect();
    let mut slices = &mut slices[..];
    while !slices.is_empty() {
        match rustix::io::pwritev(file, slices, at) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                at += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
