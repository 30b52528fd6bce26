//! What the kernel asks an [`Overlay`](crate::mount::overlay::Overlay) to do, in the overlay's words.
//!
//! `None` stands for what is not known here, which the kernel is told with `EINVAL`.

use fuser::{OpenAccMode, OpenFlags, RenameFlags, Request, TimeOrNow};

use crate::mount::overlay::{self, Opener, Set, Target, When, Who};
use crate::mount::staging::{Made, Seek};

pub(super) fn who(request: &Request) -> Who {
    Who { uid: request.uid(), gid: request.gid() }
}

pub(super) fn opener(request: &Request, flags: OpenFlags) -> Opener {
    let access = flags.acc_mode();
    let (reads, writes) = (access != OpenAccMode::O_WRONLY, access != OpenAccMode::O_RDONLY);
    Opener { process: request.pid(), reads, writes }
}

pub(super) fn when(time: TimeOrNow) -> When {
    match time {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(time) => When::At(overlay::time(time)),
    }
}

/// What `mknod` is to make.
pub(super) fn made(mode: u32, device: u32) -> Made {
    match mode & libc::S_IFMT {
        libc::S_IFREG => Made::File,
        kind => Made::Special { kind, device },
    }
}

/// What may be where something is renamed to.
pub(super) fn target(flags: RenameFlags) -> Option<Target> {
    match flags {
        flags if flags.is_empty() => Some(Target::Any),
        RenameFlags::RENAME_NOREPLACE => Some(Target::Free),
        RenameFlags::RENAME_EXCHANGE => Some(Target::Exchanged),
        _ => None,
    }
}

/// When an extended attribute is to be set.
pub(super) fn set(flags: i32) -> Option<Set> {
    match flags {
        0 => Some(Set::Always),
        libc::XATTR_CREATE => Some(Set::IfNew),
        libc::XATTR_REPLACE => Some(Set::IfThere),
        _ => None,
    }
}

/// What is sought; the kernel answers the other ways of seeking by itself.
pub(super) fn sought(whence: i32) -> Option<Seek> {
    match whence {
        libc::SEEK_DATA => Some(Seek::Data),
        libc::SEEK_HOLE => Some(Seek::Hole),
        _ => None,
    }
}
