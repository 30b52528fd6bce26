//! The file that says which chunks of a partial blob are there, and whose turn it is to fetch one.
//!
//! 64 bytes of header (magic, chunk size, blob size), then 8 bytes a chunk, little-endian: 0 for "not
//! here", else a checksum of the chunk's bytes. Claims are open-file-description locks on byte ranges far
//! beyond the file's end, one byte a chunk, so they never meet what is read and written.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::chunks::{CHUNK, count};
use super::place::open_file;

const HEADER: u64 = 64;
const MAGIC: &[u8; 16] = b"artifs map v1\n\0\0";
/// Claims lie here: beyond any map, below what a signed 64-bit offset can say.
const CLAIMS: i64 = 1 << 48;
/// The claim on the whole blob: held while its header is made, and while it is checked and renamed.
const WHOLE: i64 = CLAIMS - 1;

pub(super) struct Map {
    file: File,
    count: usize,
}

/// The checksum of a chunk's bytes as the map keeps it: XXH3, its lowest bit always set, so never 0.
pub(super) fn checksum(hash: u64) -> u64 {
    hash | 1
}

impl Map {
    /// Opens or makes the map of a blob of `size` bytes. One that does not fit is emptied.
    pub(super) fn open(path: &Path, size: u64) -> io::Result<Self> {
        let map = Self { file: open_file(path)?, count: count(size) };
        let header = header(size);
        let mut found = [0; HEADER as usize];
        if map.file.read_exact_at(&mut found, 0).is_ok() && found == header {
            return Ok(map);
        }
        let claim = map.claim_whole_waiting()?;
        if map.file.read_exact_at(&mut found, 0).is_err() || found != header {
            map.file.set_len(0)?;
            map.file.set_len(HEADER + 8 * map.count as u64)?;
            map.file.write_all_at(&header, 0)?;
        }
        drop(claim);
        Ok(map)
    }

    /// The checksums of a run of chunks, 0 where a chunk is not here. A map cut short has zeros at its end.
    pub(super) fn checksums(&self, run: &Range<usize>) -> io::Result<Vec<u64>> {
        let mut bytes = vec![0; run.len() * 8];
        let mut filled = 0;
        while filled < bytes.len() {
            match self.file.read_at(&mut bytes[filled..], HEADER + 8 * run.start as u64 + filled as u64) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(bytes
            .chunks_exact(8)
            .map(|entry| u64::from_le_bytes(entry.try_into().unwrap_or_default()))
            .collect())
    }

    /// All checksums.
    pub(super) fn all(&self) -> io::Result<Vec<u64>> {
        self.checksums(&(0..self.count))
    }

    /// Says that the chunks from `first` on are in the file and have these checksums.
    pub(super) fn record(&self, first: usize, checksums: &[u64]) -> io::Result<()> {
        let bytes: Vec<u8> = checksums.iter().flat_map(|checksum| checksum.to_le_bytes()).collect();
        self.file.write_all_at(&bytes, HEADER + 8 * first as u64)
    }

    /// Says that nothing is here.
    pub(super) fn clear(&self) -> io::Result<()> {
        self.file.set_len(HEADER)?;
        self.file.set_len(HEADER + 8 * self.count as u64)
    }

    /// Claims the longest part of `run` from its start that nobody else holds; empty if the first chunk is held.
    pub(super) fn claim(&self, run: &Range<usize>) -> io::Result<Range<usize>> {
        let mut wanted = run.clone();
        while !wanted.is_empty() {
            if self
                .lock(libc::F_OFD_SETLK, libc::F_WRLCK, CLAIMS + wanted.start as i64, wanted.len() as i64)?
                .is_none()
            {
                return Ok(wanted);
            }
            let held = self.lock(
                libc::F_OFD_GETLK,
                libc::F_WRLCK,
                CLAIMS + wanted.start as i64,
                wanted.len() as i64,
            )?;
            // Freed between the two questions: ask for the same again.
            let Some(start) = held else { continue };
            let first_held = (start - CLAIMS).max(0) as usize;
            wanted.end = first_held.clamp(wanted.start, wanted.end - 1);
        }
        Ok(run.start..run.start)
    }

    /// Gives back the claim on a run of chunks.
    pub(super) fn release(&self, run: &Range<usize>) {
        if !run.is_empty() {
            let _ = self.lock(libc::F_OFD_SETLK, libc::F_UNLCK, CLAIMS + run.start as i64, run.len() as i64);
        }
    }

    /// Claims the right to finish the blob; `None` while somebody else has it.
    pub(super) fn claim_whole(&self) -> io::Result<Option<WholeClaim<'_>>> {
        Ok(self.lock(libc::F_OFD_SETLK, libc::F_WRLCK, WHOLE, 1)?.is_none().then_some(WholeClaim(self)))
    }

