//! What is sent, what stays, what comes back.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use artifs::ErrorKind;
use artifs::artifact::{self, View};
use artifs::mount::{CommitOptions, Ended, Mount, Options, PARENT, Root, works};
use artifs::oci::Digest;
use artifs::ops::{PullOptions, pull};
use artifs::store::{Layout, Memory, Source as _, SourceExt as _, Target};
use support::registry::{Endpoint, Registry};
use support::seed::{Artifact, Folder};

use crate::stand::{
    Stand, afternoon, afternoons_base, digest, hundred, layers, listed, one, repository, tag,
};

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_hundred_is_one_blob_and_one_manifest() {
    let registry = Registry::start();
    let before = hundred().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry)).await;
    fs::write(stand.path("f050"), "edited").unwrap();
    let begun = registry.requests().len();
    let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
    let done = one(done);
    let sent: Vec<_> = registry.requests().split_off(begun);
    let puts = |endpoint| {
        sent.iter().filter(|request| request.method == "PUT" && request.endpoint == endpoint).count()
    };
    assert_eq!((puts(Endpoint::Upload), puts(Endpoint::Manifest)), (1, 1));
    assert_eq!(done.parent, Some(before.digest.to_string()));
    assert!(works(&stand.staging()).unwrap().is_empty(), "what is published is staged no more");

    let target = repository(&registry);
    let after = layers(target.as_ref(), "v1").await;
    for (number, (now, then)) in after.iter().zip(hundred().layers()).enumerate() {
        if number == 50 {
            assert_eq!(now.digest, Digest::of(b"edited"));
            assert_eq!((&now.media_type, &now.annotations), (&then.media_type, &then.annotations));
        } else {
            assert_eq!(now, then);
        }
    }
    let manifest = target.fetch_manifest(&tag("v1")).await.unwrap().1;
    assert_eq!(manifest.annotations()[PARENT], before.digest.to_string());
    let created = &manifest.annotations()["org.opencontainers.image.created"];
    assert!(created.as_str() > "2020-01-01T00:00:00Z", "{created}");
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_from_a_registry_a_layout_and_by_pull() {
    let registry = Registry::start();
    afternoons_base().push(&registry, "r");
    let layout_folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(layout_folder.path().join("layout")).unwrap();
    afternoons_base().push(&layout, "r");
    for target in [repository(&registry) as Arc<dyn Target>, Arc::new(layout)] {
        let mut stand = Stand::new(Arc::clone(&target)).await;
        afternoon(&stand.at());
        let wanted = listed(&stand.at());
        let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
        let done = one(done);
        assert!(done.left_out.is_empty(), "{:?}", done.left_out);
        stand.mount().await;
        assert_eq!(listed(&stand.at()), wanted);
        assert!(stand.mounted().changes().is_empty());
        assert!(matches!(stand.unmount().await, Ended::Clean));

        let layers = layers(target.as_ref(), "v1").await;
        let titles: Vec<&str> = layers
            .iter()
            .map(|layer| layer.annotation("org.opencontainers.image.title").unwrap_or("-"))
            .collect();
        assert_eq!(titles, ["a", "renamed", "d", "big", "bin/run", "new", "-"]);
        assert_eq!(layers[1].media_type, "text/b");
        let manifest = target.fetch_manifest(&tag("v1")).await.unwrap().1;
        assert_eq!(manifest.annotations()["kept"], "yes");

        let out = stand.folder.path().join("out");
        let opened = artifact::open(target, &tag("v1"), "r:v1", &View::default()).await.unwrap();
        pull(&opened, &out, &PullOptions::default(), &()).await.unwrap();
        let pulled = listed(&out);
        let content = |all: &[(PathBuf, u32, Vec<u8>)]| {
            all.iter().map(|(path, _, content)| (path.clone(), content.clone())).collect::<Vec<_>>()
        };
        assert_eq!(content(&pulled), content(&wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tree_has_the_same_digest() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let memory = Arc::new(Memory::new());
        hundred().tag("v1").push(memory.as_ref(), "r");
        let stand = Stand::new(memory).await;
        fs::write(stand.path("f001"), "edited").unwrap();
        fs::write(stand.path("f100"), "new").unwrap();
        let options = CommitOptions { created: Some(1_700_000_000), ..CommitOptions::default() };
        let done = one(stand.mounted().commit(&options, &()).await.unwrap());
        let again = one(stand.mounted().commit(&options, &()).await.unwrap());
        assert!(!again.changed, "the same again is nothing to publish");
        assert_eq!(again.digest, done.digest);
        digests.push(done.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_goes_on_after_a_commit() {
    let memory = Arc::new(Memory::new());
    afternoons_base().push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    afternoon(&stand.at());
    let first = one(stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap());
    assert!(stand.mounted().changes().is_empty());
    fs::write(stand.path("new"), "newer").unwrap();
    let changes = stand.mounted().changes();
    assert_eq!(changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(), ["new"]);
    let second = one(stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap());
    assert_eq!(second.parent, Some(first.digest));
    fs::remove_file(stand.path("new")).unwrap();
    let Ended::Published(third) = stand.unmount().await else { panic!("not published") };
    let third = one(third);
    assert_eq!(third.parent, Some(second.digest));
    assert_eq!(digest(memory.as_ref(), "v1").await.to_string(), third.digest);
    stand.mount().await;
    assert!(!stand.path("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_publishes_nothing_and_loses_nothing() {
    let memory = Arc::new(Memory::new());
    let before = hundred().tag("v1").push(memory.as_ref(), "r").digest;
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::write(stand.path("f001"), "mine").unwrap();
    let theirs = hundred().file("theirs", "theirs").tag("v1").push(memory.as_ref(), "r").digest;
    let Ended::Staged { why, conflict, .. } = stand.unmount().await else { panic!("published") };
    assert!(conflict && why.contains(before.as_str()) && why.contains(theirs.as_str()), "{why}");
    assert_eq!(digest(memory.as_ref(), "v1").await, theirs);
    assert_eq!(memory.tags().await.unwrap().len(), 1);

    stand.mount().await;
    assert_eq!(fs::read_to_string(stand.path("f001")).unwrap(), "mine");
    let error = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let beside = CommitOptions { tags: vec!["mine".into()], ..CommitOptions::default() };
    let done = one(stand.mounted().commit(&beside, &()).await.unwrap());
    assert_eq!(digest(memory.as_ref(), "mine").await.to_string(), done.digest);
    assert_eq!(digest(memory.as_ref(), "v1").await, theirs);
    fs::write(stand.path("f002"), "mine too").unwrap();
    let forced = CommitOptions { force: true, ..CommitOptions::default() };
    let done = one(stand.mounted().commit(&forced, &()).await.unwrap());
    assert_eq!(digest(memory.as_ref(), "v1").await.to_string(), done.digest);
}

/// A manifest whose config tells of its layers is refused before anybody changes anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_come_out_wrong_is_refused_at_the_mount() {
    let config = "application/vnd.oci.image.config.v1+json";
    let told = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:0"]}}"#;
    for (content, possible) in [("{}", true), (r#"{"architecture":"amd64"}"#, true), (told, false)] {
        let memory = Arc::new(Memory::new());
        let artifact = Artifact::new().without_kind().config(config, content).file("a", "a").tag("v1");
        artifact.push(memory.as_ref(), "r");
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("mnt"), "test.example/r:v1");
        fs::create_dir(&options.mountpoint).unwrap();
        options.staging = Some(folder.path().join("staging"));
        let root = Root::Artifact { source: memory, name: tag("v1"), view: View::default() };
        match (Mount::start(root, options, None).await, possible) {
            (Ok(mount), true) => mount.stop().await.unwrap(),
            (Err(error), false) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("it is a container image"), "{error}");
            }
            (other, _) => panic!("{content}: {:?}", other.err()),
        }
    }
}

/// What was read for its digest.
#[derive(Default)]
struct Read(std::sync::Mutex<Vec<String>>);

impl artifs::ops::Progress for Read {
    fn preparing(&self, name: &str, _size: u64) {
        self.0.lock().unwrap().push(name.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_has_published_the_next_one_does_not_read_again() {
    let memory = Arc::new(Memory::new());
    Artifact::new()
        .file("a", "1")
        .folder("d", Folder::new().file("x", 0o644, "x"))
        .tag("v1")
        .push(&*memory, "r");
    let stand = Stand::new(Arc::clone(&memory) as _).await;
    let commit = async || {
        let read = Read::default();
        let done = one(stand.mounted().commit(&CommitOptions::default(), &read).await.unwrap());
        (read.0.into_inner().unwrap(), done)
    };
    fs::write(stand.path("large"), "large").unwrap();
    fs::write(stand.path("d/x"), "edited").unwrap();
    assert_eq!(commit().await.0, ["large"]);
    fs::write(stand.path("small"), "small").unwrap();
    assert_eq!(commit().await.0, ["small"]);
    fs::write(stand.path("large"), "larger").unwrap();
    assert_eq!(commit().await.0, ["large"]);
    let digests: Vec<Digest> =
        layers(memory.as_ref(), "v1").await.into_iter().map(|layer| layer.digest).collect();
    for bytes in ["1", "larger", "small"] {
        assert!(digests.contains(&Digest::of(bytes.as_bytes())), "{bytes}");
    }
    let (none, done) = commit().await;
    assert!(none.is_empty() && !done.changed);
}
