//! What an open file holds: a blob, its streams, and where missing bytes come from.

use std::fs::File;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::entry::{Entry, Phase};
use super::inflight::Origin;
use super::readahead::Streams;
use crate::error::Result;
use crate::store::{Blob, Trust, expect_range};

/// How far ahead a blob is fetched that is wanted whole, and in which steps it is waited for.
const WHOLE_AHEAD: u64 = 32 << 20;
const WHOLE_STEP: u64 = 8 << 20;

/// One reader of one blob.
pub(super) struct BlobReader {
    entry: Arc<Entry>,
    origin: Arc<Origin>,
    streams: Mutex<Streams>,
}

impl BlobReader {
    pub(super) fn new(entry: Arc<Entry>, origin: Origin) -> Self {
        let streams = Mutex::new(Streams::new(entry.size()));
        Self { entry, origin: Arc::new(origin), streams }
    }
}

#[async_trait]
impl Blob for BlobReader {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        expect_range(&self.origin.blob, &range)?;
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        if !self.entry.is_complete() {
            let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.note(&range, |ahead| self.entry.want(&ahead, &self.origin));
        }
        self.entry.read(range, &self.origin).await
    }

    fn trust(&self) -> Trust {
        if self.entry.is_complete() { Trust::Blob } else { Trust::Pending }
    }

    async fn complete(&self) -> Result<()> {
        let size = self.entry.size();
        let mut phase = self.entry.phase.subscribe();
        loop {
            let mut at = 0;
            while at < size && !self.entry.is_complete() {
                self.entry.want(&(at..(at + WHOLE_AHEAD).min(size)), &self.origin);
                let end = (at + WHOLE_STEP).min(size);
                self.entry.wait_for(&(at..end), &self.origin).await?;
                at = end;
            }
            // Everything has arrived once; it counts when it is written and hashed. If it could not be
            // written, or if somebody threw it away meanwhile, the next round says so or begins again.
            let settled = phase.wait_for(|phase| !matches!(phase, Phase::Partial));
            match tokio::time::timeout(Duration::from_secs(1), settled).await {
                Ok(Ok(phase)) => {
                    return match &*phase {
                        Phase::Corrupt(error) => Err(error.clone()),
                        _ => Ok(()),
                    };
                }
                Ok(Err(_)) => return Ok(()),
                Err(_) => {}
            }
            if let Some(error) = self.entry.state().unwritable.clone() {
                return Err(error);
            }
        }
    }

    fn file(&self) -> Option<Arc<File>> {
        self.entry.is_complete().then(|| Arc::clone(&self.entry.file))
    }
}
