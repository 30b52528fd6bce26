//! Where the kernel asks and we answer: here and in `fuse/` only is fuser spoken.
//!
//! [`Kernel`] answers for a [`Filesystem`] in `reading`, for an [`Overlay`] in `writing`. `asked` and
//! `replies`, `attributes`, `listing` turn the kernel's words into ours, and ours into the kernel's.
//!
//! A request is answered on the kernel's own thread when its answer is at hand, and from the runtime when it
//! must wait: [`Kernel::answer`] polls the work once and spawns what is left. A stalled download therefore
//! holds no thread, and a warm read pays for none.

mod asked;
mod attributes;
mod listing;
mod reading;
mod replies;
mod writing;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Waker};

use fuser::{Config, Errno, InitFlags, MountOption, SessionACL};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::errno;
use super::fs::{Counts, Filesystem};
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
