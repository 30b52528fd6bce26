//! Fetched bytes that are in memory and not yet on disk, bounded for the whole process.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many fetched bytes may wait in memory for the writer and the hasher.
///
/// What the hasher may hold, a batch of the writer's, and as much again for what arrives meanwhile. Together with
/// buffers of the connections and of replies the process stays well below 100 MiB.
const ROOM: usize = 32 << 20;

/// The largest reply the kernel asks for, and so the largest buffer worth keeping.
const REPLY: usize = 1 << 20;

/// Reply buffers kept for reuse. Fresh memory is dear: a new 1 MiB buffer costs 256 page faults.
const SPARE_REPLIES: usize = 8;

pub(super) struct Ring {
    room: Arc<Semaphore>,
    spares: Arc<Mutex<Vec<Box<[u8]>>>>,
}

/// Some bytes of a blob in memory. They count against the ring until the last clone is gone.
#[derive(Clone)]
pub(super) struct Piece {
    pub(super) bytes: Bytes,
    _room: Arc<OwnedSemaphorePermit>,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self { room: Arc::new(Semaphore::new(ROOM)), spares: Arc::default() }
    }

    /// Takes bytes in if there is room at once; else gives them back.
    pub(super) fn try_hold(&self, bytes: Bytes) -> Result<Piece, Bytes> {
        match Arc::clone(&self.room).try_acquire_many_owned(bytes.len() as u32) {
            Ok(room) => Ok(Piece { bytes, _room: Arc::new(room) }),
            Err(_) => Err(bytes),
        }
    }

    /// Takes bytes in, waiting for room. `None` never happens while the ring lives.
    pub(super) async fn hold(&self, bytes: Bytes) -> Option<Piece> {
        let room = Arc::clone(&self.room).acquire_many_owned(bytes.len() as u32).await.ok()?;
        Some(Piece { bytes, _room: Arc::new(room) })
    }

    /// A buffer for a reply of `length` bytes, filled by `fill`.
    pub(super) fn reply<E>(
        &self,
        length: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Bytes, E> {
        if !(REPLY / 16..=REPLY).contains(&length) {
            let mut buffer = vec![0; length];
            fill(&mut buffer)?;
            return Ok(buffer.into());
        }
        let spare = self.spares.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut buffer = spare.unwrap_or_else(|| vec![0; REPLY].into_boxed_slice());
        fill(&mut buffer[..length])?;
        Ok(Bytes::from_owner(Reply { buffer, length, spares: Arc::clone(&self.spares) }))
    }
}

/// A reply's bytes; the buffer goes back when the reply is gone.
struct Reply {
    buffer: Box<[u8]>,
    length: usize,
    spares: Arc<Mutex<Vec<Box<[u8]>>>>,
}

impl AsRef<[u8]> for Reply {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let mut spares = self.spares.lock().unwrap_or_else(PoisonError::into_inner);
        if spares.len() < SPARE_REPLIES {
            spares.push(std::mem::take(&mut self.buffer));
        }
    }
}
