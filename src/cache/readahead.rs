//! Past reads → what to fetch next. Pure policy.
//!
//! A file has several streams: loaders jump from tensor to tensor, each read in order, and several
//! threads fault the same mapping. Every stream has its own window, so a jump starts small and costs only
//! what it touches, and a stream that goes on is soon far ahead of its reader.

use std::ops::Range;

use super::chunks::CHUNK;

/// A stream earns a window once it has read this much in order. Until then only what is asked for is
/// fetched: the header of a model, or 1 MiB out of its middle together with the megabyte that the kernel
/// reads ahead on its own, cost no more than they touch.
const EARNED: u64 = 2 << 20;

/// The farthest a window reaches. Bandwidth times delay of 8 Gbit/s at 32 ms, and what four parallel ranges of
/// 8 MiB carry; more gains nothing (limits.md §6) and costs memory.
const FARTHEST: u64 = 32 << 20;

/// A window is topped up in steps of at least this, so that requests stay worth their round trip.
const STEP: u64 = 8 << 20;

/// How far from its expected place a read may be and still belong to a stream: the kernel sends its requests of
/// up to 1 MiB on several threads, so neighbours overtake each other.
const NEAR: u64 = 2 << 20;

/// Streams remembered per open file. Loaders use a thread per core or so; the least recently used goes.
const STREAMS: usize = 16;

/// Blobs up to this size are fetched whole at the first touch: a JSON file is never read in part.
const WHOLE: u64 = 1 << 20;

/// The streams of one open file.
pub(super) struct Streams {
    size: u64,
    /// Most recently used first.
    streams: Vec<Stream>,
}

struct Stream {
    /// Where the next read is expected.
    next: u64,
    /// Bytes read in order so far.
    run: u64,
    /// Everything before this has been asked for.
    asked: u64,
}

impl Streams {
    pub(super) fn new(size: u64) -> Self {
        Self { size, streams: Vec::new() }
    }

    /// Notes a read. `want` is told what to begin to fetch beside it, if anything, and answers how far it got.
    pub(super) fn note(&mut self, read: &Range<u64>, mut want: impl FnMut(Range<u64>) -> u64) {
        if self.size <= WHOLE {
            if self.streams.is_empty() {
                want(0..self.size);
                self.streams.push(Stream { next: 0, run: 0, asked: self.size });
            }
            return;
        }
        // The directory of a zip (.pt, .bin, .whl) and the footer of a parquet file are read from the end:
        // the last chunk may be a few bytes long, so the one before comes along.
        if read.end + CHUNK > self.size && read.start >= self.size.saturating_sub(CHUNK) {
            want(self.size - CHUNK..self.size);
        }
        let mut stream = match self.streams.iter().position(|stream| stream.is_continued_by(read)) {
            Some(position) => self.streams.remove(position),
            None => Stream { next: read.start, run: 0, asked: read.start },
        };
        stream.run += read.end - read.start;
        stream.next = stream.next.max(read.end);
        if stream.run > EARNED {
            stream.asked = stream.asked.max(read.start);
            let window = stream.run.min(FARTHEST);
            let target = (stream.next + window).min(self.size);
            let step = STEP.min(window / 2);
            if target > stream.asked && (target - stream.asked >= step || target == self.size) {
                stream.asked = want(stream.asked..target).max(stream.asked);
            }
        } else {
            stream.asked = stream.next;
        }
        self.streams.insert(0, stream);
        self.streams.truncate(STREAMS);
    }
}

impl Stream {
    fn is_continued_by(&self, read: &Range<u64>) -> bool {
        read.start + NEAR >= self.next && read.start <= self.next + NEAR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn wants(streams: &mut Streams, read: Range<u64>) -> Vec<Range<u64>> {
        let mut wanted = Vec::new();
        streams.note(&read, |range| {
            wanted.push(range.clone());
            range.end
        });
        wanted
    }

    #[test]
    fn one_mebibyte_anywhere_asks_for_nothing_more() {
        let mut streams = Streams::new(2048 * MIB);
        for start in [700 * MIB, 900 * MIB + 17] {
            for at in (0..MIB).step_by(128 << 10) {
                assert_eq!(wants(&mut streams, start + at..start + at + (128 << 10)), vec![]);
            }
        }
    }

    #[test]
    fn a_stream_that_goes_on_gets_a_growing_window_without_gaps() {
        let mut streams = Streams::new(2048 * MIB);
        let mut asked_to = 0;
        for at in 0..256 {
            for wanted in wants(&mut streams, at * MIB..(at + 1) * MIB) {
                assert!(wanted.start <= asked_to.max((at + 1) * MIB), "a gap before {wanted:?}");
                assert!(wanted.end <= (at + 1) * MIB + FARTHEST);
                asked_to = wanted.end;
            }
        }
        assert!(asked_to >= 256 * MIB + FARTHEST - STEP);
    }

    #[test]
    fn two_interleaved_streams_both_run_ahead_and_random_reads_never() {
        let mut streams = Streams::new(2048 * MIB);
        let mut far = (0, 0);
        for at in 0..64 {
            for wanted in wants(&mut streams, at * MIB..(at + 1) * MIB) {
                far.0 = wanted.end;
            }
            let there = 1000 * MIB + at * MIB;
            for wanted in wants(&mut streams, there..there + MIB) {
                far.1 = wanted.end;
            }
        }
        assert!(far.0 > 80 * MIB && far.1 > 1080 * MIB, "{far:?}");
        let mut random = Streams::new(2048 * MIB);
        for step in 0..1000_u64 {
            let at = (step * 2_654_435_761 % (2000 * MIB)) & !4095;
            assert_eq!(wants(&mut random, at..at + 4096), vec![]);
        }
    }

    #[test]
    fn small_blobs_come_whole_and_tails_with_the_chunk_before() {
        assert_eq!(wants(&mut Streams::new(700_000), 5..10), vec![0..700_000]);
        let size = 100 * CHUNK + 10;
        assert_eq!(wants(&mut Streams::new(size), size - 10..size), vec![size - CHUNK..size]);
    }
}
