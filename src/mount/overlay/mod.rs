//! A tree that can be changed, over one that cannot.
//!
//! Inodes are things in memory, identified by themselves; the base's come in when somebody enters the folder
//! they are in, which is the only step that may wait for the network. Every change is first a record in the
//! journal of the staging folder, then a change of the tree; a mount of the same reference replays it.
//! Permissions are the kernel's to check.
//!
//! What exists here only, and is not published: fifos, sockets and device nodes (programs that make them for
//! their own use work), access times, extended attributes outside of `user.`, which are refused.
//!
//! - `inode`, `tree`: the things, and what each record does to them
//! - `root`: what may be at the root: one artifact's things, or a folder for each tag
//! - `names`, `attributes`, `xattrs`, `contents`, `copying`: what programs ask for
//! - `settling`, `changes`, `frozen`: what differs from the base, for people and for a commit
//! - `order`: what has to be on disk before what
//! - `refusal`: why not

mod attributes;
mod changes;
mod contents;
mod copying;
mod frozen;
mod inode;
mod names;
mod order;
mod refusal;
mod root;
mod settling;
mod tree;
mod xattrs;

use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::fs::Counts;
use super::handles::Numbered;
use super::inodes::ROOT;
use super::options::Verify;
use super::staging::{Record, Shape, Staging, Time};
use crate::artifact::tree::Folder;
use crate::error::{Context as _, Error, ErrorKind, Result};
pub(super) use attributes::{Kind, Setting, Stat, When};
pub use changes::{Change, Difference};
pub(super) use contents::Opened;
pub(super) use copying::Opener;
pub use frozen::{Frozen, FrozenContent, FrozenEntry};
pub(super) use names::{Listing, New, Target, Who};
pub(super) use refusal::{Answer, Refusal};
pub(super) use root::Top;
use tree::Tree;
pub(super) use xattrs::Set;

/// A tree that can be changed, and where the changes are kept.
pub(super) struct Overlay {
    tree: Mutex<Tree>,
    staging: Staging,
    handles: Numbered<contents::Handle>,
    readers: copying::Readers,
    order: order::Order,
    listings: Numbered<Listing>,
    pub(super) counts: Counts,
    pub(super) base: Arc<dyn Folder>,
    top: Top,
    pub(super) deadline: Duration,
    pub(super) verify: Verify,
    /// Turned off for good when the kernel says we may not.
    pub(super) passthrough: AtomicBool,
}

/// What an overlay is made of, beside its base.
pub(super) struct Ground {
    pub(super) top: Top,
    pub(super) staging: Staging,
    pub(super) records: Vec<Record>,
    pub(super) owner: (u32, u32),
    pub(super) deadline: Duration,
    pub(super) verify: Verify,
    pub(super) passthrough: bool,
}

impl Overlay {
    /// The tree as its journal left it. Waits for the network where the journal speaks of folders of the base.
    pub(super) async fn open(base: Arc<dyn Folder>, ground: Ground) -> Result<Self> {
        let Ground { top, staging, records, owner, deadline, verify, passthrough } = ground;
        let spoken_of = top.spoken_of(&records);
        let depth = top.depth();
        let tree = Tree::new(Arc::clone(&base), owner, depth, Arc::clone(staging.data()));
        let overlay = Self {
            tree: Mutex::new(tree),
            staging,
            handles: Numbered::default(),
            readers: copying::Readers::default(),
            order: order::Order::default(),
            listings: Numbered::default(),
            counts: Counts::default(),
            base,
            top,
            deadline,
            verify,
            passthrough: AtomicBool::new(passthrough),
        };
        let shown = || format!("replay the journal in {}", overlay.staging.folder().display());
        if let Some(entries) = spoken_of {
            overlay.tree().enter(ROOT, &entries, false).map_err(unexpected).doing(shown)?;
        }
        for record in &records {
            overlay.replay(record).await.map_err(unexpected).doing(shown)?;
        }
        overlay.tidy().doing(shown)?;
        overlay.take_over_told(&records);
        overlay.look_inside(!records.is_empty()).await.map_err(unexpected)?;
        Ok(overlay)
    }

    async fn replay(&self, record: &Record) -> Answer<()> {
        if let Record::Base { inode, .. } = record
            && self.tree().inodes.contains_key(inode)
        {
            return self.tree().apply(record, None);
        }
        for folder in tree::folders(record).into_iter().flatten() {
            self.enter(folder).await?;
        }
        if let Record::Base { inode, .. } = record {
            self.tree().inode(*inode)?;
        }
        self.tree().apply(record, None)
    }

