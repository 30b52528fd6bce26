//! Contents: open, read, release.

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fs::{Counts, Filesystem};
use super::handles::{Backing, Handle, Way};
use super::options::Verify;
use crate::artifact::Reader;
use crate::artifact::tree::{File, Node};
use crate::error::{Context as _, Error, ErrorKind, Result};

/// The slowest a blob may come before `--verify=full` gives up opening it, in bytes per second: far below any
/// network one would mount over, and still an end to a wait nobody can interrupt.
pub(super) const SLOWEST: u64 = 1 << 20;

/// For how long a failure answers the kernel's next question about the same file.
const MEMORY: Duration = Duration::from_secs(1);

/// Files whose bytes could not be had a moment ago.
#[derive(Default)]
pub(super) struct Failing(Mutex<HashMap<u64, (Instant, Error)>>);

impl Failing {
    fn recently(&self, number: u64) -> Option<Error> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&number).filter(|(when, _)| when.elapsed() < MEMORY).map(|(_, error)| error.clone())
    }

    fn remember(&self, number: u64, error: &Error) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        failures.retain(|_, (when, _)| when.elapsed() < MEMORY);
        failures.insert(number, (Instant::now(), error.clone()));
    }
}

/// A file about to be opened.
pub(super) struct Prepared {
    number: u64,
    size: u64,
    reader: Reader,
}

impl Filesystem {
    /// A reader of the file, after whatever must be checked before its first byte.
    pub(super) async fn prepare(&self, number: u64) -> Result<Prepared> {
        Counts::add(&self.counts.opens, 1);
        let Node::File(file) = self.node(number)? else {
            return Err(Error::new(ErrorKind::Invalid, "only files have contents"));
        };
        let reader = file.reader()?;
        if self.verify == Verify::Full {
            self.check(&file, &reader).await?;
        }
        Ok(Prepared { number, size: file.size, reader })
    }

    /// Opens what was prepared. `register` hands a file to the kernel; it is asked at most once while any
    /// descriptor of the inode lives, and only for a blob that is complete and verified.
    pub(super) fn open(
        &self,
        prepared: Prepared,
        register: impl FnOnce(&std::fs::File) -> std::io::Result<Backing>,
    ) -> (u64, Way) {
        let Prepared { number, size, reader } = prepared;
        let verified = if self.passthrough.load(Ordering::Relaxed) {
            reader.blob().and_then(|blob| blob.file())
        } else {
            None
        };
        let register = || {
            let file = verified?;
            match register(&file) {
                Ok(backing) => Some(backing),
                Err(error) => {
                    if error.kind() == std::io::ErrorKind::PermissionDenied {
                        self.passthrough.store(false, Ordering::Relaxed);
                    }
                    tracing::debug!(%error, "the kernel will not read this blob by itself");
                    None
                }
            }
        };
        let (handle, way) = self.handles.open(number, reader, size, register);
        if matches!(way, Way::Passthrough(_)) {
            Counts::add(&self.counts.passed_through, 1);
        }
        (handle, way)
    }

    /// The bytes at `offset`, as many as asked for or up to the end of the file.
    pub(super) async fn read(&self, handle: u64, offset: u64, length: u64) -> Result<Bytes> {
        Counts::add(&self.counts.reads, 1);
        let handle = self.handles.file(handle);
        let Some(Handle::Reading { number, reader, size }) = handle.as_deref() else {
            return Err(Error::new(ErrorKind::Io, "this file is not open for reading"));
        };
        let start = offset.min(*size);
        let end = offset.saturating_add(length).min(*size);
        if start == end {
            return Ok(Bytes::new());
        }
        let bytes = self.bytes(*number, reader.read(start..end)).await?;
        if bytes.len() as u64 != end - start {
            let short = format!("{} bytes came where {} were asked for", bytes.len(), end - start);
            return Err(Error::new(ErrorKind::Corrupt, short));
        }
        Counts::add(&self.counts.read_bytes, bytes.len() as u64);
        Ok(bytes)
    }

    /// Bytes in time. After a failure the kernel asks again for every page somebody waits for, one after the
    /// other; these are answered with the same failure, so that the last reader waits no longer than the first.
    async fn bytes(&self, number: u64, work: impl Future<Output = Result<Bytes>>) -> Result<Bytes> {
        let mut work = std::pin::pin!(work);
        if let Poll::Ready(bytes) = futures_util::poll!(work.as_mut()) {
            return bytes;
        }
        if let Some(error) = self.failing.recently(number) {
            return Err(error);
        }
        self.in_time("read", work).await.inspect_err(|error| self.failing.remember(number, error))
    }

    /// Fetches all of the blob a file is in and checks it.
    async fn check(&self, file: &File, reader: &Reader) -> Result<()> {
        let size = file.layer.as_ref().map_or(file.size, |layer| layer.size);
        let patience = self.deadline + Duration::from_secs(size / SLOWEST);
        self.within(patience, "check a blob", reader.complete()).await.doing(|| "--verify=full")
    }
}
