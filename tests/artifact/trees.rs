//! What artifacts look like as trees, and what reading them costs.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::packing::{Store, gzip, header, noise, tar_of, titled};
use artifs::ErrorKind;
use artifs::artifact::tree::{self, Node};
use artifs::artifact::{Artifact, File, Unnamed, View};
use artifs::oci::{Descriptor, Digest, media_type};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

/// Every path below a folder: folders with a `/`, links with their targets.
fn paths(prefix: String, node: Node) -> BoxFuture<'static, Vec<String>> {
    Box::pin(async move {
        match node {
            Node::File(_) => vec![prefix],
            Node::Link(link) => vec![format!("{prefix} -> {}", String::from_utf8_lossy(&link.target))],
            Node::Folder(folder) => {
                let mut all = if prefix.is_empty() { vec![] } else { vec![format!("{prefix}/")] };
                for (name, node) in folder.list().await.unwrap().iter() {
                    let name = String::from_utf8_lossy(name);
                    let below =
                        if prefix.is_empty() { name.into_owned() } else { format!("{prefix}/{name}") };
                    all.extend(paths(below, node.clone()).await);
                }
                all
            }
        }
    })
}

fn root(artifact: &Artifact) -> Node {
    Node::Folder(Arc::clone(&artifact.root))
}

async fn tree_of(artifact: &Artifact) -> Vec<String> {
    paths(String::new(), root(artifact)).await
}

async fn file(artifact: &Artifact, path: &str) -> Arc<File> {
    match tree::walk(&root(artifact), path.as_bytes()).await.unwrap() {
        Node::File(file) => file,
        _ => panic!("{path} is no file"),
    }
}

async fn content(artifact: &Artifact, path: &str) -> Vec<u8> {
    let file = file(artifact, path).await;
    file.reader().unwrap().read(0..file.size).await.unwrap().to_vec()
}