    fn claim_whole_waiting(&self) -> io::Result<WholeClaim<'_>> {
        self.lock(libc::F_OFD_SETLKW, libc::F_WRLCK, WHOLE, 1)?;
        Ok(WholeClaim(self))
    }

    /// One `fcntl` lock call. Answers where the first conflicting lock begins, `None` if there is none.
    fn lock(&self, command: i32, kind: i32, start: i64, length: i64) -> io::Result<Option<i64>> {
        // SAFETY: all-zero is a valid `flock`; the kernel reads and writes only this struct.
        let mut lock: libc::flock = unsafe { std::mem::zeroed() };
        lock.l_type = kind as i16;
        lock.l_whence = libc::SEEK_SET as i16;
        lock.l_start = start;
        lock.l_len = length;
        loop {
            // SAFETY: the descriptor is open for as long as `self.file` lives, and `lock` outlives the call.
            let result = unsafe { libc::fcntl(self.file.as_raw_fd(), command, &raw mut lock) };
            if result == 0 {
                let free = command != libc::F_OFD_GETLK || i32::from(lock.l_type) == libc::F_UNLCK;
                return Ok(if free { None } else { Some(lock.l_start) });
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::EAGAIN | libc::EACCES) => return Ok(Some(start)),
                _ => return Err(error),
            }
        }
    }
}

/// The right to finish a blob, given back when dropped.
pub(super) struct WholeClaim<'map>(&'map Map);

impl Drop for WholeClaim<'_> {
    fn drop(&mut self) {
        let _ = self.0.lock(libc::F_OFD_SETLK, libc::F_UNLCK, WHOLE, 1);
    }
}

fn header(size: u64) -> [u8; HEADER as usize] {
    let mut header = [0; HEADER as usize];
    header[..16].copy_from_slice(MAGIC);
    header[16..24].copy_from_slice(&CHUNK.to_le_bytes());
    header[24..32].copy_from_slice(&size.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_keeps_others_out_until_it_is_given_back_or_its_holder_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        let (one, other) = (Map::open(&path, 100 * CHUNK).unwrap(), Map::open(&path, 100 * CHUNK).unwrap());
        assert_eq!(one.claim(&(10..20)).unwrap(), 10..20);
        assert_eq!(other.claim(&(5..30)).unwrap(), 5..10);
        assert_eq!(other.claim(&(12..14)).unwrap(), 12..12);
        one.release(&(10..15));
        assert_eq!(other.claim(&(10..30)).unwrap(), 10..15);
        drop(one);
        assert_eq!(other.claim(&(15..30)).unwrap(), 15..30);
    }

    #[test]
    fn a_map_of_another_blob_or_cut_short_is_emptied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map");
        Map::open(&path, 3 * CHUNK).unwrap().record(1, &[7, 9]).unwrap();
        assert_eq!(Map::open(&path, 3 * CHUNK).unwrap().all().unwrap(), vec![0, 7, 9]);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(HEADER + 12).unwrap();
        assert_eq!(Map::open(&path, 3 * CHUNK).unwrap().all().unwrap()[..1], [0]);
        assert_eq!(Map::open(&path, 2 * CHUNK).unwrap().all().unwrap(), vec![0, 0]);
    }
}
