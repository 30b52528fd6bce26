//! The filesystem, without a word of the kernel's: numbers, names and bytes in, crate errors out.
//!
//! Its impl blocks lie where their noun does: `names.rs` (lookup, attributes, listings, links, xattrs) and
//! `contents.rs` (open, read, release). Only what may wait for the network is async.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::contents::Failing;
use super::follow::Slot;
use super::handles::Handles;
use super::inodes::{Inodes, ROOT};
use super::options::Verify;
use crate::artifact::tree::{Folder, IMMUTABLE, Node};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::Manifest;

/// What is mounted, and what the kernel knows of it.
pub(super) struct Filesystem {
    pub(super) top: Top,
    pub(super) inodes: Inodes,
    pub(super) handles: Handles,
    pub(super) counts: Counts,
    pub(super) failing: Failing,
    /// Who owns what has no owner of its own.
    pub(super) owner: (u32, u32),
    pub(super) deadline: Duration,
    pub(super) verify: Verify,
    /// Turned off for good when the kernel says we may not.
    pub(super) passthrough: AtomicBool,
}

/// The root folder.
pub(super) enum Top {
    /// It stays what it is (its entries may come and go, as tags do).
    Fixed(Arc<dyn Folder>),
    /// An artifact; it becomes another when its tag moves and is followed.
    Artifact(Arc<Slot>),
}

/// What happened so far.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) lookups: AtomicU64,
    pub(super) listings: AtomicU64,
    pub(super) opens: AtomicU64,
    pub(super) passed_through: AtomicU64,
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) failures: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Counts {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Remembers a failure a program saw.
    pub(super) fn failed(&self, error: &Error) {
        Self::add(&self.failures, 1);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    pub(super) fn last_failure(&self) -> Option<String> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Filesystem {
    /// The node behind an inode number.
    pub(super) fn node(&self, number: u64) -> Result<Node> {
        if number == ROOT {
            return Ok(Node::Folder(self.top.folder()));
        }
        self.inodes
            .node(number)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("inode {number} is not known any more")))
    }

    /// The folder behind an inode number.
    pub(super) fn folder(&self, number: u64) -> Result<Arc<dyn Folder>> {
        match self.node(number)? {
            Node::Folder(folder) => Ok(folder),
            _ => Err(Error::new(ErrorKind::Invalid, format!("inode {number} is not a folder"))),
        }
    }

    /// How long what is in a folder may be remembered.
    pub(super) fn lifetime(&self, number: u64, folder: &dyn Folder) -> Duration {
        match &self.top {
            Top::Artifact(slot) if number == ROOT => slot.lifetime(),
            _ => folder.lifetime(),
        }
    }

    /// How many bytes all of it has, as far as is known without asking: an artifact's layers.
    pub(super) fn size(&self) -> u64 {
        let Top::Artifact(slot) = &self.top else { return 0 };
        let pin = slot.pin();
        match pin.entered().map(|artifact| &artifact.manifest) {
            Some(Manifest::Image(image)) => {
                image.layers.iter().map(|layer| layer.size).fold(0, u64::saturating_add)
            }
            _ => 0,
        }
    }

    /// `work`, or an error once the deadline has passed: a registry that is gone must not hold a program
    /// that cannot be killed while it waits.
    pub(super) async fn in_time<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.within(self.deadline, doing, work).await
    }

    /// The same with another deadline.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        doing: &'static str,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::time::timeout(deadline, work).await.unwrap_or_else(|_| {
            let seconds = deadline.as_secs_f32();
            Err(Error::new(ErrorKind::Unavailable, format!("{doing}: no answer within {seconds} s")))
        })
    }
}

impl Top {
    /// The root folder as it is now.
    pub(super) fn folder(&self) -> Arc<dyn Folder> {
        match self {
            Self::Fixed(folder) => Arc::clone(folder),
            Self::Artifact(slot) => slot.current(),
        }
    }
}

/// Whether a listing of what lives this long may be kept by the kernel.
pub(super) fn may_be_kept(lifetime: Duration) -> bool {
    lifetime >= IMMUTABLE
}
