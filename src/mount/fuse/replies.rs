//! What an [`Overlay`] answers, in the kernel's words.

use std::sync::Arc;
use std::time::Duration;

use fuser::{
    BackingId, Errno, FileHandle, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyOpen,
};

use super::attributes::stat_of;
use super::number_of;
use crate::artifact::tree::IMMUTABLE;
use crate::mount::catalog::LIFETIME;
use crate::mount::errno;
use crate::mount::handles::{Backing, Way};
use crate::mount::overlay::{Answer, Opened, Overlay, Refusal, Stat};

/// How long attributes hold that may change untold: those of an open file the kernel writes to by itself, and
/// the link count of a folder nobody entered.
const RESTLESS: Duration = Duration::ZERO;

/// How long those of a file hold that was made in the same request: until the kernel, which asks for them to see
/// whether it may be opened, has done that. What it writes by itself it knows to ask for again, but for times a
/// mapping changes, and no clock of files is finer than this.
const JUST_MADE: Duration = Duration::from_millis(4);

/// The errno for a refusal; what a program cannot do anything about is said in the log and counted.
pub(super) fn refuse(overlay: &Overlay, refusal: &Refusal) -> Errno {
    match refusal {
        Refusal::Failed(error) => number_of(&overlay.counts, error),
        refusal => Errno::from_i32(errno::of_refusal(refusal)),
    }
}

pub(super) fn lifetime(stat: &Stat) -> Duration {
    if stat.restless { RESTLESS } else { IMMUTABLE }
}

/// How long a name that means nothing in `folder` may be taken to mean nothing.
pub(super) fn absence(overlay: &Overlay, folder: INodeNo) -> Duration {
    if overlay.is_growing(folder.0) { LIFETIME } else { IMMUTABLE }
}

pub(super) fn entry(overlay: &Overlay, reply: ReplyEntry, answer: Answer<Stat>) {
    match answer {
        Ok(stat) => {
            reply.entry_with_ttls(&lifetime(&stat), &IMMUTABLE, &stat_of(&stat), Generation(0));
        }
        Err(refusal) => reply.error(refuse(overlay, &refusal)),
    }
}

pub(super) fn empty(overlay: &Overlay, reply: ReplyEmpty, answer: Answer<()>) {
    match answer {
        Ok(()) => reply.ok(),
        Err(refusal) => reply.error(refuse(overlay, &refusal)),
    }
}

pub(super) fn attr(overlay: &Overlay, reply: ReplyAttr, answer: Answer<Stat>) {
    match answer {
        Ok(stat) => reply.attr(&lifetime(&stat), &stat_of(&stat)),
        Err(refusal) => reply.error(refuse(overlay, &refusal)),
    }
}

/// A file the kernel has registered, as the overlay keeps it.
pub(super) fn backing(id: BackingId) -> Backing {
    Backing(Arc::new(id))
}

pub(super) fn opened(overlay: &Overlay, reply: ReplyOpen, answer: Answer<Opened>) {
    let Opened { handle, way } = match answer {
        Ok(opened) => opened,
        Err(refusal) => return reply.error(refuse(overlay, &refusal)),
    };
    let (handle, flags) = (FileHandle(handle), flags(&way));
    match way {
        Way::Cached => reply.opened(handle, flags),
        Way::Passthrough(backing) => match backing.0.downcast_ref::<BackingId>() {
            Some(id) => reply.opened_passthrough(handle, flags, id),
            None => reply.error(Errno::EIO),
        },
    }
}

pub(super) fn created(overlay: &Overlay, reply: ReplyCreate, answer: Answer<(Stat, Opened)>) {
    let (stat, Opened { handle, way }) = match answer {
        Ok(created) => created,
        Err(refusal) => return reply.error(refuse(overlay, &refusal)),
    };
    let (lifetime, shown, generation) = (lifetime(&stat).max(JUST_MADE), stat_of(&stat), Generation(0));
    let (handle, flags) = (FileHandle(handle), flags(&way));
    match way {
        Way::Cached => reply.created(&lifetime, &shown, generation, handle, flags),
        Way::Passthrough(backing) => match backing.0.downcast_ref::<BackingId>() {
            Some(id) => reply.created_passthrough(&lifetime, &shown, generation, handle, flags, id),
            None => reply.error(Errno::EIO),
        },
    }
}

/// What an open file may leave out: the journal has nothing to be told about a file that is all local.
fn flags(way: &Way) -> FopenFlags {
    match way {
        Way::Cached => FopenFlags::FOPEN_KEEP_CACHE,
        Way::Passthrough(_) => FopenFlags::FOPEN_NOFLUSH,
    }
}
