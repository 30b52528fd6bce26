//! Folders packed by an enemy, or damaged on the way.

use std::io::Write as _;
use std::sync::atomic::Ordering;

use artifs::ErrorKind;
use artifs::artifact::tree::{self, Node};
use artifs::oci::Digest;

use crate::look::{content, file, root, rules, tree_of};
use crate::packing::{Store, gzip, header, noise, tar_of};

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
