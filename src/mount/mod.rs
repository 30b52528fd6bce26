//! The filesystem: an artifact, a repository or a registry as files.
//!
//! - `fuse`: the kernel's side, and all that says fuser · `errno`: error kinds as numbers
//! - `fs`: the filesystem itself · `names`: lookup, attributes, listings · `contents`: open and read · `prefetch`: before anybody does
//! - `inodes`, `handles`: what the kernel remembers, and what it has open
//! - `overlay`: a tree that can be changed, over one that cannot · `staging`: where the changes are kept
//! - `commit`: what changed becomes a new manifest · `ending`: what becomes of it when the mount ends
//! - `catalog`: tags and repositories as folders · `follow`: what a name is pinned to · `shelf`: tags to build changes on
//! - `options`, `mountpoint`, `control`: everything around it

mod catalog;
mod commit;
mod contents;
mod control;
mod ending;
mod errno;
mod follow;
mod fs;
mod fuse;
mod handles;
mod inodes;
mod mountpoint;
mod names;
mod options;
mod overlay;
mod prefetch;
mod shelf;
mod staging;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::artifact::tree::Folder;
use crate::artifact::{Artifact, View};
use crate::cache::{self, Cache};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Name;
use crate::ops::Progress;
use crate::store::{Catalog, Source, Target};
use commit::Publisher;
use control::Event;
use ending::Ending;
use follow::{Named, Slots};
use fs::{Counts, Filesystem, Top};
use fuse::Served;
use overlay::{Ground, Overlay};
use shelf::Shelf;
use staging::Staging;

pub use commit::{CommitOptions, Committed, MESSAGE, PARENT};
pub use control::{commit, diff, mounts, unmount, unmount_watched};
pub use ending::Ended;
pub use mountpoint::is_mounted;
pub use options::{Options, Verify};
pub use overlay::{Change, Difference, Frozen, FrozenContent, FrozenEntry};
pub use staging::{LocalBytes, Work, discard, place, works};

/// What is mounted.
pub enum Root {
    /// One artifact: its files are at the root.
    Artifact {
        /// The repository it is in.
        source: Arc<dyn Source>,
        /// Which one.
        name: Name,
        /// How it is shown.
        view: View,
    },
    /// A repository: a folder for each tag.
    Repository {
        /// The repository.
        source: Arc<dyn Source>,
        /// How its artifacts are shown.
        view: View,
    },
    /// A registry, or the part below a namespace: its repositories, nested, with their tags inside.
    Catalog {
        /// The registry.
        catalog: Arc<dyn Catalog>,
        /// The path to begin at.
        namespace: Option<String>,
        /// How its artifacts are shown.
        view: View,
    },
}

/// What a mount is and did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Status {
    /// Where.
    pub mountpoint: PathBuf,
    /// What it was asked for as.
    pub reference: String,
    /// The manifest shown at the root, if it is one.
    pub digest: Option<String>,
    /// The process that answers.
    pub pid: u32,
    /// Files that are open.
    pub open_files: u64,
    /// Opens so far.
    pub opens: u64,
    /// Of these, the ones the kernel reads by itself.
    pub passed_through: u64,
    /// Read requests the kernel made; what it had in its page cache it did not ask for.
    pub reads: u64,
    /// Bytes they asked for.
    pub read_bytes: u64,
    /// Lookups the kernel made.
    pub lookups: u64,
    /// Listings the kernel made.
    pub listings: u64,
    /// Requests that ended in an error a program could do nothing about.
    pub failures: u64,
    /// The last of them.
    pub last_failure: Option<String>,
    /// What is staged, where something can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub staged: Option<Staged>,
    /// What the process fetched and served through its cache, if it has one.
    pub cache: Option<cache::Stats>,
    /// Where the process writes what it has to say.
    pub log: Option<PathBuf>,
}

/// What waits in a mount to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staged {
    /// How many things differ from what was published last.
    pub changes: u64,
    /// How much of the local disk changed files take.
    pub bytes: u64,
}

/// A running mount. Dropped without [`stop`](Self::stop), it is detached.
pub struct Mount {
    running: Arc<Running>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    door: Option<control::Door>,
}

