//! Which chunks of a blob are here.

use std::ops::Range;

/// The unit of fetching, claiming and checksumming.
///
/// Small enough that 1 MiB at any offset costs less than 2 MiB with all that the kernel asks for beside it, and a
/// random 4 KiB read one short request; large enough that the map of a 100 GiB blob has 7 MB and that a
/// chunk is worth its round trip.
pub(super) const CHUNK: u64 = 128 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// Nobody has it.
    Absent,
    /// The map says it is in the file; its checksum was not compared in this process yet.
    Stored,
    /// A fetch or a check is under way, or its bytes are in memory and not yet in the file.
    Loading,
    /// In the file, and checked.
    Here,
}

/// The state of every chunk of one blob.
pub(super) struct Chunks {
    size: u64,
    states: Vec<Chunk>,
    missing: usize,
}

impl Chunks {
    /// All chunks of a blob of `size` bytes; `stored` says which ones the map knows.
    pub(super) fn new(size: u64, stored: impl Fn(usize) -> bool) -> Self {
        let count = count(size);
        let states: Vec<_> =
            (0..count).map(|chunk| if stored(chunk) { Chunk::Stored } else { Chunk::Absent }).collect();
        let missing = states.iter().filter(|state| **state == Chunk::Absent).count();
        Self { size, states, missing }
    }

    pub(super) fn get(&self, chunk: usize) -> Chunk {
        self.states.get(chunk).copied().unwrap_or(Chunk::Absent)
    }

    pub(super) fn set(&mut self, chunk: usize, to: Chunk) {
        let Some(state) = self.states.get_mut(chunk) else { return };
        let is_missing = |state: Chunk| matches!(state, Chunk::Absent | Chunk::Loading);
        match (is_missing(*state), is_missing(to)) {
            (true, false) => self.missing -= 1,
            (false, true) => self.missing += 1,
            _ => {}
        }
        *state = to;
    }

    /// Whether the file has every chunk, checked or not.
    pub(super) fn all_stored(&self) -> bool {
        self.missing == 0
    }

    /// The end of the run of checked chunks that contains the byte `at`, if its chunk is here.
    pub(super) fn here_until(&self, at: u64, end: u64) -> Option<u64> {
        let mut chunk = index(at);
        if self.get(chunk) != Chunk::Here {
            return None;
        }
        while bytes(chunk, self.size).end < end && self.get(chunk + 1) == Chunk::Here {
            chunk += 1;
        }
        Some(bytes(chunk, self.size).end.min(end))
    }

    /// The runs of chunks in this state that touch `range`, none longer than `longest` chunks.
    pub(super) fn runs(&self, range: &Range<u64>, of: Chunk, longest: usize) -> Vec<Range<usize>> {
        let mut runs: Vec<Range<usize>> = Vec::new();
        for chunk in touched(range) {
            if self.get(chunk) != of || chunk >= self.states.len() {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.end == chunk && run.len() < longest => run.end += 1,
                _ => runs.push(chunk..chunk + 1),
            }
        }
        runs
    }
}

/// How many chunks a blob of `size` bytes has.
pub(super) fn count(size: u64) -> usize {
    size.div_ceil(CHUNK) as usize
}

/// The chunk that has the byte `at`.
pub(super) fn index(at: u64) -> usize {
    (at / CHUNK) as usize
}

/// The bytes of a chunk.
pub(super) fn bytes(chunk: usize, size: u64) -> Range<u64> {
    let start = chunk as u64 * CHUNK;
    start.min(size)..(start + CHUNK).min(size)
}

/// The bytes of a run of chunks.
pub(super) fn bytes_of(run: &Range<usize>, size: u64) -> Range<u64> {
    (run.start as u64 * CHUNK).min(size)..(run.end as u64 * CHUNK).min(size)
}

/// The chunks that a range of bytes touches.
pub(super) fn touched(range: &Range<u64>) -> Range<usize> {
    if range.is_empty() { 0..0 } else { index(range.start)..count(range.end) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_chunk_is_as_short_as_the_blob_says() {
        let size = 2 * CHUNK + 5;
        assert_eq!(count(size), 3);
        assert_eq!(bytes(2, size), 2 * CHUNK..size);
        assert_eq!(touched(&(CHUNK - 1..CHUNK + 1)), 0..2);
        assert_eq!(touched(&(5..5)), 0..0);
    }

    #[test]
    fn runs_are_split_where_states_change_and_where_they_grow_too_long() {
        let mut chunks = Chunks::new(10 * CHUNK, |chunk| chunk == 4);
        chunks.set(7, Chunk::Here);
        assert_eq!(chunks.runs(&(0..10 * CHUNK), Chunk::Absent, 3), vec![0..3, 3..4, 5..7, 8..10]);
        for chunk in 0..10 {
            assert!(!chunks.all_stored());
            chunks.set(chunk, Chunk::Here);
        }
        assert!(chunks.all_stored());
        assert_eq!(chunks.here_until(3, 10 * CHUNK), Some(10 * CHUNK));
    }
}
