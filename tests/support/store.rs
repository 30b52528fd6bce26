//! A store in memory that counts what it is asked for, and misbehaves when told to.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use artifs::Result;
use artifs::artifact::View;
use artifs::mount::Root;
use artifs::oci::{Descriptor, Name, Tag, media_type};
use artifs::store::{Blob, Body, ByteStream, Direct, Memory, Source, Target as _, Trust};
use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;

/// The media type of every file in it.
const FILE: &str = "text/plain";

/// One repository in memory.
pub struct Store {
    memory: Memory,
    stalled: AtomicBool,
    panics: AtomicBool,
    fetches: AtomicU64,
    file_bytes: AtomicU64,
    /// Where blobs are kept once complete, as the cache does.
    kept: Option<TempDir>,
}

impl Store {
    /// An empty one.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::plain(None))
    }

    /// One whose blobs become local files when they are completed.
    pub fn keeping() -> Arc<Self> {
        Arc::new(Self::plain(Some(TempDir::new().expect("a folder"))))
    }

    fn plain(kept: Option<TempDir>) -> Self {
        Self {
            memory: Memory::new(),
            stalled: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            fetches: AtomicU64::new(0),
            file_bytes: AtomicU64::new(0),
            kept,
        }
    }

    /// Pushes an artifact of named files under a tag.
    pub async fn artifact(&self, tag: &str, files: &[(&str, &[u8])]) -> Descriptor {
        let mut layers = Vec::new();
        for (name, bytes) in files {
            let mut layer = self.push(FILE, bytes).await;
            layer.annotations.insert("org.opencontainers.image.title".into(), (*name).into());
            layers.push(layer);
        }
        let config = self.push(media_type::EMPTY_JSON, b"{}").await;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST, "artifactType": "test/files",
            "config": config, "layers": layers,
        });
        let manifest = self.push(media_type::IMAGE_MANIFEST, manifest.to_string().as_bytes()).await;
        self.memory.tag(&manifest, &tag.parse().expect("a tag")).await.expect("memory takes a tag");
        manifest
    }

    async fn push(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        let body = Body::Bytes(Bytes::copy_from_slice(bytes));
        self.memory.push(&descriptor, &body).await.expect("memory takes content");
        descriptor
    }

    /// What a mount of one tag serves.
    pub fn root(self: &Arc<Self>, tag: &str) -> Root {
        Root::Artifact { source: self.clone(), name: tag.parse().expect("a tag"), view: View::default() }
    }

    /// What a mount of all tags serves.
    pub fn repository(self: &Arc<Self>) -> Root {
        Root::Repository { source: self.clone(), view: View::default() }
    }

    /// From now on nothing it is asked is ever answered, or is again.
    pub fn stall(&self, whether: bool) {
        self.stalled.store(whether, Ordering::SeqCst);
    }

    /// From now on every fetch panics, or none does.
    pub fn panic(&self, whether: bool) {
        self.panics.store(whether, Ordering::SeqCst);
    }

    /// How often a blob or a manifest was asked for.
    pub fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    /// Bytes of files handed out so far.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes.load(Ordering::SeqCst)
    }

    async fn ready(&self) {
        if self.stalled.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Source for Store {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        self.ready().await;
        self.memory.resolve(name).await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.load(Ordering::SeqCst), "as the test asked for");
        self.ready().await;
        if descriptor.media_type == FILE {
            self.file_bytes.fetch_add(range.end - range.start, Ordering::SeqCst);
        }
        self.memory.fetch(descriptor, range).await
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        let path = self.kept.as_ref().map(|folder| folder.path().join(blob.digest.encoded()));
        let direct = Direct::new(self, blob);
        Ok(match path {
            Some(path) => Arc::new(Kept { direct, path, size: blob.size }),
            None => Arc::new(direct),
        })
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        self.ready().await;
        self.memory.tags().await
    }

    async fn referrers(&self, subject: &Descriptor, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        self.memory.referrers(subject, kind).await
    }
}

/// A blob that becomes a local file when it is completed.
struct Kept {
    direct: Direct,
    path: PathBuf,
    size: u64,
}

#[async_trait]
impl Blob for Kept {
    async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        self.direct.read(range).await
    }

    fn trust(&self) -> Trust {
        if self.path.exists() { Trust::Blob } else { Trust::Pending }
    }

    async fn complete(&self) -> Result<()> {
        self.direct.complete().await?;
        let whole = self.direct.read(0..self.size).await?;
        std::fs::write(&self.path, whole).expect("room for a blob");
        Ok(())
    }

    fn file(&self) -> Option<Arc<std::fs::File>> {
        std::fs::File::open(&self.path).ok().map(Arc::new)
    }
}
