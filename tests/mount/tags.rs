//! A repository, and tags that move.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::time::Duration;

use artifs::mount::Options;
use support::noise;
use support::seen::{names, xattr};
use support::store::Store;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_a_folder_of_tags() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"one")]).await;
    let second = store.artifact("v2", &[("a.txt", b"two")]).await;
    let hidden = format!("sha256-{}.sig", second.digest.encoded());
    store.artifact(&hidden, &[("signature", b"s")]).await;
    let mounted = Mounted::new(store.repository(), |_| {}).await;

    let before = store.fetches();
    assert_eq!(names(&mounted.at), ["v1", "v2"]);
    assert!(std::fs::metadata(mounted.path("v1")).unwrap().is_dir());
    assert_eq!(store.fetches(), before, "looking at tags fetches nothing of them");
    assert_eq!(std::fs::read(mounted.path("v1/a.txt")).unwrap(), b"one");
    assert_eq!(std::fs::read(mounted.path("v2/a.txt")).unwrap(), b"two");
    assert_eq!(std::fs::read(mounted.path(&hidden).join("signature")).unwrap(), b"s");
    assert_eq!(std::fs::read(mounted.path(second.digest.as_str()).join("a.txt")).unwrap(), b"two");
    assert_eq!(std::fs::read(mounted.path(":v2").join("a.txt")).unwrap(), b"two");
    for missing in ["v3", "sha256:00", "sha256:zz", "A:b", ":nope"] {
        let error = std::fs::metadata(mounted.path(missing)).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{missing}");
    }
    let digest = xattr(&mounted.path("v2"), "user.oci.digest").unwrap();
    assert_eq!(digest, second.digest.as_str().as_bytes());

    // Pinned at first entry: the tag moves, the mount does not.
    store.artifact("v1", &[("a.txt", b"moved"), ("b.txt", b"new")]).await;
    assert_eq!(std::fs::read(mounted.path("v1/a.txt")).unwrap(), b"one");
    assert_eq!(names(&mounted.path("v1")), ["a.txt"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_under_many_tags_is_one_inode_fetched_once() {
    let store = Store::new();
    let bytes = noise(200_000);
    for tag in ["v1", "v2", "v3"] {
        store.artifact(tag, &[("shared.bin", &bytes), ("own.txt", tag.as_bytes())]).await;
    }
    let mounted = Mounted::new(store.repository(), |_| {}).await;
    let path = |tag: &str, name: &str| mounted.path(tag).join(name);
    let number = |tag: &str, name: &str| std::fs::metadata(path(tag, name)).unwrap().ino();

    assert_eq!(number("v1", "shared.bin"), number("v2", "shared.bin"));
    assert_eq!(number("v1", "shared.bin"), number("v3", "shared.bin"));
    assert_ne!(number("v1", "own.txt"), number("v2", "own.txt"));
    assert_ne!(
        std::fs::metadata(mounted.path("v1")).unwrap().ino(),
        std::fs::metadata(mounted.path("v2")).unwrap().ino()
    );

    assert!(std::fs::read(path("v1", "shared.bin")).unwrap() == bytes);
    let (fetches, reads) = (store.fetches(), mounted.mount.status().reads);
    assert!(std::fs::read(path("v2", "shared.bin")).unwrap() == bytes);
    assert!(std::fs::read(path("v3", "shared.bin")).unwrap() == bytes);
    assert_eq!(store.fetches(), fetches, "one copy in the page cache serves every tag");
    assert_eq!(mounted.mount.status().reads, reads);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_tag_shows_the_new_content_and_open_files_keep_the_old() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"old!"), ("sub/gone.txt", b"gone")]).await;
    let change = |options: &mut Options| options.follow = Some(Duration::from_millis(50));
    let mounted = Mounted::new(store.root("v1"), change).await;
    let path = mounted.path("a.txt");
    let open = std::fs::File::open(&path).unwrap();
    assert_eq!(names(&mounted.path("sub")), ["gone.txt"]);
    let moved = store.artifact("v1", &[("a.txt", b"newer"), ("sub/here.txt", b"here")]).await;

    let mut shown = Vec::new();
    for _ in 0..500 {
        shown = std::fs::read(&path).unwrap();
        if shown == b"newer" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(shown, b"newer");
    let mut old = [0; 4];
    open.read_exact_at(&mut old, 0).unwrap();
    assert_eq!(&old, b"old!", "an open file keeps its bytes");
    assert_eq!(names(&mounted.path("sub")), ["here.txt"]);
    assert_eq!(mounted.mount.status().digest, Some(moved.digest.to_string()));
}