fn rules(artifact: &Artifact) -> Vec<&'static str> {
    artifact.warnings.list().into_iter().map(|warning| warning.rule).collect()
}

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
async fn a_directory_layer_is_read_once_and_its_members_by_range() {
    let store = Store::new();
    let big = noise(20 << 20, 1);
    let tar = tar_of(&[("d/", b""), ("d/small", b"hello"), ("d/big", &big), ("d/e/last", b"end")]);
    let packed = gzip(&tar);
    let mut layer = store.folder("d", &packed).await;
    layer.annotations.insert("io.deis.oras.content.digest".into(), Digest::of(&tar).to_string());
    store.manifest("v1", &[layer.clone(), store.file("beside", b"x").await]).await;

    let artifact = store.open_tag("v1").await;
    store.fetched.store(0, Ordering::SeqCst);
    assert_eq!(artifact.root.list().await.unwrap().len(), 2);
    assert_eq!(store.fetched.load(Ordering::SeqCst), 0, "listing the root asks for nothing");
    let entering = (0..8).map(|_| tree_of(&artifact));
    for tree in futures_util::future::join_all(entering).await {
        assert_eq!(tree, ["beside", "d/", "d/big", "d/e/", "d/e/last", "d/small"]);
    }
    assert_eq!(store.fetched.load(Ordering::SeqCst), packed.len() as u64, "one pass for all who enter");
    assert_eq!(content(&artifact, "d/small").await, b"hello");
    assert_eq!(content(&artifact, "d/e/last").await, b"end");
    assert_eq!(file(&artifact, "d/small").await.attributes.mode, 0o640);
    assert_eq!(file(&artifact, "d/small").await.attributes.modified, (1_700_000_000, 0));

    store.fetched.store(0, Ordering::SeqCst);
    let reader = file(&artifact, "d/big").await.reader().unwrap();
    assert_eq!(reader.read(15 << 20..(15 << 20) + 4096).await.unwrap(), big[15 << 20..(15 << 20) + 4096]);
    let cost = store.fetched.load(Ordering::SeqCst);
    assert!(cost < packed.len() as u64 / 2, "a read in the middle cost {cost} of {} bytes", packed.len());
    assert!(reader.blob().is_none());

    // A second mount recalls the index and asks for nothing.
    store.fetched.store(0, Ordering::SeqCst);
    let manifest = artifact.descriptor.size;
    let again = store.open_tag("v1").await;
    assert_eq!(tree_of(&again).await.len(), 6);
    assert!(store.fetched.load(Ordering::SeqCst) <= manifest);
    assert_eq!(content(&again, "d/big").await, big);

    // A damaged index is built again.
    for kept in store.kept.lock().unwrap().values_mut() {
        let mut bytes = kept.to_vec();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        *kept = bytes.into();
    }
    let healed = store.open_tag("v1").await;
    assert_eq!(tree_of(&healed).await.len(), 6);
    assert_eq!(content(&healed, "d/small").await, b"hello");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_range_of_any_packing_is_what_was_packed() {
    let store = Store::new();
    let data = noise(9 << 20, 7);
    let tar = tar_of(&[("d/a", &data[..3 << 20]), ("d/b", &data[3 << 20..])]);
    let frames: Vec<u8> =
        tar.chunks(1 << 20).flat_map(|chunk| zstd::bulk::compress(chunk, 1).unwrap()).collect();
    let members: Vec<u8> = tar.chunks(300_000).flat_map(gzip).collect();
    let mut stored = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::none());
    stored.write_all(&tar).unwrap();
    let best = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&tar).unwrap();
        encoder.finish().unwrap()
    };
    let one_frame = zstd::bulk::compress(&tar, 3).unwrap();
    let packings = [
        tar.clone(),
        gzip(&tar),
        best,
        stored.finish().unwrap(),
        members,
        frames,
        one_frame,
        gzip_by_tools(&tar),
    ];
    for (i, packed) in packings.iter().enumerate() {
        let tag = format!("v{i}");
        let layer = store.folder("d", packed).await;
        store.manifest(&tag, &[layer]).await;
        let artifact = store.open_tag(&tag).await;
        let readers =
            [file(&artifact, "d/a").await.reader().unwrap(), file(&artifact, "d/b").await.reader().unwrap()];
        let truths = [&data[..3 << 20], &data[3 << 20..]];
        let mut state = i as u64 + 1;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for _ in 0..40 {
            let which = next(2);
            let truth = truths[which];
            let start = next(truth.len());
            let end = (start + 1 + next(300_000)).min(truth.len());
            let read = readers[which].read(start as u64..end as u64).await.unwrap();
            assert!(read == truth[start..end], "packing {i}, file {which}, {start}..{end}");
        }
        // In order, in parallel and a little shuffled, as the kernel's read-ahead comes.
        let reads = (0..truths[1].len()).step_by(128 << 10).map(|start| {
            let end = (start + (128 << 10)).min(truths[1].len());
            let reader = &readers[1];
            async move {
                let read = reader.read(start as u64..end as u64).await.unwrap();
                assert!(read == truths[1][start..end], "packing {i}, {start}..{end}");
            }
        });
        futures_util::future::join_all(reads).await;
        // Past the end is cut, not wrong.
        assert_eq!(readers[0].read(truths[0].len() as u64..u64::MAX).await.unwrap().len(), 0);
    }
}

