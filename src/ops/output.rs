//! A folder on disk that is written into and never out of.
//!
//! Every step is taken from an open folder to a name in it, without following symbolic links, so neither
//! a name from outside nor a link somebody planted below the folder leads anywhere else.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::artifact::tree::{self, Xattrs};
use crate::error::{Context as _, Error, ErrorKind, Result};

/// A path below the output folder: clean names, as the tree has them.
pub(super) type Names = Vec<Vec<u8>>;

/// The output folder, open.
pub(super) struct Output {
    root: OwnedFd,
    path: PathBuf,
    /// Whether symbolic links among the folders on the way may be followed.
    follow: bool,
}

/// A name in an open folder.
pub(super) struct Place {
    pub(super) folder: OwnedFd,
    pub(super) name: Vec<u8>,
    /// For people.
    pub(super) path: PathBuf,
}

impl Output {
    /// Opens the folder, made with its parents if it is missing.
    pub(super) fn open(path: &Path, follow: bool) -> Result<Self> {
        std::fs::create_dir_all(path).doing(|| format!("create {}", path.display()))?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))?;
        Ok(Self { root, path: path.to_owned(), follow })
    }

    /// The path of `names`, for people.
    pub(super) fn path(&self, names: &[Vec<u8>]) -> PathBuf {
        names.iter().fold(self.path.clone(), |path, name| path.join(OsStr::from_bytes(name)))
    }

    /// The folder at `names`, made with its parents where missing; `mode` is for those made.
    pub(super) fn folder(&self, names: &[Vec<u8>], mode: u32) -> Result<OwnedFd> {
        let doing = || format!("open the folder {}", self.path(names).display());
        let mut flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        if !self.follow {
            flags |= OFlags::NOFOLLOW;
        }
        let mut at = fs::openat(&self.root, ".", flags, Mode::empty()).doing(doing)?;
        for name in names {
            let name = OsStr::from_bytes(name);
            at = match fs::openat(&at, name, flags, Mode::empty()) {
                Err(Errno::NOENT) => {
                    match fs::mkdirat(&at, name, Mode::from_raw_mode(mode | 0o700)) {
                        Ok(()) | Err(Errno::EXIST) => {}
                        Err(error) => return Err(error).doing(doing),
                    }
                    fs::openat(&at, name, flags, Mode::empty()).doing(doing)?
                }
                Err(Errno::LOOP | Errno::NOTDIR) if is_link(&at, name) => return Err(traversal()),
                other => other.doing(doing)?,
            };
        }
        Ok(at)
    }

    /// The place a file goes to, its parents made where missing.
    pub(super) fn place(&self, names: &[Vec<u8>]) -> Result<Place> {
        let Some((name, parents)) = names.split_last() else {
            return Err(Error::new(ErrorKind::Invalid, "a file needs a name"));
        };
        Ok(Place { folder: self.folder(parents, 0o777)?, name: name.clone(), path: self.path(names) })
    }
}

impl Place {
    /// What is there now, links not followed.
    pub(super) fn kind(&self) -> Result<Option<FileType>> {
        match fs::statat(&self.folder, OsStr::from_bytes(&self.name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error).doing(|| format!("look at {}", self.path.display())),
        }
    }

