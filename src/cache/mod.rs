//! A store in front of a store, remembering bytes by digest.
//!
//! On disk, shared by all mounts, verbs and processes of a user:
//!
//! ```text
//! version                              the format's number; an unknown one is refused, not guessed
//! blobs/<alg>/<hex>                    complete and verified, mode 0444
//! partial/<alg>/<hex>/data             sparse, the blob's bytes at their own offsets
//! partial/<alg>/<hex>/map              header, then 8 bytes a chunk: 0, or a checksum of its bytes
//! index/<alg>/<hex>.<kind>             what was learned from a blob, e.g. where members lie in a layer
//! homes/<alg>/<hex>                    the repository a large blob was found in
//! refs/<host>/<repository>/:<tag>      the last known descriptor, for --offline
//! ```
//!
//! A chunk is claimed by an open-file-description lock on its place in `map`, so two processes never
//! fetch it twice and a killed one leaves no lock behind. Bytes are written before the map says so, and the
//! map's checksum is compared on a chunk's first use in a process, so a torn write after a power cut is a
//! re-fetch, not wrong data. A blob that comes in order is hashed as it arrives, the rest once when the last
//! chunk lands; then it is synced, and one rename makes it complete.
//!
//! The way of a cold byte: connection → pieces in memory, bounded for the whole process (`ring`) → the
//! reply, straight from there; a writer and a hasher follow on threads of their own (`writer`, `hashing`),
//! and whoever comes later reads the file, never before the writer has passed.
//!
//! - `cached`, `blob_reader`: what others see · `place`, `map`: the folder · `entry`, `chunks`: one blob's state
//! - `inflight`, `ring`, `writer`, `hashing`: a byte's way · `readahead`: what is fetched before it is asked for
//! - `evict`: the budget · `stats`: what came of it all

mod blob_reader;
mod cached;
mod chunks;
mod entry;
mod evict;
mod hashing;
mod inflight;
mod map;
mod place;
mod readahead;
mod ring;
mod stats;
mod writer;

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use lru::LruCache;

use crate::error::Result;
use crate::oci::{Descriptor, Digest};
use crate::store::Source;

pub use cached::Cached;
pub use evict::{Freed, Kind, Report, Stored};
pub use stats::Stats;

use entry::Entry;
use place::Place;
use ring::Ring;
use stats::Counters;

/// Where the cache is and how large it may grow.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The folder; made when it is missing.
    pub root: PathBuf,
    /// Bytes on disk; `None` is half of what the disk could give.
    pub budget: Option<u64>,
}

impl Settings {
    /// `$ARTIFS_CACHE`, else `$XDG_CACHE_HOME/artifs`, else `~/.cache/artifs`.
    pub fn at_default_place() -> Result<Self> {
        Ok(Self { root: place::default_root()?, budget: None })
    }
}

/// The cache of this process. Cloning is shallow; one per folder is enough, several are safe.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    /// Kept apart from what entries themselves hold, so that nothing holds itself open.
    recent: Arc<Mutex<LruCache<Digest, Arc<Entry>>>>,
}

/// Finished blobs stay open for this many more, so that a loader that opens the same shards again and
/// again does not compare checksums again and again.
const KEPT_OPEN: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// After this many fetched bytes the budget is looked at again. Scanning the folder costs milliseconds;
/// overshooting by this much costs nobody anything.
const BUDGET_STRIDE: u64 = 256 << 20;

struct Shared {
    place: Place,
    budget: Option<u64>,
    ring: Ring,
    counters: Counters,
    entries: Mutex<HashMap<Digest, Weak<Entry>>>,
    /// Syncing and renaming finished blobs: few at a time, so that ten thousand small files do not make
    /// ten thousand threads wait for one disk.
    finishing: Arc<tokio::sync::Semaphore>,
    since_eviction: AtomicU64,
}

impl Cache {
    /// Opens the cache folder, making it if it is missing.
    ///
    /// [`Unsupported`](crate::error::ErrorKind::Unsupported) if another version of the format is there.
    pub fn open(settings: &Settings) -> Result<Self> {
        let place = Place::open(&settings.root)?;
        let shared = Arc::new(Shared {
            place,
            budget: settings.budget,
            ring: Ring::new(),
            counters: Counters::default(),
            entries: Mutex::default(),
            finishing: Arc::new(tokio::sync::Semaphore::new(4)),
            since_eviction: AtomicU64::new(BUDGET_STRIDE),
        });
        Ok(Self { shared, recent: Arc::new(Mutex::new(LruCache::new(KEPT_OPEN))) })
    }

    /// A store that remembers what `source` answers. Without a source it answers from memory alone
    /// (`--offline`). `scope` is `host/repository`, under which the last known digest of a tag is kept.
    pub fn in_front_of(&self, source: Option<Arc<dyn Source>>, scope: &str) -> Arc<Cached> {
        Arc::new(Cached::new(self.clone(), source, scope))
    }

    /// What this process has fetched, served and failed at so far.
    pub fn stats(&self) -> Stats {
        self.shared.counters.snapshot()
    }

    /// The cache's folder.
    pub fn root(&self) -> &std::path::Path {
        self.shared.place.root()
    }

    /// Waits until blobs whose last byte has arrived are checked and complete on disk. Processes that are
    /// about to end call it, so that the next one need not hash again.
    pub async fn settle(&self) {
        let entries: Vec<_> = {
            let table = self.shared.entries.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            table.values().filter_map(Weak::upgrade).collect()
        };
        for entry in entries {
            entry.settled_if_arrived().await;
        }
    }

    /// Whether a blob is here, complete and verified.
    fn has_whole(&self, blob: &Descriptor) -> bool {
        std::fs::metadata(self.shared.place.blob(&blob.digest)).is_ok_and(|about| about.len() == blob.size)
    }

    /// The state of one blob, shared by everybody in this process who reads it.
    fn entry(&self, blob: &Descriptor) -> Result<Arc<Entry>> {
        use std::sync::PoisonError;
        let mut table = self.shared.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = table.get(&blob.digest).and_then(Weak::upgrade)
            && entry.size() == blob.size
            && !entry.is_corrupt()
        {
            return Ok(entry);
        }
        let entry = Entry::open(Arc::clone(&self.shared), &blob.digest, blob.size)?;
        table.retain(|_, weak| weak.strong_count() > 0);
        table.insert(blob.digest.clone(), Arc::downgrade(&entry));
        drop(table);
        self.recent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(blob.digest.clone(), Arc::clone(&entry));
        Ok(entry)
    }
}

impl Shared {
    /// Notes fetched bytes; every [`BUDGET_STRIDE`] of them the least recently used blobs make room.
    fn fetched(self: &Arc<Self>, bytes: u64) {
        self.counters.fetched(bytes);
        if self.since_eviction.fetch_add(bytes, Ordering::Relaxed) + bytes >= BUDGET_STRIDE {
            self.since_eviction.store(0, Ordering::Relaxed);
            let shared = Arc::clone(self);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = evict::prune(&shared.place, shared.budget) {
                    tracing::warn!("the cache could not be kept within its budget: {error}");
                }
            });
        }
    }

    /// Forgets a blob's state, so that the next reader begins anew.
    fn forget(&self, digest: &Digest) {
        use std::sync::PoisonError;
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }
}
