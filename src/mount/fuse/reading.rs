//! The kernel's questions to a [`Filesystem`], which nobody changes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fuser::{
    BackingId, Errno, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use super::attributes::{attributes, file_type, give, give_names, nothing};
use super::listing::{self, Shown, dots, list};
use super::{BACKGROUND, Kernel, LARGEST, WANTED, number_of};
use crate::artifact::tree::Node;
use crate::error::{Error, ErrorKind};
use crate::mount::fs::Filesystem;
use crate::mount::handles::{Backing, Way};
use crate::mount::inodes::number;
use crate::mount::names::kind;

fn refuse(fs: &Filesystem, error: &Error) -> Errno {
    number_of(&fs.counts, error)
}

impl fuser::Filesystem for Kernel<Filesystem> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in WANTED {
            let _ = config.add_capabilities(wanted);
        }
        // A depth of 1 leaves the mount usable as a lower layer of overlayfs (limits.md §3).
        if self.fs.passthrough.load(Ordering::Relaxed) {
            let possible = config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
                && config.set_max_stack_depth(1).is_ok();
            self.fs.passthrough.store(possible, Ordering::Relaxed);
        }
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_max_write(LARGEST);
        Ok(())
    }

    fn destroy(&mut self) {
        self.ended.send_replace(true);
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move {
            match fs.lookup(parent.0, &name).await {
                Ok(found) => match &found.entry {
                    Some((inode, stat)) => {
                        reply.entry(&found.lifetime, &attributes(stat), Generation(inode.generation));
                    }
                    // An entry with number 0 is the absence of one, remembered for as long.
                    None => reply.entry(&found.lifetime, &nothing(), Generation(0)),
                },
                Err(error) => reply.error(refuse(&fs, &error)),
            }
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, times: u64) {
        self.fs.inodes.forget(inode.0, times);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.fs.getattr(inode.0) {
            Ok((stat, lifetime)) => reply.attr(&lifetime, &attributes(&stat)),
            Err(error) => reply.error(refuse(&self.fs, &error)),
        }
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.fs.readlink(inode.0) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(refuse(&self.fs, &error)),
        }
    }

    fn open(&self, _request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.acc_mode() != OpenAccMode::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        let fs = self.fs();
        self.answer(async move {
            let prepared = match fs.prepare(inode.0).await {
                Ok(prepared) => prepared,
                Err(error) => return reply.error(refuse(&fs, &error)),
            };
            let (handle, way) = fs.open(prepared, |file| Ok(Backing(Arc::new(reply.open_backing(file)?))));
            let handle = FileHandle(handle);
            match way {
                Way::Cached => {
                    reply.opened(handle, FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH);
                }
                Way::Passthrough(backing) => match backing.0.downcast_ref::<BackingId>() {
                    Some(id) => reply.opened_passthrough(handle, FopenFlags::FOPEN_NOFLUSH, id),
                    None => reply.error(Errno::EIO),
                },
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs();
        self.answer(async move {
            match fs.read(handle.0, offset, u64::from(size)).await {
                Ok(bytes) => reply.data(&bytes),
                // A file that is open and cannot be read is broken, whatever the registry calls it.
                Err(error) => {
                    refuse(&fs, &Error::with_source(ErrorKind::Io, "read", error));
                    reply.error(Errno::EIO);
                }
            }
        });
    }

    fn release(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.handles.release(inode.0, handle.0);
        reply.ok();
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        self.answer(async move {
            match fs.open_folder(inode.0).await {
                Ok((handle, may_be_kept)) => reply.opened(FileHandle(handle), listing::flags(may_be_kept)),
                Err(error) => reply.error(refuse(&fs, &error)),
            }
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.fs.listing(handle.0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(refuse(&self.fs, &error)),
        };
        for (name, number, next) in dots(inode.0, self.fs.parent(inode.0), offset) {
            if reply.add(INodeNo(number), next, FileType::Directory, name) {
                return reply.ok();
            }
        }
        let skipped = offset.saturating_sub(2);
        for (at, (name, node)) in (skipped..).zip(listing.entries.iter().skip(skipped as usize)) {
            let number = number(inode.0, name, node);
            if reply.add(INodeNo(number), at + 3, file_type(kind(node)), OsStr::from_bytes(name)) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _request: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let listing = match self.fs.listing(handle.0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(refuse(&self.fs, &error)),
        };
        let tell = |name: &[u8], node: &Node| {
            let told = self.fs.inodes.tell(inode.0, name, node);
            Some(Shown {
                lifetime: listing.lifetime,
                attributes: attributes(&self.fs.stat(told.number, node)),
                generation: told.generation,
            })
        };
        let place = (inode.0, self.fs.parent(inode.0));
        list(reply, place, offset, &listing.entries, tell, |number| self.fs.inodes.forget(number, 1));
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.handles.release_folder(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let blocks = self.fs.size().div_ceil(4096);
        reply.statfs(blocks, 0, 0, 0, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        // `ls -l` asks every file for a security label and an access list, until it is told once that there is
        // no such thing here: "no data" would be 20,000 requests for 10,000 files.
        if !name.as_bytes().starts_with(b"user.") {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move {
            match fs.xattr(inode.0, &name).await {
                Ok(Some(value)) => give(reply, size, &value),
                Ok(None) => reply.error(Errno::ENODATA),
                Err(error) => reply.error(refuse(&fs, &error)),
            }
        });
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattrs(inode.0) {
            Ok(names) => give_names(reply, size, &names),
            Err(error) => reply.error(refuse(&self.fs, &error)),
        }
    }

    // The kernel refuses every change of a read-only mount by itself. What follows would be asked again and
    // again if it were not answered "no such thing" once.

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
