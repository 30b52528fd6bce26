//! Contents: open, read, write, sync.
//!
//! The kernel reads and writes a data file by itself (passthrough) when every byte is in it and nobody has the
//! inode open otherwise; how an inode is read is fixed by its first open (limits.md §3). The base's own
//! files are never handed over: a program that opens one for writing later would write into the cache.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::FallocateFlags;

use super::Overlay;
use super::copying::Opener;
use super::refusal::{Answer, Refusal};
use super::tree::Tree;
use crate::error::{Context as _, Error, ErrorKind};
use crate::mount::contents::SLOWEST;
use crate::mount::fs::Counts;
use crate::mount::handles::{Backing, Way};
use crate::mount::options::Verify;
use crate::mount::staging::{Contents, Record, Seek};

/// Hands a file to the kernel.
pub(in crate::mount) type Register<'a> = &'a mut (dyn FnMut(&File) -> io::Result<Backing> + Send);

/// An open file.
pub(super) struct Handle {
    pub(super) number: u64,
    pub(super) contents: Arc<Contents>,
    /// Who opened it, of a file of the base that is only read.
    reader: Option<u32>,
}

/// How an open is answered.
pub(in crate::mount) struct Opened {
    pub(in crate::mount) handle: u64,
    pub(in crate::mount) way: Way,
}

/// A file is no longer than this: offsets are signed.
const LONGEST: u64 = i64::MAX as u64;

