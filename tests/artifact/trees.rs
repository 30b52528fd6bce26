//! What manifests look like as trees.

use std::sync::atomic::Ordering;

use artifs::ErrorKind;
use artifs::artifact::tree::{self, Node};
use artifs::artifact::{Unnamed, View};
use artifs::oci::{Descriptor, Digest, media_type};
use futures_util::FutureExt as _;

use crate::look::{content, file, root, rules, tree_of};
use crate::packing::{Store, gzip, tar_of, titled};

#[tokio::test]
async fn named_layers_are_files_and_unnamed_ones_wait_their_turn() {
    let store = Store::new();
    let layers = [
        store.file("docs/readme.txt", b"read me").await,
        store.file("model.bin", b"weights").await,
        store.file("again.bin", b"weights").await,
        store.blob("a/b", b"unnamed").await,
        store.file("empty", b"").await,
        store.file("json", b"{}").await,
    ];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    let named = ["again.bin", "docs/", "docs/readme.txt", "empty", "json", "model.bin"];
    assert_eq!(tree_of(&artifact).await, named);
    assert_eq!(content(&artifact, "docs/readme.txt").await, b"read me");
    assert_eq!(content(&artifact, "empty").await, b"");
    let (one, two) = (file(&artifact, "model.bin").await, file(&artifact, "again.bin").await);
    assert_eq!(one.id, two.id);
    assert_eq!(one.attributes.modified, (1_785_578_400, 0));
    assert!(artifact.warnings.list().is_empty());

    let shown = View { unnamed: Unnamed::Show, ..View::default() };
    assert_eq!(tree_of(&store.open_with("v1", &shown).await.unwrap()).await.len(), 7);

    store.manifest("bare", &layers[3..4]).await;
    let bare = store.open_tag("bare").await;
    assert_eq!(tree_of(&bare).await, [format!("sha256-{}", layers[3].digest.encoded())]);
}

#[tokio::test]
async fn an_empty_artifact_is_an_empty_folder() {
    let store = Store::new();
    let empty = store.blob(media_type::EMPTY_JSON, b"{}").await;
    store.manifest("v1", &[empty]).await;
    assert!(tree_of(&store.open_tag("v1").await).await.is_empty());
}

#[tokio::test]
async fn hostile_titles_stay_inside_and_say_so() {
    let store = Store::new();
    let digest = store.blob("a/b", b"x").await.digest;
    let layers = [
        store.file("../../etc/passwd", b"1").await,
        store.file("/abs", b"2").await,
        store.file("a", b"3").await,
        store.file("a/b", b"4").await,
        store.file("twice", b"5").await,
        store.file("twice", b"6").await,
        store.file(".", b"x").await,
        store.file(&"d/".repeat(300), b"y").await,
    ];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    let tree = tree_of(&artifact).await;
    for expected in ["etc/passwd", "abs", "a/b", "twice", &format!("sha256-{}", digest.encoded())] {
        assert!(tree.contains(&expected.to_owned()), "{expected} in {tree:?}");
    }
    assert_eq!(content(&artifact, "twice").await, b"6");
    let moved = tree.iter().find(|path| path.starts_with("a~")).unwrap();
    assert_eq!(content(&artifact, moved).await, b"3");
    let rules = rules(&artifact);
    assert_eq!(rules.iter().filter(|rule| **rule == "R10").count(), 4, "{rules:?}");
    assert_eq!(rules.iter().filter(|rule| **rule == "R11").count(), 2, "{rules:?}");
}

#[tokio::test]
async fn inline_content_costs_nothing_and_counts_only_when_right() {
    let store = Store::new();
    let mut right = titled(Descriptor::of("a/b", b"hello"), "right");
    right.data = Some("aGVsbG8=".into());
    let mut wrong = store.file("wrong", b"truth").await;
    wrong.data = Some("bGllcyE=".into());
    store.manifest("v1", &[right, wrong]).await;
    let artifact = store.open_tag("v1").await;
    let before = store.fetches.load(Ordering::SeqCst);
    assert_eq!(content(&artifact, "right").await, b"hello");
    assert_eq!(store.fetches.load(Ordering::SeqCst), before);
    assert_eq!(content(&artifact, "wrong").await, b"truth");
}

#[tokio::test]
async fn twenty_thousand_layers_open_and_list() {
    let store = Store::new();
    let blob = store.blob("a/b", b"x").await;
    let layers: Vec<Descriptor> =
        (0..20_000).map(|i| titled(blob.clone(), &format!("{}/{i}", i % 10))).collect();
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    assert_eq!(tree_of(&artifact).await.len(), 20_010);
    assert_eq!(artifact.root.list().now_or_never().unwrap().unwrap().len(), 10);
}

