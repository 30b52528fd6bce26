//! Mounts through the real kernel.
//!
//! Needs `/dev/fuse`, and root for what only root may have (passthrough, the read-ahead knob).

use std::collections::HashMap;
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
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
    /// Fetches panic.
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
        assert!(!self.panics.load(Ordering::SeqCst), "as the test asked for");
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
        let mount = Mount::start(root, options, None).await.unwrap();
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

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_say_what_a_file_is() {
    let store = Store::keeping();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("a.txt");
    let text = |name| String::from_utf8(xattr(&path, name).unwrap()).unwrap();

    assert_eq!(text("user.oci.digest"), artifs::oci::Digest::of(b"hello").as_str());
    assert_eq!(text("user.oci.mediatype"), "text/plain");
    assert_eq!(text("user.oci.annotations"), r#"{"org.opencontainers.image.title":"a.txt"}"#);
    assert_eq!(text("user.oci.verified"), "pending");
    store.clone().open(&Descriptor::of("text/plain", b"hello")).unwrap().complete().await.unwrap();
    assert_eq!(text("user.oci.verified"), "blob");
    assert_eq!(xattr(&mounted.at, "user.oci.digest").unwrap(), manifest.digest.as_str().as_bytes());

    // `ls -l` stops asking for labels and access lists where they are not supported.
    for (other, errno) in [("security.selinux", libc::EOPNOTSUPP), ("user.mime_type", libc::ENODATA)] {
        assert_eq!(xattr(&path, other).unwrap_err().raw_os_error(), Some(errno), "{other}");
    }
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(&path, &mut list).unwrap();
    let list = String::from_utf8(list[..length].to_vec()).unwrap();
    for name in list.split_terminator('\0') {
        xattr(&path, name).unwrap();
    }
    assert_eq!(list.split_terminator('\0').count(), 4);
    let small = rustix::fs::getxattr(&path, "user.oci.digest", &mut [0_u8; 3]);
    assert_eq!(small.unwrap_err(), rustix::io::Errno::RANGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_is_behind_the_hidden_folder() {
    let store = Store::new();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert_eq!(names(&mounted.at), ["a.txt"]);
    let bytes = std::fs::read(mounted.path(".oci/manifest.json")).unwrap();
    assert!(manifest.digest.matches(&bytes));
    let digest = std::fs::read_to_string(mounted.path(".oci/digest")).unwrap();
    assert_eq!(digest.trim_end(), manifest.digest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_changed() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("a.txt");
    let refused = |outcome: std::io::Result<()>| {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    refused(std::fs::write(&path, b"x"));
    refused(std::fs::write(mounted.path("new"), b"x"));
    refused(std::fs::create_dir(mounted.path("new")));
    refused(std::fs::remove_file(&path));
    refused(std::fs::rename(&path, mounted.path("b.txt")));
    refused(std::fs::hard_link(&path, mounted.path("b.txt")));
    refused(std::os::unix::fs::symlink("a.txt", mounted.path("b.txt")));
    refused(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)));
    refused(rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()).map_err(Into::into));
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_a_folder_of_tags() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"one")]).await;
    let second = store.artifact("v2", &[("a.txt", b"two")]).await;
    let hidden = format!("sha256-{}.sig", second.digest.encoded());
    store.artifact(&hidden, &[("signature", b"s")]).await;
    let mounted =
        Mounted::new(Root::Repository { source: store.clone(), view: View::default() }, |_| {}).await;

    let before = store.fetches();
    assert_eq!(names(&mounted.at), ["v1", "v2"]);
    assert!(std::fs::metadata(mounted.path("v1")).unwrap().is_dir());
    assert_eq!(store.fetches(), before, "looking at tags fetches nothing of them");
    assert_eq!(std::fs::read(mounted.path("v1/a.txt")).unwrap(), b"one");
    assert_eq!(std::fs::read(mounted.path("v2/a.txt")).unwrap(), b"two");
    assert_eq!(std::fs::read(mounted.path(&hidden).join("signature")).unwrap(), b"s");
    assert_eq!(std::fs::read(mounted.path(second.digest.as_str()).join("a.txt")).unwrap(), b"two");
    assert_eq!(std::fs::read(mounted.path(":v2").join("a.txt")).unwrap(), b"two");
    for missing in ["v3", "sha256:00", "sha256:zz", "A:b", ":nope"] {
        let error = std::fs::metadata(mounted.path(missing)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{missing}");
    }
    let digest = xattr(&mounted.path("v2"), "user.oci.digest").unwrap();
    assert_eq!(digest, second.digest.as_str().as_bytes());

    // Pinned at first entry: the tag moves, the mount does not.
    store.artifact("v1", &[("a.txt", b"moved"), ("b.txt", b"new")]).await;
    assert_eq!(std::fs::read(mounted.path("v1/a.txt")).unwrap(), b"one");
    assert_eq!(names(&mounted.path("v1")), ["a.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_under_many_tags_is_one_inode_fetched_once() {
    let store = Store::new();
    let bytes = noise(200_000);
    for tag in ["v1", "v2", "v3"] {
        store.artifact(tag, &[("shared.bin", &bytes), ("own.txt", tag.as_bytes())]).await;
    }
    let mounted =
        Mounted::new(Root::Repository { source: store.clone(), view: View::default() }, |_| {}).await;
    let path = |tag: &str, name: &str| mounted.path(tag).join(name);
    let number = |tag: &str, name: &str| std::fs::metadata(path(tag, name)).unwrap().ino();

    assert_eq!(number("v1", "shared.bin"), number("v2", "shared.bin"));
    assert_eq!(number("v1", "shared.bin"), number("v3", "shared.bin"));
    assert_ne!(number("v1", "own.txt"), number("v2", "own.txt"));
    assert_ne!(
        std::fs::metadata(mounted.path("v1")).unwrap().ino(),
        std::fs::metadata(mounted.path("v2")).unwrap().ino()
    );

    assert!(std::fs::read(path("v1", "shared.bin")).unwrap() == bytes);
    let (fetches, reads) = (store.fetches(), mounted.mount.status().reads);
    assert!(std::fs::read(path("v2", "shared.bin")).unwrap() == bytes);
    assert!(std::fs::read(path("v3", "shared.bin")).unwrap() == bytes);
    assert_eq!(store.fetches(), fetches, "one copy in the page cache serves every tag");
    assert_eq!(mounted.mount.status().reads, reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_stays_in_the_page_cache_over_opens() {
    let store = Store::new();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let before = mounted.mount.status();
    assert!(before.reads > 0);
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let after = mounted.mount.status();
    assert_eq!((after.opens, after.reads, after.passed_through), (before.opens + 1, before.reads, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_blob_is_read_by_the_kernel_itself() {
    let store = Store::keeping();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let mounted = Mounted::new(artifact(&store, "v1"), |options| options.verify = Verify::Full).await;
    let path = mounted.path("a.bin");
    let first = std::fs::File::open(&path).unwrap();
    let second = std::fs::File::open(&path).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
    for file in [&first, &second] {
        let mut part = vec![0; 5000];
        file.read_exact_at(&mut part, 70_000).unwrap();
        assert!(part == bytes[70_000..75_000]);
    }
    let status = mounted.mount.status();
    assert_eq!((status.opens, status.passed_through, status.reads), (3, 3, 0));
    drop((first, second));
    // Closed by all, opened again: the backing file is registered anew.
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(mounted.mount.status().reads, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_inode_is_read_one_way_while_anybody_has_it_open() {
    let store = Store::keeping();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("a.bin");
    let cached = std::fs::File::open(&path).unwrap();
    store.clone().open(&Descriptor::of("text/plain", &bytes)).unwrap().complete().await.unwrap();
    // The blob is verified now, but the first open still reads through the page cache: so does the second.
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(mounted.mount.status().passed_through, 0);
    drop(cached);
    // RELEASE is sent after close returns.
    for _ in 0..1000 {
        if mounted.mount.status().open_files == 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(mounted.mount.status().passed_through, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_passthrough_everything_goes_through_us() {
    let store = Store::keeping();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let change = |options: &mut Options| {
        options.verify = Verify::Full;
        options.passthrough = false;
    };
    let mounted = Mounted::new(artifact(&store, "v1"), change).await;
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let status = mounted.mount.status();
    assert_eq!((status.passed_through, status.read_bytes), (0, bytes.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_registry_holds_up_nobody_else_and_ends_in_an_error() {
    let store = Store::new();
    store.artifact("v1", &[("a.bin", &noise(4096)), ("b.bin", &noise(5000))]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert_eq!(std::fs::read(mounted.path("b.bin")).unwrap().len(), 5000);
    store.stalled.store(true, Ordering::SeqCst);
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let path = mounted.path("a.bin");
            std::thread::spawn(move || std::fs::read(path).unwrap_err().raw_os_error())
        })
        .collect();
    while store.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All of these ask the daemon, and are answered while 16 readers wait.
    assert!(!std::fs::exists(mounted.path("not there")).unwrap());
    assert_eq!(std::fs::read(mounted.path("b.bin")).unwrap().len(), 5000);
    assert!(!std::fs::read(mounted.path(".oci/manifest.json")).unwrap().is_empty());
    assert!(waiting.iter().all(|reader| !reader.is_finished()), "the deadline has not passed yet");
    for reader in waiting {
        assert_eq!(reader.join().unwrap(), Some(libc::EIO));
    }
    let status = mounted.mount.status();
    assert!(status.failures > 0);
    assert!(status.last_failure.unwrap().contains("no answer within 2 s"));
    store.stalled.store(false, Ordering::SeqCst);
    let healed = || std::fs::read(mounted.path("a.bin")).is_ok();
    for _ in (0..500).take_while(|_| !healed()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read(mounted.path("a.bin")).unwrap().len(), 4096, "it heals by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_for_one_reader_only() {
    let store = Store::new();
    store.artifact("v1", &[("a.bin", &noise(4096))]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    store.panics.store(true, Ordering::SeqCst);
    let error = std::fs::read(mounted.path("a.bin")).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    store.panics.store(false, Ordering::SeqCst);
    assert_eq!(std::fs::read(mounted.path("a.bin")).unwrap().len(), 4096);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_asked_for_once() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    for _ in 0..50 {
        assert!(!std::fs::exists(mounted.path("config.json")).unwrap());
        assert!(std::fs::exists(mounted.path("a.txt")).unwrap());
    }
    assert_eq!(mounted.mount.status().lookups, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_are_listed_whole_and_only_once() {
    let store = Store::new();
    let files: Vec<String> = (0..10_000).map(|number| format!("part-{number:05}.bin")).collect();
    let layers: Vec<(&str, &[u8])> = files.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    store.artifact("v1", &layers).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let walk = || {
        let mut seen = 0;
        for entry in std::fs::read_dir(&mounted.at).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            assert_eq!(metadata.len(), entry.file_name().len() as u64);
            assert_eq!(metadata.ino(), std::os::unix::fs::DirEntryExt::ino(&entry));
            seen += 1;
        }
        seen
    };
    assert_eq!(walk(), 10_000);
    assert_eq!(mounted.mount.status().lookups, 0, "attributes come with the listing");
    assert_eq!(walk(), 10_000);
    assert_eq!(names(&mounted.at), files);
    assert_eq!(std::fs::read_to_string(mounted.path(&files[9_999])).unwrap(), files[9_999]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_tag_shows_the_new_content_and_open_files_keep_the_old() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"old!"), ("sub/gone.txt", b"gone")]).await;
    let change = |options: &mut Options| options.follow = Some(Duration::from_millis(50));
    let mounted = Mounted::new(artifact(&store, "v1"), change).await;
    let path = mounted.path("a.txt");
    let open = std::fs::File::open(&path).unwrap();
    assert_eq!(names(&mounted.path("sub")), ["gone.txt"]);
    let moved = store.artifact("v1", &[("a.txt", b"newer"), ("sub/here.txt", b"here")]).await;

    let mut shown = Vec::new();
    for _ in 0..500 {
        shown = std::fs::read(&path).unwrap();
        if shown == b"newer" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown, b"newer");
    let mut old = [0; 4];
    open.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"old!", "an open file keeps its bytes");
    assert_eq!(names(&mounted.path("sub")), ["here.txt"]);
    assert_eq!(mounted.mount.status().digest, Some(moved.digest.to_string()));
}

/// The program, with state, sockets and cache of its own. Whatever it left mounted is detached when dropped.
struct Program {
    folder: TempDir,
}

impl Program {
    /// A layout with one artifact, and an empty folder to mount it at.
    async fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let layout = artifs::store::Layout::create(folder.path().join("layout")).unwrap();
        let store = Store::new();
        let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
        for content in [&b"hello"[..], b"{}"] {
            let descriptor = Descriptor::of(media_type::OCTET_STREAM, content);
            layout.push(&descriptor, &Body::Bytes(Bytes::copy_from_slice(content))).await.unwrap();
        }
        layout.push(&manifest, &Body::Source(store.memory.clone(), manifest.clone())).await.unwrap();
        layout.tag(&manifest, &"v1".parse().unwrap()).await.unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { folder }
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let at = |name: &str| self.folder.path().join(name);
        std::process::Command::new(env!("CARGO_BIN_EXE_artifs"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("XDG_STATE_HOME", at("state"))
            .env("ARTIFS_CACHE", at("cache"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn pid(&self) -> rustix::process::Pid {
        let status: serde_json::Value =
            serde_json::from_str(&self.succeeds(&["status", "--format", "json", "mnt"])).unwrap();
        rustix::process::Pid::from_raw(status["mounts"][0]["pid"].as_i64().unwrap() as i32).unwrap()
    }

    /// Waits until a mount in the background has written this.
    async fn logged(&self, text: &str) {
        for _ in 0..500 {
            let logs = std::fs::read_dir(self.folder.path().join("state/artifs")).unwrap();
            if logs
                .flatten()
                .any(|log| std::fs::read_to_string(log.path()).is_ok_and(|log| log.contains(text)))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{text:?} was never logged");
    }

    fn is_mounted(&self) -> bool {
        artifs::mount::is_mounted(&self.at().canonicalize().unwrap_or_else(|_| self.at()))
    }

    async fn is_gone(&self) -> bool {
        for _ in (0..500).take_while(|_| self.is_mounted()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        !self.is_mounted()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = rustix::mount::unmount(self.at(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[tokio::test]
async fn the_program_mounts_in_the_background_and_unmounts() {
    for round in 0..3 {
        let program = Program::new().await;
        program.succeeds(&["mount", "./layout:v1", "mnt"]);
        assert_eq!(std::fs::read(program.at().join("a.txt")).unwrap(), b"hello");
        let shown = program.succeeds(&["status"]);
        assert!(shown.starts_with("./layout:v1 at "), "{shown}");
        assert!(program.fails(&["mount", "./layout:v1", "mnt"]).contains("artifs unmount mnt"));

        let open = std::fs::File::open(program.at().join("a.txt")).unwrap();
        assert!(program.fails(&["unmount", "mnt"]).contains("in use"));
        // A signal is refused in the same way.
        rustix::process::kill_process(program.pid(), rustix::process::Signal::TERM).unwrap();
        program.logged("in use").await;
        assert!(program.is_mounted());
        drop(open);
        program.succeeds(&["unmount", "mnt"]);
        assert!(!program.is_mounted(), "round {round}");
        assert_eq!(program.succeeds(&["status"]), "");
    }
}

#[tokio::test]
async fn errors_before_the_mount_reach_the_terminal() {
    let program = Program::new().await;
    assert!(program.fails(&["mount", "./layout:v9", "mnt"]).contains("v9"));
    assert!(program.fails(&["mount", "./layout:v1", "nowhere"]).contains("nowhere"));
    assert!(program.fails(&["mount", "./layout:v1", "mnt", "-o", "alow_other"]).contains("alow_other"));
    assert!(!program.is_mounted());
}

#[tokio::test]
async fn a_line_of_fstab_mounts_and_a_signal_or_fusermount_ends_it() {
    let program = Program::new().await;
    let at = program.at();
    let fstab = ["./layout:v1", at.to_str().unwrap(), "-o", "rw,dev,suid,_netdev,nofail,verify=full"];
    program.succeeds(&fstab);
    assert_eq!(std::fs::read(at.join("a.txt")).unwrap(), b"hello");
    rustix::process::kill_process(program.pid(), rustix::process::Signal::TERM).unwrap();
    assert!(program.is_gone().await);

    program.succeeds(&fstab);
    let status = std::process::Command::new("fusermount3").arg("-u").arg(&at).status().unwrap();
    assert!(status.success());
    assert!(program.is_gone().await);
}

#[tokio::test]
async fn a_killed_mount_can_be_taken_away_and_made_again() {
    let program = Program::new().await;
    program.succeeds(&["mount", "./layout:v1", "mnt"]);
    rustix::process::kill_process(program.pid(), rustix::process::Signal::KILL).unwrap();
    for _ in (0..500).take_while(|_| std::fs::read_dir(program.at()).is_ok()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(program.fails(&["mount", "./layout:v1", "mnt"]).contains("artifs unmount mnt"));
    assert_eq!(program.succeeds(&["status"]), "", "its socket is stale");
    program.succeeds(&["unmount", "mnt"]);
    program.succeeds(&["mount", "./layout:v1", "mnt"]);
    assert_eq!(std::fs::read(program.at().join("a.txt")).unwrap(), b"hello");
    program.succeeds(&["unmount", "--lazy", "mnt"]);
    assert!(!program.is_mounted());
}

/// Repositories by path; may refuse to list them.
struct Repositories {
    stores: HashMap<&'static str, Arc<Store>>,
    lists: bool,
}

#[async_trait]
impl Catalog for Repositories {
    async fn repositories(&self) -> Result<Vec<String>> {
        if !self.lists {
            return Err(Error::new(ErrorKind::Unsupported, "this registry lists nothing"));
        }
        Ok(self.stores.keys().map(|path| (*path).to_owned()).filter(|path| path != "secret/one").collect())
    }

    fn repository(&self, path: &str) -> Result<Arc<dyn Source>> {
        match self.stores.get(path) {
            Some(store) => Ok(store.clone()),
            None => Ok(Arc::new(Missing)),
        }
    }
}

/// A repository that is not there.
struct Missing;

#[async_trait]
impl Source for Missing {
    async fn resolve(&self, _: &Name) -> Result<Descriptor> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    async fn fetch(&self, _: &Descriptor, _: Range<u64>) -> Result<ByteStream> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    async fn referrers(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<Descriptor>> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }
}

async fn catalog(lists: bool) -> Arc<Repositories> {
    let mut stores = HashMap::new();
    for path in ["team/model", "team/model/small", "tools", "secret/one"] {
        let store = Store::new();
        store.artifact("v1", &[("name.txt", path.as_bytes())]).await;
        stores.insert(path, store);
    }
    stores["team/model"].artifact("small", &[("name.txt", b"the tag")]).await;
    Arc::new(Repositories { stores, lists })
}

async fn mount_catalog(catalog: &Arc<Repositories>, namespace: Option<&str>) -> Mounted {
    let root = Root::Catalog {
        catalog: catalog.clone(),
        namespace: namespace.map(Into::into),
        view: View::default(),
    };
    Mounted::new(root, |options| options.reference = "test.example".into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_folders_of_repositories_with_tags_inside() {
    let mounted = mount_catalog(&catalog(true).await, None).await;
    let read = |path: &str| std::fs::read_to_string(mounted.path(path)).unwrap();
    assert_eq!(names(&mounted.at), ["team", "tools"]);
    assert_eq!(names(&mounted.path("team")), ["model"]);
    assert_eq!(names(&mounted.path("team/model")), [":small", "small", "v1"]);
    assert_eq!(read("team/model/v1/name.txt"), "team/model");
    assert_eq!(read("team/model/small/v1/name.txt"), "team/model/small", "the repository wins");
    assert_eq!(read("team/model/:small/name.txt"), "the tag");
    assert_eq!(read("tools/v1/name.txt"), "tools");
    assert_eq!(read("tools/v1/.oci/ref").trim_end(), "test.example/tools:v1");
    for missing in ["nothing", "team/nothing", "team/model/v9", ".hidden", "Upper"] {
        assert!(!std::fs::exists(mounted.path(missing)).unwrap(), "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_the_part_of_a_registry_below_it() {
    let mounted = mount_catalog(&catalog(true).await, Some("team")).await;
    assert_eq!(names(&mounted.at), ["model"]);
    assert_eq!(std::fs::read(mounted.path("model/small/v1/name.txt")).unwrap(), b"team/model/small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lists_nothing_can_be_entered_by_name() {
    let mounted = mount_catalog(&catalog(false).await, None).await;
    assert_eq!(names(&mounted.at), [""; 0]);
    assert_eq!(std::fs::read(mounted.path("secret/one/v1/name.txt")).unwrap(), b"secret/one");
    assert_eq!(names(&mounted.path("tools")), ["v1"]);
    assert!(!std::fs::exists(mounted.path("tools/v9")).unwrap());
    assert!(std::fs::read_dir(mounted.path("nothing")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mount_says_so_and_stays() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let open = std::fs::File::open(mounted.path("a.txt")).unwrap();
    let error = mounted.mount.stop().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(std::fs::read(mounted.path("a.txt")).unwrap(), b"hello");
    drop(open);
    mounted.mount.stop().await.unwrap();
    assert!(!artifs::mount::is_mounted(&mounted.at));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_tells_and_stops() {
    let store = Store::new();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let at = mounted.at.canonicalize().unwrap();
    let status = artifs::mount::mounts().await.into_iter().find(|status| status.mountpoint == at).unwrap();
    assert_eq!(status.reference, "test.example/repository:v1");
    assert_eq!(status.digest, Some(manifest.digest.to_string()));
    assert_eq!(status.pid, std::process::id());

    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
    assert!(line.starts_with("test.example/repository:v1 ") && line.contains(" fuse.artifs ro,"), "{line}");

    let twice = Options::new(&at, "test.example/repository:v1");
    let Err(error) = Mount::start(artifact(&store, "v1"), twice, None).await else { panic!("mounted twice") };
    assert_eq!(error.kind(), ErrorKind::Exists);

    artifs::mount::unmount(&at, false).await.unwrap();
    assert!(!artifs::mount::mounts().await.iter().any(|status| status.mountpoint == at));
    mounted.mount.ended().await;
    assert_eq!(artifs::mount::unmount(&at, false).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_said_before_anything_is() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let start =
        |tag: &'static str, at: PathBuf| Mount::start(artifact(&store, tag), Options::new(at, "r"), None);
    for (tag, at, kind) in [
        ("v1", folder.path().join("missing"), ErrorKind::NotFound),
        ("v1", file, ErrorKind::Invalid),
        ("v9", folder.path().to_owned(), ErrorKind::NotFound),
    ] {
        let Err(error) = start(tag, at.clone()).await else { panic!("{} was mounted", at.display()) };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!artifs::mount::is_mounted(&at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_completes_every_file() {
    let store = Store::keeping();
    store.artifact("v1", &[("a.bin", &noise(4096)), ("sub/b.bin", &noise(5000))]).await;
    let mounted = Mounted::new(artifact(&store, "v1"), |options| options.prefetch = true).await;
    for _ in 0..1000 {
        let verified = ["a.bin", "sub/b.bin"]
            .iter()
            .all(|name| xattr(&mounted.path(name), "user.oci.verified").unwrap() == b"blob");
        if verified {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not everything was fetched");
}
