//! A body on its way out, and what goes wrong with it there.

use std::io::{self, Write as _};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::faults::{End, Fault};
use crate::content::Content;

pub(super) type Outgoing = UnsyncBoxBody<Bytes, io::Error>;

/// How much is made at once. Small, so that what was sent is close to what was asked for when a client goes away.
const PIECE: u64 = 64 << 10;

/// The bytes `range` of `content` as an answer's body.
pub(super) struct Payload {
    pub(super) content: Content,
    pub(super) range: Range<u64>,
}

/// The body and the length its header should give; `None` for a chunked one.
pub(super) fn body(
    payload: Payload,
    faults: &[Fault],
    bandwidth: Option<u64>,
    sent: Arc<AtomicU64>,
    reset: Arc<AtomicBool>,
) -> (Outgoing, Option<u64>) {
    let mut payload = payload;
    if faults.iter().any(|fault| matches!(fault, Fault::Gzip)) {
        let packed = Content::from(gzip(&payload.content.read(payload.range)));
        payload = Payload { range: 0..packed.size(), content: packed };
    }
    let mut way = Way {
        at: payload.range.start,
        payload,
        piece: PIECE,
        pause: Duration::ZERO,
        flips: Vec::new(),
        cut: None,
        stall: None,
        extra: 0,
        sent,
        reset,
    };
    let mut length = Some(way.payload.range.end - way.payload.range.start);
    if let Some(bandwidth) = bandwidth {
        way.pause = Duration::from_secs_f64(PIECE as f64 / bandwidth as f64);
    }
    for fault in faults {
        match fault {
            Fault::Cut { after, end } => {
                way.cut = Some((way.payload.range.start + after, *end));
                match end {
                    End::Clean => length = None,
                    End::Short => length = length.map(|length| length.min(*after)),
                    End::Close | End::Reset => {}
                }
            }
            Fault::Flip { at } => way.flips.push(*at),
            Fault::Stall { after } => way.stall = Some(way.payload.range.start + after),
            Fault::Drip { piece, pause } => (way.piece, way.pause) = ((*piece).max(1), *pause),
            Fault::Extra(bytes) => {
                way.extra = *bytes;
                length = length.map(|length| length + bytes);
            }
            Fault::NoHeader(name) if name.eq_ignore_ascii_case("content-length") => length = None,
            _ => {}
        }
    }
    let pieces = stream::try_unfold(way, |way| way.next());
    (StreamBody::new(Box::pin(pieces)).boxed_unsync(), length)
}

/// A small body nothing happens to.
pub(super) fn plain(bytes: impl Into<Bytes>) -> Outgoing {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

struct Way {
    payload: Payload,
    at: u64,
    piece: u64,
    pause: Duration,
    flips: Vec<u64>,
    cut: Option<(u64, End)>,
    stall: Option<u64>,
    extra: u64,
    sent: Arc<AtomicU64>,
    reset: Arc<AtomicBool>,
}

impl Way {
    async fn next(mut self) -> io::Result<Option<(Frame<Bytes>, Self)>> {
        if !self.pause.is_zero() {
            tokio::time::sleep(self.pause).await;
        }
        if self.stall.is_some_and(|stall| self.at >= stall) {
            std::future::pending::<()>().await;
        }
        if let Some((cut, end)) = self.cut
            && self.at >= cut
        {
            if matches!(end, End::Clean | End::Short) {
                return Ok(None);
            }
            // What was made so far goes out first.
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.reset.store(end == End::Reset, Ordering::SeqCst);
            return Err(io::Error::other("cut, as asked"));
        }
        let mut until = self.payload.range.end.min(self.at + self.piece);
        for stop in self.cut.iter().map(|(cut, _)| *cut).chain(self.stall) {
            until = until.min(stop.max(self.at));
        }
        let mut bytes = self.payload.content.read(self.at..until);
        if bytes.is_empty() {
            if self.extra == 0 {
                return Ok(None);
            }
            let more = self.extra.min(PIECE);
            self.extra -= more;
            bytes = Bytes::from(vec![b'!'; more as usize]);
        } else {
            for flip in self.flips.iter().filter(|flip| (self.at..until).contains(flip)) {
                let mut changed = BytesMut::from(&bytes[..]);
                changed[(flip - self.at) as usize] ^= 0x10;
                bytes = changed.freeze();
            }
            self.at += bytes.len() as u64;
        }
        self.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        Ok(Some((Frame::data(bytes), self)))
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}
