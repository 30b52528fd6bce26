//! Zstandard, decompressed piece by piece; it can begin again at each frame.

use zstd::stream::raw::{Decoder, Operation as _};

use super::codec::{Buffer, Resume, Step};
use crate::error::{Error, ErrorKind, Result};

/// A sequence of frames, somewhere in the middle.
///
/// A frame may ask for a window of 128 MiB at most, the library's default limit: that bounds memory.
pub(super) struct Zstd {
    decoder: Decoder<'static>,
    between: bool,
}

impl Zstd {
    /// At the start of a frame.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { decoder: Decoder::new().map_err(corrupt)?, between: true })
    }

    /// Where it could begin again, if it could begin right here.
    pub(super) fn place(&self) -> Option<Resume> {
        self.between.then_some(Resume::Fresh)
    }

    /// Whether the stream may end here.
    pub(super) fn may_end(&self) -> bool {
        self.between
    }

    /// Takes some of `input` in and adds what comes out to the buffer.
    pub(super) fn step(&mut self, input: &[u8], buffer: &mut Buffer) -> Result<Step> {
        let (out, at) = buffer.room();
        let status = self.decoder.run_on_buffers(input, &mut out[at..]).map_err(corrupt)?;
        buffer.advance(status.bytes_written);
        if status.bytes_read == 0 && status.bytes_written == 0 {
            return Ok(Step { consumed: 0, boundary: false });
        }
        self.between = status.remaining == 0;
        if self.between {
            self.decoder.reinit().map_err(corrupt)?;
        }
        Ok(Step { consumed: status.bytes_read, boundary: self.between })
    }
}

fn corrupt(error: std::io::Error) -> Error {
    Error::with_source(ErrorKind::Corrupt, "not a sound zstd stream", error)
}