impl Overlay {
    /// Opens a file, emptied first if asked to.
    pub(in crate::mount) async fn open_file(
        &self,
        number: u64,
        opener: Opener,
        truncate: bool,
        register: Register<'_>,
    ) -> Answer<Opened> {
        if truncate {
            self.resize(number, 0)?;
        }
        let contents = {
            let tree = self.tree();
            let inode = tree.inode(number)?;
            if opener.writes && inode.fixed {
                return Err(Refusal::ReadOnly);
            }
            Arc::clone(inode.contents()?)
        };
        if self.verify == Verify::Full {
            let size =
                contents.base().map_or(0, |base| base.layer.as_ref().map_or(base.size, |layer| layer.size));
            let patience = self.deadline + Duration::from_secs(size / SLOWEST);
            let checked = tokio::time::timeout(patience, contents.check()).await;
            checked
                .unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Unavailable, "check a blob: no answer in time"))
                })
                .doing(|| "--verify=full")?;
        }
        self.open_in(&mut self.tree(), number, opener, register)
    }

    pub(super) fn open_in(
        &self,
        tree: &mut Tree,
        number: u64,
        opener: Opener,
        register: Register<'_>,
    ) -> Answer<Opened> {
        Counts::add(&self.counts.opens, 1);
        let inode = tree.inode_mut(number)?;
        let contents = Arc::clone(inode.contents()?);
        let way = if inode.opens > 0 {
            inode.backing.clone()
        } else {
            contents.keep_open(true)?;
            // The kernel would not take these bits away when it writes by itself.
            let privileged = inode.mode & 0o6000 != 0;
            let may = self.passthrough.load(Ordering::Relaxed) && !privileged && !self.readers.copies(opener);
            let file = if may { contents.whole()? } else { None };
            file.and_then(|file| self.registered(register(&file)))
        };
        inode.opens += 1;
        inode.backing.clone_from(&way);
        let reads_base = opener.reads && !opener.writes && contents.shows().is_some();
        let reader = reads_base.then_some(opener.process);
        if let Some(process) = reader {
            self.readers.begin(process);
        }
        let handle = self.handles.insert(Handle { number, contents, reader });
        let way = way.map_or(Way::Cached, Way::Passthrough);
        if matches!(way, Way::Passthrough(_)) {
            Counts::add(&self.counts.passed_through, 1);
        }
        Ok(Opened { handle, way })
    }

    fn registered(&self, registered: io::Result<Backing>) -> Option<Backing> {
        registered
            .inspect_err(|error| {
                if error.kind() == io::ErrorKind::PermissionDenied {
                    self.passthrough.store(false, Ordering::Relaxed);
                }
                tracing::debug!(%error, "the kernel will not read and write this file by itself");
            })
            .ok()
    }

    /// One open's last descriptor and mapping is gone.
    pub(in crate::mount) fn release(&self, handle: u64) {
        let Some(closed) = self.handles.remove(handle) else { return };
        if let Err(refusal) = self.tell_ranges(&closed) {
            tracing::error!(?refusal, "what was written to a file is not in the journal");
        }
        if let Some(process) = closed.reader {
            self.readers.end(process);
        }
        let mut tree = self.tree();
        let Ok(inode) = tree.inode_mut(closed.number) else { return };
        inode.opens = inode.opens.saturating_sub(1);
        let mut backing = None;
        if inode.opens == 0 {
            backing = inode.backing.take();
            if let Err(error) = closed.contents.keep_open(false) {
                tracing::error!(%error, "close a data file");
            }
        }
        tree.reap(closed.number);
        drop(tree);
        drop(backing);
        self.give_back();
    }

    /// How many files are open.
    pub(in crate::mount) fn open_files(&self) -> usize {
        self.handles.len()
    }

    /// The bytes at `offset`, as many as asked for or up to the end.
    pub(in crate::mount) async fn read(&self, handle: u64, offset: u64, length: u64) -> Answer<Bytes> {
        Counts::add(&self.counts.reads, 1);
        let handle = self.handle(handle)?;
        let range = offset..offset.saturating_add(length);
        let bytes = self.in_time("read", handle.contents.read(range)).await?;
        Counts::add(&self.counts.read_bytes, bytes.len() as u64);
        Ok(bytes)
    }

    /// Writes; `unprivileged` takes set-user-id and set-group-id away.
    pub(in crate::mount) fn write(
        &self,
        handle: u64,
        bytes: &[u8],
        offset: u64,
        unprivileged: bool,
    ) -> Answer<()> {
        let handle = self.handle(handle)?;
        self.begin_staging(handle.number, &handle.contents)?;
        handle.contents.write(bytes, offset)?;
        if unprivileged {
            self.strip_privileges(handle.number)?;
        }
        Ok(())
    }

    /// Gives a file of the base its local part, all of the base showing.
    pub(super) fn begin_staging(&self, number: u64, contents: &Contents) -> Answer<()> {
        if contents.is_staged() {
            return Ok(());
        }
        let size = contents.base().map_or(0, |base| base.size);
        self.stage(&mut self.tree(), number, size, size)
    }

    /// Gives a file of the base its local part, `size` long, the first `keep` bytes of the base showing.
    fn stage(&self, tree: &mut Tree, number: u64, keep: u64, size: u64) -> Answer<()> {
        let inode = tree.inode(number)?;
        if inode.fixed {
            return Err(Refusal::ReadOnly);
        }
        let (contents, is_open) = (Arc::clone(inode.contents()?), inode.opens > 0);
        if contents.is_staged() {
            return Ok(());
        }
        contents.stage(self.staging.data(), number, keep, Some(size))?;
        self.change(tree, &Record::Stage { inode: number, keep }, None)
            .inspect_err(|_| contents.unstage())?;
        Ok(contents.keep_open(is_open)?)
    }

    /// Makes a file `size` long.
    pub(super) fn resize(&self, number: u64, size: u64) -> Answer<()> {
        if size > LONGEST {
            return Err(Refusal::Invalid);
        }
        let mut tree = self.tree();
        let inode = tree.inode(number)?;
        if inode.fixed {
            return Err(Refusal::ReadOnly);
        }
        let contents = Arc::clone(inode.contents()?);
        if !contents.is_staged() {
            let base = contents.base().map_or(0, |base| base.size);
            return self.stage(&mut tree, number, base.min(size), size);
        }
        drop(tree);
        // Shorter first, written down after: killed in between, what is beyond the end is the base's no more,
        // for a replay cuts the base's ranges at the data file's end.
        contents.resize(size)?;
        self.tell_ranges(&Handle { number, contents, reader: None })
    }

    /// Room for, or zeros in, a range, as fallocate(2) has it.
    pub(in crate::mount) fn allocate(&self, handle: u64, range: Range<u64>, mode: i32) -> Answer<()> {
        let handle = self.handle(handle)?;
        let flags = FallocateFlags::from_bits_retain(mode as u32);
        let known = FallocateFlags::KEEP_SIZE | FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE;
        if !known.contains(flags) {
            return Err(Refusal::Unsupported);
        }
        self.begin_staging(handle.number, &handle.contents)?;
        handle.contents.allocate(range, flags)?;
        self.tell_ranges(&handle)
    }

    /// Where the next data or hole is.
    pub(in crate::mount) fn seek(&self, handle: u64, what: Seek, offset: u64) -> Answer<u64> {
        self.handle(handle)?.contents.seek(what, offset)?.ok_or(Refusal::BeyondEnd)
    }

    /// Writes down which ranges were written: after this, a kill of this process loses none of them.
    pub(in crate::mount) fn flush(&self, handle: u64) -> Answer<()> {
        self.tell_ranges(&*self.handle(handle)?)
    }

    /// Returns when the file's bytes, and the changes of names and attributes before, are on disk.
    ///
    /// The ranges are taken before the data file is synced and written down after: what the journal calls
    /// local is on disk before the journal is. The journal is one sequence, so with its end on disk the
    /// file's name is, too.
    pub(in crate::mount) fn sync_file(&self, handle: u64, data_only: bool) -> Answer<()> {
        let handle = self.handle(handle)?;
        let untold = handle.contents.untold();
        handle.contents.sync(data_only)?;
        if let Some(untold) = untold {
            self.tell(&handle, untold)?;
        }
        self.sync_names()
    }

    fn tell_ranges(&self, handle: &Handle) -> Answer<()> {
        let Some(untold) = handle.contents.untold() else { return Ok(()) };
        let _telling = self.order.telling(handle.number, &handle.contents);
        self.tell(handle, untold)
    }

    fn tell(&self, handle: &Handle, untold: (u64, Vec<(u64, u64)>)) -> Answer<()> {
        let append =
            |from_base| self.staging.journal().append(&Record::Ranges { inode: handle.number, from_base });
        Ok(handle.contents.tell(untold, append)?)
    }

    pub(super) fn handle(&self, handle: u64) -> Answer<Arc<Handle>> {
        self.handles
            .get(handle)
            .ok_or_else(|| Refusal::Failed(Error::new(ErrorKind::Io, "this file is not open")))
    }
}
