//! Bytes of blobs, by range, whatever the server makes of ranges.
//!
//! A [`Reading`] promises exactly the bytes of its range or an error. Answers are believed only as far as they
//! are consistent: which range they carry, how long they are, that they are not compressed. An answer that
//! breaks off is taken up again where it ended; a server that cannot say what it sends is read from the
//! start and skipped. A storage address the registry redirected to is asked directly until it runs out.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use futures_util::FutureExt as _;
use lru::LruCache;
use url::Url;

use super::client::Ask;
use super::http::{Answer, header, host_of};
use super::manifests::Shelf;
use super::retry::{Again, Failure, Patience};
use super::wire_error::Complaint;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name};
use crate::store::{ByteStream, expect_range};

/// Blobs whose storage address is remembered, per repository.
const ADDRESSES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
/// How long an address is used that does not say how long it lives: the shortest life seen (Quay, registry.md §1.7).
const UNKNOWN_LIFE: Duration = Duration::from_secs(60);
const LONGEST_LIFE: Duration = Duration::from_secs(3600);

/// Where the registry's storage holds blobs, while the addresses are valid.
pub(super) struct Addresses(Mutex<LruCache<Digest, (Url, Instant)>>);

impl Default for Addresses {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(ADDRESSES)))
    }
}

impl Addresses {
    fn get(&self, digest: &Digest) -> Option<Url> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get(digest) {
            Some((url, until)) if *until > Instant::now() => Some(url.clone()),
            Some(_) => {
                known.pop(digest);
                None
            }
            None => None,
        }
    }

    fn learn(&self, digest: &Digest, url: &Url) {
        let until = Instant::now() + life(url).min(LONGEST_LIFE).mul_f64(0.9);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(digest.clone(), (url.clone(), until));
    }

    fn forget(&self, digest: &Digest) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop(digest);
    }
}

/// How long a signed address just received says it is valid: S3 and GCS in seconds, `CloudFront` and old GCS as
/// a Unix time, Azure as a date.
fn life(url: &Url) -> Duration {
    let now = jiff::Timestamp::now().as_second();
    let life = url.query_pairs().find_map(|(key, value)| match key.to_ascii_lowercase().as_str() {
        "x-amz-expires" | "x-goog-expires" => value.parse::<i64>().ok(),
        "expires" => value.parse::<i64>().ok().map(|until| until - now),
        "se" => value.parse::<jiff::Timestamp>().ok().map(|until| until.as_second() - now),
        _ => None,
    });
    // One that is over by our clock is more likely our clock.
    life.and_then(|life| u64::try_from(life).ok())
        .filter(|life| *life > 0)
        .map_or(UNKNOWN_LIFE, Duration::from_secs)
}

/// The bytes `range` of a blob. The first answer's head is here when this returns.
pub(super) async fn fetch(shelf: Arc<Shelf>, blob: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
    expect_range(blob, &range)?;
    if range.is_empty() {
        return Ok(Box::pin(futures_util::stream::empty()));
    }
    let patience = shelf.client().patience();
    let mut reading = Box::new(Reading {
        whole_only: shelf.client().profile.ranges.known() == Some(false),
        shelf,
        digest: blob.digest.clone(),
        size: blob.size,
        at: range.start,
        end: range.end,
        body: None,
        patience,
        misfits: 0,
        asked_anew: false,
    });
    reading.begin().await?;
    Ok(Box::pin(futures_util::stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|piece| (piece, reading)))
    })))
}

/// An answer being read, and what it must come to.
struct Body {
    answer: Answer,
    /// Bytes before the range, still to be dropped.
    skip: u64,
    /// How many bytes there must be in all, and how many there were.
    expected: u64,
    received: u64,
    /// Whether HTTP itself keeps the length.
    announced: bool,
}

/// One range of one blob, on its way.
struct Reading {
    shelf: Arc<Shelf>,
    digest: Digest,
    size: u64,
    /// The next byte wanted, and the first one not wanted.
    at: u64,
    end: u64,
    body: Option<Body>,
    patience: Patience,
    /// Ranges are not asked for: they have been answered with nonsense.
    whole_only: bool,
    misfits: u32,
    /// The storage has refused, and the registry has been asked for a new address since.
    asked_anew: bool,
}

impl Reading {
    fn name(&self) -> String {
        self.shelf.full_name(&Name::Digest(self.digest.clone()))
    }

    /// Asks until there is an answer to read from.
    async fn begin(&mut self) -> Result<()> {
        while self.body.is_none() {
            if let Err(failure) = self.connect().await {
                self.patience.pause(failure).await.doing(|| format!("read {}", self.name()))?;
            }
        }
        Ok(())
    }

