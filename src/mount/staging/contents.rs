//! The bytes of one file: the base's, local ones, or the base's where nobody wrote.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, Timespec, Timestamps};

use super::ranges::Ranges;
use super::{Data, Time};
use crate::artifact::Reader;
use crate::artifact::tree;
use crate::error::{Context as _, Result};

/// The bytes of one file.
pub(in crate::mount) struct Contents {
    base: Option<Arc<Beneath>>,
    local: Mutex<Option<Local>>,
}

/// A file of the base, where it shows.
pub(super) struct Beneath {
    file: Arc<tree::File>,
    reader: OnceLock<Reader>,
}

/// The local part.
pub(super) struct Local {
    data: Arc<Data>,
    inode: u64,
    /// Kept while [`Contents::keep_open`] says so.
    file: Option<Arc<File>>,
    /// What shows where nobody wrote, and the inode that has it if that is another: then this is a copy.
    pub(super) beneath: Option<(Arc<Beneath>, Option<u64>)>,
    /// Where it still shows.
    pub(super) from_base: Ranges,
    /// How often that changed, and which of these changes the journal knows.
    pub(super) changed: u64,
    pub(super) told: u64,
    /// Whether the data file's name is on disk for certain.
    named: bool,
    /// What the data file was when it was last closed.
    shape: Shape,
}

/// Where the bytes of a range are.
pub(super) struct Layout {
    /// The data file.
    pub(super) file: Arc<File>,
    /// Its length.
    size: u64,
    /// The range, cut at the end, in pieces that come from the base (`true`) or the data file.
    pub(super) pieces: Vec<(Range<u64>, bool)>,
    /// What shows in the first kind.
    pub(super) beneath: Option<(Arc<Beneath>, Option<u64>)>,
}

/// What a data file says of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mount) struct Shape {
    pub(in crate::mount) size: u64,
    /// 512 bytes each.
    pub(in crate::mount) blocks: u64,
    pub(in crate::mount) modified: Time,
    pub(in crate::mount) changed: Time,
}

/// What a program seeks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Seek {
    Data,
    Hole,
}

/// The local bytes of a file as they were at one moment. Holds no descriptor, so there may be many.
#[derive(Clone)]
pub struct LocalBytes {
    data: Arc<Data>,
    inode: u64,
    shape: Shape,
    from_base: Vec<(u64, u64)>,
    taken: SystemTime,
}

/// Longer than a tick of the slowest clock kernels are built with (100 Hz): two changes in one tick have one time.
pub(in crate::mount) const TICK: Duration = Duration::from_millis(12);

impl LocalBytes {
    /// The ranges (start and end, in order) that come from the file of the base instead: here they are zeros.
    pub fn from_base(&self) -> &[(u64, u64)] {
        &self.from_base
    }

    /// Whether every byte comes from a file of the base that has `size` of them.
    pub(in crate::mount) fn is_all(&self, size: u64) -> bool {
        size > 0 && self.shape.size == size && self.from_base == [(0, size)]
    }

    /// Numbers that are the same as long as nobody changes the bytes. A change so young that the next one might have the
    /// same time looks like no other.
    pub(in crate::mount) fn look(&self) -> [u64; 5] {
        let (seconds, nanoseconds) = self.shape.changed;
        let changed = UNIX_EPOCH + Duration::new(seconds.max(0) as u64, nanoseconds);
        let young = self.taken.duration_since(changed).unwrap_or_default() < TICK;
        let taken = self.taken.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        let once = if young { taken } else { 0 };
        [self.inode, self.shape.size, seconds as u64, u64::from(nanoseconds), once]
    }

    /// How long the file was.
    pub fn size(&self) -> u64 {
        self.shape.size
    }

    /// The bytes, at their own offsets; as long as the file. [`NotFound`](crate::error::ErrorKind::NotFound) if
    /// the file was removed meanwhile.
    pub fn open(&self) -> Result<File> {
        self.data.find(self.inode).doing(|| "open the staged bytes of a file")
    }

    /// Whether nobody changed them since. Asked after reading, it says whether what was read is from that moment.
    pub fn is_unchanged(&self) -> Result<bool> {
        Ok(shape(&self.open()?).doing(|| "look at the staged bytes of a file")? == self.shape)
    }
}

