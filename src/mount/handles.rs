//! Open files and open folders.
//!
//! How the kernel reads an inode, through its page cache or straight from the backing file, is fixed by the
//! first open and holds until the last descriptor and mapping is gone (limits.md §3): an open that answers
//! otherwise fails. So the way is kept per inode, and all its opens share one registered backing file.

use std::any::Any;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use crate::artifact::Reader;
use crate::artifact::tree::{FileName, Node};

/// A local file the kernel reads by itself, registered for as long as this lives.
#[derive(Clone)]
pub(super) struct Backing(pub(super) Arc<dyn Any + Send + Sync>);

/// An open file.
pub(super) enum Handle {
    /// The kernel asks us for bytes and keeps them.
    Reading {
        /// The inode.
        number: u64,
        reader: Reader,
        size: u64,
    },
    /// The kernel reads the verified blob's file; nothing is asked.
    Passthrough,
}

/// How an open is answered.
pub(super) enum Way {
    Cached,
    Passthrough(Backing),
}

/// A folder's entries as they were when it was opened.
pub(super) struct Listing {
    /// How long the kernel may remember an entry.
    pub(super) lifetime: Duration,
    pub(super) entries: Vec<(FileName, Node)>,
}

#[derive(Default)]
pub(super) struct Handles {
    files: Numbered<Handle>,
    folders: Numbered<Listing>,
    inodes: Mutex<HashMap<u64, InUse>>,
}

/// An inode with open descriptors.
struct InUse {
    opens: u64,
    backing: Option<Backing>,
}

impl Handles {
    /// Opens inode `number` in the way its other opens have; the first one may `register` a backing file.
    pub(super) fn open(
        &self,
        number: u64,
        reader: Reader,
        size: u64,
        register: impl FnOnce() -> Option<Backing>,
    ) -> (u64, Way) {
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let in_use = inodes.entry(number).or_insert_with(|| InUse { opens: 0, backing: register() });
        in_use.opens += 1;
        match &in_use.backing {
            Some(backing) => (self.files.insert(Handle::Passthrough), Way::Passthrough(backing.clone())),
            None => (self.files.insert(Handle::Reading { number, reader, size }), Way::Cached),
        }
    }

    pub(super) fn file(&self, handle: u64) -> Option<Arc<Handle>> {
        self.files.get(handle)
    }

    /// The last descriptor and mapping of one open is gone; with the inode's last, its backing file is let go.
    pub(super) fn release(&self, number: u64, handle: u64) {
        let closed = self.files.remove(handle);
        let mut inodes = self.inodes.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(in_use) = inodes.get_mut(&number) else { return };
        in_use.opens = in_use.opens.saturating_sub(1);
        let last = if in_use.opens == 0 { inodes.remove(&number) } else { None };
        drop(inodes);
        drop((closed, last));
    }

    pub(super) fn open_folder(&self, listing: Listing) -> u64 {
        self.folders.insert(listing)
    }

    pub(super) fn folder(&self, handle: u64) -> Option<Arc<Listing>> {
        self.folders.get(handle)
    }

    pub(super) fn release_folder(&self, handle: u64) {
        self.folders.remove(handle);
    }

    /// How many files are open.
    pub(super) fn open_files(&self) -> usize {
        self.files.len()
    }
}

/// Things by number, each number used once.
pub(super) struct Numbered<T> {
    next: AtomicU64,
    things: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Numbered<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), things: RwLock::default() }
    }
}

impl<T> Numbered<T> {
    pub(super) fn insert(&self, thing: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.things.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::new(thing));
        number
    }

    pub(super) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.things.read().unwrap_or_else(PoisonError::into_inner).get(&number).cloned()
    }

    pub(super) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.things.write().unwrap_or_else(PoisonError::into_inner).remove(&number)
    }

    pub(super) fn len(&self) -> usize {
        self.things.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
