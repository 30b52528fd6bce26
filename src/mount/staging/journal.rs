//! The journal: every change since the base, in order, on disk.
//!
//! ```text
//! journal   16 bytes     "artifs journal", 0, version (2; 1 lacks some kinds of records)
//!           then records u32 length · u32 checksum · length bytes (see `record`)
//! ```
//! Integers are little endian. A checksum is the lower half of the xxh3 of the record's bytes, seeded with the
//! checksum before it (0 for the first), so that a record is good only behind the records it was written behind.
//! A change is written here before it is answered, in one write, without waiting for the disk: a killed process
//! loses nothing. [`Journal::sync`] waits for the disk. What a power cut tore is at the end, does not match its
//! checksum, and is cut off when the journal is opened; everything before it counts. A journal that has grown is
//! written anew without what later records say again (see `compaction`), beside the old one and then in its place.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::compaction::compact;
use super::record::Record;
use crate::error::{Context as _, Error, ErrorKind, Result};

const HEADER: [u8; 16] = *b"artifs journal\0\x02";
/// What a version wrote that had fewer kinds of records.
const BEFORE: [u8; 16] = *b"artifs journal\0\x01";

/// No record is longer: the longest are names (255), xattrs (64 KiB) and lists of ranges, which are cut up by
/// nothing but a person's writes; a million of them is 16 MiB.
const LONGEST: usize = 1 << 28;

/// How long a journal grows before it is looked through; from then on, to twice of what was left.
const TIDY: u64 = 16 << 20;

pub(in crate::mount) struct Journal {
    path: PathBuf,
    end: Mutex<End>,
    /// Which journal is on disk for certain, and how much of it. Held while waiting for the disk, so that who waits
    /// behind somebody else's sync often finds his own part done.
    synced: Mutex<(u32, u64)>,
}

struct End {
    file: Arc<File>,
    /// How often the journal was written anew.
    generation: u32,
    at: u64,
    checksum: u32,
    /// When it is looked through again.
    tidy_at: u64,
    /// The folder it is in, if its name there is not on disk for certain.
    unplaced: Option<File>,
}

impl Journal {
    /// Opens or begins the journal at `path`, with everything that counts of it.
    pub(super) fn open(path: &Path) -> Result<(Self, Vec<Record>)> {
        let shown = || format!("the journal {}", path.display());
        let mut file =
            File::options().read(true).write(true).create(true).truncate(false).open(path).doing(shown)?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).doing(shown)?;
        if bytes.len() < HEADER.len() && HEADER.starts_with(&bytes) {
            file.set_len(0).and_then(|()| file.write_all_at(&HEADER, 0)).doing(shown)?;
            bytes = HEADER.to_vec();
        }
        if bytes.starts_with(&BEFORE) {
            file.write_all_at(&HEADER, 0).doing(shown)?;
        }
        let Some(body) = body(&bytes) else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("{} was written by another version of artifs; unmount with that version", shown()),
            ));
        };
        let (records, length, checksum) = replay(body);
        let at = (HEADER.len() + length) as u64;
        if at < bytes.len() as u64 {
            tracing::warn!(path = %path.display(), bytes = bytes.len() as u64 - at, "the journal ends in a torn record, which is left out");
            file.set_len(at).doing(shown)?;
        }
        let (file, tidy_at) = (Arc::new(file), TIDY.max(2 * at));
        let end = Mutex::new(End { file, generation: 0, at, checksum, tidy_at, unplaced: None });
        let journal = Self { path: path.to_owned(), end, synced: Mutex::new((0, 0)) };
        Ok((journal, records))
    }

    /// How many records count in the journal at `path`, which is left as it is.
    pub(super) fn count(path: &Path) -> Result<usize> {
        match std::fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            bytes => {
                let bytes = bytes.doing(|| format!("the journal {}", path.display()))?;
                Ok(body(&bytes).map_or(0, |body| replay(body).0.len()))
            }
        }
    }

    /// Writes a record behind the others. It is whole in the journal or not in it.
    pub(in crate::mount) fn append(&self, record: &Record) -> io::Result<()> {
        let payload = record.encode();
        if payload.len() > LONGEST {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let mut end = self.end();
        let mut framed = Vec::with_capacity(payload.len() + 8);
        let checksum = frame(&payload, end.checksum, &mut framed);
        if let Err(error) = end.file.write_all_at(&framed, end.at) {
            // A full disk may have taken half of it. Were this to fail too, the next record would cover it.
            let _ = end.file.set_len(end.at);
            return Err(error);
        }
        (end.at, end.checksum) = (end.at + framed.len() as u64, checksum);
        if end.at >= end.tidy_at {
            end.tidy_at = 2 * end.at;
            // The old one goes on being good.
            if let Err(error) = self.tidy(&mut end) {
                tracing::warn!(%error, "the journal cannot be written anew");
            }
        }
        Ok(())
    }

    /// Writes the journal anew, without what later records say again.
    fn tidy(&self, end: &mut End) -> io::Result<()> {
        let mut bytes = vec![0; end.at as usize];
        end.file.read_exact_at(&mut bytes, 0)?;
        let (records, length, _) = replay(body(&bytes).unwrap_or_default());
        if length + HEADER.len() != bytes.len() {
            return Err(io::Error::other("it does not read back as it was written"));
        }
        let (mut anew, mut checksum) = (HEADER.to_vec(), 0);
        for record in compact(records) {
            checksum = frame(&record.encode(), checksum, &mut anew);
        }
        // Opened first: once the new one is in place, nothing may go to the old one.
        let folder = self.path.parent().map(File::open).transpose()?;
        let beside = self.path.with_extension("new");
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&beside)?;
        file.write_all_at(&anew, 0)?;
        file.sync_all()?;
        std::fs::rename(&beside, &self.path)?;
        let unplaced = folder.filter(|folder| folder.sync_all().is_err());
        let at = anew.len() as u64;
        tracing::debug!(before = end.at, after = at, "the journal is written anew");
        let (generation, tidy_at) = (end.generation + 1, TIDY.max(2 * at));
        *end = End { file: Arc::new(file), generation, at, checksum, tidy_at, unplaced };
        Ok(())
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything appended before is on disk.
    pub(in crate::mount) fn sync(&self) -> io::Result<()> {
        let place = |end: MutexGuard<'_, End>| (end.generation, end.at);
        let wanted = place(self.end());
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was written anew since is on disk up to there.
        if *synced >= wanted {
            return Ok(());
        }
        let (file, reached) = {
            let mut end = self.end();
            if let Some(folder) = &end.unplaced {
                folder.sync_all()?;
                end.unplaced = None;
            }
            (Arc::clone(&end.file), place(end))
        };
        file.sync_data()?;
        *synced = reached;
        Ok(())
    }
}

