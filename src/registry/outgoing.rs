//! Content on its way out: opened again for every try, counted while it goes.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::http::{HeaderMap, HeaderValue, Payload, header};
use super::retry::{Again, Failure, Patience};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Body, ByteStream};

/// How often the meter is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// What a registry may take to put away what it has received, for each 16 MiB: it may copy and hash all of it first
/// (registry.md §4.8, GHCR).
const PUT_AWAY: Duration = Duration::from_secs(1);
const PUT_AWAY_BYTES: u64 = 16 << 20;

/// What a request carries, for as many tries as it takes.
pub(super) struct Sending<'a> {
    content_type: Option<&'a str>,
    content: Content<'a>,
    /// Said in a Content-Range.
    part: bool,
}

enum Content<'a> {
    Bytes(Bytes),
    Body(&'a Body, Range<u64>),
}

impl<'a> Sending<'a> {
    /// No bytes at all, and saying so.
    pub(super) fn nothing() -> Self {
        Self { content_type: None, content: Content::Bytes(Bytes::new()), part: false }
    }

    /// These bytes.
    pub(super) fn bytes(content_type: &'a str, bytes: Bytes) -> Self {
        Self { content_type: Some(content_type), content: Content::Bytes(bytes), part: false }
    }

    /// A blob of `size` bytes.
    pub(super) fn blob(body: &'a Body, size: u64) -> Self {
        Self {
            content_type: Some("application/octet-stream"),
            content: Content::Body(body, 0..size),
            part: false,
        }
    }

    /// The bytes `range` of a blob.
    pub(super) fn part(body: &'a Body, range: Range<u64>) -> Self {
        Self {
            content_type: Some("application/octet-stream"),
            content: Content::Body(body, range),
            part: true,
        }
    }

    /// Says in the headers what is sent.
    pub(super) fn describe(&self, headers: &mut HeaderMap) {
        if let Some(value) = self.content_type.and_then(|kind| HeaderValue::try_from(kind).ok()) {
            headers.insert(header::CONTENT_TYPE, value);
        }
        match &self.content {
            Content::Bytes(bytes) if bytes.is_empty() => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
            }
            // `a-b`, which is not what HTTP has elsewhere; ACR refuses the other form (registry.md §4.3).
            Content::Body(_, range) if self.part => {
                let said = format!("{}-{}", range.start, range.end.saturating_sub(1));
                if let Ok(value) = HeaderValue::try_from(said) {
                    headers.insert(header::CONTENT_RANGE, value);
                }
            }
            _ => {}
        }
    }

    /// The content, from its beginning.
    pub(super) async fn open(&self) -> Result<Payload<'static>> {
        Ok(match &self.content {
            Content::Bytes(bytes) => Payload::Bytes(bytes.clone()),
            Content::Body(Body::Bytes(bytes), range) if range.end <= bytes.len() as u64 => {
                Payload::Bytes(bytes.slice(range.start as usize..range.end as usize))
            }
            Content::Body(_, range) if range.is_empty() => Payload::Bytes(Bytes::new()),
            Content::Body(body, range) => {
                let meter = Arc::new(Meter {
                    length: range.end - range.start,
                    sent: AtomicU64::new(0),
                    failure: Mutex::default(),
                });
                Payload::Stream(meter.count(body.open_part(range.clone()).await?), meter)
            }
        })
    }
}

/// How much of a stream has gone out.
pub(super) struct Meter {
    length: u64,
    sent: AtomicU64,
    /// Why our own content could not be read: the HTTP library would only say that there was something.
    failure: Mutex<Option<Error>>,
}

impl Meter {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The stream, counted, and ended with an error unless it is exactly as long as announced.
    fn count(self: &Arc<Self>, pieces: ByteStream) -> ByteStream {
        let start = (Arc::clone(self), pieces);
        Box::pin(futures_util::stream::try_unfold(start, |(meter, mut pieces)| async move {
            let piece = match pieces.next().await {
                Some(Ok(piece)) => Some(piece),
                Some(Err(error)) => return Err(meter.fail(error)),
                None => None,
            };
            let more = piece.as_ref().map_or(0, Bytes::len) as u64;
            let sent = meter.sent.fetch_add(more, Ordering::Relaxed) + more;
            if sent > meter.length || piece.is_none() && sent < meter.length {
                let why = format!(
                    "what is to be sent should have {} bytes and has {}{sent}; it changed meanwhile",
                    meter.length,
                    if sent > meter.length { "at least " } else { "" }
                );
                return Err(meter.fail(Error::new(ErrorKind::Corrupt, why)));
            }
            Ok(piece.map(|piece| (piece, (meter, pieces))))
        }))
    }

    fn fail(&self, error: Error) -> Error {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error.clone());
        error
    }

    /// Waits for the answer to what is being sent, as long as something moves.
    pub(super) async fn watch<T>(
        &self,
        sending: impl Future<Output = Result<T, Failure>>,
        silence: Duration,
        host: &str,
        patience: &mut Patience,
    ) -> Result<T, Failure> {
        let mut sending = std::pin::pin!(sending);
        let mut still = Duration::ZERO;
        let outcome = loop {
            let before = self.sent();
            if before == self.length {
                let pieces = u32::try_from(self.length / PUT_AWAY_BYTES).unwrap_or(u32::MAX);
                let limit = silence + PUT_AWAY * pieces;
                let answer = tokio::time::timeout(limit, &mut sending).await;
                break answer.unwrap_or_else(|_| Err(silent(host, limit)));
            }
            let look = async { Ok(tokio::time::timeout(LOOK, &mut sending).await.ok()) };
            if let Some(outcome) = patience.during(silence, host, look).await? {
                break outcome;
            }
            let moved = self.sent() - before;
            patience.gained(moved);
            still = if moved == 0 { still + LOOK } else { Duration::ZERO };
            if still >= silence {
                break Err(silent(host, still));
            }
        };
        let own = self.failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (outcome, own) {
            (Err(_), Some(error)) => Err(Failure::last(error)),
            (outcome, _) => outcome,
        }
    }
}

fn silent(host: &str, limit: Duration) -> Failure {
    let why = format!("{host} has taken nothing for {} s", limit.as_secs().max(1));
    Failure { error: Error::new(ErrorKind::Unavailable, why), again: Again::later() }
}
