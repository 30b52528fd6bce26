//! One fetch per chunk, many waiters.

use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::oneshot;
use xxhash_rust::xxh3::xxh3_64;

use super::chunks::{self, CHUNK, Chunk, bytes_of};
use super::entry::Entry;
use super::map::checksum;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Descriptor;
use crate::store::Source;

/// Where a blob's missing bytes come from. `None` is offline.
pub(super) struct Origin {
    pub(super) source: Option<Arc<dyn Source>>,
    pub(super) blob: Descriptor,
}

/// A run of chunks on its way.
pub(super) struct Flight {
    pub(super) range: Range<u64>,
    progress: Mutex<Progress>,
}

struct Progress {
    /// Everything before this has arrived, or was found in the file.
    to: u64,
    ended: Option<Result<()>>,
    /// Who waits, and up to where. Each is woken once, when it has what it waits for: pieces are many.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
}

impl Flight {
    pub(super) fn new(range: Range<u64>) -> Self {
        let progress = Progress { to: range.start, ended: None, waiting: Vec::new() };
        Self { range, progress: Mutex::new(progress) }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the byte `at` is still to come by this flight. One that has passed it has found it in the file,
    /// and another flight may be checking it there.
    pub(super) fn will_bring(&self, at: u64) -> bool {
        self.range.contains(&at) && self.progress().to <= at
    }

    /// Waits until the bytes before `until` have arrived. The flight's error if it ended without them.
    pub(super) async fn wait_until(&self, until: u64) -> Result<()> {
        let woken = {
            let mut progress = self.progress();
            if progress.to >= until || progress.ended.is_some() {
                return progress.verdict(until);
            }
            let (sender, woken) = oneshot::channel();
            progress.waiting.push((until, sender));
            woken
        };
        let _ = woken.await;
        self.progress().verdict(until)
    }

    fn advance(&self, to: u64) {
        let mut progress = self.progress();
        progress.to = to;
        progress.wake(|until| until <= to);
    }

    fn end(&self, result: Result<()>) {
        let mut progress = self.progress();
        progress.ended = Some(result);
        progress.wake(|_| true);
    }
}

impl Progress {
    fn verdict(&self, until: u64) -> Result<()> {
        match &self.ended {
            Some(Err(error)) if self.to < until => Err(error.clone()),
            _ => Ok(()),
        }
    }

    fn wake(&mut self, satisfied: impl Fn(u64) -> bool) {
        let all = std::mem::take(&mut self.waiting);
        let (woken, waiting): (Vec<_>, Vec<_>) = all.into_iter().partition(|(until, _)| satisfied(*until));
        self.waiting = waiting;
        for (_, waiter) in woken {
            let _ = waiter.send(());
        }
    }
}

/// Pieces smaller than this are gathered up to [`GATHERED`]: what a piece costs to manage must not
/// outweigh what it carries, even if somebody sends single bytes.
const SMALL: usize = 4 << 10;
const GATHERED: usize = 16 << 10;

/// How long to wait for another process that has claimed a chunk and does not get on with it. Longer than
/// the registry's own deadline, so that the other's error comes first.
const PATIENCE: Duration = Duration::from_secs(90);

/// Fetches a run of chunks in a task of its own.
pub(super) fn fetch(entry: Arc<Entry>, flight: Arc<Flight>, run: Range<usize>, origin: Arc<Origin>) {
    let landing = Landing { entry, flight, run, result: None };
    tokio::spawn(async move {
        let mut landing = landing;
        let result = fetch_run(&landing.entry, &landing.flight, &landing.run, &origin).await;
        if let Err(error) = &result {
            landing.entry.shared.counters.failed(error);
        }
        landing.result = Some(result);
    });
}

/// Compares the checksums of a run of chunks that the map says are stored.
pub(super) fn check(entry: Arc<Entry>, flight: Arc<Flight>, run: Range<usize>) {
    let landing = Landing { entry, flight, run, result: None };
    tokio::task::spawn_blocking(move || {
        let mut landing = landing;
        let result = check_run(&landing.entry, &landing.flight, &landing.run);
        landing.result = Some(result);
    });
}

/// Ends a flight, whatever happened to its task.
struct Landing {
    entry: Arc<Entry>,
    flight: Arc<Flight>,
    run: Range<usize>,
    result: Option<Result<()>>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let stopped = || Err(Error::new(ErrorKind::Unavailable, "the fetch was stopped"));
        let result = self.result.take().unwrap_or_else(stopped);
        self.entry.landed(&self.flight, &self.run);
        self.flight.end(result);
    }
}

async fn fetch_run(entry: &Arc<Entry>, flight: &Flight, run: &Range<usize>, origin: &Origin) -> Result<()> {
    let Some(map) = &entry.map else { return Ok(()) };
    let doing = || format!("claim chunks of {}", entry.digest);
    let mut next = run.start;
    let mut waiting_since = None;
    while next < run.end {
        let claimed = map.claim(&(next..run.end)).doing(doing)?;
        let looked_at = if claimed.is_empty() { next..next + 1 } else { claimed.clone() };
        let checksums = map.checksums(&looked_at).doing(doing)?;
        let stored = checksums.iter().take_while(|sum| **sum != 0).count();
        if stored > 0 {
            map.release(&claimed);
            entry.found(flight, next..next + stored);
            next += stored;
        } else if claimed.is_empty() {
            // Another process is at it. Its claim ends with the bytes in the map, or with the process.
            let since = waiting_since.get_or_insert_with(Instant::now);
            if since.elapsed() > PATIENCE {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "another process has claimed a part of {} and does not get on with it",
                        entry.digest
                    ),
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        } else {
            let absent = next..next + checksums.iter().take_while(|sum| **sum == 0).count();
            map.release(&(absent.end..claimed.end));
            stream(entry, flight, &absent, origin).await?;
            next = absent.end;
        }
        waiting_since = None;
    }
    Ok(())
}