/// What the control socket and the mount's owner share.
struct Running {
    served: Served,
    mountpoint: PathBuf,
    reference: String,
    log: Option<PathBuf>,
    cache: Option<Cache>,
    ended: fuse::Ended,
    publisher: Option<Publisher>,
    ending: Ending,
    /// Who wants to see what is published.
    watchers: Mutex<Vec<tokio::sync::mpsc::UnboundedSender<Event>>>,
}

impl Mount {
    /// Mounts, and returns once the mount answers. What can be known to fail fails here: a missing tag, a
    /// registry that refuses, a mountpoint that cannot be one.
    ///
    /// `cache` is what its figures are taken from; the stores of `root` bring their own.
    pub async fn start(root: Root, mut options: Options, cache: Option<Cache>) -> Result<Self> {
        options.mountpoint = mountpoint::check(&options.mountpoint)?;
        let words = options::Words::parse(&options.mount_options)?;
        let slots = Slots::new(options.follow);
        let owner = (
            words.uid.unwrap_or_else(|| rustix::process::getuid().as_raw()),
            words.gid.unwrap_or_else(|| rustix::process::getgid().as_raw()),
        );
        let mut publisher = None;
        let served = match options.staging.clone() {
            Some(place) => {
                let (overlay, made) = writable(root, &options, &place, owner).await?;
                publisher = Some(made);
                Served::Writing(Arc::new(overlay))
            }
            None => Served::Reading(Arc::new(Filesystem {
                top: top(root, &options.reference, &slots).await?,
                inodes: inodes::Inodes::default(),
                handles: handles::Handles::default(),
                counts: Counts::default(),
                failing: contents::Failing::default(),
                owner,
                deadline: options.deadline,
                verify: options.verify,
                passthrough: AtomicBool::new(options.passthrough),
            })),
        };
        let ended = begin(served.clone(), options.clone(), words).await?;
        let running = Arc::new(Running {
            served,
            mountpoint: options.mountpoint.clone(),
            reference: options.reference.clone(),
            log: options.log.clone(),
            cache,
            ended,
            publisher,
            ending: Ending::default(),
            watchers: Mutex::default(),
        });
        tokio::spawn(ending::wait(Arc::clone(&running)));
        let mut mount = Self { running, tasks: Vec::new(), door: None };
        mount.answer_first().await?;
        if options.follow.is_some() {
            mount.tasks.push(tokio::spawn(slots.keep_following(options.deadline)));
        }
        if options.prefetch {
            mount.tasks.push(tokio::spawn(prefetch::everything(mount.running.folder())));
        }
        // Without its door a mount still serves; it only cannot be asked.
        mount.door = control::open(&mount.running)
            .inspect_err(|error| tracing::warn!(%error, "this mount will not show in artifs status"))
            .ok();
        Ok(mount)
    }

    /// The kernel's first question, answered before anybody is told that the mount is there.
    async fn answer_first(&self) -> Result<()> {
        let path = self.running.mountpoint.clone();
        let first = tokio::task::spawn_blocking(move || {
            std::fs::metadata(&path).map(|_| mountpoint::read_ahead(&path))
        });
        let answered = first.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
        answered.doing(|| format!("look into the new mount {}", self.running.mountpoint.display()))
    }

    /// What it is and did so far.
    pub fn status(&self) -> Status {
        self.running.status()
    }

    /// What differs from what was published last: at first the artifact that was mounted. Empty where nothing can
    /// be changed.
    pub fn changes(&self) -> Vec<Change> {
        self.running.changes()
    }

    /// Says where changes are published. Without, they are staged only.
    pub fn publish_to(&self, target: Arc<dyn Target>) {
        if let Some(publisher) = &self.running.publisher {
            publisher.publish_to(target);
        }
    }

    /// Publishes what changed, and goes on. One of each artifact that could be published; of a mounted artifact always
    /// that one.
    pub async fn commit(&self, options: &CommitOptions, progress: &dyn Progress) -> Result<Vec<Committed>> {
        self.running.commit(options, progress).await
    }

