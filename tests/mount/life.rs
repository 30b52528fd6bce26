//! How a mount begins and ends.

use std::path::PathBuf;

use artifs::ErrorKind;
use artifs::mount::{Mount, Options};
use support::store::Store;
use tempfile::TempDir;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mounted_is_said_before_anything_is() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, b"").unwrap();
    let start = |tag: &'static str, at: PathBuf| Mount::start(store.root(tag), Options::new(at, "r"), None);
    for (tag, at, kind) in [
        ("v1", folder.path().join("missing"), ErrorKind::NotFound),
        ("v1", file, ErrorKind::Invalid),
        ("v9", folder.path().to_owned(), ErrorKind::NotFound),
    ] {
        let Err(error) = start(tag, at.clone()).await else { panic!("{} was mounted", at.display()) };
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!artifs::mount::is_mounted(&at));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_tells_and_stops() {
    let store = Store::new();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let at = mounted.at.canonicalize().unwrap();
    let status = artifs::mount::mounts().await.into_iter().find(|status| status.mountpoint == at).unwrap();
    assert_eq!(status.reference, "test.example/repository:v1");
    assert_eq!(status.digest, Some(manifest.digest.to_string()));
    assert_eq!(status.pid, std::process::id());

    let table = std::fs::read_to_string("/proc/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(at.to_str().unwrap())).unwrap();
    assert!(line.starts_with("test.example/repository:v1 ") && line.contains(" fuse.artifs ro,"), "{line}");

    let twice = Options::new(&at, "test.example/repository:v1");
    let Err(error) = Mount::start(store.root("v1"), twice, None).await else { panic!("mounted twice") };
    assert_eq!(error.kind(), ErrorKind::Exists);

    artifs::mount::unmount(&at, false).await.unwrap();
    assert!(!artifs::mount::mounts().await.iter().any(|status| status.mountpoint == at));
    mounted.mount.ended().await;
    assert_eq!(artifs::mount::unmount(&at, false).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mount_says_so_and_stays() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let open = std::fs::File::open(mounted.path("a.txt")).unwrap();
    let error = mounted.mount.stop().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("in use"), "{error}");
    assert_eq!(std::fs::read(mounted.path("a.txt")).unwrap(), b"hello");
    drop(open);
    mounted.mount.stop().await.unwrap();
    assert!(!artifs::mount::is_mounted(&mounted.at));
}
