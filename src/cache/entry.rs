//! The state of one blob in this process: what is in the file, in memory, under way.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};
use tokio::sync::watch;

use super::Shared;
use super::chunks::{Chunk, Chunks, bytes_of, index};
use super::hashing::InOrder;
use super::inflight::{Flight, Origin};
use super::map::Map;
use super::place::{make_folder, open_file};
use super::ring::Piece;
use super::writer::Begun;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Digest;

/// The longest range one request asks for. Long enough that its round trip does not show, short enough
/// that four of them in parallel fit the ring.
pub(super) const LONGEST_RUN: usize = 64;

/// Ranges of one blob that are fetched at the same time. More gained nothing where it was measured
/// (limits.md §6), and registries count requests.
const PARALLEL_AHEAD: usize = 4;

/// How often a read begins again when what it waited for is gone once it looks (written badly, evicted).
const ATTEMPTS: usize = 8;

/// How far a blob is on its way to being trusted.
#[derive(Clone)]
pub(super) enum Phase {
    Partial,
    Complete,
    Corrupt(Error),
}

pub(super) struct Entry {
    pub(super) shared: Arc<Shared>,
    pub(super) digest: Digest,
    size: u64,
    pub(super) file: Arc<File>,
    /// `None` if the blob was complete when it was opened.
    pub(super) map: Option<Map>,
    /// Held briefly, never across an await or a system call that may wait for a disk.
    state: Mutex<State>,
    /// The writer's own.
    pub(super) begun: Mutex<Begun>,
    pub(super) phase: watch::Sender<Phase>,
    /// Set once, when the phase is `Complete`: the fast path of every later read.
    complete: OnceLock<()>,
}

pub(super) struct State {
    pub(super) chunks: Chunks,
    pub(super) flights: Vec<Arc<Flight>>,
    /// Bytes in memory by their offset, until the writer has passed.
    pub(super) ring: BTreeMap<u64, Piece>,
    pub(super) to_write: VecDeque<(u64, Piece)>,
    pub(super) bytes_to_write: u64,
    pub(super) writing: bool,
    pub(super) hash: InOrder,
    pub(super) finishing: bool,
    /// Why the file could not be written, if it could not.
    pub(super) unwritable: Option<Error>,
}

/// Where a part of a read is.
enum Part {
    Memory(Bytes),
    File(Range<u64>),
}

/// What a reader does next.
enum Step {
    Ready(Vec<Part>),
    /// Wait for this flight, which brings the byte at this offset.
    Wait(Arc<Flight>, u64),
}

impl Entry {
    pub(super) fn open(shared: Arc<Shared>, digest: &Digest, size: u64) -> Result<Arc<Self>> {
        let hasher = digest.hasher()?;
        let doing = || format!("open {digest} in the cache");
        // Another process may finish or evict the blob between any two steps; then begin again.
        for _ in 0..ATTEMPTS {
            if let Some(file) = open_complete(&shared, digest, size).doing(doing)? {
                let chunks = Chunks::new(size, |_| true);
                let entry = Self::new(shared, digest, size, file, None, chunks, InOrder::new(hasher));
                entry.become_complete();
                return Ok(Arc::new(entry));
            }
            let folder = shared.place.partial(digest);
            let opened = make_folder(&folder).and_then(|()| {
                let file = open_file(&folder.join("data"))?;
                Ok((hold_open(&file)?, file, Map::open(&folder.join("map"), size)?))
            });
            let (is_held, file, map) = match opened {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                opened => opened.doing(doing)?,
            };
            if !is_held || shared.place.blob(digest).exists() {
                continue;
            }
            if file.metadata().doing(doing)?.len() != size {
                file.set_len(size).doing(doing)?;
            }
            let checksums = map.all().doing(doing)?;
            let chunks = Chunks::new(size, |chunk| checksums.get(chunk).is_some_and(|sum| *sum != 0));
            return Ok(Arc::new(Self::new(
                shared,
                digest,
                size,
                file,
                Some(map),
                chunks,
                InOrder::new(hasher),
            )));
        }
        Err(Error::new(ErrorKind::Io, format!("{digest} keeps changing in the cache while it is opened")))
    }

