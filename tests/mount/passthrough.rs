//! Files the kernel reads by itself.

use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use artifs::mount::{Options, Verify};
use artifs::oci::Descriptor;
use artifs::store::Source as _;
use support::noise;
use support::store::Store;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_blob_is_read_by_the_kernel_itself() {
    let store = Store::keeping();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let mounted = Mounted::new(store.root("v1"), |options| options.verify = Verify::Full).await;
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
    let mounted = Mounted::new(store.root("v1"), change).await;
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let status = mounted.mount.status();
    assert_eq!((status.passed_through, status.read_bytes), (0, bytes.len() as u64));
}
