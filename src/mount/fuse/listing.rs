//! Listings of folders in the kernel's words.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use fuser::{FileAttr, FileType, FopenFlags, Generation, INodeNo, ReplyDirectoryPlus};

use super::attributes::nothing;
use crate::artifact::tree::FileName;

/// A listed entry the kernel is told of as if it had looked it up.
pub(super) struct Shown {
    pub(super) lifetime: Duration,
    pub(super) attributes: FileAttr,
    pub(super) generation: u64,
}

/// Whether the kernel may keep what an open folder lists, and serve it to others.
pub(super) fn flags(may_be_kept: bool) -> FopenFlags {
    if may_be_kept { FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() }
}

/// The entries every folder begins with, from `offset` on, each with the offset after it.
pub(super) fn dots(own: u64, parent: u64, offset: u64) -> impl Iterator<Item = (&'static str, u64, u64)> {
    [(".", own, 1), ("..", parent, 2)].into_iter().skip(offset.min(2) as usize)
}

/// Gives as many entries as there is room for, from `offset` on, those every folder begins with included.
///
/// `tell` counts a lookup of an entry, or leaves it out; `forget` takes that back for an inode.
pub(super) fn list<E>(
    mut reply: ReplyDirectoryPlus,
    (own, parent): (u64, u64),
    offset: u64,
    entries: &[(FileName, E)],
    tell: impl Fn(&[u8], &E) -> Option<Shown>,
    forget: impl Fn(u64),
) {
    for (name, number, next) in dots(own, parent, offset) {
        // Only the number and type of these are looked at.
        let folder = FileAttr { ino: INodeNo(number), kind: FileType::Directory, ..nothing() };
        if reply.add(INodeNo(number), next, name, &Duration::ZERO, &folder, Generation(0)) {
            return reply.ok();
        }
    }
    let skipped = offset.saturating_sub(2);
    for (at, (name, entry)) in (skipped..).zip(entries.iter().skip(skipped as usize)) {
        let Some(Shown { lifetime, attributes, generation }) = tell(name, entry) else { continue };
        let (name, number) = (OsStr::from_bytes(name), attributes.ino);
        if reply.add(number, at + 3, name, &lifetime, &attributes, Generation(generation)) {
            // It did not fit, so the kernel was not told after all.
            forget(number.0);
            break;
        }
    }
    reply.ok();
}
