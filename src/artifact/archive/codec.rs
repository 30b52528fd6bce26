//! What compression formats have in common: bytes go in, bytes come out, and some places can be returned to.

use super::gzip::Gzip;
use super::zstd::Zstd;
use crate::error::{Error, ErrorKind, Result};

/// Output that stays at hand behind the newest byte: what readers who come a little out of order (the
/// kernel's read-ahead from several threads) are served from. More than deflate's window.
pub(super) const HISTORY: usize = 512 << 10;
/// History and as much again to decompress into before anything has to be moved.
const BUFFER: usize = 2 * HISTORY;

/// How a layer's bytes are packed (formats.md R7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Packing {
    /// Not at all.
    Plain,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

impl Packing {
    /// Known by its first bytes; what a media type says is not asked.
    pub(super) fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// A place in a compressed stream where decompression can begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// Nothing from before is needed: a gzip member or zstd frame begins.
    Fresh,
    /// Between two deflate blocks.
    Block {
        /// Bits of the last byte not used yet.
        bits: u8,
        /// Those bits.
        held: u8,
        /// The output just before.
        window: Vec<u8>,
    },
}

/// What one step did.
pub(super) struct Step {
    /// So much of the input is done with.
    pub(super) consumed: usize,
    /// Whether this is a place to begin again.
    pub(super) boundary: bool,
}

/// A stream being decompressed, with its latest output.
pub(super) struct Decoder {
    kind: Kind,
    buffer: Buffer,
}

enum Kind {
    Gzip(Gzip),
    Zstd(Zstd),
}

impl Decoder {
    /// From a place to begin.
    pub(super) fn new(packing: Packing, resume: &Resume) -> Result<Self> {
        let mut buffer = Buffer::new();
        let kind = match (packing, resume) {
            (Packing::Gzip, Resume::Fresh) => Kind::Gzip(Gzip::new()),
            (Packing::Gzip, Resume::Block { bits, held, window }) => {
                buffer.seed(window);
                Kind::Gzip(Gzip::resume(*bits, *held))
            }
            (Packing::Zstd, Resume::Fresh) => Kind::Zstd(Zstd::new()?),
            _ => return Err(Error::new(ErrorKind::Corrupt, "the layer's index contradicts itself")),
        };
        Ok(Self { kind, buffer })
    }

    /// Takes some of `input` in. Neither consumed nor produced anything: more input is needed.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step> {
        self.buffer.fresh = 0;
        match &mut self.kind {
            Kind::Gzip(gzip) => gzip.step(input, &mut self.buffer),
            Kind::Zstd(zstd) => zstd.step(input, &mut self.buffer),
        }
    }

    /// What the last step produced.
    pub(super) fn fresh(&self) -> &[u8] {
        self.buffer.last(self.buffer.fresh)
    }

    /// Everything that is still at hand, the newest byte last.
    pub(super) fn history(&self) -> &[u8] {
        &self.buffer.bytes[self.buffer.start..self.buffer.end]
    }

    /// How to begin again right here; only after a step that was a boundary.
    pub(super) fn place(&self) -> Option<Resume> {
        match &self.kind {
            Kind::Gzip(gzip) => gzip.place(&self.buffer),
            Kind::Zstd(zstd) => zstd.place(),
        }
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        match &self.kind {
            Kind::Gzip(gzip) => gzip.may_end(),
            Kind::Zstd(zstd) => zstd.may_end(),
        }
    }
}

/// The latest output, in one piece, with room for more.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    /// Where output begins that is ours to show: a seeded window is not.
    start: usize,
    end: usize,
    fresh: usize,
}

impl Buffer {
    fn new() -> Self {
        Self { bytes: vec![0; BUFFER].into_boxed_slice(), start: 0, end: 0, fresh: 0 }
    }

    /// Puts in what came before; longer than the buffer it cannot be, or it is not looked at.
    fn seed(&mut self, window: &[u8]) {
        let window = &window[window.len().saturating_sub(HISTORY)..];
        self.bytes[..window.len()].copy_from_slice(window);
        self.start = window.len();
        self.end = window.len();
    }

    /// The newest bytes, at most `length`.
    pub(super) fn last(&self, length: usize) -> &[u8] {
        &self.bytes[self.end.saturating_sub(length)..self.end]
    }

    /// The whole buffer and where new output goes; never full.
    pub(super) fn room(&mut self) -> (&mut [u8], usize) {
        if self.end == self.bytes.len() {
            let kept = self.end - HISTORY;
            self.bytes.copy_within(kept.., 0);
            self.start = self.start.saturating_sub(kept);
            self.end = HISTORY;
        }
        (&mut self.bytes, self.end)
    }

    /// Says that so many bytes were written where [`room`](Self::room) said.
    pub(super) fn advance(&mut self, produced: usize) {
        self.end = (self.end + produced).min(self.bytes.len());
        self.fresh = produced;
    }
}