    /// The changed tree as it is now. `None` where nothing can be changed.
    pub fn freeze(&self) -> Result<Option<Frozen>> {
        match &self.running.served {
            Served::Reading(_) => Ok(None),
            Served::Writing(overlay) => overlay.freeze().map(Some),
        }
    }

    /// Unmounts. [`Conflict`](ErrorKind::Conflict) while something in it is in use: then it stays mounted, and
    /// this may be called again. What became of changes says [`ended`](Self::ended).
    pub async fn stop(&self) -> Result<()> {
        self.running.unmount().await?;
        self.running.ending.outcome().await;
        Ok(())
    }

    /// Waits until it was unmounted, by whomever, and what was changed is published or is known to stay staged.
    pub async fn ended(&self) -> Ended {
        let ended = self.running.ending.outcome().await;
        self.running.ending.answered().await;
        ended
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        if !self.running.has_ended() {
            let _ = mountpoint::take_away(&self.running.mountpoint, true);
        }
        self.door.take();
    }
}

impl Running {
    fn status(&self) -> Status {
        let (counts, open_files) = match &self.served {
            Served::Reading(fs) => (&fs.counts, fs.handles.open_files()),
            Served::Writing(overlay) => (&overlay.counts, overlay.open_files()),
        };
        let of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            mountpoint: self.mountpoint.clone(),
            reference: self.reference.clone(),
            digest: self.folder().origin().map(|origin| origin.digest.to_string()),
            pid: std::process::id(),
            open_files: open_files as u64,
            opens: of(&counts.opens),
            passed_through: of(&counts.passed_through),
            reads: of(&counts.reads),
            read_bytes: of(&counts.read_bytes),
            lookups: of(&counts.lookups),
            listings: of(&counts.listings),
            failures: of(&counts.failures),
            last_failure: counts.last_failure(),
            staged: self.staged(),
            cache: self.cache.as_ref().map(Cache::stats),
            log: self.log.clone(),
        }
    }

    /// The root folder as the registry has it.
    fn folder(&self) -> Arc<dyn Folder> {
        match &self.served {
            Served::Reading(fs) => fs.top.folder(),
            Served::Writing(overlay) => Arc::clone(&overlay.base),
        }
    }

    fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    async fn unmount(&self) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let path = self.mountpoint.clone();
        tokio::task::spawn_blocking(move || mountpoint::take_away(&path, false))
            .await
            .unwrap_or_else(|error| Err(Error::with_source(ErrorKind::Io, "unmount", error)))
    }

    /// Waits until the kernel asks no more.
    async fn kernel_ended(&self) {
        // An error means that whoever would tell is gone, and the session with it.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    fn staged(&self) -> Option<Staged> {
        let Served::Writing(overlay) = &self.served else { return None };
        Some(Staged { changes: self.changes().len() as u64, bytes: overlay.staging().bytes() })
    }

    fn changes(&self) -> Vec<Change> {
        match (&self.served, &self.publisher) {
            (Served::Reading(_), _) => Vec::new(),
            (Served::Writing(overlay), None) => overlay.changes(),
            (Served::Writing(overlay), Some(publisher)) => publisher.changes(overlay),
        }
    }

    async fn commit(&self, options: &CommitOptions, progress: &dyn Progress) -> Result<Vec<Committed>> {
        let (Served::Writing(overlay), Some(publisher)) = (&self.served, &self.publisher) else {
            let why = format!("{} is mounted read-only; mount it with --rw to change it", self.reference);
            return Err(Error::new(ErrorKind::Unsupported, why));
        };
        // What the kernel holds back of files that are open is handed over first.
        let mountpoint = self.mountpoint.clone();
        if !self.has_ended() {
            let flushed =
                tokio::task::spawn_blocking(move || std::fs::File::open(mountpoint).map(rustix::fs::syncfs));
            // Best effort: what was closed or synced is here already.
            let _ = flushed.await;
            let settling = Arc::clone(overlay);
            tokio::task::spawn_blocking(move || settling.settle().map_err(overlay::unexpected))
                .await
                .unwrap_or_else(|error| Err(Error::with_source(ErrorKind::Io, "settle", error)))
                .doing(|| "write back what is mapped")?;
        }
        publisher.commit(overlay, options, progress).await
    }
}

