//! What a process has fetched, served and failed at.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Figures since the process began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Bytes of blobs that came over the network.
    pub fetched: u64,
    /// Bytes handed to readers by this process. What the kernel serves by itself is not seen here.
    pub served: u64,
    /// Ranges of blobs asked from the network.
    pub requests: u64,
    /// Ranges that could not be had.
    pub failures: u64,
    /// The newest failure, in words.
    pub last_failure: Option<String>,
}

#[derive(Default)]
pub(super) struct Counters {
    fetched: AtomicU64,
    served: AtomicU64,
    requests: AtomicU64,
    failures: AtomicU64,
    last_failure: Mutex<Option<String>>,
}

impl Counters {
    pub(super) fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn served(&self, bytes: u64) {
        self.served.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn requested(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: &Error) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.to_string());
    }

    pub(super) fn snapshot(&self) -> Stats {
        Stats {
            fetched: self.fetched.load(Ordering::Relaxed),
            served: self.served.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            last_failure: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