/// What follows the header, if it is one of ours.
fn body(bytes: &[u8]) -> Option<&[u8]> {
    bytes.strip_prefix(&HEADER).or_else(|| bytes.strip_prefix(&BEFORE))
}

/// The records that count, how many bytes they take, and the checksum the next one builds on.
fn replay(mut body: &[u8]) -> (Vec<Record>, usize, u32) {
    let (mut records, mut length, mut last) = (Vec::new(), 0, 0);
    while let Some((framed, record, checksum)) = first(body, last) {
        records.push(record);
        length += framed;
        last = checksum;
        body = body.get(framed..).unwrap_or_default();
    }
    (records, length, last)
}

/// The record `body` begins with: how long it is with its frame, itself, and its checksum.
fn first(body: &[u8], last: u32) -> Option<(usize, Record, u32)> {
    let (length, rest) = body.split_first_chunk()?;
    let (expected, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length) as usize;
    let payload = rest.get(..length)?;
    let checksum = checksum(payload, last);
    if checksum != u32::from_le_bytes(*expected) {
        return None;
    }
    Some((length + 8, Record::decode(payload)?, checksum))
}

/// Puts a record with its frame behind `into`, and gives the checksum the next one builds on.
fn frame(payload: &[u8], last: u32, into: &mut Vec<u8>) -> u32 {
    let checksum = checksum(payload, last);
    into.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    into.extend_from_slice(&checksum.to_le_bytes());
    into.extend_from_slice(payload);
    checksum
}

fn checksum(payload: &[u8], last: u32) -> u32 {
    xxh3_64_with_seed(payload, u64::from(last)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(inode: u64) -> Record {
        Record::Stage { inode, keep: inode * 3 }
    }

    fn written(path: &Path, count: u64) -> Vec<u8> {
        let (journal, found) = Journal::open(path).unwrap();
        assert!(found.is_empty());
        for inode in 0..count {
            journal.append(&record(inode)).unwrap();
        }
        journal.sync().unwrap();
        std::fs::read(path).unwrap()
    }

    #[test]
    fn cut_anywhere_it_is_a_prefix_and_can_be_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let whole = written(&path, 3);
        let each = (whole.len() - HEADER.len()) / 3;
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let expected = cut.saturating_sub(HEADER.len()) / each;
            let (journal, found) = Journal::open(&path).unwrap();
            assert_eq!(found.len(), expected, "cut at {cut}");
            journal.append(&record(9)).unwrap();
            drop(journal);
            let (_, found) = Journal::open(&path).unwrap();
            assert_eq!(found.last(), Some(&record(9)), "continued after a cut at {cut}");
            assert_eq!(found.len(), expected + 1);
        }
    }

    #[test]
    fn it_does_not_grow_with_what_is_said_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let (journal, _) = Journal::open(&path).unwrap();
        let ranges = |inode: u64, at: u64| Record::Ranges { inode, from_base: vec![(at, at + 1); 20_000] };
        for at in 0..400 {
            journal.append(&record(at)).unwrap();
            journal.append(&ranges(at % 3, at)).unwrap();
            journal.sync().unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() < TIDY + (1 << 20));
        }
        let (_, found) = Journal::open(&path).unwrap();
        let last = |inode: u64| {
            found.iter().rfind(|record| matches!(record, Record::Ranges { inode: own, .. } if *own == inode))
        };
        for at in 397..400 {
            assert_eq!(last(at % 3), Some(&ranges(at % 3, at)));
        }
        let stages: Vec<_> =
            found.iter().filter(|record| matches!(record, Record::Stage { .. })).cloned().collect();
        assert_eq!(stages, (0..400).map(record).collect::<Vec<_>>());
    }

    #[test]
    fn a_damaged_byte_ends_it_and_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let whole = written(&path, 3);
        for at in HEADER.len()..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x40;
            std::fs::write(&path, &damaged).unwrap();
            let (_, found) = Journal::open(&path).unwrap();
            assert!(found.len() < 3, "byte {at}");
            assert_eq!(found, (0..found.len() as u64).map(record).collect::<Vec<_>>(), "byte {at}");
        }
        let mut other = whole;
        other[15] = 3;
        std::fs::write(&path, &other).unwrap();
        assert_eq!(Journal::open(&path).err().unwrap().kind(), ErrorKind::Unsupported);
        assert_eq!(std::fs::read(&path).unwrap(), other, "and left as it is");
    }
}
