//! Copies: `copy_file_range(2)`, by which `cp` copies what it does not read.
//!
//! A copy of bytes of the base shows them: nothing is fetched, and a commit finds the same blob under another name.
//! What the kernel writes by itself (passthrough) cannot show anything but its data file, so a file is not handed over
//! to a program that opens it for writing alone while it has a file of the base open for reading: it is about to copy.
//! A program that does not look like one gets its bytes copied by the kernel, through its own reads.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::Overlay;
use super::refusal::{Answer, Refusal};
use crate::mount::staging::Record;

/// The most that is copied by one request. The answer has room for 4 GiB.
const LONGEST: u64 = 1 << 31;

/// Who opens a file, and for what.
#[derive(Clone, Copy, Debug)]
pub(in crate::mount) struct Opener {
    pub(in crate::mount) process: u32,
    pub(in crate::mount) reads: bool,
    pub(in crate::mount) writes: bool,
}

/// Who has a file of the base open for reading, and how many.
#[derive(Default)]
pub(super) struct Readers(Mutex<HashMap<u32, u32>>);

impl Readers {
    pub(super) fn begin(&self, process: u32) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(process).or_default() += 1;
    }

    pub(super) fn end(&self, process: u32) {
        let mut readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = readers.get_mut(&process) {
            *count -= 1;
            if *count == 0 {
                readers.remove(&process);
            }
        }
    }

    /// Whether this open looks like the second half of a copy's two.
    pub(super) fn copies(&self, opener: Opener) -> bool {
        let readers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        opener.writes && !opener.reads && readers.contains_key(&opener.process)
    }
}

impl Overlay {
    /// Copies from one open file to another, and says how many bytes. [`Unsupported`](Refusal::Unsupported) asks the
    /// kernel to do it.
    pub(in crate::mount) fn copy(
        &self,
        (from, at): (u64, u64),
        (to, to_at): (u64, u64),
        length: u64,
    ) -> Answer<u64> {
        let (from, to) = (self.handle(from)?, self.handle(to)?);
        if at != to_at || from.number == to.number {
            return Err(Refusal::Unsupported);
        }
        // The kernel writes into it by itself, or it is not to be written at all.
        if self.tree().inode(to.number)?.backing.is_some() {
            return Err(Refusal::Unsupported);
        }
        let Some((_, copied)) = from.contents.shows() else { return Err(Refusal::Unsupported) };
        let source = copied.unwrap_or(from.number);
        let record = |ranges| Record::Copy { inode: to.number, from: source, ranges };
        self.begin_staging(to.number, &to.contents)?;
        {
            let mut tree = self.tree();
            // What an artifact says of itself is in no listing a replay could find it in.
            if tree.is_said(source) {
                return Err(Refusal::Unsupported);
            }
            self.introduce(&mut tree, &record(Vec::new()))?;
        }
        let range = at..at.saturating_add(length.min(LONGEST));
        let append = |ranges| self.staging.journal().append(&record(ranges));
        let copied = to.contents.copy_from((&from.contents, from.number), source, range, append)?;
        copied.ok_or(Refusal::Unsupported)
    }
}
