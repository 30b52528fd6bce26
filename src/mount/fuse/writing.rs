//! The kernel's questions to an [`Overlay`].
//!
//! Only the kernel changes what an overlay holds, and it knows what it changed, so names and attributes may be
//! remembered for long; only what it writes by itself it must ask for again.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Generation, INodeNo, InitFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::asked::{made, opener, set, sought, target, when, who};
use super::attributes::{give, give_names, nothing, stat_of};
use super::listing::{self, Shown, list};
use super::replies::{self, attr, backing, empty, entry, lifetime, refuse};
use super::{BACKGROUND, Kernel, LARGEST, WANTED, number_of};
use crate::error::{Error, ErrorKind};
use crate::mount::overlay::{self, New, Overlay, Refusal, Setting};
use crate::mount::staging::Made;

/// The mount may lie on one more stacked file system: the staging folder of a container is often on overlayfs.
const DEPTH: u32 = 2;

impl Kernel<Overlay> {
    fn make(&self, parent: INodeNo, name: &OsStr, new: New, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move { entry(&fs, reply, fs.make(parent.0, &name, new).await) });
    }
}

impl fuser::Filesystem for Kernel<Overlay> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for wanted in WANTED {
            let _ = config.add_capabilities(wanted);
        }
        // An opened file is emptied in the same request; who takes set-user-id away is us, which spares a
        // question before each write.
        for wanted in [InitFlags::FUSE_ATOMIC_O_TRUNC, InitFlags::FUSE_HANDLE_KILLPRIV_V2] {
            let _ = config.add_capabilities(wanted);
        }
        let passthrough = self.fs.passthrough.load(Ordering::Relaxed)
            && overlay::may_register()
            && config.add_capabilities(InitFlags::FUSE_PASSTHROUGH).is_ok()
            && config.set_max_stack_depth(DEPTH).is_ok();
        self.fs.passthrough.store(passthrough, Ordering::Relaxed);
        // The kernel refuses to register files when it also has this (limits.md §3).
        if !passthrough {
            let _ = config.add_capabilities(InitFlags::FUSE_WRITEBACK_CACHE);
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
                // An entry with number 0 is the absence of one, remembered for as long.
                Ok(None) => reply.entry(&replies::absence(&fs, parent), &nothing(), Generation(0)),
                Ok(Some(stat)) => entry(&fs, reply, Ok(stat)),
                Err(refusal) => reply.error(refuse(&fs, &refusal)),
            }
        });
    }

    fn forget(&self, _request: &Request, inode: INodeNo, times: u64) {
        self.fs.forget(inode.0, times);
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        attr(&self.fs, reply, self.fs.getattr(inode.0));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let setting = Setting {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            accessed: atime.map(when),
            modified: mtime.map(when),
            unprivileged: uid.is_some() || gid.is_some() || request.uid() != 0,
        };
        attr(&self.fs, reply, self.fs.setattr(inode.0, setting));
    }

    fn readlink(&self, _request: &Request, inode: INodeNo, reply: ReplyData) {
        match self.fs.readlink(inode.0) {
            Ok(target) => reply.data(&target),
            Err(refusal) => reply.error(refuse(&self.fs, &refusal)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let new = New { what: made(mode, rdev), mode: mode & 0o7777, who: who(request) };
        self.make(parent, name, new, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = New { what: Made::Folder, mode: mode & 0o7777, who: who(request) };
        self.make(parent, name, new, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let what = Made::Link(target.as_os_str().as_bytes().to_vec());
        self.make(parent, name, New { what, mode: 0o777, who: who(request) }, reply);
    }

    fn link(&self, _request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move { entry(&fs, reply, fs.link(inode.0, parent.0, &name).await) });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move { empty(&fs, reply, fs.unlink(parent.0, &name).await) });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        self.answer(async move { empty(&fs, reply, fs.rmdir(parent.0, &name).await) });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some(target) = target(flags) else { return reply.error(Errno::EINVAL) };
        let (fs, name, new_name) = (self.fs(), name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        self.answer(async move {
            let moved = fs.rename((parent.0, &name), (new_parent.0, &new_name), target).await;
            empty(&fs, reply, moved);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name) = (self.fs(), name.as_bytes().to_vec());
        let new = New { what: Made::File, mode: mode & 0o7777, who: who(request) };
        let opener = opener(request, OpenFlags(flags));
        self.answer(async move {
            let mut register = |file: &std::fs::File| reply.open_backing(file).map(backing);
            let created = fs.create(parent.0, &name, new, opener, &mut register).await;
            replies::created(&fs, reply, created);
        });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        let who = opener(request, flags);
        let truncate = flags.0 & libc::O_TRUNC != 0;
        self.answer(async move {
            let mut register = |file: &std::fs::File| reply.open_backing(file).map(backing);
            let opened = fs.open_file(inode.0, who, truncate, &mut register).await;
            replies::opened(&fs, reply, opened);
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
                Err(Refusal::Failed(error)) => {
                    number_of(&fs.counts, &Error::with_source(ErrorKind::Io, "read", error));
                    reply.error(Errno::EIO);
                }
                Err(refusal) => reply.error(refuse(&fs, &refusal)),
            }
        });
    }

    fn write(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let unprivileged = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        match self.fs.write(handle.0, data, offset, unprivileged) {
            Ok(()) => reply.written(data.len() as u32),
            Err(refusal) => reply.error(refuse(&self.fs, &refusal)),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        empty(&self.fs, reply, self.fs.flush(handle.0));
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.fs.release(handle.0);
        reply.ok();
    }

    fn fsync(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        data_only: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs();
        self.wait_for_disk(move || empty(&fs, reply, fs.sync_file(handle.0, data_only)));
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let fs = self.fs();
        self.wait_for_disk(move || empty(&fs, reply, fs.sync_names()));
    }

    fn opendir(&self, _request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs();
        self.answer(async move {
            match fs.open_folder(inode.0).await {
                Ok(handle) => {
                    reply.opened(FileHandle(handle), listing::flags(!fs.is_growing(inode.0)));
                }
                Err(refusal) => reply.error(refuse(&fs, &refusal)),
            }
        });
    }

    // Every kernel with FUSE's 7.21 asks for the attributes with the names, so there is no plain `readdir`.

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
            Err(refusal) => return reply.error(refuse(&self.fs, &refusal)),
        };
        let tell = |name: &[u8], number: &u64| {
            let stat = self.fs.tell_listed(&listing, name, *number)?;
            Some(Shown { lifetime: lifetime(&stat), attributes: stat_of(&stat), generation: 0 })
        };
        let place = (inode.0, listing.parent);
        list(reply, place, offset, &listing.entries, tell, |number| self.fs.forget(number, 1));
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_folder(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        match self.fs.staging().data().room() {
            Ok(room) => reply.statfs(
                room.f_blocks,
                room.f_bfree,
                room.f_bavail,
                room.f_files,
                room.f_ffree,
                room.f_bsize as u32,
                255,
                room.f_frsize as u32,
            ),
            Err(error) => reply.error(refuse(&self.fs, &error.into())),
        }
    }

    fn setxattr(
        &self,
        _request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let Some(set) = set(flags) else { return reply.error(Errno::EINVAL) };
        empty(&self.fs, reply, self.fs.set_xattr(inode.0, name.as_bytes(), value, set));
    }

    fn getxattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.fs.xattr(inode.0, name.as_bytes()) {
            Ok(value) => give(reply, size, &value),
            Err(refusal) => reply.error(refuse(&self.fs, &refusal)),
        }
    }

    fn listxattr(&self, _request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        match self.fs.xattrs(inode.0) {
            Ok(names) => give_names(reply, size, &names),
            Err(refusal) => reply.error(refuse(&self.fs, &refusal)),
        }
    }

    fn removexattr(&self, _request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(&self.fs, reply, self.fs.remove_xattr(inode.0, name.as_bytes()));
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let range = offset..offset.saturating_add(length);
        empty(&self.fs, reply, self.fs.allocate(handle.0, range, mode));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _from: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        _to: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let fs = self.fs();
        self.wait_for_disk(move || {
            match fs.copy((from_handle.0, from_offset), (to_handle.0, to_offset), length) {
                Ok(copied) => reply.written(copied as u32),
                Err(refusal) => reply.error(refuse(&fs, &refusal)),
            }
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let Some(what) = sought(whence) else { return reply.error(Errno::EINVAL) };
        match self.fs.seek(handle.0, what, offset as u64) {
            Ok(found) => reply.offset(found as i64),
            Err(refusal) => reply.error(refuse(&self.fs, &refusal)),
        }
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