    /// Forgets what a mount before this one had open and removed, and bytes nothing leads to.
    fn tidy(&self) -> Result<()> {
        // Bytes go only when the journal that says so is certain to stay.
        self.staging.journal().sync().doing(|| "sync the journal")?;
        let mut tree = self.tree();
        tree.replaying = false;
        let gone: Vec<u64> =
            tree.inodes.iter().filter(|(_, inode)| inode.is_gone()).map(|(number, _)| *number).collect();
        for number in gone {
            tree.reap(number);
        }
        let staged = |number: u64| {
            tree.inode(number).and_then(|inode| inode.contents()).is_ok_and(|contents| contents.is_staged())
        };
        self.staging.data().sweep(staged).doing(|| "tidy up the staging folder")
    }

    /// Lists a folder of the base, once.
    async fn enter(&self, number: u64) -> Answer<()> {
        let unentered = self.tree().unentered(number)?;
        let Some(base) = unentered else { return Ok(()) };
        let listed = self.in_time("list a folder", base.list()).await?;
        let artifact = self.top.artifact(&self.tree(), number);
        let fixed = match &artifact {
            Some(name) => self.top.is_fixed(name).await,
            None => false,
        };
        let mut tree = self.tree();
        tree.enter(number, &listed, fixed)?;
        // Something of the folder itself was changed before anybody entered it.
        if let Some(name) = artifact.filter(|name| tree.lacks_pin(number, name))
            && let Some(pin) = self.top.pin(&name)
        {
            self.staging.journal().append(&pin)?;
            tree.apply(&pin, None)?;
        }
        Ok(())
    }

    /// Writes a change down and makes it. Called with everything checked that could refuse it.
    fn change(&self, tree: &mut Tree, record: &Record, made: Option<(std::fs::File, Shape)>) -> Answer<()> {
        self.introduce(tree, record)?;
        self.staging.journal().append(record)?;
        tree.apply(record, made)
    }

    /// Writes down what a record will speak of.
    fn introduce(&self, tree: &mut Tree, record: &Record) -> Answer<()> {
        let spoken_of = tree::mentions(record).into_iter().chain(self.top.named(tree, record));
        for number in spoken_of.flatten().collect::<Vec<_>>() {
            for introduction in tree.introductions(number) {
                if let Some(pin) = self.top.pinned(&introduction) {
                    self.staging.journal().append(&pin)?;
                    tree.apply(&pin, None)?;
                }
                self.staging.journal().append(&introduction)?;
                tree.apply(&introduction, None)?;
            }
        }
        Ok(())
    }

    /// Gives the staging folder to whoever mounts next. For when the kernel asks no more.
    pub(super) fn close(&self) {
        if let Err(refusal) = self.sync_names() {
            tracing::error!(?refusal, "the journal may not be on disk");
        }
        self.staging.unlock();
    }

    pub(super) fn staging(&self) -> &Staging {
        &self.staging
    }

    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `work`, or an error once the deadline has passed.
    async fn in_time<T>(&self, doing: &'static str, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::time::timeout(self.deadline, work).await.unwrap_or_else(|_| {
            let seconds = self.deadline.as_secs_f32();
            Err(Error::new(ErrorKind::Unavailable, format!("{doing}: no answer within {seconds} s")))
        })
    }
}

/// A refusal where none can be a program's fault.
pub(super) fn unexpected(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Failed(error) => error,
        Refusal::Disk(error) => Error::io("the staging disk", error),
        other => Error::new(ErrorKind::Corrupt, format!("the journal does not fit its base ({other:?})")),
    }
}

fn now() -> Time {
    time(SystemTime::now())
}

/// A time as we keep it.
pub(super) fn time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => (since.as_secs() as i64, since.subsec_nanos()),
        Err(before) => {
            let before = before.duration();
            match before.subsec_nanos() {
                0 => (-(before.as_secs() as i64), 0),
                nanoseconds => (-(before.as_secs() as i64) - 1, 1_000_000_000 - nanoseconds),
            }
        }
    }
}

/// Whether the kernel will let this process register files for passthrough: it wants `CAP_SYS_ADMIN` of the
/// machine, not of a container's own users.
pub(super) fn may_register() -> bool {
    const SYS_ADMIN: u64 = 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|word| u64::from_str_radix(word.trim(), 16).ok()).unwrap_or(0);
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    effective & SYS_ADMIN != 0 && users.split_whitespace().eq(["0", "0", "4294967295"])
}
