//! Where the kernel asks and we answer: here and in `fuse/` only is fuser spoken.
//!
//! [`Kernel`] answers for a [`Filesystem`] here, for an [`Overlay`] in `writing`.
//!
//! A request is answered on the kernel's own thread when its answer is at hand, and from the runtime when it
//! must wait: [`Kernel::answer`] polls the work once and spawns what is left. A stalled download therefore
//! holds no thread, and a warm read pays for none.

mod attributes;
mod replies;
mod writing;

use std::ffi::OsStr;
use std::future::Future;
use std::os::unix::ffi::OsStrExt as _;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};

use fuser::{
    BackingId, Config, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenAccMode, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr,
    Request, SessionACL,
};
use tokio::runtime::Handle;
use tokio::sync::watch;

use self::attributes::{attributes, dots, file_type, give, nothing};
use super::errno;
use super::fs::{Counts, Filesystem};
use super::handles::{Backing, Way};
use super::inodes::number;
use super::names::kind;
use super::options::{Options, Words};
use super::overlay::Overlay;
use crate::error::Error;

/// Requests of read-ahead the kernel may have under way: enough for 64 MiB of them (both hf-mount and
/// mountpoint-s3 settled on it); the kernel's own 12 starve a network.
const BACKGROUND: u16 = 64;

/// The largest request. The kernel allows 1 MiB (256 pages) unless told otherwise by its administrator.
const LARGEST: u32 = 1 << 20;

/// Says whether the session has ended.
pub(super) type Ended = watch::Receiver<bool>;

/// What is mounted.
#[derive(Clone)]
pub(super) enum Served {
    /// What nobody changes.
    Reading(Arc<Filesystem>),
    /// What can be changed.
    Writing(Arc<Overlay>),
}

/// Mounts, and answers from now on.
///
/// Blocks until the kernel has shaken hands. Must be called within a runtime.
pub(super) fn start(served: &Served, options: &Options, words: &Words) -> std::io::Result<Ended> {
    let mut config = config(options, words);
    match served {
        Served::Reading(fs) => {
            config.mount_options.push(MountOption::RO);
            run(Arc::clone(fs), options, &config)
        }
        Served::Writing(overlay) => run(Arc::clone(overlay), options, &config),
    }
}

fn config(options: &Options, words: &Words) -> Config {
    let mut config = Config::default();
    config.acl = if options.allow_other || words.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    // A descriptor of its own for each thread needs the device once more, which fusermount opened for us.
    config.clone_fd = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok();
    config.mount_options = vec![
        MountOption::DefaultPermissions,
        MountOption::FSName(options.reference.clone()),
        // fuser itself knows a subtype only on the way through fusermount.
        MountOption::CUSTOM("subtype=artifs".into()),
    ];
    if words.no_exec {
        config.mount_options.push(MountOption::NoExec);
    }
    if words.no_atime {
        config.mount_options.push(MountOption::NoAtime);
    }
    config
}

fn run<F>(fs: Arc<F>, options: &Options, config: &Config) -> std::io::Result<Ended>
where
    Kernel<F>: fuser::Filesystem,
{
    let (sender, ended) = watch::channel(false);
    let kernel = Kernel { fs, runtime: Handle::current(), ended: sender };
    let session = fuser::Session::new(kernel, &options.mountpoint, config)?.spawn()?;
    // When its session ends, fuser unmounts what is at the mountpoint once more: by then that can be the next
    // mount. Unmounting is done in `mountpoint` alone, so fuser's hold on it is never let go.
    std::mem::forget(session);
    Ok(ended)
}

/// The kernel's side of a filesystem.
struct Kernel<F> {
    fs: Arc<F>,
    runtime: Handle,
    ended: watch::Sender<bool>,
}

impl<F> Kernel<F> {
    /// Runs `work`, which owns its reply: to its end on this thread if it never has to wait, else the rest of
    /// it in the runtime. Work that panics drops its reply, and a dropped reply answers EIO.
    fn answer(&self, work: impl Future<Output = ()> + Send + 'static) {
        let _inside = self.runtime.enter();
        let mut work = Box::pin(work);
        let mut context = Context::from_waker(Waker::noop());
        match std::panic::catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context))) {
            Ok(std::task::Poll::Ready(())) => {}
            Ok(std::task::Poll::Pending) => drop(self.runtime.spawn(work)),
            Err(_) => tracing::error!("answering the kernel panicked; the program got EIO"),
        }
    }

    /// Runs `work`, which waits for the local disk, where it holds up no other answer.
    fn wait_for_disk(&self, work: impl FnOnce() + Send + 'static) {
        self.runtime.spawn_blocking(work);
    }

    fn fs(&self) -> Arc<F> {
        Arc::clone(&self.fs)
    }
}

/// The errno for `error`; what a program cannot do anything about is said in the log and counted.
fn refuse(fs: &Filesystem, error: &Error) -> Errno {
    number_of(&fs.counts, error)
}

fn number_of(counts: &Counts, error: &Error) -> Errno {
    let number = errno::of(error);
    if number == libc::EIO {
        tracing::error!(%error, "EIO");
        counts.failed(error);
    }
    Errno::from_i32(number)
}

/// The capabilities every mount wants; what an older kernel does not know it does without.
const WANTED: [InitFlags; 4] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
];

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
                    refuse(&fs, &Error::with_source(crate::error::ErrorKind::Io, "read", error));
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
                Ok((handle, may_be_kept)) => {
                    let kept = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                    let flags = if may_be_kept { kept } else { FopenFlags::empty() };
                    reply.opened(FileHandle(handle), flags);
                }
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
        mut reply: ReplyDirectoryPlus,
    ) {
        let listing = match self.fs.listing(handle.0) {
            Ok(listing) => listing,
            Err(error) => return reply.error(refuse(&self.fs, &error)),
        };
        let lifetime = listing.lifetime;
        for (name, number, next) in dots(inode.0, self.fs.parent(inode.0), offset) {
            // Only the number and type of these are looked at.
            let folder = FileAttr { ino: INodeNo(number), kind: FileType::Directory, ..nothing() };
            if reply.add(INodeNo(number), next, name, &lifetime, &folder, Generation(0)) {
                return reply.ok();
            }
        }
        let skipped = offset.saturating_sub(2);
        for (at, (name, node)) in (skipped..).zip(listing.entries.iter().skip(skipped as usize)) {
            let told = self.fs.inodes.tell(inode.0, name, node);
            let shown = attributes(&self.fs.stat(told.number, node));
            let (number, generation) = (INodeNo(told.number), Generation(told.generation));
            if reply.add(number, at + 3, OsStr::from_bytes(name), &lifetime, &shown, generation) {
                // It did not fit, so the kernel was not told after all.
                self.fs.inodes.forget(told.number, 1);
                break;
            }
        }
        reply.ok();
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
            Ok(names) => {
                let list: Vec<u8> =
                    names.iter().flat_map(|name| name.bytes().chain(std::iter::once(0))).collect();
                give(reply, size, &list);
            }
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
