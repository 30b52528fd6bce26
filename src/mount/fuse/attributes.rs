//! Attributes in the kernel's words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{Errno, FileAttr, FileType, INodeNo, ReplyXattr};

use crate::mount::names::{Kind, Stat};
use crate::mount::overlay;

/// A value, or its length for a program that asks how much room it needs.
pub(super) fn give(reply: ReplyXattr, room: u32, value: &[u8]) {
    if room == 0 {
        reply.size(value.len() as u32);
    } else if value.len() <= room as usize {
        reply.data(value);
    } else {
        reply.error(Errno::ERANGE);
    }
}

/// Names, each ended by a zero byte.
pub(super) fn give_names(reply: ReplyXattr, room: u32, names: &[impl AsRef<[u8]>]) {
    let list: Vec<u8> = names.iter().flat_map(|name| [name.as_ref(), b"\0"].concat()).collect();
    give(reply, room, &list);
}

pub(super) fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

pub(super) fn attributes(stat: &Stat) -> FileAttr {
    let modified = time(stat.modified);
    FileAttr {
        ino: INodeNo(stat.number),
        size: stat.size,
        blocks: stat.size.div_ceil(512),
        atime: modified,
        mtime: modified,
        ctime: modified,
        kind: file_type(stat.kind),
        perm: stat.mode as u16,
        nlink: stat.links,
        uid: stat.owner.0,
        gid: stat.owner.1,
        ..nothing()
    }
}

/// The attributes of what is not there.
pub(super) fn nothing() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

pub(super) fn time((seconds, nanoseconds): (i64, u32)) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let whole = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    whole
        .and_then(|time| time.checked_add(Duration::from_nanos(u64::from(nanoseconds))))
        .unwrap_or(UNIX_EPOCH)
}

/// What `stat` shows of a thing in an overlay.
pub(super) fn stat_of(stat: &overlay::Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.number),
        size: stat.size,
        blocks: stat.blocks,
        atime: time(stat.accessed),
        mtime: time(stat.modified),
        ctime: time(stat.changed),
        kind: type_of(stat.kind),
        perm: stat.mode as u16,
        nlink: stat.links,
        uid: stat.owner.0,
        gid: stat.owner.1,
        rdev: stat.device,
        ..nothing()
    }
}

pub(super) fn type_of(kind: overlay::Kind) -> FileType {
    match kind {
        overlay::Kind::Folder => FileType::Directory,
        overlay::Kind::File => FileType::RegularFile,
        overlay::Kind::Link => FileType::Symlink,
        overlay::Kind::Special(kind) => match kind {
            libc::S_IFIFO => FileType::NamedPipe,
            libc::S_IFCHR => FileType::CharDevice,
            libc::S_IFBLK => FileType::BlockDevice,
            _ => FileType::Socket,
        },
    }
}