#[tokio::test]
async fn the_meta_folder_is_reachable_and_unlisted() {
    let store = Store::new();
    let layer = store.file("../x", b"x").await;
    let subject = store.manifest("v1", std::slice::from_ref(&layer)).await;
    let note = store.file("note", b"about it").await;
    store.manifest_about("n1", &[note], Some(&subject)).await;
    let artifact = store.open_tag("v1").await;
    assert_eq!(tree_of(&artifact).await, ["x"]);
    assert_eq!(content(&artifact, ".oci/manifest.json").await, artifact.manifest.raw().as_ref());
    assert_eq!(content(&artifact, ".oci/digest").await, format!("{}\n", subject.digest).into_bytes());
    assert_eq!(content(&artifact, ".oci/config.json").await, b"{}");
    let path = format!(".oci/layers/000-sha256-{}", layer.digest.encoded());
    assert_eq!(content(&artifact, &path).await, b"x");
    let warnings = content(&artifact, ".oci/warnings.json").await;
    assert!(String::from_utf8_lossy(&warnings).contains("\"R10\""));
    let referrers = tree::walk(&root(&artifact), b".oci/referrers/application_vnd.test").await.unwrap();
    let Node::Folder(referrers) = referrers else { panic!("a folder") };
    let list = referrers.list().await.unwrap();
    let (_, Node::Folder(note)) = list.first_key_value().unwrap() else { panic!("a folder") };
    assert!(note.list().await.unwrap().contains_key(&b"note"[..]));
    assert!(note.lookup(b".oci").await.unwrap().is_some());

    let hidden = View { meta: false, ..View::default() };
    let plain = store.open_with("v1", &hidden).await.unwrap();
    assert!(plain.root.lookup(b".oci").await.unwrap().is_none());
}

#[tokio::test]
async fn an_index_shows_the_wanted_platform_or_says_what_there_is() {
    let store = Store::new();
    let mut children = Vec::new();
    for arch in ["amd64", "arm64", "s390x"] {
        let layer = store.file(arch, arch.as_bytes()).await;
        let mut child = store.manifest(arch, &[layer]).await;
        child.platform = Some(format!("linux/{arch}").parse().unwrap());
        children.push(child);
    }
    let index = |children: &[Descriptor]| serde_json::json!({"schemaVersion": 2, "manifests": children});
    store.raw("v1", media_type::IMAGE_INDEX, &index(&children)).await;
    let wish = |text: &str| View { platform: Some(text.parse().unwrap()), ..View::default() };
    let artifact = store.open_with("v1", &wish("linux/s390x")).await.unwrap();
    assert_eq!(tree_of(&artifact).await, ["s390x"]);
    assert_eq!(artifact.descriptor.digest, children[2].digest);
    assert_ne!(artifact.named.digest, artifact.descriptor.digest);
    assert_eq!(Digest::of(&content(&artifact, ".oci/index.json").await), artifact.named.digest);
    assert_eq!(content(&artifact, ".oci/platforms/linux-arm64/arm64").await, b"arm64");
    let error = store.open_with("v1", &wish("linux/riscv64")).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("linux/amd64, linux/arm64, linux/s390x"), "{error}");

    for child in &mut children {
        child.platform = None;
    }
    children[0].annotations.insert("org.opencontainers.image.ref.name".into(), "first/one".into());
    store.raw("v2", media_type::IMAGE_INDEX, &index(&children)).await;
    let all = store.open_tag("v2").await;
    let tree = tree_of(&all).await;
    assert!(tree.contains(&"first-one/amd64".to_owned()) && tree.len() == 6, "{tree:?}");
    assert_eq!(content(&all, "first-one/amd64").await, b"amd64");
    assert!(tree::walk(&root(&all), b"first-one/.oci/digest").await.is_ok());
}

#[tokio::test]
async fn layers_and_titles_share_folders() {
    let store = Store::new();
    let tar = tar_of(&[("d/a", b"packed"), ("d/b", b"packed"), ("d/x/y", b"packed"), ("d/f", b"packed")]);
    let folder = store.folder("d", &gzip(&tar)).await;
    let layers = [
        store.file("d/b", b"earlier").await,
        folder,
        store.file("d/a", b"later").await,
        store.file("d/x/z", b"beside").await,
        store.file("d/f/g", b"below").await,
    ];
    store.manifest("v1", &layers).await;
    let artifact = store.open_tag("v1").await;
    let tree = tree_of(&artifact).await;
    assert_eq!(content(&artifact, "d/a").await, b"later");
    assert_eq!(content(&artifact, "d/b").await, b"packed");
    assert_eq!(content(&artifact, "d/x/y").await, b"packed");
    assert_eq!(content(&artifact, "d/x/z").await, b"beside");
    assert_eq!(content(&artifact, "d/f/g").await, b"below");
    let moved = tree.iter().find(|path| path.starts_with("d/f~")).unwrap();
    assert_eq!(content(&artifact, moved).await, b"packed");
    assert_eq!(rules(&artifact), ["R11", "R11", "R11"]);
}

#[tokio::test]
async fn a_folder_titled_dot_is_the_root() {
    let store = Store::new();
    let tar = tar_of(&[("./", b""), ("./a", b"1"), ("b/c", b"2")]);
    store.manifest("v1", &[store.folder(".", &gzip(&tar)).await]).await;
    let artifact = store.open_tag("v1").await;
    assert_eq!(tree_of(&artifact).await, ["a", "b/", "b/c"]);
    assert!(artifact.root.lookup(b".oci").await.unwrap().is_some());
}
