//! What pull leaves on disk, whatever happens on the way.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::Ordering;

use artifs::ErrorKind;
use artifs::oci::Descriptor;
use artifs::ops::{Progress, PullOptions, pull};
use tempfile::TempDir;

use crate::packing::{Store, gzip, header, noise, tar_of};

/// Everything below a folder, relative, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut all: Vec<String> = walkdir::WalkDir::new(folder)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap().path().strip_prefix(folder).unwrap().display().to_string())
        .collect();
    all.sort();
    all
}

fn parts(folder: &Path) -> Vec<PathBuf> {
    let part = |name: &String| name.rsplit('/').next().is_some_and(|name| name.starts_with(".artifs-"));
    files(folder).iter().filter(|name| part(name)).map(|name| folder.join(name)).collect()
}

fn out() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Seen {
    fn take(&self) -> Vec<String> {
        let mut seen = std::mem::take(&mut *self.0.lock().unwrap());
        seen.sort();
        seen
    }

    fn add(&self, what: &str, name: &str) {
        self.0.lock().unwrap().push(format!("{what} {name}"));
    }
}

impl Progress for Seen {
    fn finished(&self, _what: &Descriptor, name: &str) {
        self.add("finished", name);
    }

    fn restored(&self, _what: &Descriptor, name: &str) {
        self.add("restored", name);
    }

    fn skipped(&self, _what: &Descriptor, name: &str) {
        self.add("skipped", name);
    }
}

#[tokio::test]
async fn files_come_whole_once_and_are_left_alone_when_right() {
    let store = Store::new();
    let big = noise(3 << 20, 4);
    let layers = [
        store.file("a/big", &big).await,
        store.file("same", &big).await,
        store.file("empty", b"").await,
        store.blob("a/b", b"unnamed").await,
    ];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    let (out, seen) = (out(), Seen::default());
    store.fetched.store(0, Ordering::SeqCst);
    let pulled = pull(&artifact, out.path(), &PullOptions::default(), &seen).await.unwrap();
    assert_eq!(store.fetched.load(Ordering::SeqCst), big.len() as u64);
    assert_eq!(files(out.path()), ["a", "a/big", "empty", "same"]);
    assert_eq!(std::fs::read(out.path().join("a/big")).unwrap(), big);
    assert_eq!(std::fs::read(out.path().join("same")).unwrap(), big);
    assert_eq!(seen.take(), ["finished a/big", "finished empty", "restored same"]);
    let listed: Vec<_> = pulled.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(listed, ["a/big", "empty", "same"].map(|name| out.path().join(name)));
    assert_eq!((pulled.unnamed, &pulled.files[0].descriptor), (1, &layers[0]));

    std::fs::write(out.path().join("same"), b"something else").unwrap();
    std::fs::write(out.path().join("empty"), b"not").unwrap();
    store.fetched.store(0, Ordering::SeqCst);
    pull(&artifact, out.path(), &PullOptions::default(), &seen).await.unwrap();
    assert_eq!(store.fetched.load(Ordering::SeqCst), 0);
    assert_eq!(std::fs::read(out.path().join("same")).unwrap(), big);
    assert_eq!(seen.take(), ["finished empty", "restored same", "skipped a/big"]);
}

