//! Work that goes on after a commit, and that is found again.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use artifs::ErrorKind;
use artifs::artifact::View;
use artifs::mount::{CommitOptions, Ended, Mount, Options, Root};
use artifs::oci::{Descriptor, Digest, Name, Tag, media_type};
use artifs::ops::Progress;
use artifs::store::{Body, Layout, Source as _, Target as _};
use rustix::fs::{CWD, XattrFlags, copy_file_range, setxattr};
use support::registry::Registry;
use support::seed::Artifact;

use crate::stand::{DELETES, Stand, model, repository};

async fn stand(registry: &Registry) -> Stand {
    Stand::with(repository(&registry.host().to_string()), true, DELETES).await
}

/// Writes to a file when another one was sent.
struct Meanwhile {
    sent: Digest,
    write: PathBuf,
}

impl Progress for Meanwhile {
    fn finished(&self, what: &Descriptor, _: &str) {
        if what.digest == self.sent {
            fs::write(&self.write, "later").unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_a_commit_sends_is_news_after_it() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::write(stand.at("v1/readme"), "early").unwrap();
    let early = Digest::of(b"early");
    let meanwhile = Meanwhile { sent: early, write: stand.at("v1/readme") };
    stand.mounted().commit(&CommitOptions::default(), &meanwhile).await.unwrap();
    assert_eq!(stand.changes().len(), 1);
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    assert_eq!(stand.image("v1").await.layers[1].digest, Digest::of(b"later"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layouts_tag_may_be_any_text() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::create(folder.path().join("layout")).unwrap());
    let mut layer = Descriptor::of("test/file", b"one");
    layer.annotations.insert("org.opencontainers.image.title".into(), "file".into());
    let config = Descriptor::of("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST, "artifactType": "test/x",
        "config": config, "layers": [layer],
    });
    let manifest = manifest.to_string();
    let described = Descriptor::of(media_type::IMAGE_MANIFEST, manifest.as_bytes());
    for (descriptor, bytes) in [(&layer, "one"), (&config, "{}"), (&described, &manifest)] {
        layout.push(descriptor, &Body::Bytes(bytes.to_owned().into())).await.unwrap();
    }
    let tag = |text: &str| Tag::of_layout(text).unwrap();
    for text in ["a/b", "50%2F", "plain"] {
        layout.tag(&described, &tag(text)).await.unwrap();
    }
    let at = folder.path().join("mnt");
    fs::create_dir(&at).unwrap();
    let mut options = Options::new(&at, "oci:layout");
    options.staging = Some(folder.path().join("staging"));
    let root = Root::Repository { source: Arc::clone(&layout) as _, view: View::default() };
    let mount = Mount::start(root, options, None).await.unwrap();
    mount.publish_to(Arc::clone(&layout) as _);
    fs::write(at.join("a%2Fb/file"), "two").unwrap();
    fs::write(at.join("50%252F/file"), "three").unwrap();
    let done = mount.commit(&CommitOptions::default(), &()).await.unwrap();
    assert_eq!(
        done.iter().map(|done| done.reference.as_str()).collect::<Vec<_>>(),
        ["oci:layout:50%2F", "oci:layout:a/b"]
    );
    let mut tags = layout.tags().await.unwrap();
    tags.sort();
    assert_eq!(tags, [tag("50%2F"), tag("a/b"), tag("plain")]);
    mount.stop().await.unwrap();
    assert!(matches!(mount.ended().await, Ended::Clean));
    assert_ne!(layout.resolve(&Name::Tag(tag("a/b"))).await.unwrap().digest, described.digest);
}

async fn commit(stand: &Stand) {
    stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_after_a_commit_is_a_change_of_what_was_published() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::rename(stand.at("v1/readme"), stand.at("v1/other")).unwrap();
    commit(&stand).await;
    fs::rename(stand.at("v1/other"), stand.at("v1/readme")).unwrap();
    assert!(!stand.changes().is_empty(), "the registry has it under the other name");
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    let (now, before) = (stand.image("v1").await, stand.image(&before.digest.to_string()).await);
    assert!(now.layers.len() == 3 && now.layers.iter().all(|layer| before.layers.contains(layer)), "{now:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_comes_back_after_its_tag_was_deleted_is_published_again() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::rename(stand.at("v1"), stand.at("v3")).unwrap();
    commit(&stand).await;
    assert_eq!((stand.digest("v1").await, stand.digest("v3").await), (None, Some(before.digest.clone())));
    fs::rename(stand.at("v3"), stand.at("v1")).unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    assert_eq!((stand.digest("v1").await, stand.digest("v3").await), (Some(before.digest), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_was_never_published_goes_without_a_word() {
    let registry = Registry::start();
    let mut stand = stand(&registry).await;
    stand.may_delete = false;
    fs::create_dir(stand.at("v1")).unwrap();
    let dry = CommitOptions { dry_run: true, ..CommitOptions::default() };
    stand.mounted().commit(&dry, &()).await.unwrap();
    registry.down();
    stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    registry.up();
    fs::remove_dir(stand.at("v1")).unwrap();
    assert_eq!(stand.changes(), []);
    assert!(matches!(stand.unmount().await, Ended::Clean));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_looks_like_the_one_published_and_is_another_is_new() {
    let registry = Registry::start();
    Artifact::new().file("a", "one").file("b", "two").tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    stand.cp(&["-a"], "v1/a", "v1/c");
    commit(&stand).await;
    // Same length, same mode, same time, and no byte of it is local.
    stand.cp(&["-a"], "v1/b", "v1/c");
    assert_eq!(fs::read(stand.at("v1/c")).unwrap(), b"two");
    assert_eq!(stand.changes().len(), 1);
    commit(&stand).await;
    assert_eq!(stand.image("v1").await.layers[2].digest, Digest::of(b"two"));
    fs::write(stand.at("v1/new"), "new").unwrap();
    commit(&stand).await;
    setxattr(stand.at("v1/new"), "user.k", b"v", XattrFlags::CREATE).unwrap();
    assert_eq!(stand.changes().len(), 1, "an attribute is news as well");
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_the_base_that_are_copied_back_are_news() {
    for passthrough in [true, false] {
        let registry = Registry::start();
        model().tag("v1").push(&registry, "r");
        let mut stand = Stand::with(repository(&registry.host().to_string()), passthrough, DELETES).await;
        stand.cp(&[], "v1/weights.bin", "v1/copy");
        let original = File::open(stand.at("v1/weights.bin")).unwrap();
        let copy = File::options().write(true).open(stand.at("v1/copy")).unwrap();
        copy.write_at(&[7; 100], 5000).unwrap();
        copy.sync_all().unwrap();
        commit(&stand).await;
        let before = copy.metadata().unwrap().modified().unwrap();
        let (mut from, mut to) = (5000, 5000);
        assert_eq!(copy_file_range(&original, Some(&mut from), &copy, Some(&mut to), 100).unwrap(), 100);
        drop((copy, original));
        assert!(fs::metadata(stand.at("v1/copy")).unwrap().modified().unwrap() > before);
        assert!(matches!(stand.unmount().await, Ended::Published(_)));
        let layers = stand.image("v1").await.layers;
        assert_eq!(
            layers[0].digest,
            layers
                .iter()
                .find(|layer| { layer.annotations["org.opencontainers.image.title"] == "copy" })
                .unwrap()
                .digest
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_was_is_known_also_if_its_folder_was_touched_first() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::set_permissions(stand.at("v1"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(stand.at("v1/readme"), "mine").unwrap();
    stand.end_without(&registry).await;
    let theirs = Artifact::new().file("theirs", "theirs").tag("v1").push(&registry, "r");
    stand.mount().await;
    assert_eq!(fs::read(stand.at("v1/readme")).unwrap(), b"mine");
    let Ended::Staged { conflict: true, .. } = stand.unmount().await else { panic!("no conflict") };
    assert_eq!(stand.digest("v1").await, Some(theirs.digest));
    assert!(stand.digest(&before.digest.to_string()).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_were_moved_or_removed_whole_are_found_so_again() {
    let registry = Registry::start();
    for tag in ["moved", "one", "other"] {
        Artifact::new().file("file", tag).tag(tag).push(&registry, "r");
    }
    Artifact::new().tag("empty").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::rename(stand.at("moved"), stand.at("there")).unwrap();
    fs::remove_dir(stand.at("empty")).unwrap();
    let exchange = rustix::fs::RenameFlags::EXCHANGE;
    rustix::fs::renameat_with(CWD, stand.at("one"), CWD, stand.at("other"), exchange).unwrap();
    let told = stand.changes();
    stand.end_without(&registry).await;
    Artifact::new().file("file", "theirs").tag("one").push(&registry, "r");
    stand.mount().await;
    assert_eq!(stand.changes(), told);
    for (path, content) in [("there/file", "moved"), ("other/file", "one"), ("one/file", "other")] {
        assert_eq!(fs::read_to_string(stand.at(path)).unwrap(), content, "{path}");
    }
    assert!(!stand.at("empty").exists() && !stand.at("moved").exists());
    let Ended::Staged { conflict: true, .. } = stand.unmount().await else { panic!("no conflict") };
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_artifact_says_of_itself_can_be_copied_out() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    stand.cp(&[], "v1/.oci/manifest.json", "v1/said.json");
    stand.cp(&["-r"], "v1/.oci", "v2");
    let said = fs::read(stand.at("v1/said.json")).unwrap();
    assert_eq!(said, fs::read(stand.at("v1/.oci/manifest.json")).unwrap());
    stand.end_without(&registry).await;
    stand.mount().await;
    assert_eq!(fs::read(stand.at("v1/said.json")).unwrap(), said);
    assert_eq!(fs::read(stand.at("v2/manifest.json")).unwrap(), said);
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    assert_eq!(
        stand.image("v2").await.layers.iter().filter(|layer| layer.digest == Digest::of(&said)).count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mounted_tag_is_looked_at_wherever_it_is_among_the_tags() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let stand = stand(&registry).await;
    fs::write(stand.at("v1/readme"), "mine").unwrap();
    let theirs = Artifact::new().file("theirs", "theirs").tag("v1").push(&registry, "r");
    let options = CommitOptions { tags: vec!["other".into(), "v1".into()], ..CommitOptions::default() };
    let error = stand.mounted().commit(&options, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!((stand.digest("v1").await, stand.digest("other").await), (Some(theirs.digest), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_that_cannot_be_read_stop_a_mount_with_words_and_lose_nothing() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let mut stand = stand(&registry).await;
    fs::write(stand.at("v1/readme"), "mine").unwrap();
    commit(&stand).await;
    fs::write(stand.at("v1/readme"), "mine, later").unwrap();
    stand.end_without(&registry).await;
    let folder = fs::read_dir(stand.staging()).unwrap().next().unwrap().unwrap().path();
    let note = folder.join("publication.json");
    let whole = fs::read(&note).unwrap();
    for damaged in [&whole[..whole.len() / 2], br#"{"published":{"digest":"x"}}"#] {
        fs::write(&note, damaged).unwrap();
        let error = stand.try_mount().await.unwrap_err().to_string();
        assert!(error.contains("publication.json") && error.contains("move it away"), "{error}");
    }
    // What the words say to do.
    fs::remove_file(&note).unwrap();
    stand.mount().await;
    assert_eq!(fs::read(stand.at("v1/readme")).unwrap(), b"mine, later");
    let force = CommitOptions { force: true, ..CommitOptions::default() };
    stand.mounted().commit(&force, &()).await.unwrap();
    assert_eq!(stand.image("v1").await.layers[1].digest, Digest::of(b"mine, later"));
}
