//! Folders packed into layers: what is read of them, and what that costs.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use artifs::oci::Digest;

use crate::look::{content, file, tree_of};
use crate::packing::{Store, gzip, header, noise, tar_of};

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