    /// The next piece, as it came.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at == self.end {
                self.finish();
                return Ok(None);
            }
            self.begin().await?;
            let Some(body) = &mut self.body else { continue };
            let failure = match body.answer.piece(&mut self.patience).await {
                Ok(Some(piece)) => {
                    if let Some(piece) = self.take(piece).await? {
                        return Ok(Some(piece));
                    }
                    continue;
                }
                // A shorter range than asked for, complete in itself: ask for the rest.
                Ok(None) if body.received == body.expected => {
                    self.body = None;
                    continue;
                }
                Ok(None) => Failure {
                    error: Error::new(
                        ErrorKind::Unavailable,
                        format!(
                            "{} ended its answer after {} of {} bytes",
                            host_of(body.answer.url()),
                            body.received,
                            body.expected
                        ),
                    ),
                    again: Again::later(),
                },
                Err(failure) => failure,
            };
            self.body = None;
            self.patience.pause(failure).await.doing(|| format!("read {}", self.name()))?;
        }
    }

    /// Accounts for a piece and cuts it to what is wanted; `None` if that is nothing.
    async fn take(&mut self, mut piece: Bytes) -> Result<Option<Bytes>> {
        let Some(body) = &mut self.body else { return Ok(None) };
        body.received += piece.len() as u64;
        let skipped = body.skip.min(piece.len() as u64);
        piece.advance(skipped as usize);
        body.skip -= skipped;
        let wanted = self.end - self.at;
        piece.truncate(usize::try_from(wanted).unwrap_or(usize::MAX).min(piece.len()));
        self.at += piece.len() as u64;
        let mut too_long = body.received > body.expected;
        if self.at == self.end && body.received == body.expected && !body.announced {
            // Nothing but the end may follow; looked at before the last piece is handed out.
            too_long =
                matches!(body.answer.piece(&mut self.patience).await, Ok(Some(more)) if !more.is_empty());
        }
        if too_long {
            let expected = body.expected;
            let why = format!(
                "read {}: the registry sends more than the {expected} bytes it should be",
                self.name()
            );
            return Err(Error::new(ErrorKind::Corrupt, why));
        }
        if piece.is_empty() {
            return Ok(None);
        }
        self.asked_anew = false;
        self.patience.advanced(piece.len() as u64);
        Ok(Some(piece))
    }

    /// Takes note of the answer's end, if it is there already, so that its connection is free for the next request.
    fn finish(&mut self) {
        if let Some(mut body) = self.body.take()
            && body.received == body.expected
        {
            let _ = body.answer.piece(&mut self.patience).now_or_never();
        }
    }

    /// One request for what is still missing.
    async fn connect(&mut self) -> Result<(), Failure> {
        let all = self.at == 0 && self.end == self.size;
        let range = (!self.whole_only && !all).then_some(self.at..self.end);
        let here = self.shelf.clone();
        let direct = here.addresses.get(&self.digest);
        let answer = if let Some(url) = &direct {
            here.client().attempt_at(url, range.clone(), &mut self.patience).await
        } else {
            let path = here.path(&format!("blobs/{}", self.digest));
            let ask = Ask { range: range.clone(), ..Ask::get(&path, here.scope()) };
            here.client().attempt(&ask, &mut self.patience).await
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(failure) => {
                here.addresses.forget(&self.digest);
                return Err(failure);
            }
        };
        match answer.status().as_u16() {
            200 => self.accept_whole(answer, direct.is_none()),
            206 => self.accept_part(answer, range, direct.is_none()),
            416 => self.misfit("it says that there is no such range (416)"),
            400 | 401 | 403 | 404 | 410 if !answer.is_from_registry() => {
                self.refused_by_storage(answer).await
            }
            404 => Err(Failure::last(Error::new(ErrorKind::NotFound, format!("{}: not found", self.name())))),
            _ => {
                let error = here.client().error(answer, &mut self.patience).await;
                Err(Failure::last(error))
            }
        }
    }

    fn accept_whole(&mut self, answer: Answer, fresh: bool) -> Result<(), Failure> {
        if let Some(encoding) = answer.encoding() {
            let why = format!("it is compressed on the way (Content-Encoding {encoding})");
            return self.misfit(&why);
        }
        let announced = answer.length();
        if let Some(length) = announced
            && length != self.size
        {
            return Err(Failure::last(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "read {}: it is {length} bytes long at the registry and should be {}",
                    self.name(),
                    self.size
                ),
            )));
        }
        self.learn(&answer, fresh);
        self.body = Some(Body {
            answer,
            skip: self.at,
            expected: self.size,
            received: 0,
            announced: announced.is_some(),
        });
        Ok(())
    }

    fn accept_part(&mut self, answer: Answer, range: Option<Range<u64>>, fresh: bool) -> Result<(), Failure> {
        if let Some(encoding) = answer.encoding() {
            let why = format!("it is compressed on the way (Content-Encoding {encoding})");
            return self.misfit(&why);
        }
        let Some(range) = range else { return self.misfit("it is a part (206) where all was asked for") };
        let said = answer.header(header::CONTENT_RANGE).and_then(content_range);
        let Some((first, last, total)) = said else {
            return self.misfit("it does not say which range it carries (no good Content-Range)");
        };
        if total.is_some_and(|total| total != self.size) {
            return Err(Failure::last(Error::new(
                ErrorKind::Corrupt,
                format!(
                    "read {}: it is {} bytes long at the registry and should be {}",
                    self.name(),
                    total.unwrap_or_default(),
                    self.size
                ),
            )));
        }
        if first != range.start || last >= range.end {
            return self.misfit(&format!("it carries the range {first}-{last}, which was not asked for"));
        }
        let expected = last - first + 1;
        let announced = answer.length();
        if announced.is_some_and(|length| length != expected) {
            return self.misfit("its length does not match its range");
        }
        self.learn(&answer, fresh);
        self.shelf.client().profile.ranges.seen(true);
        self.body = Some(Body { answer, skip: 0, expected, received: 0, announced: announced.is_some() });
        Ok(())
    }

    fn learn(&self, answer: &Answer, fresh: bool) {
        if fresh && !answer.is_from_registry() {
            self.shelf.addresses.learn(&self.digest, answer.url());
        }
    }

    /// An answer that cannot be what was asked for. Once may be an accident on the way; twice, and ranges
    /// are not asked for any more; a whole that does not fit either cannot be read.
    fn misfit(&mut self, why: &str) -> Result<(), Failure> {
        self.shelf.addresses.forget(&self.digest);
        let error = Error::new(
            ErrorKind::Unsupported,
            format!("cannot make sense of the answer of {}: {why}", self.shelf.client().host()),
        );
        if self.misfits >= 2 && self.whole_only {
            return Err(Failure::last(error.context(format!("read {}", self.name()))));
        }
        self.misfits += 1;
        if self.misfits >= 2 {
            self.whole_only = true;
            let ranges = &self.shelf.client().profile.ranges;
            if ranges.known().is_none() {
                ranges.seen(false);
            }
        }
        Err(Failure { error, again: Again::Now })
    }

    /// The address has run out, or was never good: the registry is asked for another one, once.
    async fn refused_by_storage(&mut self, answer: Answer) -> Result<(), Failure> {
        self.shelf.addresses.forget(&self.digest);
        let host = host_of(answer.url());
        let error = Complaint::read(answer, &mut self.patience).await.into_error();
        if self.asked_anew {
            let doing = format!(
                "{host}, where {} keeps its blobs, refuses {}",
                self.shelf.client().host(),
                self.digest
            );
            return Err(Failure::last(Error::with_source(ErrorKind::Unavailable, doing, error)));
        }
        self.asked_anew = true;
        Err(Failure { error, again: Again::Now })
    }
}

