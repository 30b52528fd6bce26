//! Damage to the cache's folder, between two processes and under an open reader.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use artifs::ErrorKind;
use artifs::cache::{Cache, Settings};
use artifs::oci::{Descriptor, Name};
use artifs::store::{Memory, Source};
use support::Big;
use support::seed::{Artifact, Destination as _};

use crate::{CHUNK, REPOSITORY, cache, until};

const SIZE: u64 = (3 << 20) + 1234;
/// What is here of a partial blob: half of its chunks.
const HERE: u64 = 6 * CHUNK;

/// What is done to a folder or file.
type Damage = fn(&Path);

struct Scene {
    folder: tempfile::TempDir,
    origin: Arc<dyn Source>,
    content: Big,
    blob: Descriptor,
}

impl Scene {
    fn new() -> Self {
        let (memory, content) = (Memory::new(), Big::new(SIZE, 11));
        let blob = support::Content::from(content.clone()).descriptor("a/b");
        memory.blob("", &blob, &content.clone().into());
        Artifact::new().file("hello", "hello").tag("v1").push(&memory, "");
        Self { folder: tempfile::tempdir().unwrap(), origin: Arc::new(memory), content, blob }
    }

    /// As another process would open it.
    fn online(&self) -> (Cache, Arc<dyn Source>) {
        let cache = cache(self.folder.path());
        let source = cache.in_front_of(Some(Arc::clone(&self.origin)), REPOSITORY);
        (cache, source)
    }

    fn offline(&self) -> Arc<dyn Source> {
        cache(self.folder.path()).in_front_of(None, REPOSITORY)
    }

    /// Whether the first `to` bytes can be had without anybody to ask.
    async fn has(&self, to: u64) -> bool {
        let reader = self.offline().open(&self.blob).unwrap();
        reader.read(0..to).await.is_ok_and(|bytes| bytes == self.content.read(0..to))
    }

    async fn filled(bytes: u64) -> Self {
        let scene = Self::new();
        let (cache, source) = scene.online();
        let reader = source.open(&scene.blob).unwrap();
        reader.read(0..bytes).await.unwrap();
        if bytes == SIZE {
            reader.complete().await.unwrap();
            cache.settle().await;
        }
        until("the chunks are stored", async || scene.has(bytes).await).await;
        drop(reader);
        scene
    }

    fn path(&self, kind: &str) -> PathBuf {
        self.folder.path().join(kind).join(self.blob.digest.algorithm()).join(self.blob.digest.encoded())
    }

    /// Everything reads right again, with at most `fetched` bytes asked for anew.
    async fn is_right(&self, what: &str, fetched: u64) {
        let (cache, source) = self.online();
        let reader = source.open(&self.blob).unwrap();
        for range in [0..SIZE, CHUNK - 5..CHUNK + 5, SIZE - 1..SIZE] {
            let bytes = reader.read(range.clone()).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert!(bytes == self.content.read(range.clone()), "{what}: wrong bytes in {range:?}");
        }
        reader.complete().await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(
            cache.stats().fetched <= fetched,
            "{what}: {} bytes were fetched again",
            cache.stats().fetched
        );
    }
}