impl Beneath {
    pub(super) fn new(file: Arc<tree::File>) -> Arc<Self> {
        Arc::new(Self { file, reader: OnceLock::new() })
    }

    fn reader(&self) -> Result<&Reader> {
        if let Some(reader) = self.reader.get() {
            return Ok(reader);
        }
        let reader = self.file.reader()?;
        Ok(self.reader.get_or_init(|| reader))
    }
}

impl Contents {
    /// The bytes of a file of the base.
    pub(in crate::mount) fn of(base: Arc<tree::File>) -> Self {
        Self { base: Some(Beneath::new(base)), local: Mutex::new(None) }
    }

    /// A file's that the base does not have: what is in its data file.
    pub(in crate::mount) fn found(data: &Arc<Data>, inode: u64) -> io::Result<Self> {
        let contents = Self { base: None, local: Mutex::new(None) };
        contents.begin(data, inode, Ranges::default(), None)?;
        Ok(contents)
    }

    /// A new file's: none, in the data file that was made for it.
    pub(in crate::mount) fn new(data: &Arc<Data>, inode: u64, (file, shape): (File, Shape)) -> Self {
        let (data, file) = (Arc::clone(data), Some(Arc::new(file)));
        let from_base = Ranges::default();
        let (changed, told, named) = (0, 0, false);
        let local = Local { data, inode, file, beneath: None, from_base, changed, told, named, shape };
        Self { base: None, local: Mutex::new(Some(local)) }
    }

    /// The file of the base they began as.
    pub(in crate::mount) fn base(&self) -> Option<&Arc<tree::File>> {
        self.base.as_ref().map(|base| &base.file)
    }

    pub(super) fn beneath(&self) -> Option<Arc<Beneath>> {
        self.base.clone()
    }

    /// What shows where nobody wrote, and the inode that has it if this is a copy of another's bytes.
    pub(in crate::mount) fn shows(&self) -> Option<(Arc<tree::File>, Option<u64>)> {
        match &*self.local() {
            Some(local) => local.beneath.as_ref().map(|(base, inode)| (Arc::clone(&base.file), *inode)),
            None => self.base.as_ref().map(|base| (Arc::clone(&base.file), None)),
        }
    }

    /// Whether there is a local part.
    pub(in crate::mount) fn is_staged(&self) -> bool {
        self.local().is_some()
    }

    /// Begins the local part of a file of the base, of which the first `keep` bytes still show. `fresh` says
    /// how long the file is now; without, the data file is one that was staged before.
    pub(in crate::mount) fn stage(
        &self,
        data: &Arc<Data>,
        inode: u64,
        keep: u64,
        fresh: Option<u64>,
    ) -> io::Result<()> {
        let keep = keep.min(self.base().map_or(0, |base| base.size));
        self.begin(data, inode, Ranges::up_to(keep), fresh)
    }

    fn begin(
        &self,
        data: &Arc<Data>,
        inode: u64,
        mut from_base: Ranges,
        fresh: Option<u64>,
    ) -> io::Result<()> {
        let also = if fresh.is_some() { OFlags::TRUNC } else { OFlags::empty() };
        let file = data.open(inode, also)?;
        if let Some(size) = fresh {
            file.set_len(size)?;
            if !from_base.is_empty() {
                // The journal must not get to the disk before this length: a file that is to be changed in a
                // few places would come out of a power cut empty.
                file.sync_all()?;
                data.sync()?;
            }
        }
        let shape = shape(&file)?;
        from_base.cut(shape.size);
        let (data, beneath) = (Arc::clone(data), self.base.clone().map(|base| (base, None)));
        let (file, changed, told, named) = (None, 0, 0, false);
        *self.local() = Some(Local { data, inode, file, beneath, from_base, changed, told, named, shape });
        Ok(())
    }

    /// Takes back a stage that could not be written down.
    pub(in crate::mount) fn unstage(&self) {
        if let Some(local) = self.local().take() {
            local.data.remove(local.inode);
        }
    }

