//! Mounts through the real kernel.
//!
//! Needs `/dev/fuse`, and root for what only root may have (passthrough, the read-ahead knob).

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use artifs::Result;
use artifs::artifact::View;
use artifs::mount::{Mount, Options, Root, Verify};
use artifs::oci::{Descriptor, Name, Tag, media_type};
use artifs::store::{Blob, Body, ByteStream, Catalog, Direct, Memory, Source, Target as _, Trust};
use artifs::{Error, ErrorKind};
use async_trait::async_trait;
use bytes::Bytes;
use tempfile::TempDir;

/// A memory store that can be told to misbehave, and counts.
struct Store {
    memory: Arc<Memory>,
    /// Fetches and resolves never end.
    stalled: AtomicBool,
    /// The next fetch panics.
    panics: AtomicBool,
    fetches: AtomicU64,
    /// Where blobs are kept once complete, as the cache does.
    kept: Option<TempDir>,
}

impl Store {
    fn new() -> Arc<Self> {
        Arc::new(Self::plain(None))
    }

    fn keeping() -> Arc<Self> {
        Arc::new(Self::plain(Some(TempDir::new().unwrap())))
    }

    fn plain(kept: Option<TempDir>) -> Self {
        Self {
            memory: Arc::new(Memory::new()),
            stalled: AtomicBool::new(false),
            panics: AtomicBool::new(false),
            fetches: AtomicU64::new(0),
            kept,
        }
    }

    async fn push(&self, kind: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(kind, bytes);
        self.memory.push(&descriptor, &Body::Bytes(Bytes::copy_from_slice(bytes))).await.unwrap();
        descriptor
    }

    /// Pushes an artifact of named files under a tag.
    async fn artifact(&self, tag: &str, files: &[(&str, &[u8])]) -> Descriptor {
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
        self.memory.tag(&manifest, &tag.parse().unwrap()).await.unwrap();
        manifest
    }

    fn fetches(&self) -> u64 {
        self.fetches.load(Ordering::SeqCst)
    }

    async fn stall(&self) {
        if self.stalled.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl Source for Store {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        self.stall().await;
        self.memory.resolve(name).await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panics.swap(false, Ordering::SeqCst), "as the test asked for");
        self.stall().await;
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
        self.stall().await;
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
        std::fs::write(&self.path, whole).unwrap();
        Ok(())
    }

    fn file(&self) -> Option<Arc<std::fs::File>> {
        std::fs::File::open(&self.path).ok().map(Arc::new)
    }
}

/// A mount in a temporary folder, gone when dropped, panics included.
struct Mounted {
    mount: Mount,
    at: PathBuf,
    _folder: TempDir,
}

impl Mounted {
    async fn new(root: Root, change: impl FnOnce(&mut Options)) -> Self {
        let folder = TempDir::new().unwrap();
        let at = folder.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        let mut options = Options::new(&at, "test.example/repository:v1");
        options.deadline = Duration::from_secs(2);
        change(&mut options);
        let mount = Mount::start(root, options).await.unwrap();
        Self { mount, at, _folder: folder }
    }

    async fn artifact(store: &Arc<Store>, tag: &str) -> Self {
        Self::new(artifact(store, tag), |_| {}).await
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

fn artifact(store: &Arc<Store>, tag: &str) -> Root {
    Root::Artifact { source: store.clone(), name: tag.parse().unwrap(), view: View::default() }
}

/// Bytes without a pattern a mistake could hide in.
fn noise(length: usize) -> Vec<u8> {
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

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn xattr(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_reading_gives_the_same_bytes() {
    let store = Store::new();
    let bytes = noise(3 * 1024 * 1024 + 17);
    store.artifact("v1", &[("weights.bin", &bytes), ("sub/empty", b""), ("sub/note.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("weights.bin");

    assert!(std::fs::read(&path).unwrap() == bytes, "read");
    let file = std::fs::File::open(&path).unwrap();
    for (offset, length) in [(0, 1), (4095, 2), (1 << 20, 4096), (bytes.len() - 5, 5), (bytes.len() - 1, 1)] {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + length], "pread at {offset}");
    }
    assert_eq!(file.read_at(&mut [0; 8], bytes.len() as u64).unwrap(), 0, "beyond the end");
    for flags in [rustix::mm::MapFlags::PRIVATE, rustix::mm::MapFlags::SHARED] {
        // SAFETY: a fresh read-only mapping of a file that cannot change, unmapped once, read only in between.
        unsafe {
            let at = rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes.len(),
                rustix::mm::ProtFlags::READ,
                flags,
                &file,
                0,
            )
            .unwrap();
            assert!(std::slice::from_raw_parts(at.cast::<u8>(), bytes.len()) == bytes, "mmap {flags:?}");
            rustix::mm::munmap(at, bytes.len()).unwrap();
        }
    }
    let copy = tempfile::NamedTempFile::new().unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        let count = rustix::fs::sendfile(copy.as_file(), &file, None, bytes.len() - sent).unwrap();
        assert!(count > 0);
        sent += count;
    }
    assert!(std::fs::read(copy.path()).unwrap() == bytes, "sendfile");
    assert_eq!(std::fs::read(mounted.path("sub/note.txt")).unwrap(), b"hello");
    assert_eq!(std::fs::read(mounted.path("sub/empty")).unwrap(), b"");
    assert_eq!(names(&mounted.at), ["sub", "weights.bin"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    drop(file);
    mounted.mount.stop().await.unwrap();
    assert_eq!(names(&mounted.at), [""; 0], "after stop the folder is what it was");
}
