//! Gzip, decompressed piece by piece, with places where it can begin again.
//!
//! Between two deflate blocks the whole state of decompression is a few bits and the last 32 KiB of
//! output. Keeping that every few MiB makes a gzip layer readable in the middle. (Writers end a block every
//! few dozen KiB; one that never does, as some at their fastest setting, is read from its start.)

use flate2::Crc;
use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::{BlockBoundaryState, DecompressorOxide, decompress, inflate_flags};

use super::codec::{Buffer, Resume, Step};
use crate::error::{Error, ErrorKind, Result};

/// How far back deflate may refer.
pub(super) const WINDOW: usize = 32 << 10;
/// Names and comments in a gzip header are short; longer ones are an attack on memory.
const MAX_HEADER: usize = 1 << 20;
/// Mandatory fields of a member's header.
const FIXED_HEADER: usize = 10;

const FLAGS: u32 = inflate_flags::TINFL_FLAG_HAS_MORE_INPUT
    | inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF
    | inflate_flags::TINFL_FLAG_STOP_ON_BLOCK_BOUNDARY;

/// A gzip stream of one or more members, somewhere in the middle.
pub(super) struct Gzip {
    phase: Phase,
    inflate: Box<DecompressorOxide>,
    /// Checks the member being read, if it is read from its start.
    check: Option<Crc>,
    first: bool,
}

enum Phase {
    /// Bytes of a header so far.
    Header(Vec<u8>),
    Deflate,
    /// Bytes of a trailer so far.
    Trailer(Vec<u8>),
    /// After a member: another one, padding, or nothing.
    Between,
    /// What follows is not gzip and not ours.
    Over,
}

impl Gzip {
    /// At the start of a member.
    pub(super) fn new() -> Self {
        Self {
            phase: Phase::Header(Vec::new()),
            inflate: Box::default(),
            check: Some(Crc::new()),
            first: true,
        }
    }

    /// Between two blocks of a member.
    pub(super) fn resume(bits: u8, held: u8) -> Self {
        let state = BlockBoundaryState { num_bits: bits, bit_buf: held, ..BlockBoundaryState::default() };
        Self {
            phase: Phase::Deflate,
            inflate: Box::new(DecompressorOxide::from_block_boundary_state(&state)),
            check: None,
            first: false,
        }
    }

    /// Where it could begin again, if it could begin right here.
    pub(super) fn place(&self, buffer: &Buffer) -> Option<Resume> {
        match &self.phase {
            Phase::Between => Some(Resume::Fresh),
            Phase::Deflate => {
                let state = self.inflate.block_boundary_state()?;
                let window = buffer.last(WINDOW).to_vec();
                Some(Resume::Block { bits: state.num_bits, held: state.bit_buf, window })
            }
            _ => None,
        }
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        matches!(self.phase, Phase::Between | Phase::Over)
    }

    /// Takes some of `input` in and adds what comes out to the buffer.
    pub(super) fn step(&mut self, input: &[u8], buffer: &mut Buffer) -> Result<Step> {
        match &mut self.phase {
            Phase::Header(so_far) => {
                let before = so_far.len();
                let taken = &input[..input.len().min(MAX_HEADER)];
                so_far.extend_from_slice(taken);
                match header_length(so_far) {
                    Header::Incomplete if so_far.len() > MAX_HEADER => Err(corrupt("its header is too long")),
                    Header::Incomplete => Ok(Step { consumed: taken.len(), boundary: false }),
                    Header::Foreign if self.first => Err(corrupt("it does not begin like gzip")),
                    Header::Foreign => {
                        self.phase = Phase::Over;
                        Ok(Step { consumed: input.len(), boundary: false })
                    }
                    Header::Length(length) => {
                        self.phase = Phase::Deflate;
                        self.inflate.init();
                        self.check = Some(Crc::new());
                        Ok(Step { consumed: length.saturating_sub(before), boundary: false })
                    }
                }
            }
            Phase::Deflate => self.inflate(input, buffer),
            Phase::Trailer(so_far) => {
                let taken = input.len().min(8 - so_far.len());
                so_far.extend_from_slice(&input[..taken]);
                if let Ok(trailer) = <[u8; 8]>::try_from(so_far.as_slice()) {
                    if let Some(check) = &self.check {
                        expect_trailer(trailer, check)?;
                    }
                    self.phase = Phase::Between;
                    self.first = false;
                    return Ok(Step { consumed: taken, boundary: true });
                }
                Ok(Step { consumed: taken, boundary: false })
            }
            Phase::Between => {
                let padding = input.iter().take_while(|byte| **byte == 0).count();
                if padding == input.len() {
                    return Ok(Step { consumed: padding, boundary: false });
                }
                self.phase = Phase::Header(Vec::new());
                let step = self.step(&input[padding..], buffer)?;
                Ok(Step { consumed: padding + step.consumed, boundary: step.boundary })
            }
            Phase::Over => Ok(Step { consumed: input.len(), boundary: false }),
        }
    }

    fn inflate(&mut self, input: &[u8], buffer: &mut Buffer) -> Result<Step> {
        let (out, at) = buffer.room();
        let (status, consumed, produced) = decompress(&mut self.inflate, input, out, at, FLAGS);
        if let Some(check) = &mut self.check {
            check.update(&out[at..at + produced]);
        }
        buffer.advance(produced);
        match status {
            TINFLStatus::BlockBoundary => Ok(Step { consumed, boundary: true }),
            TINFLStatus::NeedsMoreInput | TINFLStatus::HasMoreOutput => {
                Ok(Step { consumed, boundary: false })
            }
            TINFLStatus::Done => {
                self.phase = Phase::Trailer(Vec::with_capacity(8));
                Ok(Step { consumed, boundary: false })
            }
            _ => Err(corrupt("its compressed data is damaged")),
        }
    }
}

fn expect_trailer(trailer: [u8; 8], check: &Crc) -> Result<()> {
    let (sum, length) = (&trailer[..4], &trailer[4..]);
    if *sum != check.sum().to_le_bytes() || *length != check.amount().to_le_bytes() {
        return Err(corrupt("its checksum does not match"));
    }
    Ok(())
}

enum Header {
    Incomplete,
    Foreign,
    Length(usize),
}

/// How long the member header at the start of `bytes` is (RFC 1952 §2.3).
fn header_length(bytes: &[u8]) -> Header {
    const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
    if bytes.iter().zip(MAGIC).any(|(have, want)| *have != want) {
        return Header::Foreign;
    }
    let Some(flags) = bytes.get(3).copied() else { return Header::Incomplete };
    let mut at = FIXED_HEADER;
    if flags & 4 != 0 {
        let Some([low, high]) = bytes.get(at..at + 2) else { return Header::Incomplete };
        at += 2 + usize::from(u16::from_le_bytes([*low, *high]));
    }
    for text in [8, 16] {
        if flags & text != 0 {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(end) = rest.iter().position(|byte| *byte == 0) else { return Header::Incomplete };
            at += end + 1;
        }
    }
    if flags & 2 != 0 {
        at += 2;
    }
    if bytes.len() < at { Header::Incomplete } else { Header::Length(at) }
}

fn corrupt(why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not a sound gzip stream: {why}"))
}