#[tokio::test]
async fn an_interrupted_pull_is_taken_up_where_it_ended() {
    let store = Store::new();
    let big = noise(1 << 20, 5);
    let layers = [store.file("d/big", &big).await];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    let out = out();
    store.cut_after.store(700_000, Ordering::SeqCst);
    let error = pull(&artifact, out.path(), &PullOptions::default(), &()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(!out.path().join("d/big").exists());
    let [part] = parts(out.path()).try_into().unwrap();
    let here = std::fs::metadata(&part).unwrap().len();
    assert!(here > 600_000, "{here}");

    store.cut_after.store(0, Ordering::SeqCst);
    store.fetched.store(0, Ordering::SeqCst);
    pull(&artifact, out.path(), &PullOptions::default(), &()).await.unwrap();
    assert_eq!(store.fetched.load(Ordering::SeqCst), big.len() as u64 - here);
    assert_eq!(std::fs::read(out.path().join("d/big")).unwrap(), big);
    assert!(parts(out.path()).is_empty());
}

#[tokio::test]
async fn what_was_left_and_is_damaged_is_fetched_again() {
    let store = Store::new();
    let big = noise(1 << 20, 6);
    store.manifest("v1", &[store.file("big", &big).await]).await;
    let artifact = store.open_tag("v1").await;
    let out = out();
    store.cut_after.store(700_000, Ordering::SeqCst);
    pull(&artifact, out.path(), &PullOptions::default(), &()).await.err().unwrap();
    store.cut_after.store(0, Ordering::SeqCst);
    let [part] = parts(out.path()).try_into().unwrap();
    for damage in [vec![0; 400_000], vec![0; 2 << 20], big.iter().map(|byte| byte ^ 1).collect()] {
        std::fs::write(&part, damage).unwrap();
        let _ = std::fs::remove_file(out.path().join("big"));
        pull(&artifact, out.path(), &PullOptions::default(), &()).await.unwrap();
        assert_eq!(files(out.path()), ["big"]);
        assert_eq!(std::fs::read(out.path().join("big")).unwrap(), big);
    }
}

#[tokio::test]
async fn wrong_bytes_never_get_the_name() {
    let store = Store::new();
    let layers = [
        store.file("file", &noise(100_000, 7)).await,
        store.folder("d", &gzip(&tar_of(&[("d/a", &noise(50_000, 8))]))).await,
    ];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    store.lie.store(true, Ordering::SeqCst);
    for path in ["file", "d"] {
        let out = out();
        let options = PullOptions { paths: vec![path.into()], ..PullOptions::default() };
        let error = pull(&artifact, out.path(), &options, &()).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(files(out.path()).is_empty(), "{:?}", files(out.path()));
    }
}

fn full_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: Option<&str>, mode, bytes: &[u8]| {
        let mut header = header(bytes.len() as u64, mode);
        header.set_entry_type(kind);
        match link {
            Some(link) => tar.append_link(&mut header, name, link).unwrap(),
            None => tar.append_data(&mut header, name, bytes).unwrap(),
        }
    };
    add(tar::EntryType::Directory, "d", None, 0o700, b"");
    add(tar::EntryType::Directory, "d/locked", None, 0o500, b"");
    add(tar::EntryType::Regular, "d/locked/tool", None, 0o755, &noise(300_000, 9));
    add(tar::EntryType::Directory, "d/empty", None, 0o755, b"");
    add(tar::EntryType::Regular, "d/plain", None, 0o444, b"plain");
    add(tar::EntryType::Link, "d/hard", Some("d/plain"), 0o444, b"");
    add(tar::EntryType::Symlink, "d/soft", Some("locked/tool"), 0o777, b"");
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn folders_come_with_modes_times_and_links() {
    let store = Store::new();
    let tar = full_tar();
    for (tag, packed) in
        [("gz", gzip(&tar)), ("plain", tar.clone()), ("zst", zstd::bulk::compress(&tar, 1).unwrap())]
    {
        let layer = store.folder("d", &packed).await;
        store.manifest(tag, std::slice::from_ref(&layer)).await;
        let artifact = store.open_tag(tag).await;
        let out = out();
        // Twice: what is there is replaced, links and read-only files included.
        for _ in 0..2 {
            let pulled = pull(&artifact, out.path(), &PullOptions::default(), &()).await.unwrap();
            assert_eq!(pulled.files.len(), 1);
            assert!(pulled.files[0].folder && pulled.files[0].path == out.path().join("d"));
            let expected = ["d", "d/empty", "d/hard", "d/locked", "d/locked/tool", "d/plain", "d/soft"];
            assert_eq!(files(out.path()), expected);
        }
        let stat = |name: &str| std::fs::symlink_metadata(out.path().join(name)).unwrap();
        for (name, mode) in [("d", 0o700), ("d/locked", 0o500), ("d/locked/tool", 0o755), ("d/plain", 0o444)]
        {
            // The umask takes bits away and never gives any.
            assert_eq!(stat(name).permissions().mode() & 0o777 & !mode, 0, "{name}");
            assert_eq!(stat(name).permissions().mode() & 0o700, mode & 0o700, "{name}");
            assert_eq!(stat(name).mtime(), 1_700_000_000, "{name}");
        }
        assert_eq!(stat("d/hard").ino(), stat("d/plain").ino());
        assert_eq!(std::fs::read_link(out.path().join("d/soft")).unwrap(), Path::new("locked/tool"));
        assert_eq!(std::fs::read(out.path().join("d/soft")).unwrap(), noise(300_000, 9));
    }
}

#[tokio::test]
async fn only_what_is_asked_for_comes() {
    let store = Store::new();
    let folder =
        store.folder("d", &gzip(&tar_of(&[("d/a", b"1"), ("d/sub/b", b"2"), ("d/sub/c", b"3")]))).await;
    let other = store.file("other", &noise(10_000, 1)).await;
    store.manifest("v1", &[folder, other]).await;
    let artifact = store.open_tag("v1").await;
    let out = out();
    let options = PullOptions { paths: vec!["d/sub".into(), "d/a".into()], ..PullOptions::default() };
    let pulled = pull(&artifact, out.path(), &options, &()).await.unwrap();
    assert_eq!(files(out.path()), ["d", "d/a", "d/sub", "d/sub/b", "d/sub/c"]);
    assert_eq!(pulled.files.last().unwrap().path, out.path().join("d/a"));
    let options = PullOptions { paths: vec!["missing".into()], ..PullOptions::default() };
    let error = pull(&artifact, out.path(), &options, &()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn nothing_is_written_outside() {
    let store = Store::new();
    store.manifest("up", &[store.file("../outside", b"x").await]).await;
    store.manifest("abs", &[store.file("/tmp/artifs-outside", b"x").await]).await;
    store.manifest("deep", &[store.file("linked/file", b"x").await]).await;
    let place = out();
    let (inside, elsewhere) = (place.path().join("inside"), place.path().join("elsewhere"));
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::create_dir_all(&elsewhere).unwrap();
    symlink(&elsewhere, inside.join("linked")).unwrap();
    for tag in ["up", "abs", "deep"] {
        let artifact = store.open_tag(tag).await;
        let error = pull(&artifact, &inside, &PullOptions::default(), &()).await.err().unwrap();
        assert!(error.to_string().contains("path traversal disallowed"), "{tag}: {error}");
        assert_eq!(files(place.path()), ["elsewhere", "inside", "inside/linked"], "{tag}");
    }
    let trusting = PullOptions { allow_path_traversal: true, ..PullOptions::default() };
    pull(&store.open_tag("up").await, &inside, &trusting, &()).await.unwrap();
    pull(&store.open_tag("deep").await, &inside, &trusting, &()).await.unwrap();
    assert_eq!(
        files(place.path()),
        ["elsewhere", "elsewhere/file", "inside", "inside/linked", "inside/outside"]
    );
}

#[tokio::test]
async fn a_link_in_the_place_of_a_file_is_replaced_and_not_followed() {
    let store = Store::new();
    store.manifest("v1", &[store.file("file", b"new").await]).await;
    let place = out();
    let target = place.path().join("target");
    std::fs::write(&target, b"old").unwrap();
    let inside = place.path().join("inside");
    std::fs::create_dir(&inside).unwrap();
    symlink(&target, inside.join("file")).unwrap();
    pull(&store.open_tag("v1").await, &inside, &PullOptions::default(), &()).await.unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    assert_eq!(std::fs::read(inside.join("file")).unwrap(), b"new");
    assert!(!std::fs::symlink_metadata(inside.join("file")).unwrap().is_symlink());
}

#[tokio::test]
async fn old_files_are_kept_when_asked() {
    let store = Store::new();
    store.manifest("v1", &[store.file("a", b"new").await, store.file("b", b"new").await]).await;
    let out = out();
    std::fs::write(out.path().join("b"), b"old").unwrap();
    let options = PullOptions { keep_old: true, ..PullOptions::default() };
    let error = pull(&store.open_tag("v1").await, out.path(), &options, &()).await.err().unwrap();
    assert!(error.to_string().contains("overwrite disallowed"), "{error}");
    assert_eq!(files(out.path()), ["b"]);
    assert_eq!(std::fs::read(out.path().join("b")).unwrap(), b"old");
}

#[tokio::test]
async fn subjects_and_configs_come_when_asked_for() {
    let store = Store::new();
    let base = store.manifest("base", &[store.file("base.txt", b"base").await]).await;
    let middle = store.manifest_about("middle", &[store.file("middle.txt", b"m").await], Some(&base)).await;
    store.manifest_about("top", &[store.file("top.txt", b"t").await], Some(&middle)).await;
    let artifact = store.open_tag("top").await;
    let out = out();
    pull(&artifact, out.path(), &PullOptions::default(), &()).await.unwrap();
    assert_eq!(files(out.path()), ["top.txt"]);
    let options = PullOptions {
        include_subject: true,
        config: Some(("meta/config.json".into(), None)),
        ..PullOptions::default()
    };
    let pulled = pull(&artifact, out.path(), &options, &()).await.unwrap();
    assert_eq!(files(out.path()), ["base.txt", "meta", "meta/config.json", "middle.txt", "top.txt"]);
    assert_eq!(std::fs::read(out.path().join("meta/config.json")).unwrap(), b"{}");
    assert_eq!(pulled.files.iter().filter(|file| file.path.ends_with("base.txt")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_files_come_at_once() {
    let store = Store::new();
    let mut layers = Vec::new();
    for i in 0..300 {
        layers.push(store.file(&format!("d{}/f{i}", i % 7), format!("content {i}").as_bytes()).await);
    }
    store.manifest("v1", &layers).await;
    let out = out();
    let options = PullOptions { concurrency: 8, ..PullOptions::default() };
    pull(&store.open_tag("v1").await, out.path(), &options, &()).await.unwrap();
    for i in 0..300 {
        let content = std::fs::read_to_string(out.path().join(format!("d{}/f{i}", i % 7))).unwrap();
        assert_eq!(content, format!("content {i}"));
    }
    assert_eq!(files(out.path()).len(), 307);
}

#[tokio::test]
async fn a_folder_titled_dot_goes_to_the_output_folder() {
    let store = Store::new();
    let layer = store.folder(".", &gzip(&tar_of(&[("a", b"1"), ("b/c", b"2")]))).await;
    store.manifest("v1", &[layer]).await;
    let out = out();
    let pulled = pull(&store.open_tag("v1").await, out.path(), &PullOptions::default(), &()).await.unwrap();
    assert_eq!(files(out.path()), ["a", "b", "b/c"]);
    assert!(pulled.files.len() == 1 && pulled.files[0].folder && pulled.files[0].path == out.path());
}

#[tokio::test]
async fn folders_of_ones_own_keep_their_modes() {
    let store = Store::new();
    store.manifest("v1", &[store.file("mine/file", b"x").await]).await;
    let out = out();
    let mine = out.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::set_permissions(&mine, std::fs::Permissions::from_mode(0o775)).unwrap();
    pull(&store.open_tag("v1").await, out.path(), &PullOptions::default(), &()).await.unwrap();
    assert_eq!(std::fs::metadata(&mine).unwrap().permissions().mode() & 0o777, 0o775);
}
