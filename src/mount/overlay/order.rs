//! What has to be on disk before what, so that a power cut leaves nothing that never was.
//!
//! A file that is closed tells the journal its ranges without waiting for the disk, and whoever syncs next takes the
//! whole journal there. The bytes of files that told have to be there first: else zeros would show where the base's
//! bytes were. And the bytes of what was removed have to stay until the journal that says so is on disk: else what
//! comes back would be empty.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Overlay;
use super::refusal::Answer;
use crate::mount::staging::{Contents, Record};

/// So many removed files wait for somebody to sync, or so many bytes; then they are seen to. They do not wait where
/// the disk has no more room than that.
const MANY: usize = 256;
const MUCH: u64 = 64 << 20;

#[derive(Default)]
pub(super) struct Order {
    /// Files whose ranges are in the journal while their bytes may not be on disk, by inode.
    told: Mutex<BTreeMap<u64, Arc<Contents>>>,
    /// Held while they, and the journal after them, are taken to the disk.
    syncing: Mutex<()>,
}

/// Removed files whose bytes are still there.
#[derive(Default)]
pub(super) struct Leaving {
    inodes: Vec<u64>,
    bytes: u64,
}

impl Leaving {
    pub(super) fn add(&mut self, inode: u64, contents: &Contents) {
        let shape = contents.shape().ok().flatten();
        self.bytes += shape.map_or(0, |shape| shape.blocks * 512);
        self.inodes.push(inode);
    }
}

impl Order {
    fn told(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Contents>>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn syncing(&self) -> MutexGuard<'_, ()> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held while a file's ranges are written down before its bytes are on disk: the journal that somebody is taking
    /// there must not get longer by them.
    pub(super) fn telling(&self, inode: u64, contents: &Arc<Contents>) -> MutexGuard<'_, ()> {
        let waiting = self.syncing();
        self.told().insert(inode, Arc::clone(contents));
        waiting
    }
}

impl Overlay {
    /// Returns when every change of names and attributes before is on disk.
    pub(in crate::mount) fn sync_names(&self) -> Answer<()> {
        let _syncing = self.order.syncing();
        let told = std::mem::take(&mut *self.order.told());
        let mut failed = None;
        for (inode, contents) in told {
            // What was removed meanwhile has no bytes that anybody could miss.
            if failed.is_none() && self.tree().inode(inode).is_ok() {
                failed = contents.sync(true).err();
            }
            if failed.is_some() {
                self.order.told().insert(inode, contents);
            }
        }
        if let Some(error) = failed {
            return Err(error.into());
        }
        let leaving = std::mem::take(&mut self.tree().leaving);
        if let Err(error) = self.staging.journal().sync() {
            let mut tree = self.tree();
            tree.leaving.inodes.extend(leaving.inodes);
            tree.leaving.bytes += leaving.bytes;
            return Err(error.into());
        }
        for inode in leaving.inodes {
            self.staging.data().remove(inode);
        }
        Ok(())
    }

    /// Whether the disk has no room to wait with.
    fn is_scarce(&self) -> bool {
        let room = self.staging.data().room();
        room.is_ok_and(|room| room.f_bavail.saturating_mul(room.f_frsize) < MUCH)
    }

    /// Returns when the room of files that were removed before is free, where there is not much of it.
    pub(super) fn make_room(&self) {
        if self.is_scarce() {
            // Somebody may be giving it back just now.
            drop(self.order.syncing());
            self.give_back();
        }
    }

    /// Gives back the room of removed files, once it is worth a sync.
    pub(super) fn give_back(&self) {
        let due = {
            let leaving = &self.tree().leaving;
            let many = leaving.inodes.len() >= MANY || leaving.bytes >= MUCH;
            !leaving.inodes.is_empty() && (many || self.is_scarce())
        };
        if due && let Err(refusal) = self.sync_names() {
            tracing::warn!(?refusal, "the room of removed files is not given back yet");
        }
    }

    /// What the process before told may not be on disk either.
    pub(super) fn take_over_told(&self, records: &[Record]) {
        let tree = self.tree();
        for record in records {
            if let Record::Ranges { inode, .. } = record
                && let Ok(contents) = tree.inode(*inode).and_then(|inode| inode.contents())
                && contents.is_staged()
            {
                self.order.told().insert(*inode, Arc::clone(contents));
            }
        }
    }
}