/// The root folder, after asking whether it can be entered.
async fn top(root: Root, reference: &str, slots: &Arc<Slots>) -> Result<Top> {
    match root {
        Root::Artifact { source, name, view } => {
            let slot = slots.slot(Named { source, name, reference: reference.to_owned(), view });
            slot.pin().artifact().await?;
            Ok(Top::Artifact(slot))
        }
        Root::Repository { source, view } => {
            let base = reference.trim_end_matches('/');
            let place = catalog::Place::repository(source, base, view, Arc::clone(slots));
            place.check().await?;
            Ok(Top::Fixed(Arc::new(place)))
        }
        Root::Catalog { catalog, namespace, view } => {
            let host = reference.split('/').next().unwrap_or(reference);
            let place =
                catalog::Repositories::root(catalog, host, namespace.as_deref(), view, Arc::clone(slots))?;
            place.check().await?;
            Ok(Top::Fixed(place))
        }
    }
}

/// The tree that can be changed: what the reference points to, or, if work is staged for it, what that work
/// builds on.
async fn writable(
    root: Root,
    options: &Options,
    place: &Path,
    owner: (u32, u32),
) -> Result<(Overlay, Publisher)> {
    let (staging, records) = Staging::open(place, &options.reference)?;
    let (top, base, publisher) = match root {
        Root::Artifact { source, name, view } => {
            let artifact = artifact_to_change((source, name.clone(), view), options, &staging).await?;
            let base = Arc::clone(&artifact.root);
            (overlay::Top::Artifact, base, Publisher::of_artifact(artifact, name, &staging).await?)
        }
        Root::Repository { source, view } => {
            let may_delete = options.allow_delete;
            let reference = options.reference.trim_end_matches('/');
            let shelf = Shelf::new(source, reference, view);
            if staging.about().is_none() {
                staging.forget_note()?;
                staging.bind(None, None)?;
            }
            let base = Arc::clone(&shelf) as Arc<dyn Folder>;
            let publisher = Publisher::of_repository(reference, Arc::clone(&shelf), may_delete, &staging)?;
            (overlay::Top::Repository { shelf, may_delete }, base, publisher)
        }
        Root::Catalog { .. } => {
            let why = format!(
                "{}: a registry cannot be mounted for writing; name a repository or an artifact",
                options.reference
            );
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
    };
    let ground = Ground {
        top,
        staging,
        records,
        owner,
        deadline: options.deadline,
        verify: options.verify,
        passthrough: options.passthrough,
    };
    Ok((Overlay::open(base, ground).await?, publisher))
}

/// The artifact a name points at, or the one that staged work builds on.
async fn artifact_to_change(
    (source, name, view): (Arc<dyn Source>, Name, View),
    options: &Options,
    staging: &Staging,
) -> Result<Artifact> {
    let artifact = match staging.about().and_then(|work| Some((work.base.clone()?, work.shown.clone()?))) {
        Some((base, shown)) => {
            // A registry that is gone is no reason not to go on: what is needed of it may be cached.
            let now = tokio::time::timeout(options.deadline, source.resolve(&name)).await;
            if let Ok(Ok(now)) = now
                && now.digest != base
            {
                tracing::warn!(
                    reference = options.reference, %base, now = %now.digest,
                    "the staged changes build on what the reference pointed to before; the mount shows that"
                );
            }
            crate::artifact::open_again(source, (&base, &shown), &options.reference, &view).await?
        }
        None => crate::artifact::open(source, &name, &options.reference, &view).await?,
    };
    if staging.about().is_none() {
        staging.forget_note()?;
        staging.bind(Some(&artifact.named.digest), Some(&artifact.descriptor.digest))?;
    }
    Ok(artifact)
}

/// The mount itself, off the runtime's threads: the kernel's handshake blocks.
async fn begin(served: Served, options: Options, words: options::Words) -> Result<fuse::Ended> {
    let path = options.mountpoint.clone();
    tokio::task::spawn_blocking(move || fuse::start(&served, &options, &words))
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)))
        .doing(|| format!("mount at {}", path.display()))
}