    /// What the journal says still comes from the base.
    pub(in crate::mount) fn set_from_base(&self, pairs: &[(u64, u64)]) {
        if let Some(local) = self.local().as_mut() {
            local.from_base = Ranges::from_pairs(pairs.iter().copied());
            local.from_base.cut(local.shape.size);
        }
    }

    /// Keeps the data file open, or lets it go.
    pub(in crate::mount) fn keep_open(&self, keep: bool) -> io::Result<()> {
        if let Some(local) = self.local().as_mut() {
            if keep {
                local.file = Some(local.open()?);
            } else if let Some(file) = local.file.take() {
                local.shape = shape(&file)?;
            }
        }
        Ok(())
    }

    /// Size and times, if they are the local part's to say.
    pub(in crate::mount) fn shape(&self) -> io::Result<Option<Shape>> {
        match &*self.local() {
            None => Ok(None),
            Some(Local { file: Some(file), .. }) => shape(file).map(Some),
            Some(local) => Ok(Some(local.shape)),
        }
    }

    /// The data file, if every byte is in it.
    pub(in crate::mount) fn whole(&self) -> io::Result<Option<Arc<File>>> {
        match &*self.local() {
            Some(local) if local.from_base.is_empty() => local.open().map(Some),
            _ => Ok(None),
        }
    }