    /// The regular file that is there now, for reading.
    pub(super) fn existing(&self) -> Option<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            File::from(fs::openat(&self.folder, OsStr::from_bytes(&self.name), flags, Mode::empty()).ok()?);
        file.metadata().ok()?.is_file().then_some(file)
    }

    /// A file beside the place, kept from last time or new, ours alone; `mode` is subject to the umask.
    pub(super) fn part(&self, name: &str, mode: u32) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let doing = || format!("create {name} beside {}", self.path.display());
        // Between opening and locking, another pull may finish and rename it away: then it is not a part
        // any more and must not be written to.
        for _ in 0..3 {
            let file = fs::openat(&self.folder, name, flags, Mode::from_raw_mode(mode)).doing(doing)?;
            if fs::flock(&file, fs::FlockOperation::NonBlockingLockExclusive).is_err() {
                break;
            }
            let mine = fs::fstat(&file).doing(doing)?;
            let there = fs::statat(&self.folder, name, AtFlags::SYMLINK_NOFOLLOW);
            if there.is_ok_and(|there| (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)) {
                return Ok(file.into());
            }
        }
        let message = format!("{} is being written by another pull", self.path.display());
        Err(Error::new(ErrorKind::Conflict, message))
    }

    /// The same, empty and with this very `mode`.
    pub(super) fn fresh_part(&self, name: &str, mode: u32) -> Result<File> {
        let left = self.part(name, mode)?;
        // Held while it is replaced, so that another pull of the same file gives up rather than mixes in.
        self.discard(name);
        let _held = left;
        self.part(name, mode)
    }

    /// Gives a file that is a blob what is said of it besides its bytes. The mode is subject to the umask, as far as
    /// that can be seen from what a new file got.
    pub(super) fn dress(&self, file: &tree::File) -> Result<()> {
        let attributes = file.attributes;
        let (mode, owner) = (attributes.mode, attributes.owner);
        let silent = mode == tree::Attributes::FILE.mode && owner.is_none() && file.xattrs.is_none();
        let Some(open) = self.existing().filter(|_| !silent) else { return Ok(()) };
        if let Some(xattrs) = &file.xattrs {
            set_xattrs(&open, xattrs, &self.path)?;
        }
        set_owner(&open, owner, &self.path)?;
        let now = fs::fstat(&open).doing(|| format!("look at {}", self.path.display()))?.st_mode & 0o777;
        let wanted = mode & (now | (now & 0o444) >> 2);
        if mode != tree::Attributes::FILE.mode && wanted != now {
            fs::fchmod(&open, Mode::from_raw_mode(wanted))
                .doing(|| format!("set the mode of {}", self.path.display()))?;
        }
        // A time is said together with an owner.
        if owner.is_some() {
            set_modified(&open, attributes.modified, &self.path)?;
        }
        Ok(())
    }

    /// Gives what is beside it under `name` its final name, in one step.
    pub(super) fn take(&self, name: &str) -> Result<()> {
        let doing = || format!("write {}", self.path.display());
        let target = OsStr::from_bytes(&self.name);
        fs::renameat(&self.folder, name, &self.folder, target).doing(doing)
    }

    /// Removes what is beside it under `name`.
    pub(super) fn discard(&self, name: &str) {
        let _ = fs::unlinkat(&self.folder, name, AtFlags::empty());
    }

    /// Makes a symbolic link here, in place of whatever file or link is here.
    pub(super) fn link_to(&self, target: &[u8]) -> Result<()> {
        let target = OsStr::from_bytes(target);
        if fs::readlinkat(&self.folder, OsStr::from_bytes(&self.name), Vec::new())
            .is_ok_and(|now| now.as_bytes() == target.as_bytes())
        {
            return Ok(());
        }
        let name = part_name(&self.name, b"link");
        self.discard(&name);
        fs::symlinkat(target, &self.folder, name.as_str())
            .doing(|| format!("make the link {}", self.path.display()))?;
        self.take(&name)
    }

    /// Makes this a second name of the file at `first`.
    pub(super) fn same_as(&self, first: &Self) -> Result<()> {
        let name = part_name(&self.name, b"hard link");
        self.discard(&name);
        let from = OsStr::from_bytes(&first.name);
        fs::linkat(&first.folder, from, &self.folder, name.as_str(), AtFlags::empty())
            .doing(|| format!("link {} to {}", self.path.display(), first.path.display()))?;
        let taken = self.take(&name);
        // Renaming one name of a file onto another does nothing and leaves both.
        self.discard(&name);
        taken
    }
}

/// The name of the file beside `name` that holds its bytes until they are right.
pub(super) fn part_name(name: &[u8], what: &[u8]) -> String {
    let what = crate::oci::Digest::of(&[what, b"\0", name].concat());
    format!(".artifs-{}.part", what.short())
}

/// Sets a file's or folder's modification time.
pub(super) fn set_modified(what: impl std::os::fd::AsFd, modified: (i64, u32), path: &Path) -> Result<()> {
    let time = fs::Timespec { tv_sec: modified.0, tv_nsec: modified.1.into() };
    let times = fs::Timestamps { last_access: time, last_modification: time };
    fs::futimens(what.as_fd(), &times).doing(|| format!("set the time of {}", path.display()))
}

/// Sets extended attributes, where the disk has such a thing.
pub(super) fn set_xattrs(what: impl std::os::fd::AsFd, xattrs: &Xattrs, path: &Path) -> Result<()> {
    for (name, value) in xattrs {
        match fs::fsetxattr(what.as_fd(), name.as_slice(), value, fs::XattrFlags::empty()) {
            Ok(()) => {}
            Err(Errno::NOTSUP) => {
                tracing::warn!(path = %path.display(), "its extended attributes have no place on this disk");
                return Ok(());
            }
            Err(error) => {
                let name = String::from_utf8_lossy(name);
                return Err(error).doing(|| format!("set {name} of {}", path.display()));
            }
        }
    }
    Ok(())
}

/// Gives a file to its owner. Only root can; everybody else keeps what they pull.
pub(super) fn set_owner(what: impl std::os::fd::AsFd, owner: Option<(u32, u32)>, path: &Path) -> Result<()> {
    let Some((uid, gid)) = owner.filter(|_| rustix::process::geteuid().is_root()) else { return Ok(()) };
    let (uid, gid) = (fs::Uid::from_raw(uid), fs::Gid::from_raw(gid));
    fs::fchown(what, Some(uid), Some(gid)).doing(|| format!("set the owner of {}", path.display()))
}

fn is_link(folder: &OwnedFd, name: &OsStr) -> bool {
    fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// What ORAS says, to the letter (oras.md §2.6).
pub(super) fn traversal() -> Error {
    Error::new(
        ErrorKind::Denied,
        "failed to resolve path for writing: path traversal disallowed\n\
         Pulling files outside of working directory is insecure and blocked by default. \
         If you trust the content producer, use --allow-path-traversal to bypass this check.",
    )
}

/// What ORAS says, to the letter (oras.md §2.6).
pub(super) fn overwrite() -> Error {
    Error::new(ErrorKind::Exists, "failed to resolve path for writing: overwrite disallowed")
}
