//! Where edits wait until they are published: local disk, outside of the cache.
//!
//! ```text
//! $ARTIFS_STATE, else $XDG_STATE_HOME/artifs, else ~/.local/state/artifs
//!   staging/<id>/              one for each mounted reference; the id is a hash of the reference
//!     about.json               version, reference, and the digests the edits build on; of a repository the journal has them
//!     journal                  what changed, see `journal`
//!     data/<inode in hex>      the bytes of one changed file, at their own offsets; sparse
//!     publication.json         what became of it, if it was published while mounted, see `commit::publication`
//!     lock                     locked by the mount that uses the folder
//! ```
//! A data file is as long as the file is, and its times are the file's. Of a file that was changed in part,
//! the ranges nobody wrote are holes in it and come from the base; the journal says which they are.
//!
//! What survives. A kill of the process: everything that was answered, but for writes into a file of the base that
//! was neither closed nor synced, which keep the base's bytes. A power cut: what was synced, since fsync waits for
//! the data file first and for the journal after it, and the journal is one sequence, so that names come back as they
//! were at one moment at or after the last sync. An edit of a file of the base that was not synced then shows the old
//! bytes or the new; only the kernel's own writing, when nobody syncs, may put the journal first and leave zeros there.

mod compaction;
mod contents;
mod copying;
mod journal;
mod note;
mod ranges;
mod record;
mod told;

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::artifact::tree::stable_id;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Digest;
pub use contents::LocalBytes;
pub(super) use contents::{Contents, Seek, Shape, TICK};
pub(super) use journal::Journal;
pub(super) use record::{Made, Record, Time};

/// The version of everything in a staging folder.
const VERSION: u32 = 1;

/// Work that waits to be published.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Work {
    /// The version of the folder's format.
    pub version: u32,
    /// The reference that was mounted.
    pub reference: String,
    /// What the changes build on: what the reference pointed to when they were begun, maybe an index. A repository
    /// points to nothing itself.
    pub base: Option<Digest>,
    /// The manifest whose files were shown.
    pub shown: Option<Digest>,
    /// The folder it is in.
    #[serde(skip)]
    pub folder: PathBuf,
    /// Whether a mount uses it now.
    #[serde(skip)]
    pub in_use: bool,
    /// How many changes of names and attributes it holds.
    #[serde(skip)]
    pub records: usize,
}

/// The place staging folders are in, as the environment says.
pub fn place() -> Result<PathBuf> {
    let given = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    given("ARTIFS_STATE")
        .or_else(|| given("XDG_STATE_HOME").map(|state| state.join("artifs")))
        .or_else(|| given("HOME").map(|home| home.join(".local/state/artifs")))
        .map(|state| state.join("staging"))
        .ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "nowhere to stage changes: set ARTIFS_STATE to a folder")
        })
}

/// All work staged below `place`, in use or left behind.
pub fn works(place: &Path) -> Result<Vec<Work>> {
    let folders = match std::fs::read_dir(place) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        folders => folders.doing(|| format!("list {}", place.display()))?,
    };
    let mut works = Vec::new();
    for folder in folders {
        let folder = folder.doing(|| format!("list {}", place.display()))?.path();
        match look(&folder) {
            // A mount without changes leaves an empty journal.
            Ok(work) => works.extend(work.filter(|work| work.in_use || work.records > 0)),
            Err(error) => tracing::warn!(%error, "staged work that cannot be read"),
        }
    }
    works.sort_by(|a, b| a.reference.cmp(&b.reference));
    Ok(works)
}

/// Throws away the work staged for `reference`. [`Conflict`](ErrorKind::Conflict) while it is mounted.
pub fn discard(place: &Path, reference: &str) -> Result<()> {
    let folder = place.join(id(reference));
    if !folder.join("about.json").exists() {
        return Err(Error::new(ErrorKind::NotFound, format!("nothing is staged for {reference}")));
    }
    let _lock = lock(&folder, reference)?;
    std::fs::remove_dir_all(&folder).doing(|| format!("remove {}", folder.display()))
}

/// The staging folder of one mount, its own until given away or dropped.
pub(super) struct Staging {
    folder: PathBuf,
    about: Option<Work>,
    reference: String,
    data: Arc<Data>,
    journal: Journal,
    lock: Mutex<Option<File>>,
}

impl Staging {
    /// Opens or begins the folder for `reference`, and what its journal says.
    pub(super) fn open(place: &Path, reference: &str) -> Result<(Self, Vec<Record>)> {
        let folder = place.join(id(reference));
        let shown = || format!("the staging folder {}", folder.display());
        make(&folder)?;
        let lock = Mutex::new(Some(lock(&folder, reference)?));
        let about = look(&folder)?;
        let (journal, records) = Journal::open(&folder.join("journal"))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let data = rustix::fs::open(folder.join("data"), flags, Mode::empty()).doing(shown)?;
        let data = Arc::new(Data(data));
        Ok((Self { folder, about, reference: reference.into(), data, journal, lock }, records))
    }