/// Fetches a run of claimed chunks by one request.
async fn stream(entry: &Arc<Entry>, flight: &Flight, run: &Range<usize>, origin: &Origin) -> Result<()> {
    let Some(source) = &origin.source else {
        return Err(Error::new(
            ErrorKind::Offline,
            format!("a part of {} is not in the cache, and --offline forbids fetching it", entry.digest),
        ));
    };
    let range = bytes_of(run, entry.size());
    entry.shared.counters.requested();
    let mut stream = source.fetch(&origin.blob, range.clone()).await?;
    let mut at = range.start;
    let mut gathered = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let mut piece = piece?;
        if piece.len() as u64 > range.end - at - gathered.len() as u64 {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("more bytes of {} came than were asked for", entry.digest),
            ));
        }
        if piece.len() < SMALL || !gathered.is_empty() {
            gathered.extend_from_slice(&piece);
            if gathered.len() < GATHERED && at + (gathered.len() as u64) < range.end {
                continue;
            }
            piece = std::mem::take(&mut gathered).freeze();
        }
        at = take_in(entry, flight, at, piece).await;
    }
    if at != range.end {
        return Err(Error::new(
            ErrorKind::Unavailable,
            format!("{} of {} bytes of {} came", at - range.start, range.end - range.start, entry.digest),
        ));
    }
    Ok(())
}

/// Hands bytes on to readers, writer and hasher, cut where chunks end. Answers the offset after them.
async fn take_in(entry: &Arc<Entry>, flight: &Flight, mut at: u64, mut bytes: Bytes) -> u64 {
    entry.shared.fetched(bytes.len() as u64);
    while !bytes.is_empty() {
        let left = (CHUNK - at % CHUNK) as usize;
        let part = bytes.split_to(left.min(bytes.len()));
        let length = part.len() as u64;
        let piece = match entry.shared.ring.try_hold(part) {
            Ok(piece) => Some(piece),
            Err(part) => {
                entry.make_room();
                entry.shared.ring.hold(part).await
            }
        };
        let Some(piece) = piece else { return at };
        entry.take_in(at, piece);
        at += length;
        flight.advance(at);
    }
    at
}

fn check_run(entry: &Arc<Entry>, flight: &Flight, run: &Range<usize>) -> Result<()> {
    let Some(map) = &entry.map else { return Ok(()) };
    let doing = || format!("read {} from the cache", entry.digest);
    let checksums = map.checksums(run).doing(doing)?;
    let mut buffer = vec![0; CHUNK as usize];
    for (chunk, expected) in run.clone().zip(checksums) {
        let bytes = chunks::bytes(chunk, entry.size());
        let buffer = &mut buffer[..(bytes.end - bytes.start) as usize];
        let is_good = expected != 0
            && entry.file.read_exact_at(buffer, bytes.start).is_ok()
            && checksum(xxh3_64(buffer)) == expected;
        if !is_good {
            tracing::warn!(
                "a chunk of {} at {} is damaged in the cache and is fetched again",
                entry.digest,
                bytes.start
            );
            map.record(chunk, &[0]).doing(doing)?;
        }
        entry.state().chunks.set(chunk, if is_good { Chunk::Here } else { Chunk::Absent });
        flight.advance(bytes.end);
    }
    Ok(())
}

impl Entry {
    /// Chunks that another process has stored meanwhile.
    fn found(&self, flight: &Flight, run: Range<usize>) {
        let mut state = self.state();
        for chunk in run.clone() {
            state.chunks.set(chunk, Chunk::Stored);
        }
        drop(state);
        flight.advance(bytes_of(&run, self.size()).end);
    }

    /// Bytes that have just come: for readers at once, for writer and hasher soon.
    fn take_in(self: &Arc<Self>, at: u64, piece: super::ring::Piece) {
        let mut state = self.state();
        state.bytes_to_write += piece.bytes.len() as u64;
        state.to_write.push_back((at, piece.clone()));
        state.hash.take_in(at, &piece);
        state.ring.insert(at, piece);
        self.write_if_due(&mut state, false);
        self.hash_if_due(&mut state, false);
    }

    /// The ring is full: everything that waits is written now, and nothing waits for its turn to be hashed.
    fn make_room(self: &Arc<Self>) {
        let mut state = self.state();
        self.write_if_due(&mut state, true);
        self.hash_if_due(&mut state, true);
        state.hash.let_go();
    }

    /// Takes a flight off the list; what it did not bring is absent again, and claimed no longer.
    fn landed(self: &Arc<Self>, flight: &Arc<Flight>, run: &Range<usize>) {
        let arrived = flight.progress().to;
        let mut state = self.state();
        state.flights.retain(|other| !Arc::ptr_eq(other, flight));
        for chunk in run.clone() {
            let bytes = chunks::bytes(chunk, self.size());
            if bytes.end > arrived && state.chunks.get(chunk) == Chunk::Loading {
                state.chunks.set(chunk, Chunk::Absent);
                let torn: Vec<_> = state.ring.range(bytes).map(|(at, _)| *at).collect();
                for at in torn {
                    state.ring.remove(&at);
                }
                if let Some(map) = &self.map {
                    map.release(&(chunk..chunk + 1));
                }
            }
        }
        self.write_if_due(&mut state, true);
        self.hash_if_due(&mut state, true);
        if state.flights.is_empty() && !state.hash.is_running() {
            state.hash.let_go();
        }
        if state.chunks.all_stored() {
            self.finish_if_due(&mut state);
        }
    }
}
