//! Folders become artifacts, and what becomes of the tags.

use std::fs::{self, File};
use std::io::ErrorKind as Io;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use artifs::ErrorKind;
use artifs::artifact::View;
use artifs::mount::{Change, CommitOptions, Difference, Ended, MESSAGE, Mount, Options, PARENT, Root, works};
use artifs::oci::{Digest, media_type};
use support::noise;
use support::registry::{Endpoint, Registry};
use support::seed::{Artifact, Index};

use crate::stand::{DELETES, Stand, io_error, model, puts, registry_of, repository};

#[tokio::test(flavor = "multi_thread")]
async fn a_copied_folder_is_the_same_manifest_and_no_byte_moves() {
    for passthrough in [true, false] {
        let registry = Registry::start();
        let before = model().tag("v1").push(&registry, "r");
        let mut stand = Stand::with(repository(&registry.host().to_string()), passthrough, !DELETES).await;
        registry.forget_requests();
        stand.cp(&["-r"], "v1", "v2");
        let fetched = registry.blob_bytes();
        assert!(fetched < 10_000, "only the folder that is a layer is looked into: {fetched} bytes");
        assert!(matches!(stand.unmount().await, Ended::Published(done) if done.len() == 1));
        assert_eq!(stand.digest("v2").await, Some(before.digest));
        assert_eq!((puts(&registry, Endpoint::Upload), puts(&registry, Endpoint::Manifest)), (0, 1));
        assert!(works(&stand.staging()).unwrap().is_empty(), "what is published is staged no more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_was_edited_sends_the_edit_and_keeps_the_rest() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    stand.cp(&["-r"], "v1", "v2");
    fs::write(stand.at("v2/readme"), "edited").unwrap();
    fs::write(stand.at("v2/more"), "more").unwrap();
    assert_eq!(fs::read(stand.at("v1/readme")).unwrap(), b"read me");
    assert_eq!(fs::read(stand.at("v2/weights.bin")).unwrap(), noise(3_000_000));
    registry.forget_requests();
    let options = CommitOptions { message: Some("why".into()), ..CommitOptions::default() };
    let done = stand.mounted().commit(&options, &()).await.unwrap();
    assert_eq!(done.len(), 1, "v1 did not change: {done:?}");
    assert_eq!((puts(&registry, Endpoint::Upload), puts(&registry, Endpoint::Manifest)), (2, 1));
    assert_eq!(stand.digest("v1").await.as_ref(), Some(&before.digest));
    let (one, two) = (stand.image("v1").await, stand.image("v2").await);
    assert_eq!((&two.artifact_type, &two.config), (&one.artifact_type, &one.config));
    assert_eq!(two.annotations["keep"], "me");
    assert_eq!(two.annotations[PARENT], before.digest.to_string());
    assert_eq!(two.annotations[MESSAGE], "why");
    assert_eq!(two.layers[0], one.layers[0]);
    assert_eq!(two.layers[1].media_type, "test/text");
    assert_eq!(two.layers[1].digest, Digest::of(b"edited"));
    assert_eq!(two.layers[2], one.layers[2], "the folder is the same layer");
    assert_eq!(two.layers.len(), 4);
    assert!(matches!(stand.unmount().await, Ended::Clean));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_folder_is_a_new_artifact() {
    let registry = Registry::start();
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    assert_eq!(fs::read_dir(stand.at("")).unwrap().count(), 0, "a repository nobody pushed to yet");
    fs::create_dir_all(stand.at("v1/sub")).unwrap();
    fs::write(stand.at("v1/sub/file"), "content").unwrap();
    fs::create_dir(stand.at("empty")).unwrap();
    let mut seen: Vec<String> = stand.changes().into_iter().map(|change| change.path).collect();
    seen.sort();
    assert_eq!(seen, ["empty/", "v1/", "v1/sub", "v1/sub/file"]);
    let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
    assert_eq!(
        done.iter().map(|done| done.reference.as_str()).collect::<Vec<_>>(),
        ["test.example/r:empty", "test.example/r:v1"]
    );
    let image = stand.image("v1").await;
    assert_eq!(image.config.as_ref().unwrap().media_type, media_type::EMPTY_JSON);
    assert_eq!(image.artifact_type.as_deref(), Some("application/vnd.unknown.artifact.v1"));
    assert_eq!(image.layers[0].annotations["org.opencontainers.image.title"], "sub/file");
    assert!(!image.annotations.contains_key(PARENT));
    stand.mount().await;
    assert_eq!(fs::read(stand.at("v1/sub/file")).unwrap(), b"content");
    assert_eq!(fs::read_dir(stand.at("empty")).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_folder_deletes_its_tag_only_where_the_mount_may() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    fs::create_dir(stand.at("other")).unwrap();
    assert_eq!(io_error(fs::remove_dir_all(stand.at("v1"))), libc::EPERM);
    assert_eq!(io_error(fs::rename(stand.at("v1"), stand.at("v3"))), libc::EPERM);
    let Ended::Staged { why, .. } = stand.unmount().await else { panic!("published") };
    assert!(why.contains("--allow-delete") && why.contains("published all the same"), "{why}");
    assert_eq!(stand.digest("v1").await.as_ref(), Some(&before.digest));
    assert!(stand.digest("other").await.is_some());

    stand.may_delete = DELETES;
    stand.mount().await;
    fs::remove_dir(stand.at("v1")).unwrap();
    assert_eq!(stand.changes(), [Change { path: "v1/".into(), difference: Difference::Deleted }]);
    let done = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
    assert!(done[0].deleted && done[0].digest == before.digest.to_string(), "{done:?}");
    assert_eq!(stand.digest("v1").await, None);
    assert_eq!(stand.changes(), []);
    fs::create_dir(stand.at("v1")).unwrap();
    fs::write(stand.at("v1/again"), "anew").unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    assert_eq!(stand.image("v1").await.layers.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_others_moved_is_neither_deleted_nor_overwritten() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    model().tag("v2").push(&registry, "r");
    let mut stand = Stand::with(repository(&registry.host().to_string()), true, DELETES).await;
    fs::remove_dir_all(stand.at("v1")).unwrap();
    fs::write(stand.at("v2/readme"), "mine").unwrap();
    fs::create_dir(stand.at("v3")).unwrap();
    let theirs = Artifact::new().file("theirs", "theirs");
    for tag in ["v1", "v2", "v3"] {
        theirs.clone().tag(tag).push(&registry, "r");
    }
    let Ended::Staged { why, conflict: true, .. } = stand.unmount().await else { panic!("no conflict") };
    for tag in ["v1", "v2", "v3"] {
        assert!(why.contains(&format!("{tag} was moved by somebody else")), "{why}");
        assert_eq!(stand.digest(tag).await, Some(theirs.manifest().0.digest));
    }
    stand.mount().await;
    assert_eq!(fs::read(stand.at("v2/readme")).unwrap(), b"mine");
    let force = CommitOptions { force: true, ..CommitOptions::default() };
    stand.mounted().commit(&force, &()).await.unwrap();
    assert_eq!(stand.digest("v1").await, None);
    assert_eq!(stand.image("v2").await.layers[1].digest, Digest::of(b"mine"));
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_found_again_over_what_the_tags_were() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    stand.cp(&["-r"], "v1", "v2");
    fs::write(stand.at("v1/readme"), "mine").unwrap();
    File::options().write(true).open(stand.at("v2/weights.bin")).unwrap().write_at(b"!", 5).unwrap();
    let told = stand.changes();
    stand.end_without(&registry).await;
    Artifact::new().file("theirs", "theirs").tag("v1").push(&registry, "r");
    stand.mount().await;
    assert_eq!(stand.changes(), told);
    assert_eq!(fs::read(stand.at("v1/readme")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(stand.at("v1")).unwrap().count(), 3, "the base is what it was");
    let mut expected = noise(3_000_000);
    expected[5] = b'!';
    assert_eq!(fs::read(stand.at("v2/weights.bin")).unwrap(), expected);
    let error = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let weights = stand.image("v2").await.layers[0].digest.clone();
    assert_eq!(weights, Digest::of(&expected), "v2 was nobody else's");
    assert_eq!(stand.image("v2").await.annotations[PARENT], before.digest.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_commit_and_a_remount_only_what_came_later_is_new() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    stand.cp(&["-r"], "v1", "v2");
    fs::write(stand.at("v1/readme"), "once").unwrap();
    stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
    assert_eq!(stand.changes(), []);
    let published = stand.digest("v1").await.unwrap();
    fs::write(stand.at("v2/new"), "later").unwrap();
    let later = [Change { path: "v2/new".into(), difference: Difference::Added }];
    assert_eq!(stand.changes(), later);
    stand.end_without(&registry).await;
    stand.mount().await;
    assert_eq!(stand.changes(), later, "what was published is not told again");
    let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
    assert_eq!(done.len(), 1);
    assert_eq!(stand.digest("v1").await.unwrap(), published);
    assert!(works(&stand.staging()).unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_artifacts_is_at_the_root() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    Index::new().image("linux/amd64", model()).image("linux/arm64", model()).tag("both").push(&registry, "r");
    let stand = Stand::with(repository(&registry.host().to_string()), true, DELETES).await;
    assert_eq!(io_error(fs::write(stand.at("file"), "x")), libc::EPERM);
    assert_eq!(io_error(std::os::unix::fs::symlink("v1", stand.at("link"))), libc::EPERM);
    assert_eq!(io_error(fs::rename(stand.at("v1/readme"), stand.at("readme"))), libc::EPERM);
    assert_eq!(io_error(fs::hard_link(stand.at("v1/readme"), stand.at("readme"))), libc::EPERM);
    for name in [".hidden", "no tag", "-v"] {
        assert_eq!(io_error(fs::create_dir(stand.at(name))), libc::EINVAL, "{name}");
    }
    assert_eq!(io_error(fs::write(stand.at("both/new"), "x")), libc::EROFS);
    assert_eq!(io_error(fs::write(stand.at("v1/.oci/manifest.json"), "x")), libc::EROFS);
    assert_eq!(fs::read(stand.at("both/readme")).unwrap(), b"read me");
    assert_eq!(stand.changes(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn things_move_between_artifacts() {
    let registry = Registry::start();
    let before = model().tag("v1").push(&registry, "r");
    model().tag("v2").push(&registry, "r");
    let mut stand = Stand::with(repository(&registry.host().to_string()), true, DELETES).await;
    fs::rename(stand.at("v1"), stand.at("old")).unwrap();
    fs::rename(stand.at("v2/weights.bin"), stand.at("v2/w.bin")).unwrap();
    fs::create_dir(stand.at("only")).unwrap();
    fs::rename(stand.at("v2/readme"), stand.at("only/readme")).unwrap();
    registry.forget_requests();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    assert_eq!(puts(&registry, Endpoint::Upload), 0, "every blob is there");
    assert_eq!(stand.digest("v1").await, None);
    assert_eq!(stand.digest("old").await, Some(before.digest));
    let titles = async |tag: &str| {
        let image = stand.image(tag).await;
        let title =
            |layer: &artifs::oci::Descriptor| layer.annotations["org.opencontainers.image.title"].clone();
        image.layers.iter().map(title).collect::<Vec<_>>()
    };
    assert_eq!(titles("v2").await, ["w.bin", "tokens"]);
    assert_eq!(titles("only").await, ["readme"]);
    assert_eq!(stand.image("only").await.layers[0].media_type, "test/text");
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_that_others_make_appear() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let stand = Stand::new(repository(&registry.host().to_string())).await;
    assert_eq!(fs::read_dir(stand.at("")).unwrap().count(), 1);
    Artifact::new().file("theirs", "theirs").tag("v2").push(&registry, "r");
    // A name that is asked for is looked for, however old the list is.
    assert_eq!(fs::create_dir(stand.at("v2")).unwrap_err().kind(), Io::AlreadyExists);
    assert_eq!(fs::read(stand.at("v2/theirs")).unwrap(), b"theirs");
    assert_eq!(fs::read_dir(stand.at("")).unwrap().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_a_file_of_its_own() {
    for passthrough in [true, false] {
        let registry = Registry::start();
        model().tag("v1").push(&registry, "r");
        let stand = Stand::with(repository(&registry.host().to_string()), passthrough, !DELETES).await;
        let original = noise(3_000_000);
        File::options()
            .write(true)
            .open(stand.at("v1/weights.bin"))
            .unwrap()
            .write_at(&[9; 5000], 70_000)
            .unwrap();
        stand.cp(&["-p"], "v1/weights.bin", "v1/copy");
        fs::set_permissions(stand.at("v1/copy"), fs::Permissions::from_mode(0o600)).unwrap();
        let copy = File::options().read(true).write(true).open(stand.at("v1/copy")).unwrap();
        copy.write_at(b"copy", 1_000_000).unwrap();
        copy.set_len(2_000_000).unwrap();
        copy.set_len(2_500_000).unwrap();
        let mut edited = original;
        edited[70_000..75_000].fill(9);
        assert_eq!(fs::read(stand.at("v1/weights.bin")).unwrap(), edited);
        edited[1_000_000..1_000_004].copy_from_slice(b"copy");
        edited[2_000_000..].fill(0);
        edited.truncate(2_500_000);
        assert_eq!(fs::read(stand.at("v1/copy")).unwrap(), edited);
        stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
        let image = stand.image("v1").await;
        assert!(image.layers.iter().any(|layer| layer.digest == Digest::of(&edited)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_only_manifests_are_deleted_a_shared_one_stays() {
    let Some(registry) = support::server::Server::distribution() else { return };
    model().tag("v1").push(&registry, "r");
    model().tag("same").push(&registry, "r");
    Artifact::new().file("a", "a").tag("alone").push(&registry, "r");
    let mut stand = Stand::with(repository(&registry.host().to_string()), true, DELETES).await;
    fs::remove_dir_all(stand.at("v1")).unwrap();
    fs::remove_dir_all(stand.at("alone")).unwrap();
    let Ended::Staged { why, .. } = stand.unmount().await else { panic!("published") };
    assert!(why.contains("deletes manifests, not tags"), "{why}");
    assert!(stand.digest("v1").await.is_some() && stand.digest("same").await.is_some());
    assert_eq!(stand.digest("alone").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_artifact_may_be_published_under_other_tags() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let stand = Stand::new(repository(&registry.host().to_string())).await;
    fs::write(stand.at("v1/readme"), "edited").unwrap();
    let options = CommitOptions { tags: vec!["a".into(), "b".into()], ..CommitOptions::default() };
    stand.mounted().commit(&options, &()).await.unwrap();
    assert_eq!(stand.digest("a").await, stand.digest("b").await);
    fs::create_dir(stand.at("v2")).unwrap();
    fs::write(stand.at("v1/readme"), "edited again").unwrap();
    let error = stand.mounted().commit(&options, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    // One of several that changed may be pointed at.
    let within = Some("v1/readme".to_owned());
    let one = CommitOptions { tags: vec!["d".into()], within, ..CommitOptions::default() };
    stand.mounted().commit(&one, &()).await.unwrap();
    assert_eq!((stand.digest("d").await.is_some(), stand.digest("v2").await), (true, None));
    fs::write(stand.at("v1/readme"), "edited once more").unwrap();
    // The second of several tags is somebody else's.
    fs::remove_dir(stand.at("v2")).unwrap();
    let taken = Artifact::new().file("theirs", "theirs").tag("b").push(&registry, "r");
    let options = CommitOptions { tags: vec!["c".into(), "b".into()], ..CommitOptions::default() };
    let error = stand.mounted().commit(&options, &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!((stand.digest("b").await, stand.digest("c").await), (Some(taken.digest), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_has_is_taken_from_there() {
    let registry = Registry::start();
    let weights = noise(3_000_000);
    Artifact::new()
        .file("weights", weights.clone())
        .file("small", "small")
        .tag("v1")
        .push(&registry, "other/model");
    Artifact::new().file("readme", "mine").tag("v1").push(&registry, "r");
    let folder = tempfile::tempdir().unwrap();
    let settings = artifs::cache::Settings { root: folder.path().join("cache"), budget: None };
    let cache = artifs::cache::Cache::open(&settings).unwrap();
    let host = registry.host();
    let mount = async |repository: &str, at: &str, staging: Option<PathBuf>| {
        let at = folder.path().join(at);
        fs::create_dir(&at).unwrap();
        let target = registry_of(&host.to_string()).repository(repository).unwrap();
        let target = Arc::new(target);
        let scope = format!("{host}/{repository}");
        let source = cache.in_front_of(Some(Arc::clone(&target) as _), &scope);
        let name = "v1".parse().unwrap();
        let mut options = Options::new(&at, format!("{scope}:v1"));
        options.staging = staging;
        let root = Root::Artifact { source, name, view: View::default() };
        let mount = Mount::start(root, options, None).await.unwrap();
        mount.publish_to(target);
        (mount, at)
    };
    let (_reading, from) = mount("other/model", "from", None).await;
    let (writing, to) = mount("r", "to", Some(folder.path().join("staging"))).await;
    for name in ["weights", "small"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    registry.forget_requests();
    writing.stop().await.unwrap();
    assert!(matches!(writing.ended().await, Ended::Published(_)));
    let mount = format!("mount={}&from=other/model", Digest::of(&weights));
    assert_eq!(registry.count(|request| request.method == "POST" && request.query == mount), 1);
    assert_eq!(puts(&registry, Endpoint::Upload), 1, "the small file is sent");
    assert!(registry.has_blob("r", &Digest::of(&weights)));
}

/// What a layer says of its path follows the file into another artifact.
#[tokio::test(flavor = "multi_thread")]
async fn a_models_file_is_copied_under_another_name() {
    const FILEPATH: &str = "org.cncf.model.filepath";
    let registry = Registry::start();
    let weight = "application/vnd.cncf.model.weight.v1.raw";
    let model = Artifact::new().unnamed(weight, "weights").layer_annotation(FILEPATH, "m/a.bin");
    Artifact::new().file("note", "note").tag("o").push(&registry, "r");
    let before = model.tag("v1").push(&registry, "r").digest;
    let mut stand = Stand::new(repository(&registry.host().to_string())).await;
    stand.cp(&["-r"], "v1", "v2");
    fs::create_dir(stand.at("v3")).unwrap();
    stand.cp(&[], "v1/m/a.bin", "v3/b.bin");
    stand.cp(&[], "o/note", "v3/note");
    std::os::unix::fs::symlink("b.bin", stand.at("v3/latest")).unwrap();
    let Ended::Published(_) = stand.unmount().await else { panic!("not published") };
    assert_eq!(stand.digest("v2").await, Some(before));
    let layers = stand.image("v3").await.layers;
    let copied = layers.iter().find(|layer| layer.digest == Digest::of(b"weights")).unwrap();
    assert_eq!(copied.annotations[FILEPATH], "b.bin");

    stand.mount().await;
    assert_eq!(fs::read_to_string(stand.at("v3/latest")).unwrap(), "weights");
    fs::write(stand.at("v3/note"), "edited").unwrap();
    let Ended::Published(_) = stand.unmount().await else { panic!("not published") };
    stand.mount().await;
    assert_eq!(fs::read_to_string(stand.at("v3/note")).unwrap(), "edited");
    assert_eq!(fs::read_link(stand.at("v3/latest")).unwrap(), PathBuf::from("b.bin"));
}
