//! Keeping the cache within its budget, and looking after it.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::Cache;
use super::place::Place;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Digest;
use crate::store::expect_digest;

/// How much is read at a time when a blob is hashed again.
const READ: usize = 1 << 20;

/// What kind of thing the cache has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A complete, verified blob or manifest.
    Blob,
    /// Chunks of a blob.
    Partial,
    /// What was learned from a blob.
    Index,
}

/// One thing the cache has.
#[derive(Clone, Debug, Serialize)]
pub struct Stored {
    /// The blob it is, or is about.
    pub digest: Digest,
    /// What it is.
    pub kind: Kind,
    /// The content's length in bytes.
    pub size: u64,
    /// Bytes it takes on disk.
    pub on_disk: u64,
    /// When it was last opened.
    #[serde(skip)]
    pub last_used: SystemTime,
    #[serde(skip)]
    path: PathBuf,
}

/// What [`Cache::verify`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Blobs that match their digest.
    pub good: usize,
    /// Blobs that did not, and were removed.
    pub bad: usize,
}

/// What [`Cache::prune`] freed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Freed {
    /// Things removed.
    pub things: usize,
    /// Bytes on disk they took.
    pub bytes: u64,
    /// Bytes on disk the cache takes now.
    pub left: u64,
}

impl Cache {
    /// Everything the cache has, least recently used first.
    pub fn list(&self) -> Result<Vec<Stored>> {
        scan(&self.shared.place)
    }

    /// Hashes every complete blob again and removes what does not match. `told` hears of each.
    pub fn verify(&self, mut told: impl FnMut(&Stored, &Result<()>)) -> Result<Report> {
        let mut report = Report::default();
        for stored in self.list()?.into_iter().filter(|stored| stored.kind == Kind::Blob) {
            let result = hash_again(&stored);
            match &result {
                Ok(()) => report.good += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(_) => {
                    report.bad += 1;
                    fs::remove_file(&stored.path).doing(|| format!("remove {}", stored.path.display()))?;
                }
            }
            told(&stored, &result);
        }
        Ok(report)
    }

    /// Removes what was not used for longest until at most `down_to` bytes are left. What is open stays.
    pub fn prune(&self, down_to: u64) -> Result<Freed> {
        prune(&self.shared.place, Some(down_to))
    }
}

/// Removes what was not used for longest, down to `budget` bytes.
///
/// Without a budget it is half of what the disk could give the cache: what is free now and what it has already.
/// A cache that fills a disk is a nuisance, and one that is too shy fetches twice.
pub(super) fn prune(place: &Place, budget: Option<u64>) -> Result<Freed> {
    let stored = scan(place)?;
    let mut freed = Freed { left: stored.iter().map(|stored| stored.on_disk).sum(), ..Freed::default() };
    let down_to = match budget {
        Some(budget) => budget,
        None => u64::midpoint(free(place.root())?, freed.left),
    };
    for stored in stored {
        if freed.left <= down_to {
            break;
        }
        if remove(place, &stored).doing(|| format!("remove {}", stored.path.display()))? {
            freed.things += 1;
            freed.bytes += stored.on_disk;
            freed.left -= stored.on_disk;
        }
    }
    Ok(freed)
}

/// Bytes the disk has left for people like us.
fn free(root: &Path) -> Result<u64> {
    let disk =
        rustix::fs::statvfs(root).doing(|| format!("ask how full the disk of {} is", root.display()))?;
    Ok(disk.f_bavail * disk.f_frsize)
}

/// Removes one thing, unless it is open somewhere.
fn remove(place: &Place, stored: &Stored) -> std::io::Result<bool> {
    let held = match stored.kind {
        Kind::Blob => stored.path.clone(),
        Kind::Partial => stored.path.join("data"),
        Kind::Index => return fs::remove_file(&stored.path).map(|()| true),
    };
    let _held = match File::open(&held) {
        // Readers hold a shared lock for as long as they have it open.
        Ok(file) => match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Some(file),
            Err(_) => return Ok(false),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    match stored.kind {
        Kind::Partial => fs::remove_dir_all(&stored.path)?,
        _ => fs::remove_file(&stored.path)?,
    }
    // Nobody need know where it was; most never had this.
    let _ = fs::remove_file(place.home(&stored.digest));
    Ok(true)
}

fn hash_again(stored: &Stored) -> Result<()> {
    let doing = || format!("read {}", stored.path.display());
    let mut file = File::open(&stored.path).doing(doing)?;
    let mut hasher = stored.digest.hasher()?;
    let mut buffer = vec![0; READ];
    loop {
        match file.read(&mut buffer).doing(doing)? {
            0 => return expect_digest(hasher, &stored.digest),
            length => hasher.update(&buffer[..length]),
        }
    }
}

/// Everything, least recently used first. What a blob taught us is as recent as the blob, and just behind it.
fn scan(place: &Place) -> Result<Vec<Stored>> {
    let mut all = Vec::new();
    for (part, kind) in [("blobs", Kind::Blob), ("partial", Kind::Partial), ("index", Kind::Index)] {
        for algorithm in children(&place.root().join(part))? {
            for path in children(&algorithm)? {
                all.extend(look_at(&algorithm, path, kind));
            }
        }
    }
    let used: HashMap<Digest, SystemTime> = all
        .iter()
        .filter(|stored| stored.kind != Kind::Index)
        .map(|stored| (stored.digest.clone(), stored.last_used))
        .collect();
    for stored in all.iter_mut().filter(|stored| stored.kind == Kind::Index) {
        if let Some(used) = used.get(&stored.digest) {
            stored.last_used = stored.last_used.max(*used);
        }
    }
    all.sort_by_key(|stored| (stored.last_used, stored.kind == Kind::Index));
    Ok(all)
}

/// One thing, unless it is not ours (a temporary file) or has just gone.
fn look_at(algorithm: &Path, path: PathBuf, kind: Kind) -> Option<Stored> {
    let name = path.file_name()?.to_str()?;
    let encoded = if kind == Kind::Index { name.split('.').next()? } else { name };
    let digest: Digest = format!("{}:{encoded}", algorithm.file_name()?.to_str()?).parse().ok()?;
    let file = if kind == Kind::Partial { path.join("data") } else { path.clone() };
    let about = fs::metadata(file).ok()?;
    let last_used = SystemTime::UNIX_EPOCH
        + Duration::from_secs(about.atime().max(0) as u64)
        + Duration::from_nanos(about.atime_nsec().max(0) as u64);
    Some(Stored { digest, kind, size: about.len(), on_disk: about.blocks() * 512, last_used, path })
}

fn children(folder: &Path) -> Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io(format!("list {}", folder.display()), error)),
    }
}
