//! The folder a mount covers: what must be true before, and how it is uncovered again.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Context as _, Error, ErrorKind, Result};

/// What `/proc/mounts` calls our kind of file system.
const KIND: &str = "fuse.artifs";

/// The mountpoint's whole path, if a mount can be made there.
pub(super) fn check(path: &Path) -> Result<PathBuf> {
    let shown = path.display();
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(Error::new(
                ErrorKind::Exists,
                format!(
                    "{shown}: a mount whose program is gone is still there; take it away with: artifs unmount {shown}"
                ),
            ));
        }
        Err(error) => return Err(Error::io(format!("the mountpoint {shown}"), error)),
    };
    if !metadata.is_dir() {
        return Err(Error::new(ErrorKind::Invalid, format!("the mountpoint {shown} is not a folder")));
    }
    let path = path.canonicalize().doing(|| format!("the mountpoint {shown}"))?;
    if is_mounted(&path) {
        return Err(Error::new(
            ErrorKind::Exists,
            format!(
                "something is mounted by artifs at {shown} already; unmount it with: artifs unmount {shown}"
            ),
        ));
    }
    has_fuse()?;
    Ok(path)
}

/// Whether this machine can do what we are about to ask of it.
fn has_fuse() -> Result<()> {
    let missing = |what: &str| {
        Error::new(
            ErrorKind::Unsupported,
            format!(
                "{what} is not there, so nothing can be mounted; on Debian: apt install fuse3 (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
            ),
        )
    };
    if !Path::new("/dev/fuse").exists() {
        return Err(missing("/dev/fuse"));
    }
    let in_path = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).exists())
    };
    if !rustix::process::geteuid().is_root() && !["fusermount3", "fusermount"].into_iter().any(in_path) {
        return Err(missing("fusermount3"));
    }
    Ok(())
}

/// Whether something of ours is mounted exactly at `path`, alive or dead.
pub fn is_mounted(path: &Path) -> bool {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().any(|line| {
        let mut fields = line.split(' ');
        let at = fields.nth(4).map(unescape);
        let kind = fields.skip_while(|field| *field != "-").nth(1);
        at.as_deref() == Some(path) && kind == Some(KIND)
    })
}

/// A path as the kernel writes it: space, tab, newline and backslash in octal.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = field.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, after)) = rest.split_first() {
        let octal = (*first == b'\\').then(|| after.get(..3)).flatten();
        let value = octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        if let (Some(value), Some(after)) = (value, after.get(3..)) {
            plain.push(value);
            rest = after;
        } else {
            plain.push(*first);
            rest = after;
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

/// Takes a mount away. [`Conflict`](ErrorKind::Conflict) while something in it is in use, unless `lazy`: then
/// it is detached now and ends when the last user is gone.
pub(super) fn take_away(path: &Path, lazy: bool) -> Result<()> {
    let shown = path.display();
    let flags = if lazy { UnmountFlags::DETACH } else { UnmountFlags::empty() };
    match unmount(path, flags | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::BUSY) => Err(busy(path)),
        Err(rustix::io::Errno::PERM) => with_fusermount(path, lazy),
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
            Err(Error::new(ErrorKind::NotFound, format!("nothing is mounted at {shown}")))
        }
        Err(error) => Err(Error::io(format!("unmount {shown}"), error.into())),
    }
}

/// The way for users, whom the kernel does not let unmount themselves.
fn with_fusermount(path: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new("fusermount3");
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output =
        command.arg("--").arg(path).output().doing(|| "run fusermount3 (on Debian: apt install fuse3)")?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if said.contains("busy") { Err(busy(path)) } else { Err(Error::new(ErrorKind::Io, said)) }
}

fn busy(path: &Path) -> Error {
    let shown = path.display();
    Error::new(
        ErrorKind::Conflict,
        format!(
            "{shown} is in use (see: fuser -vm {shown}); it stays mounted. To detach it anyway: artifs unmount --lazy {shown}"
        ),
    )
}

/// How far the kernel reads ahead by itself, in KiB.
///
/// Its own 128 makes four times the requests of 448 for a third more CPU; 1024 gained nothing over 448 in a cold
/// sequential read (the window that follows the reader is the cache's). But 1 MiB read at an odd offset touches one
/// page more than 1 MiB, and the kernel fetches every window that such a read touches and one more: with windows of
/// 448 KiB that is 1.75 MiB, and never more than 2 MiB with the chunks at both ends; with 512 and with 1024 it is more.
const READ_AHEAD: &str = "448";

/// Sets the kernel's read-ahead of the mount. Only root may; without it reading is merely slower.
pub(super) fn read_ahead(path: &Path) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let device = metadata.dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let knob = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&knob, READ_AHEAD) {
        tracing::debug!(%knob, %error, "the kernel keeps its small read-ahead");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_mount_table_are_read_back() {
        assert_eq!(unescape(r"/a\040b\134c"), PathBuf::from(r"/a b\c"));
        assert_eq!(unescape(r"/a\9"), PathBuf::from(r"/a\9"));
    }
}