/// First byte, last byte, and the whole length unless it is `*`. Old Nexus leaves out the unit (registry.md §2.2).
fn content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let value = value.trim();
    let value = value.strip_prefix("bytes").map_or(value, |rest| rest.trim_start_matches([' ', '=', ':']));
    let (range, total) = value.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    (first <= last).then_some((first, last, total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read_as_servers_write_them() {
        assert_eq!(content_range("bytes 0-9/10"), Some((0, 9, Some(10))));
        assert_eq!(content_range("0-9/10"), Some((0, 9, Some(10))));
        assert_eq!(content_range("bytes 5-5/*"), Some((5, 5, None)));
        for bad in ["bytes */10", "bytes 9-0/10", "bytes 0-9", "", "bytes a-b/c", "bytes 0--1/4"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn signed_addresses_say_how_long_they_live() {
        let life = |text: &str| life(&Url::parse(text).unwrap()).as_secs();
        assert_eq!(life("https://s3/x?X-Amz-Date=20260101T000000Z&X-Amz-Expires=1200"), 1200);
        assert_eq!(life("https://cdn/x"), 60);
        assert_eq!(life("https://cdn/x?Expires=1"), 60);
        let soon = jiff::Timestamp::now().as_second() + 600;
        assert!((590..=600).contains(&life(&format!("https://cdn/x?Expires={soon}"))));
        let soon = jiff::Timestamp::from_second(soon).unwrap();
        assert!((590..=600).contains(&life(&format!("https://azure/x?sv=1&se={soon}&sig=z"))));
    }
}