/// What the system's gzip makes of it, or ours where there is none.
fn gzip_by_tools(bytes: &[u8]) -> Vec<u8> {
    let child = Command::new("gzip").args(["-9", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let Ok(mut child) = child else { return gzip(bytes) };
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output.stdout
}

#[tokio::test]
async fn parallel_readers_of_a_stream_decompress_it_once() {
    let store = Store::new();
    let data = noise(8 << 20, 3);
    let packed = gzip(&tar_of(&[("d/a", &data)]));
    store.manifest("v1", &[store.folder("d", &packed).await]).await;
    let artifact = store.open_tag("v1").await;
    let reader = file(&artifact, "d/a").await.reader().unwrap();
    store.fetched.store(0, Ordering::SeqCst);
    let step = 128 << 10;
    for start in (0..data.len()).step_by(4 * step) {
        let reads = (0..4).map(|i| reader.read((start + i * step) as u64..(start + (i + 1) * step) as u64));
        for read in futures_util::future::join_all(reads).await {
            read.unwrap();
        }
    }
    let cost = store.fetched.load(Ordering::SeqCst);
    assert!(cost <= packed.len() as u64 * 11 / 10, "{cost} of {} bytes were fetched", packed.len());
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

fn hostile_tar() -> Vec<u8> {
    use tar::EntryType as T;
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind, name: &str, link: &str, bytes: &[u8]| {
        let mut header = header(bytes.len() as u64, 0o644);
        header.set_entry_type(kind);
        // Names the crate itself refuses to write.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, bytes).unwrap();
    };
    add(T::Directory, "d/sub", "", b"");
    add(T::Regular, "d/file", "", b"first");
    add(T::Link, "d/hard", "d/file", b"");
    add(T::Regular, "d/file", "", b"second");
    add(T::Symlink, "d/good", "sub/../file", b"");
    add(T::Symlink, "d/dangling", "nowhere", b"");
    add(T::Symlink, "d/up", "../elsewhere", b"");
    add(T::Symlink, "d/absolute", "/etc/passwd", b"");
    add(T::Symlink, "d/escape", "../../x", b"");
    add(T::Symlink, "d/sub/loop", "..", b"");
    add(T::Symlink, "d/trick", "sub/loop/../..", b"");
    add(T::Regular, "d/../../../outside", "", b"x");
    add(T::Regular, "other", "", b"x");
    add(T::Link, "d/nothing", "d/missing", b"");
    add(T::Fifo, "d/fifo", "", b"");
    add(T::Symlink, "d/ln", "sub", b"");
    add(T::Regular, "d/ln/through", "", b"not through the link");
    tar.into_inner().unwrap()
}

#[tokio::test]
async fn hostile_members_lead_nowhere() {
    let store = Store::new();
    store.manifest("v1", &[store.folder("d", &gzip(&hostile_tar())).await]).await;
    let artifact = store.open_tag("v1").await;
    let mut tree = tree_of(&artifact).await;
    tree.retain(|path| !path.starts_with("d/ln~"));
    let expected = [
        "d/",
        "d/dangling -> nowhere",
        "d/file",
        "d/good -> sub/../file",
        "d/hard",
        "d/ln/",
        "d/ln/through",
        "d/sub/",
        "d/sub/loop -> ..",
        "d/up -> ../elsewhere",
    ];
    assert_eq!(tree, expected);
    assert_eq!(content(&artifact, "d/file").await, b"second");
    assert_eq!(content(&artifact, "d/hard").await, b"first");
    let rules = rules(&artifact);
    for (rule, count) in [("R9", 5), ("R8", 2), ("R11", 2)] {
        assert_eq!(
            rules.iter().filter(|one| **one == rule).count(),
            count,
            "{rule} in {:?}",
            artifact.warnings.list()
        );
    }
}

#[tokio::test]
async fn hard_links_are_one_file() {
    let store = Store::new();
    let mut tar = tar::Builder::new(Vec::new());
    let mut one = header(3, 0o644);
    tar.append_data(&mut one, "d/one", &b"abc"[..]).unwrap();
    let mut two = header(0, 0o644);
    two.set_entry_type(tar::EntryType::Link);
    tar.append_link(&mut two, "d/two", "d/one").unwrap();
    store.manifest("v1", &[store.folder("d", &gzip(&tar.into_inner().unwrap())).await]).await;
    let artifact = store.open_tag("v1").await;
    let (one, two) = (file(&artifact, "d/one").await, file(&artifact, "d/two").await);
    assert_eq!((one.id, one.links, two.links), (two.id, 2, 2));
    assert_eq!(content(&artifact, "d/two").await, b"abc");
}

#[tokio::test]
async fn damage_is_an_error_of_that_folder_alone() {
    let tar = tar_of(&[("d/a", &noise(100_000, 5)), ("d/b", b"b")]);
    let packed = gzip(&tar);
    let mut flipped = packed.clone();
    flipped[20_000] ^= 0x55;
    let mut bad_sum = packed.clone();
    let end = bad_sum.len() - 6;
    bad_sum[end] ^= 1;
    let mut bad_header = tar.clone();
    bad_header[512 + 100_352 + 3] ^= 1;
    let damaged = [
        ("flipped", flipped),
        ("cut", packed[..packed.len() / 2].to_vec()),
        ("no trailer", packed[..packed.len() - 4].to_vec()),
        ("checksum", bad_sum),
        ("cut tar", gzip(&tar[..50_000])),
        ("bad header", gzip(&bad_header)),
        ("cut plain tar", tar[..50_000].to_vec()),
        ("zstd", zstd::bulk::compress(&tar, 1).unwrap()[..5000].to_vec()),
    ];
    for (what, bytes) in damaged {
        let store = Store::new();
        let layers = [
            store.folder("d", &bytes).await,
            store.file("fine", b"fine").await,
            store.file("d/too", b"fine").await,
        ];
        store.manifest("v1", &layers).await;
        let artifact = store.open_tag("v1").await;
        let Node::Folder(folder) = tree::walk(&root(&artifact), b"d").await.unwrap() else {
            panic!("a folder")
        };
        let error = folder.list().await.err().unwrap_or_else(|| panic!("{what} was taken"));
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        assert_eq!(content(&artifact, "fine").await, b"fine", "{what}");
        assert_eq!(content(&artifact, "d/too").await, b"fine", "{what}");
        assert_eq!(rules(&artifact), ["R6"], "{what}");
    }
}

#[tokio::test]
async fn the_digest_of_the_unpacked_content_is_held() {
    let store = Store::new();
    let mut layer = store.folder("d", &gzip(&tar_of(&[("d/a", b"a")]))).await;
    layer.annotations.insert("io.deis.oras.content.digest".into(), Digest::ZERO.into());
    store.manifest("v1", &[layer]).await;
    let artifact = store.open_tag("v1").await;
    let error = tree::walk(&root(&artifact), b"d/a").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn a_cut_line_is_tried_again_by_the_next_who_enters() {
    let store = Store::new();
    let packed = gzip(&tar_of(&[("d/a", &noise(200_000, 9))]));
    store.manifest("v1", &[store.folder("d", &packed).await]).await;
    let artifact = store.open_tag("v1").await;
    store.cut_after.store(50_000, Ordering::SeqCst);
    let error = tree::walk(&root(&artifact), b"d/a").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    store.cut_after.store(0, Ordering::SeqCst);
    assert!(tree::walk(&root(&artifact), b"d/a").await.is_ok());
}

#[tokio::test]
async fn what_should_be_unpacked_and_is_no_tar_is_shown_raw() {
    let store = Store::new();
    let bytes = noise(3000, 2);
    let layer = store.folder("d", &bytes).await;
    let name = format!("d/sha256-{}", layer.digest.encoded());
    store.manifest("v1", &[layer]).await;
    let artifact = store.open_tag("v1").await;
    assert_eq!(tree_of(&artifact).await, ["d/", &name]);
    assert_eq!(content(&artifact, &name).await, bytes);
    assert_eq!(rules(&artifact), ["R7"]);
}

#[tokio::test]
async fn long_and_strange_names_survive() {
    let store = Store::new();
    let long = format!("d/{}", "x".repeat(200));
    let very_long = format!("d/{}/{}", "y".repeat(150), "z".repeat(150));
    let tar = tar_of(&[(&long, b"1"), (&very_long, b"2"), ("d/ünï", b"3")]);
    store.manifest("v1", &[store.folder("d", &gzip(&tar)).await]).await;
    let artifact = store.open_tag("v1").await;
    assert_eq!(content(&artifact, &long).await, b"1");
    assert_eq!(content(&artifact, &very_long).await, b"2");
    assert_eq!(content(&artifact, "d/ünï").await, b"3");
}

#[tokio::test]
async fn what_the_system_tar_writes_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path().join("d");
    std::fs::create_dir_all(top.join("sub")).unwrap();
    std::fs::write(top.join("sub/file"), b"content").unwrap();
    std::fs::write(top.join("n".repeat(180)), b"long").unwrap();
    std::fs::hard_link(top.join("sub/file"), top.join("hard")).unwrap();
    std::os::unix::fs::symlink("sub/file", top.join("soft")).unwrap();
    for format in ["gnu", "pax", "ustar"] {
        let mut command = Command::new("tar");
        command.args(["--format", format, "-C"]).arg(folder.path()).args(["-cf", "-", "d"]);
        let Ok(output) = command.output() else { return };
        if format == "ustar" && !output.status.success() {
            continue;
        }
        let store = Store::new();
        store.manifest("v1", &[store.folder("d", &gzip(&output.stdout)).await]).await;
        let artifact = store.open_tag("v1").await;
        let tree = tree_of(&artifact).await;
        let long = format!("d/{}", "n".repeat(180));
        assert_eq!(tree, ["d/", "d/hard", &long, "d/soft -> sub/file", "d/sub/", "d/sub/file"], "{format}");
        assert_eq!(content(&artifact, "d/hard").await, b"content");
        assert_eq!(content(&artifact, &long).await, b"long");
        assert!(artifact.warnings.list().is_empty(), "{format}");
    }
}

#[tokio::test]
async fn a_bomb_is_a_large_file_and_nothing_worse() {
    let store = Store::new();
    let size: u64 = 400 << 20;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut head = header(size, 0o644);
    head.set_path("d/zeros").unwrap();
    head.set_cksum();
    encoder.write_all(head.as_bytes()).unwrap();
    let zeros = vec![0; 1 << 20];
    for _ in 0..size >> 20 {
        encoder.write_all(&zeros).unwrap();
    }
    encoder.write_all(&zeros[..1024]).unwrap();
    store.manifest("v1", &[store.folder("d", &encoder.finish().unwrap()).await]).await;
    let artifact = store.open_tag("v1").await;
    let zeros = file(&artifact, "d/zeros").await;
    assert_eq!(zeros.size, size);
    let end = zeros.reader().unwrap().read(size - 10..size).await.unwrap();
    assert_eq!(end.as_ref(), [0; 10]);
}

#[tokio::test]
async fn headers_that_ask_for_too_much_are_refused() {
    let long = {
        let mut head = header(2 << 20, 0o644);
        head.set_entry_type(tar::EntryType::GNULongName);
        head.set_path("././@LongLink").unwrap();
        head.set_cksum();
        [head.as_bytes(), vec![b'x'; 2 << 20].as_slice()].concat()
    };
    let huge = {
        let mut head = header(u64::MAX / 2, 0o644);
        head.set_path("d/huge").unwrap();
        head.set_cksum();
        head.as_bytes().to_vec()
    };
    for (what, tar) in [("name", long), ("size", huge)] {
        for bytes in [gzip(&tar), [tar.as_slice(), vec![0; 100_000].as_slice()].concat()] {
            let store = Store::new();
            store.manifest("v1", &[store.folder("d", &bytes).await]).await;
            let artifact = store.open_tag("v1").await;
            let error = tree::walk(&root(&artifact), b"d/x").await.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error}");
        }
    }
}
