//! What the tests stand on: a made-up artifact in memory, mounted for writing.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::bytes::Bytes;
use artifs::Result;
use artifs::artifact::View;
use artifs::mount::{Mount, Options, Root};
use artifs::oci::{Descriptor, Name, Tag, media_type};
use artifs::store::{Blob, Body, ByteStream, Direct, Memory, Source, Target as _};
use async_trait::async_trait;
use tempfile::TempDir;

/// A memory store that counts what it is asked for, and can be gone.
pub(crate) struct Store {
    memory: Arc<Memory>,
    bytes: AtomicU64,
    gone: AtomicBool,
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            memory: Arc::new(Memory::new()),
            bytes: AtomicU64::new(0),
            gone: AtomicBool::new(false),
        })
    }

    async fn push(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.memory.push(&descriptor, &Body::Bytes(Bytes::copy_from_slice(bytes))).await.unwrap();
        descriptor
    }

    /// Pushes an artifact of named files under `v1`.
    pub(crate) async fn artifact(&self, files: &[(&str, &[u8])]) {
        let mut layers = Vec::new();
        for (name, bytes) in files {
            let mut layer = self.push("text/plain", bytes).await;
            layer.annotations.insert("org.opencontainers.image.title".into(), (*name).into());
            layers.push(layer);
        }
        let config = self.push(media_type::EMPTY_JSON, b"{}").await;
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST, "artifactType": "test/files",
            "config": config, "layers": layers,
        });
        let manifest = self.push(media_type::IMAGE_MANIFEST, manifest.to_string().as_bytes()).await;
        self.memory.tag(&manifest, &"v1".parse().unwrap()).await.unwrap();
    }

    /// Bytes of blobs handed out so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Fetches never end from now on.
    pub(crate) fn go_away(&self) {
        self.gone.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Source for Store {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        self.memory.resolve(name).await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        if self.gone.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if descriptor.media_type == "text/plain" {
            self.bytes.fetch_add(range.end - range.start, Ordering::SeqCst);
        }
        self.memory.fetch(descriptor, range).await
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        self.memory.tags().await
    }

    async fn referrers(&self, subject: &Descriptor, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        self.memory.referrers(subject, kind).await
    }
}

/// A writable mount in a temporary folder, gone when dropped, panics included.
pub(crate) struct Stand {
    pub(crate) store: Arc<Store>,
    pub(crate) folder: TempDir,
    mount: Option<Mount>,
    passthrough: bool,
}

impl Stand {
    pub(crate) async fn new(files: &[(&str, &[u8])]) -> Self {
        Self::with(files, true).await
    }

    /// The same without passthrough: the kernel writes through its writeback cache.
    pub(crate) async fn without_passthrough(files: &[(&str, &[u8])]) -> Self {
        Self::with(files, false).await
    }

    async fn with(files: &[(&str, &[u8])], passthrough: bool) -> Self {
        let store = Store::new();
        store.artifact(files).await;
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let mut stand = Self { store, folder, mount: None, passthrough };
        stand.mount().await.unwrap();
        stand
    }

    pub(crate) async fn mount(&mut self) -> Result<()> {
        let mut options = options(self.folder.path());
        options.passthrough = self.passthrough;
        self.mount = Some(Mount::start(root(&self.store), options, None).await?);
        Ok(())
    }

    pub(crate) async fn unmount(&mut self) {
        self.mount.as_ref().unwrap().stop().await.unwrap();
        self.mount = None;
    }

    /// Unmounts and mounts again: what is seen then comes from the journal.
    pub(crate) async fn remount(&mut self) {
        self.unmount().await;
        self.mount().await.unwrap();
    }

    pub(crate) fn mounted(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    /// What differs from the base, as `path difference` lines.
    pub(crate) fn changes(&self) -> Vec<String> {
        let changes = self.mounted().changes();
        changes.iter().map(|change| format!("{} {:?}", change.path, change.difference)).collect()
    }
}

pub(crate) const REFERENCE: &str = "test.example/repository:v1";

pub(crate) fn options(folder: &Path) -> Options {
    let mut options = Options::new(folder.join("mnt"), REFERENCE);
    options.deadline = Duration::from_secs(2);
    options.staging = Some(folder.join("staging"));
    options
}

pub(crate) fn root(store: &Arc<Store>) -> Root {
    Root::Artifact { source: store.clone(), name: "v1".parse().unwrap(), view: View::default() }
}

/// Bytes without a pattern a mistake could hide in.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

/// The names in a folder, in order.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
