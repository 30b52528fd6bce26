//! The bytes of one file that is to be published: local ones, and the base's where nobody wrote.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream;
use tokio::runtime::Handle;

use crate::artifact::Reader;
use crate::artifact::tree;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::mount::staging::LocalBytes;
use crate::oci::{Descriptor, Digest, Hasher, Name, Tag};
use crate::store::{Blob, Body, ByteStream, Source};

/// What is read at once.
const STRIDE: u64 = 1 << 20;

/// The bytes of one file. Cloning is shallow.
#[derive(Clone)]
pub(super) struct Content(Arc<Inner>);

struct Inner {
    local: Option<(LocalBytes, Stamp)>,
    /// The ranges that come from the base, in order.
    from_base: Vec<(u64, u64)>,
    base: Option<Reader>,
    size: u64,
}

/// What a file looks like as long as nobody writes to it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp([i64; 5]);

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let now = file.metadata()?;
        Ok(Self([now.mtime(), now.mtime_nsec(), now.ctime(), now.ctime_nsec(), now.size() as i64]))
    }
}

impl Content {
    /// A file as the base has it.
    pub(super) fn of_base(file: &tree::File) -> Result<Self> {
        let from_base = vec![(0, file.size)];
        Ok(Self(Arc::new(Inner { local: None, from_base, base: Some(file.reader()?), size: file.size })))
    }

    /// A file with local bytes.
    pub(super) fn staged(local: &LocalBytes, base: Option<&Arc<tree::File>>) -> Result<Self> {
        let stamp = Stamp::of(&local.open()?).doing(|| "look at staged bytes")?;
        let from_base = local.from_base().to_vec();
        let base = base.filter(|_| !from_base.is_empty()).map(|base| base.reader()).transpose()?;
        Ok(Self(Arc::new(Inner {
            local: Some((local.clone(), stamp)),
            from_base,
            base,
            size: stamp.0[4] as u64,
        })))
    }

    pub(super) fn size(&self) -> u64 {
        self.0.size
    }

    /// The next bytes from `at` on, and whether they come from the base.
    fn piece(&self, at: u64, end: u64) -> (Range<u64>, bool) {
        let end = end.min(self.0.size).min(at.saturating_add(STRIDE));
        let next = self.0.from_base.partition_point(|(_, to)| *to <= at);
        match self.0.from_base.get(next) {
            Some((from, to)) if *from <= at => (at..end.min(*to), true),
            Some((from, _)) => (at..end.min(*from), false),
            None => (at..end, false),
        }
    }

    fn local(&self, range: Range<u64>) -> Result<Bytes> {
        let Some((file, _)) = &self.0.local else {
            return Err(Error::new(ErrorKind::Corrupt, "a file's bytes are nowhere"));
        };
        let mut bytes = vec![0; (range.end - range.start) as usize];
        file.open()?.read_exact_at(&mut bytes, range.start).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => changed(),
            _ => Error::io("read staged bytes", error),
        })?;
        Ok(bytes.into())
    }

    async fn base(&self, range: Range<u64>) -> Result<Bytes> {
        let wanted = range.end - range.start;
        let bytes = match &self.0.base {
            Some(reader) => reader.read(range).await?,
            None => Bytes::new(),
        };
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::Corrupt, "the base has fewer bytes than it should"))
    }

    /// [`Io`](ErrorKind::Io) if it was written to since it was taken.
    fn expect_same(&self) -> Result<()> {
        match &self.0.local {
            Some((local, stamp)) if Stamp::of(&local.open()?).doing(|| "look at staged bytes")? != *stamp => {
                Err(changed())
            }
            _ => Ok(()),
        }
    }

    /// Hands all bytes over, in order. For a thread that may wait.
    pub(super) fn each(&self, mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while at < self.0.size {
            let (piece, from_base) = self.piece(at, self.0.size);
            at = piece.end;
            let bytes =
                if from_base { Handle::current().block_on(self.base(piece)) } else { self.local(piece) }?;
            take(&bytes)?;
        }
        self.expect_same()
    }

    /// Its digest; `told` hears of bytes that went into it. For a thread that may wait.
    pub(super) fn hash(&self, told: impl Fn(u64)) -> Result<Digest> {
        let mut hasher = Hasher::for_algorithm("sha256")?;
        self.each(|bytes| {
            hasher.update(bytes);
            told(bytes.len() as u64);
            Ok(())
        })?;
        Ok(hasher.finish())
    }

    /// The same bytes, to be pushed.
    pub(super) fn body(&self, descriptor: &Descriptor) -> Body {
        Body::Source(Arc::new(Pushed(self.clone())), descriptor.clone())
    }
}

fn changed() -> Error {
    Error::new(ErrorKind::Io, "a file was written to while it was being published; commit again")
}

/// A store with one content, good for being pushed from.
struct Pushed(Content);

#[async_trait]
impl Source for Pushed {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        Err(Error::new(ErrorKind::NotFound, format!("{name}: not found")))
    }

    async fn fetch(&self, _: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let begun = (self.0.clone(), range.start);
        Ok(Box::pin(stream::try_unfold(begun, move |(content, at)| async move {
            if at >= range.end {
                content.expect_same()?;
                return Ok(None);
            }
            let (piece, from_base) = content.piece(at, range.end);
            let end = piece.end;
            let bytes = if from_base {
                content.base(piece).await?
            } else {
                let reading = content.clone();
                tokio::task::spawn_blocking(move || reading.local(piece)).await.map_err(|error| {
                    Error::with_source(ErrorKind::Io, "reading staged bytes ended early", error)
                })??
            };
            if bytes.is_empty() {
                return Err(changed());
            }
            Ok(Some((bytes, (content, end))))
        })))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{} is only there to be pushed", blob.digest)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Ok(Vec::new())
    }

    async fn referrers(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}