    /// The bytes `range`, cut at the end. Waits for the network where the base's bytes are not at hand.
    pub(in crate::mount) async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        let Some(Layout { file, size, pieces, beneath }) =
            self.layout(range.clone()).doing(|| "open staged bytes")?
        else {
            return match &self.base {
                Some(base) => base.reader()?.read(range).await,
                None => Ok(Bytes::new()),
            };
        };
        let mut bytes = BytesMut::with_capacity(range.end.min(size).saturating_sub(range.start) as usize);
        for (piece, from_base) in pieces {
            if let (true, Some((base, _))) = (from_base, &beneath) {
                let part = base.reader()?.read(piece.clone()).await?;
                bytes.extend_from_slice(&part);
            } else {
                let at = bytes.len();
                bytes.resize(at + (piece.end - piece.start) as usize, 0);
                let read = read_at(&file, &mut bytes[at..], piece.start).doing(|| "read staged bytes")?;
                bytes.truncate(at + read);
            }
            if bytes.len() as u64 != piece.end - range.start {
                break;
            }
        }
        Ok(bytes.freeze())
    }

    /// Where the bytes of `range` are, if there is a local part.
    pub(super) fn layout(&self, range: Range<u64>) -> io::Result<Option<Layout>> {
        let local = self.local();
        let Some(local) = local.as_ref() else { return Ok(None) };
        let file = local.open()?;
        let size = file.metadata()?.len();
        let pieces = local.from_base.pieces(range.start.min(size)..range.end.min(size));
        Ok(Some(Layout { file, size, pieces, beneath: local.beneath.clone() }))
    }

    /// Fetches and checks what comes from the base.
    pub(in crate::mount) async fn check(&self) -> Result<()> {
        let beneath = match &*self.local() {
            Some(local) => local.beneath.clone().filter(|_| !local.from_base.is_empty()),
            None => self.base.clone().map(|base| (base, None)),
        };
        match beneath {
            Some((base, _)) => base.reader()?.complete().await,
            None => Ok(()),
        }
    }

    /// Writes into the local part, which must be there.
    pub(in crate::mount) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.with_local(|local, file| {
            // Written first: who reads meanwhile must not find zeros between the base's bytes and these.
            file.write_all_at(bytes, offset)?;
            let end = offset.saturating_add(bytes.len() as u64);
            local.changed += u64::from(local.from_base.remove(offset..end));
            Ok(())
        })
    }

    /// Makes the local part `size` long.
    pub(in crate::mount) fn resize(&self, size: u64) -> io::Result<()> {
        self.with_local(|local, file| {
            file.set_len(size)?;
            local.changed += u64::from(local.from_base.cut(size));
            Ok(())
        })
    }

    /// Room for, or zeros in, a range of the local part, as fallocate(2) has it.
    pub(in crate::mount) fn allocate(&self, range: Range<u64>, flags: FallocateFlags) -> io::Result<()> {
        self.with_local(|local, file| {
            rustix::fs::fallocate(file, flags, range.start, range.end - range.start)?;
            if flags.intersects(FallocateFlags::PUNCH_HOLE | FallocateFlags::ZERO_RANGE) {
                local.changed += u64::from(local.from_base.remove(range));
            }
            Ok(())
        })
    }

    /// Sets the modification time of the local part.
    pub(in crate::mount) fn set_modified(&self, (seconds, nanoseconds): Time) -> io::Result<()> {
        self.with_local(|_, file| {
            let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
            let last_modification = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
            Ok(rustix::fs::futimens(file, &Timestamps { last_access, last_modification })?)
        })
    }

    /// Where, from `offset` on, the next data or the next hole begins. `None` beyond the end.
    /// What comes from the base counts as data.
    pub(in crate::mount) fn seek(&self, what: Seek, offset: u64) -> io::Result<Option<u64>> {
        let local = self.local();
        let Some(local) = local.as_ref() else {
            let size = self.base().map_or(0, |base| base.size);
            return Ok((offset < size).then_some(if what == Seek::Data { offset } else { size }));
        };
        let file = local.open()?;
        let seek = |from: SeekFrom| match rustix::fs::seek(&*file, from) {
            Err(rustix::io::Errno::NXIO) => Ok(None),
            found => found.map(Some),
        };
        if what == Seek::Data {
            let here = seek(SeekFrom::Data(offset))?;
            let there = local.from_base.next(offset);
            return Ok(here.into_iter().chain(there).min());
        }
        let mut at = offset;
        loop {
            let Some(hole) = seek(SeekFrom::Hole(at))? else { return Ok(None) };
            match local.from_base.end_of(hole) {
                Some(end) => at = end,
                None => return Ok(Some(hole)),
            }
            if at >= file.metadata()?.len() {
                return Ok(Some(at));
            }
        }
    }

    /// Returns when the local bytes are on disk, and can be found there.
    pub(in crate::mount) fn sync(&self, data_only: bool) -> io::Result<()> {
        let Some((file, named, data)) = (match &*self.local() {
            Some(local) => Some((local.open()?, local.named, Arc::clone(&local.data))),
            None => None,
        }) else {
            return Ok(());
        };
        if data_only { file.sync_data() } else { file.sync_all() }?;
        if !named {
            data.sync()?;
            if let Some(local) = self.local().as_mut() {
                local.named = true;
            }
        }
        Ok(())
    }

    /// The local part as it is now.
    pub(in crate::mount) fn frozen(&self) -> io::Result<Option<LocalBytes>> {
        // Asked first: what changes between the two is young.
        let taken = SystemTime::now();
        let Some(shape) = self.shape()? else { return Ok(None) };
        Ok(self.local().as_ref().map(|local| LocalBytes {
            data: Arc::clone(&local.data),
            inode: local.inode,
            shape,
            from_base: local.from_base.pairs().collect(),
            taken,
        }))
    }

    pub(super) fn with_local(
        &self,
        work: impl FnOnce(&mut Local, &File) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut local = self.local();
        let Some(local) = local.as_mut() else {
            return Err(io::Error::other("a change of bytes that are not staged"));
        };
        let file = local.open()?;
        let done = work(local, &file);
        if local.file.is_none() {
            local.shape = shape(&file)?;
        }
        done
    }

    pub(super) fn local(&self) -> MutexGuard<'_, Option<Local>> {
        self.local.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Local {
    fn open(&self) -> io::Result<Arc<File>> {
        match &self.file {
            Some(file) => Ok(Arc::clone(file)),
            None => self.data.open(self.inode, OFlags::empty()).map(Arc::new),
        }
    }
}

pub(super) fn shape(file: &File) -> io::Result<Shape> {
    let metadata = file.metadata()?;
    Ok(Shape {
        size: metadata.len(),
        blocks: metadata.blocks(),
        modified: (metadata.mtime(), metadata.mtime_nsec() as u32),
        changed: (metadata.ctime(), metadata.ctime_nsec() as u32),
    })
}

/// As many bytes as there are up to the length of `into`.
pub(super) fn read_at(file: &File, into: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut read = 0;
    while let Some(rest) = into.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + read as u64) {
            Ok(0) => break,
            Ok(count) => read += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}