    fn new(
        shared: Arc<Shared>,
        digest: &Digest,
        size: u64,
        file: File,
        map: Option<Map>,
        chunks: Chunks,
        hash: InOrder,
    ) -> Self {
        Self {
            shared,
            digest: digest.clone(),
            size,
            file: Arc::new(file),
            map,
            state: Mutex::new(State {
                chunks,
                flights: Vec::new(),
                ring: BTreeMap::new(),
                to_write: VecDeque::new(),
                bytes_to_write: 0,
                writing: false,
                hash,
                finishing: false,
                unwritable: None,
            }),
            begun: Mutex::default(),
            phase: watch::Sender::new(Phase::Partial),
            complete: OnceLock::new(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_complete(&self) -> bool {
        self.complete.get().is_some()
    }

    pub(super) fn is_corrupt(&self) -> bool {
        matches!(*self.phase.borrow(), Phase::Corrupt(_))
    }

    pub(super) fn become_complete(&self) {
        let _ = self.complete.set(());
        self.phase.send_replace(Phase::Complete);
    }

    /// The bytes `range`, waiting for whatever of them is not here yet.
    pub(super) async fn read(self: &Arc<Self>, range: Range<u64>, origin: &Arc<Origin>) -> Result<Bytes> {
        let parts = if self.is_complete() {
            vec![Part::File(range.clone())]
        } else {
            self.arrived(&range, origin).await?
        };
        self.assemble(&range, parts)
    }

    /// Waits until the bytes `range` are here, in memory or in the file.
    pub(super) async fn wait_for(self: &Arc<Self>, range: &Range<u64>, origin: &Arc<Origin>) -> Result<()> {
        if !self.is_complete() {
            self.arrived(range, origin).await?;
        }
        Ok(())
    }

    async fn arrived(self: &Arc<Self>, range: &Range<u64>, origin: &Arc<Origin>) -> Result<Vec<Part>> {
        let mut attempts = 0;
        let mut stuck_at = range.start;
        loop {
            let (flight, missing) = match self.step(range, origin)? {
                Step::Ready(parts) => return Ok(parts),
                Step::Wait(flight, missing) => (flight, missing),
            };
            // A byte may be waited for a few times: fetched by another process, then checked by us.
            attempts = if missing > stuck_at { 0 } else { attempts + 1 };
            stuck_at = missing;
            if attempts > ATTEMPTS {
                let unwritable = self.state().unwritable.clone();
                return Err(unwritable.unwrap_or_else(|| {
                    Error::new(
                        ErrorKind::Io,
                        format!("bytes of {} are lost as soon as they arrive", self.digest),
                    )
                }));
            }
            flight.wait_until(flight.range.end.min(range.end)).await?;
        }
    }

    /// Looks where the bytes `range` are; starts fetching the first ones that are nowhere.
    fn step(self: &Arc<Self>, range: &Range<u64>, origin: &Arc<Origin>) -> Result<Step> {
        if let Phase::Corrupt(error) = &*self.phase.borrow() {
            return Err(error.clone());
        }
        let mut state = self.state();
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end {
            if let Some(end) = state.chunks.here_until(at, range.end) {
                parts.push(Part::File(at..end));
                at = end;
            } else if let Some(bytes) = in_memory(&state.ring, at, range.end) {
                at += bytes.len() as u64;
                parts.push(Part::Memory(bytes));
            } else {
                let flight = self.under_way(&mut state, at, range.end, origin);
                return Ok(Step::Wait(flight, at));
            }
        }
        if state.chunks.all_stored() {
            self.finish_if_due(&mut state);
        }
        Ok(Step::Ready(parts))
    }

    /// The flight that will bring the byte `at`, started if there is none.
    fn under_way(
        self: &Arc<Self>,
        state: &mut State,
        at: u64,
        end: u64,
        origin: &Arc<Origin>,
    ) -> Arc<Flight> {
        let missing = at..end;
        let found = state.flights.iter().find(|flight| flight.will_bring(at)).cloned();
        match (state.chunks.get(index(at)), found) {
            (Chunk::Loading, Some(flight)) => flight,
            (Chunk::Stored | Chunk::Here, _) => {
                let run = state.chunks.runs(&missing, Chunk::Stored, LONGEST_RUN).into_iter().next();
                self.start_check(state, run.unwrap_or(index(at)..index(at) + 1))
            }
            (Chunk::Absent | Chunk::Loading, _) => {
                // Loading without a flight or bytes: whoever loaded it failed. It is absent.
                state.chunks.set(index(at), Chunk::Absent);
                let mut runs = state.chunks.runs(&missing, Chunk::Absent, LONGEST_RUN).into_iter();
                let first = runs.next().unwrap_or(index(at)..index(at) + 1);
                let flight = self.start_fetch(state, first, origin);
                for run in runs {
                    self.start_fetch(state, run, origin);
                }
                flight
            }
        }
    }

    /// Begins to fetch what is missing of `range`, without waiting, as much as may run in parallel.
    /// Answers up to where everything is here or under way.
    pub(super) fn want(self: &Arc<Self>, range: &Range<u64>, origin: &Arc<Origin>) -> u64 {
        if self.is_complete() {
            return range.end;
        }
        let mut state = self.state();
        let runs = |of| state.chunks.runs(range, of, LONGEST_RUN).into_iter();
        let mut missing: Vec<_> = runs(Chunk::Absent).chain(runs(Chunk::Stored)).collect();
        missing.sort_by_key(|run| run.start);
        for run in missing {
            if state.flights.len() >= PARALLEL_AHEAD {
                return bytes_of(&run, self.size).start;
            }
            if state.chunks.get(run.start) == Chunk::Stored {
                self.start_check(&mut state, run);
            } else {
                self.start_fetch(&mut state, run, origin);
            }
        }
        range.end
    }

    fn start_fetch(
        self: &Arc<Self>,
        state: &mut State,
        run: Range<usize>,
        origin: &Arc<Origin>,
    ) -> Arc<Flight> {
        let flight = self.take_off(state, &run);
        super::inflight::fetch(Arc::clone(self), Arc::clone(&flight), run, Arc::clone(origin));
        flight
    }

    fn start_check(self: &Arc<Self>, state: &mut State, run: Range<usize>) -> Arc<Flight> {
        let flight = self.take_off(state, &run);
        super::inflight::check(Arc::clone(self), Arc::clone(&flight), run);
        flight
    }

    fn take_off(&self, state: &mut State, run: &Range<usize>) -> Arc<Flight> {
        for chunk in run.clone() {
            state.chunks.set(chunk, Chunk::Loading);
        }
        let flight = Arc::new(Flight::new(bytes_of(run, self.size)));
        state.flights.push(Arc::clone(&flight));
        flight
    }

    /// Copies the parts into one reply; what is in one piece of memory goes out as it is.
    fn assemble(&self, range: &Range<u64>, mut parts: Vec<Part>) -> Result<Bytes> {
        let length = (range.end - range.start) as usize;
        self.shared.counters.served(length as u64);
        if let [Part::Memory(bytes)] = &mut parts[..] {
            return Ok(std::mem::take(bytes));
        }
        self.shared
            .ring
            .reply(length, |mut buffer| {
                for part in &parts {
                    match part {
                        Part::Memory(bytes) => {
                            let (filled, rest) = buffer.split_at_mut(bytes.len());
                            filled.copy_from_slice(bytes);
                            buffer = rest;
                        }
                        Part::File(bytes) => {
                            let (filled, rest) = buffer.split_at_mut((bytes.end - bytes.start) as usize);
                            self.file.read_exact_at(filled, bytes.start)?;
                            buffer = rest;
                        }
                    }
                }
                Ok::<_, std::io::Error>(())
            })
            .doing(|| format!("read {} from the cache", self.digest))
    }

    /// Waits for the check if everything has arrived; returns at once if not.
    pub(super) async fn settled_if_arrived(self: &Arc<Self>) {
        let under_way = {
            let mut state = self.state();
            if state.chunks.all_stored() && !self.is_complete() {
                self.finish_if_due(&mut state);
            }
            // Nothing is missing that is not on its way: it is worth waiting for the verdict.
            state.unwritable.is_none() && state.chunks.runs(&(0..self.size), Chunk::Absent, 1).is_empty()
        };
        if under_way {
            let mut phase = self.phase.subscribe();
            // A writer that ends without the last chunk leaves the phase as it is: bounded.
            let settled = phase.wait_for(|phase| !matches!(phase, Phase::Partial));
            let _ = tokio::time::timeout(std::time::Duration::from_secs(30), settled).await;
        }
    }
}

/// The bytes from `at` on that are in memory in one piece.
fn in_memory(ring: &BTreeMap<u64, Piece>, at: u64, end: u64) -> Option<Bytes> {
    let (start, piece) = ring.range(..=at).next_back()?;
    let skip = (at - start) as usize;
    if skip >= piece.bytes.len() {
        return None;
    }
    let length = piece.bytes.len().min(skip + (end - at) as usize);
    Some(piece.bytes.slice(skip..length))
}

/// Opens a complete blob. One of the wrong length is no blob at all, and removed.
fn open_complete(shared: &Shared, digest: &Digest, size: u64) -> std::io::Result<Option<File>> {
    let path = shared.place.blob(digest);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !hold_open(&file)? {
        return Ok(None);
    }
    if file.metadata()?.len() != size {
        tracing::warn!("{} has the wrong length and is fetched again", path.display());
        fs::remove_file(&path)?;
        return Ok(None);
    }
    Ok(Some(file))
}

/// Notes the use of a file and keeps the evictor away from it for as long as it is open.
/// False if it was removed between being opened and being held.
fn hold_open(file: &File) -> std::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
        // The evictor has it, and is about to remove it.
        Err(rustix::io::Errno::WOULDBLOCK) => {
            std::thread::sleep(std::time::Duration::from_millis(1));
            return Ok(false);
        }
        result => result?,
    }
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let unchanged = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = rustix::fs::futimens(file, &Timestamps { last_access: now, last_modification: unchanged });
    Ok(file.metadata()?.nlink() > 0)
}
