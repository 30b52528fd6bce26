//! Checking a blob against its digest: in order as it comes, the rest once all of it is here.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::chunks::{self, Chunk};
use super::entry::{Entry, Phase, State};
use super::map::Map;
use super::place::make_folder;
use super::ring::Piece;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Hasher;
use crate::store::expect_digest;

/// So much is worth waking a hasher for; less waits for more, or for its flight to land.
const WORTH_HASHING: u64 = 1 << 20;

/// Bytes of one blob that may wait in memory for those before them. Parallel ranges come out of order by
/// up to their own length; what is further away is hashed from the file later. Less than the ring, so that
/// what waits here never keeps out what it waits for.
const HELD: u64 = 16 << 20;

/// How much is read back at once when a hash is completed from the file.
const READ_BACK: usize = 1 << 20;

/// The hash of a blob's beginning, growing as bytes come in order.
pub(super) struct InOrder {
    /// Away while a hasher thread has it.
    hasher: Option<Hasher>,
    /// Everything before this is in the hash.
    frontier: u64,
    held: BTreeMap<u64, Piece>,
    held_bytes: u64,
}

impl InOrder {
    pub(super) fn new(hasher: Hasher) -> Self {
        Self { hasher: Some(hasher), frontier: 0, held: BTreeMap::new(), held_bytes: 0 }
    }

    pub(super) fn is_running(&self) -> bool {
        self.hasher.is_none()
    }

    /// Keeps bytes for hashing if their turn will come soon.
    pub(super) fn take_in(&mut self, at: u64, piece: &Piece) {
        let length = piece.bytes.len() as u64;
        let is_near = at >= self.frontier && at < self.frontier + HELD && self.held_bytes + length <= HELD;
        if is_near {
            // What a fetch that failed had brought is replaced, maybe by a piece of another length.
            let before = self.held.insert(at, piece.clone()).map_or(0, |piece| piece.bytes.len() as u64);
            self.held_bytes = self.held_bytes + length - before;
        }
    }

    /// Lets go of everything whose turn is not now.
    pub(super) fn let_go(&mut self) {
        let mut next = self.frontier;
        self.held.retain(|at, piece| {
            let follows = *at == next;
            if follows {
                next += piece.bytes.len() as u64;
            }
            follows
        });
        self.held_bytes = next - self.frontier;
    }

    /// The pieces that come next, without gaps; the frontier moves behind them.
    fn next(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        while let Some(first) = self.held.first_entry() {
            let length = first.get().bytes.len() as u64;
            if *first.key() > self.frontier {
                break;
            }
            let (at, piece) = first.remove_entry();
            self.held_bytes -= length;
            if at == self.frontier {
                self.frontier += length;
                pieces.push(piece);
            }
        }
        pieces
    }
}

impl Entry {
    /// Starts the hasher if enough is there in order, or anything at all when `now`. One hasher per blob.
    pub(super) fn hash_if_due(self: &Arc<Self>, state: &mut State, now: bool) {
        let least = if now { 1 } else { WORTH_HASHING };
        let hash = &mut state.hash;
        let is_next = hash.held.first_key_value().is_some_and(|(at, _)| {
            *at == hash.frontier || state.chunks.get(chunks::index(hash.frontier)) == Chunk::Here
        });
        if is_next
            && hash.held_bytes >= least
            && let Some(hasher) = hash.hasher.take()
        {
            let entry = Arc::clone(self);
            let spawned = std::thread::Builder::new().name("hasher".into()).spawn(move || {
                give_way();
                // The final check waits for the hash to come back, whatever happened to this thread.
                let hashing = AssertUnwindSafe(|| entry.hash_in_order(hasher));
                if std::panic::catch_unwind(hashing).is_err() {
                    entry.hash_from_the_start(&mut entry.state().hash);
                }
            });
            if spawned.is_err() {
                // No thread to be had: the blob is hashed once it is all here.
                self.hash_from_the_start(hash);
            }
        }
    }

    fn hash_in_order(&self, mut hasher: Hasher) {
        let mut buffer = Vec::new();
        loop {
            let (pieces, back) = {
                let mut state = self.state();
                let pieces = state.hash.next();
                let at = state.hash.frontier;
                let chunk = chunks::index(at);
                // A chunk that came earlier stands between what is hashed and what waits: read it back.
                let bridge = pieces.is_empty()
                    && !state.hash.held.is_empty()
                    && state.chunks.get(chunk) == Chunk::Here;
                let back = bridge.then(|| at..chunks::bytes(chunk, self.size()).end);
                if let Some(back) = &back {
                    state.hash.frontier = back.end;
                } else if pieces.is_empty() {
                    state.hash.hasher = Some(hasher);
                    if state.flights.is_empty() {
                        state.hash.let_go();
                    }
                    return;
                }
                (pieces, back)
            };
            for piece in pieces {
                hasher.update(&piece.bytes);
            }
            if let Some(back) = back {
                buffer.resize((back.end - back.start) as usize, 0);
                match self.file.read_exact_at(&mut buffer, back.start) {
                    Ok(()) => hasher.update(&buffer),
                    // The final check reads it all again, and says so if it cannot.
                    Err(_) => return self.hash_from_the_start(&mut self.state().hash),
                }
            }
        }
    }