    /// What the changes in it build on, if there are any.
    pub(super) fn about(&self) -> Option<&Work> {
        self.about.as_ref().filter(|about| about.records > 0)
    }

    /// Writes down what the changes to come build on, for certain: what the reference points to, and the
    /// manifest of it that is shown, if it is one artifact.
    pub(super) fn bind(&self, base: Option<&Digest>, shown: Option<&Digest>) -> Result<()> {
        let about = serde_json::json!({
            "version": VERSION, "reference": self.reference, "base": base, "shown": shown,
        });
        self.write("about.json", about.to_string().as_bytes())
    }

    /// Gives the folder away.
    pub(super) fn unlock(&self) {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    pub(super) fn data(&self) -> &Arc<Data> {
        &self.data
    }

    /// The folder, for people.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// The folder of data files.
pub(super) struct Data(OwnedFd);

impl Data {
    /// The data file of an inode, made if it is not there.
    fn open(&self, inode: u64, also: OFlags) -> std::io::Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | also;
        Ok(rustix::fs::openat(&self.0, name(inode), flags, Mode::RUSR | Mode::WUSR)?.into())
    }

    /// The data file of an inode, to be read.
    fn find(&self, inode: u64) -> std::io::Result<File> {
        Ok(rustix::fs::openat(&self.0, name(inode), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// An empty data file for a new inode.
    pub(super) fn make(&self, inode: u64) -> std::io::Result<(File, Shape)> {
        let file = self.open(inode, OFlags::TRUNC)?;
        let shape = contents::shape(&file)?;
        Ok((file, shape))
    }

    /// Forgets the bytes of an inode.
    pub(super) fn remove(&self, inode: u64) {
        // What is left behind is found and removed by the next mount.
        let _ = rustix::fs::unlinkat(&self.0, name(inode), AtFlags::empty());
    }

    /// Removes the data files `keep` has no use for.
    pub(super) fn sweep(&self, keep: impl Fn(u64) -> bool) -> std::io::Result<()> {
        for entry in rustix::fs::Dir::read_from(&self.0)? {
            let entry = entry?;
            let inode = entry.file_name().to_str().ok().and_then(|name| u64::from_str_radix(name, 16).ok());
            if let Some(inode) = inode.filter(|inode| !keep(*inode)) {
                self.remove(inode);
            }
        }
        Ok(())
    }

    /// Returns when every data file's name is on disk.
    fn sync(&self) -> std::io::Result<()> {
        Ok(rustix::fs::fsync(self.0.as_fd())?)
    }

    /// Size and room of the disk below.
    pub(super) fn room(&self) -> std::io::Result<rustix::fs::StatVfs> {
        Ok(rustix::fs::fstatvfs(&self.0)?)
    }
}

fn name(inode: u64) -> String {
    format!("{inode:016x}")
}

fn id(reference: &str) -> String {
    format!("{:016x}", stable_id(&[b"staging", reference.as_bytes()]))
}

/// What a staging folder says of itself, if it is one that was ever bound to a base.
fn look(folder: &Path) -> Result<Option<Work>> {
    let path = folder.join("about.json");
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.doing(|| format!("read {}", path.display()))?,
    };
    let wrong = |why: String| Error::new(ErrorKind::Corrupt, format!("{}: {why}", path.display()));
    let mut work: Work = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
    if work.version != VERSION {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!("{} was written by another version of artifs (format {})", path.display(), work.version),
        ));
    }
    folder.clone_into(&mut work.folder);
    work.in_use = File::open(folder.join("lock"))
        .is_ok_and(|file| rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared).is_err());
    work.records = Journal::count(&folder.join("journal"))?;
    Ok(Some(work))
}

/// Takes the folder for this process; given back when dropped, also by a kill.
fn lock(folder: &Path, reference: &str) -> Result<File> {
    let path = folder.join("lock");
    loop {
        let file = lock_once(&path, reference)?;
        // The mount that had the folder may have removed it, lock and all, while this one was waiting at its door.
        let same = |there: std::fs::Metadata| {
            file.metadata().is_ok_and(|own| (own.dev(), own.ino()) == (there.dev(), there.ino()))
        };
        if std::fs::metadata(&path).is_ok_and(same) {
            return Ok(file);
        }
        make(folder)?;
    }
}

/// Makes the folder, for nobody else: what is staged may be anything a person edits.
fn make(folder: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder.join("data"));
    made.doing(|| format!("the staging folder {}", folder.display()))
}

fn lock_once(path: &Path, reference: &str) -> Result<File> {
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .doing(|| format!("open {}", path.display()))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| {
        let why = format!("{reference} is mounted for writing already; see: artifs status");
        if error == rustix::io::Errno::WOULDBLOCK {
            Error::new(ErrorKind::Conflict, why)
        } else {
            Error::io(format!("lock {}", path.display()), error.into())
        }
    })?;
    Ok(file)
}