fn edit(path: &Path, at: u64, bytes: &[u8]) {
    // Complete blobs are read-only; damage does not ask.
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

fn cut(path: &Path, length: u64) {
    OpenOptions::new().write(true).open(path).unwrap().set_len(length).unwrap();
}

fn flip(path: &Path, at: u64) {
    let mut byte = [0];
    fs::File::open(path).unwrap().read_exact_at(&mut byte, at).unwrap();
    edit(path, at, &[byte[0] ^ 1]);
}

/// Damage to a blob of which half is here: what it is, how many bytes may be fetched, how it is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_partial_blob_survives_its_damage() {
    let rest = SIZE - HERE;
    let table: [(&str, u64, Damage); 16] = [
        ("nothing", rest, |_| ()),
        ("a flipped byte", rest + CHUNK, |folder| flip(&folder.join("data"), 2 * CHUNK + 17)),
        ("two flipped chunks", rest + 2 * CHUNK, |folder| {
            flip(&folder.join("data"), 0);
            flip(&folder.join("data"), 3 * CHUNK - 1);
        }),
        ("data cut in a chunk", SIZE, |folder| cut(&folder.join("data"), 2 * CHUNK + 5)),
        ("data cut to nothing", SIZE, |folder| cut(&folder.join("data"), 0)),
        ("data too long", SIZE, |folder| cut(&folder.join("data"), SIZE + 4096)),
        ("data gone", SIZE, |folder| fs::remove_file(folder.join("data")).unwrap()),
        ("map gone", SIZE, |folder| fs::remove_file(folder.join("map")).unwrap()),
        ("map cut in its header", SIZE, |folder| cut(&folder.join("map"), 10)),
        ("map cut in an entry", SIZE, |folder| cut(&folder.join("map"), 64 + 8 * 3 + 4)),
        ("map cut to nothing", SIZE, |folder| cut(&folder.join("map"), 0)),
        ("a map of another size", SIZE, |folder| edit(&folder.join("map"), 24, &[1, 2, 3, 4])),
        ("a map of noise", SIZE, |folder| edit(&folder.join("map"), 0, &Big::new(200, 3).read(0..200))),
        ("a map that says more than there is", SIZE, |folder| {
            edit(&folder.join("map"), 64 + 8 * 8, &[7; 16]);
        }),
        ("a map that says everything is here", SIZE, |folder| edit(&folder.join("map"), 64, &[255; 8 * 13])),
        ("the folder gone", SIZE, |folder| fs::remove_dir_all(folder).unwrap()),
    ];
    for (what, fetched, damage) in table {
        let scene = Scene::filled(HERE).await;
        damage(&scene.path("partial"));
        scene.is_right(what, fetched).await;
        // And what was put right stays right, without asking anybody.
        assert!(scene.has(SIZE).await, "{what}: it was not kept");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_complete_blob_of_the_wrong_length_is_fetched_again() {
    for length in [0, 1, SIZE - 1, SIZE + 1] {
        let scene = Scene::filled(SIZE).await;
        cut(&scene.path("blobs"), length);
        scene.is_right(&format!("{length} bytes"), SIZE).await;
    }
    let scene = Scene::filled(SIZE).await;
    fs::remove_file(scene.path("blobs")).unwrap();
    scene.is_right("gone", SIZE).await;
}

/// A complete blob is trusted until somebody looks: `cache verify` does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_finds_a_rotten_blob_and_removes_it() {
    let scene = Scene::filled(SIZE).await;
    flip(&scene.path("blobs"), 1_000_000);
    let (cache, _) = scene.online();
    let mut told = Vec::new();
    let report = cache.verify(|stored, result| told.push((stored.digest.clone(), result.is_ok()))).unwrap();
    assert_eq!(report.bad, 1);
    assert!(told.contains(&(scene.blob.digest.clone(), false)));
    scene.is_right("rotten", SIZE).await;
    assert_eq!(scene.online().0.verify(|_, _| ()).unwrap().bad, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_format_is_refused() {
    for version in ["2\n", "99", "", "hello", "1.5"] {
        let scene = Scene::filled(CHUNK).await;
        fs::write(scene.folder.path().join("version"), version).unwrap();
        let settings = Settings { root: scene.folder.path().to_owned(), budget: None };
        let refused = Cache::open(&settings).err().unwrap_or_else(|| panic!("{version:?} was opened"));
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{version:?}: {refused}");
        assert!(scene.path("partial").exists(), "what a newer version made was touched");
    }
}

/// Everything under the cache is removed while a reader has it open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_may_vanish_under_an_open_reader() {
    for here in [HERE, SIZE] {
        let scene = Scene::filled(here).await;
        let (_, source) = scene.online();
        let reader = source.open(&scene.blob).unwrap();
        assert!(reader.read(5..70_000).await.unwrap() == scene.content.read(5..70_000));
        for folder in ["partial", "blobs", "index", "refs"] {
            let _ = fs::remove_dir_all(scene.folder.path().join(folder));
        }
        for range in [0..100, CHUNK..SIZE, 0..SIZE] {
            if let Ok(bytes) = reader.read(range.clone()).await {
                assert!(bytes == scene.content.read(range.clone()), "wrong bytes in {range:?}");
            }
        }
        drop(reader);
        scene.is_right("after everything vanished", SIZE).await;
    }
}

/// The data is damaged under an open reader that has not looked at that part yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_under_an_open_reader_is_seen_on_first_use() {
    let scene = Scene::filled(HERE).await;
    let (_, source) = scene.online();
    let reader = source.open(&scene.blob).unwrap();
    assert!(reader.read(0..10).await.unwrap() == scene.content.read(0..10));
    flip(&scene.path("partial").join("data"), 4 * CHUNK + 1);
    assert!(reader.read(0..SIZE).await.unwrap() == scene.content.read(0..SIZE));
    reader.complete().await.unwrap();
}

/// Manifests and what is known of tags.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_manifests_and_references_are_had_anew() {
    let scene = Scene::new();
    let tag: Name = "v1".parse().unwrap();
    let (descriptor, bytes) = scene.online().1.manifest(&tag, 1 << 20).await.unwrap();
    let manifest = scene
        .folder
        .path()
        .join("blobs")
        .join(descriptor.digest.algorithm())
        .join(descriptor.digest.encoded());
    assert!(manifest.exists());
    let damages: [&dyn Fn(); 4] =
        [&|| flip(&manifest, 30), &|| cut(&manifest, 10), &|| cut(&manifest, 0), &|| {
            fs::remove_file(&manifest).unwrap();
        }];
    for (number, damage) in damages.iter().enumerate() {
        damage();
        for name in [Name::Digest(descriptor.digest.clone()), tag.clone()] {
            let again = scene.online().1.manifest(&name, 1 << 20).await.unwrap();
            assert_eq!(again, (descriptor.clone(), bytes.clone()), "damage {number}");
        }
    }
    for entry in walkdir::WalkDir::new(scene.folder.path().join("refs")) {
        let entry = entry.unwrap();
        if entry.file_type().is_file() {
            fs::write(entry.path(), "{\"digest\":\"sha256:../../x\"").unwrap();
        }
    }
    assert_eq!(scene.offline().manifest(&tag, 1 << 20).await.unwrap_err().kind(), ErrorKind::Offline);
    assert_eq!(scene.online().1.manifest(&tag, 1 << 20).await.unwrap().0, descriptor);
    assert_eq!(scene.offline().manifest(&tag, 1 << 20).await.unwrap().0, descriptor);
}