    /// Gives up on hashing in order; everything is read back at the end.
    fn hash_from_the_start(&self, hash: &mut InOrder) {
        if let Ok(hasher) = self.digest.hasher() {
            *hash = InOrder::new(hasher);
        }
    }

    /// Starts the check of the whole blob if all of it is in the file.
    pub(super) fn finish_if_due(self: &Arc<Self>, state: &mut State) {
        let is_due = state.chunks.all_stored() && !state.writing && state.to_write.is_empty();
        if !is_due || state.finishing || self.map.is_none() || self.is_complete() || self.is_corrupt() {
            return;
        }
        state.finishing = true;
        let entry = Arc::clone(self);
        tokio::spawn(async move {
            let _turn = entry.shared.finishing.acquire().await;
            let checked = Arc::clone(&entry);
            let result = tokio::task::spawn_blocking(move || checked.check_and_keep()).await;
            match result {
                Ok(Ok(())) => entry.become_complete(),
                Ok(Err(error)) if error.kind() == ErrorKind::Corrupt => entry.become_corrupt(error),
                Ok(Err(error)) => {
                    tracing::warn!("{error}");
                    // Not tried again, which would hash the blob at every read; who waits for it is told.
                    entry.state().unwritable = Some(error);
                }
                Err(error) => tracing::warn!("the check of {} was stopped: {error}", entry.digest),
            }
        });
    }

    fn become_corrupt(&self, error: Error) {
        tracing::error!("{error}");
        self.shared.counters.failed(&error);
        self.shared.forget(&self.digest);
        self.phase.send_replace(Phase::Corrupt(error));
    }

    /// Hashes what is not hashed yet; a match makes the blob complete, anything else empties it.
    fn check_and_keep(&self) -> Result<()> {
        let Some(map) = &self.map else { return Ok(()) };
        let blob = self.shared.place.blob(&self.digest);
        let doing = || format!("complete {} in the cache", self.digest);
        let _claim = loop {
            if let Some(claim) = map.claim_whole().doing(doing)? {
                break claim;
            }
            // Another process is checking the same file; it ends with the blob complete, or empty, or with itself.
            std::thread::sleep(Duration::from_millis(10));
        };
        if self.is_at(&blob).doing(doing)? {
            return Ok(());
        }
        let (mut hasher, frontier) = self.hash_so_far();
        let mut buffer = vec![0; READ_BACK];
        let mut at = frontier;
        while at < self.size() {
            let length = (self.size() - at).min(READ_BACK as u64) as usize;
            self.file.read_exact_at(&mut buffer[..length], at).doing(doing)?;
            hasher.update(&buffer[..length]);
            at += length as u64;
        }
        if let Err(error) = expect_digest(hasher, &self.digest) {
            self.empty(map).doing(doing)?;
            return Err(error.context("what the registry sent is not what was asked for; it was thrown away"));
        }
        let partial = self.shared.place.partial(&self.digest);
        if !self.is_at(&partial.join("data")).doing(doing)? {
            if blob.exists() {
                return Ok(());
            }
            let lost = "its files were removed or replaced while it was open";
            return Err(Error::new(ErrorKind::Io, format!("{}: {lost}", doing())));
        }
        self.file.sync_data().doing(doing)?;
        self.file.set_permissions(fs::Permissions::from_mode(0o444)).doing(doing)?;
        make_folder(blob.parent().unwrap_or(&blob)).doing(doing)?;
        fs::rename(partial.join("data"), &blob).doing(doing)?;
        // Readers in other processes find every chunk in the map they have open; new ones find the blob.
        let _ = fs::remove_file(partial.join("map"));
        let _ = fs::remove_dir(&partial);
        Ok(())
    }

    /// Takes the hash of the beginning away from the hashers, once none is running.
    fn hash_so_far(&self) -> (Hasher, u64) {
        loop {
            let mut state = self.state();
            if let Some(hasher) = state.hash.hasher.clone() {
                state.hash.held.clear();
                state.hash.held_bytes = 0;
                return (hasher, state.hash.frontier);
            }
            drop(state);
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Whether the file of this name is the one we have open. If somebody cleared the folder, another reader
    /// may have begun anew there, and what lies there now is not what was checked.
    fn is_at(&self, path: &Path) -> std::io::Result<bool> {
        let ours = self.file.metadata()?;
        match fs::metadata(path) {
            Ok(there) => Ok((there.dev(), there.ino()) == (ours.dev(), ours.ino())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn empty(&self, map: &Map) -> std::io::Result<()> {
        map.clear()?;
        let partial = self.shared.place.partial(&self.digest);
        if !self.is_at(&partial.join("data"))? {
            return Ok(());
        }
        fs::remove_file(partial.join("data"))?;
        fs::remove_file(partial.join("map"))?;
        fs::remove_dir(&partial)
    }
}

/// How far hashing stands back where processors are short. A reader waits for its bytes now and for
/// the verdict at the end; on two cores, hashing at full weight takes a quarter of the reader's speed.
const NICE: i32 = 15;

/// Lets threads that somebody waits for go first.
fn give_way() {
    // SAFETY: plain system calls without memory; on Linux 0 means the calling thread alone.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
}