/// What was learned from a layer is only a help: rotten, it is learned again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rotten_index_is_made_anew() {
    use artifs::artifact::tree::{Node, walk};
    use artifs::artifact::{self, View};
    use support::seed::Folder;

    let scene = Scene::new();
    let memory = Memory::new();
    let content = Big::new(300_000, 4).read(0..300_000);
    let folder = Folder::new().file("a/b.bin", 0o640, content.to_vec()).file("c", 0o644, "c");
    Artifact::new().folder("d", folder).tag("v1").push(&memory, "");
    let origin: Arc<dyn Source> = Arc::new(memory);
    let look = async |what: &str| {
        let source: Arc<dyn Source> =
            cache(scene.folder.path()).in_front_of(Some(Arc::clone(&origin)), "x/y");
        let artifact =
            artifact::open(source, &"v1".parse().unwrap(), "x/y:v1", &View::default()).await.unwrap();
        let node =
            walk(&Node::Folder(artifact.root), b"d/a/b.bin").await.unwrap_or_else(|e| panic!("{what}: {e}"));
        let Node::File(file) = node else { panic!("{what}: no file") };
        let bytes = file.reader().unwrap().read(0..file.size).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(bytes == content, "{what}: wrong bytes");
    };
    look("fresh").await;
    let index = scene.folder.path().join("index");
    let files = || -> Vec<PathBuf> {
        let entries = walkdir::WalkDir::new(&index).into_iter().map(Result::unwrap);
        entries.filter(|entry| entry.file_type().is_file()).map(walkdir::DirEntry::into_path).collect()
    };
    assert!(!files().is_empty(), "nothing was kept");
    let damages: [(&str, Damage); 5] = [
        ("noise", |path| fs::write(path, Big::new(5000, 8).read(0..5000)).unwrap()),
        ("nothing", |path| fs::write(path, "").unwrap()),
        ("half", |path| {
            let whole = fs::read(path).unwrap();
            fs::write(path, &whole[..whole.len() / 2]).unwrap();
        }),
        ("a flipped bit in the middle", |path| flip(path, fs::metadata(path).unwrap().len() / 2)),
        ("gone", |path| fs::remove_file(path).unwrap()),
    ];
    for (what, damage) in damages {
        for file in files() {
            damage(&file);
        }
        look(what).await;
    }
}
