//! What is staged: one mount's at a time, found again, thrown away.

use std::fs;

use artifs::ErrorKind;
use artifs::mount::{Mount, discard, works};

use crate::stand::{REFERENCE, Stand, options, root};

#[tokio::test(flavor = "multi_thread")]
async fn one_reference_has_one_writer() {
    let stand = Stand::new(&[("a", b"a")]).await;
    let mut second = options(stand.folder.path());
    second.mountpoint = stand.folder.path().join("other");
    fs::create_dir(&second.mountpoint).unwrap();
    let refused = Mount::start(root(&stand.store), second, None).await.err().unwrap();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
    assert_eq!(discard(&stand.staging(), REFERENCE).unwrap_err().kind(), ErrorKind::Conflict);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_builds_on_what_it_was_begun_on_though_the_tag_moved() {
    let mut stand = Stand::new(&[("a", b"first"), ("b", b"first")]).await;
    fs::write(stand.path("a"), "mine").unwrap();
    stand.unmount().await;
    let left = works(&stand.staging()).unwrap();
    assert_eq!(left.len(), 1);
    assert_eq!((left[0].reference.as_str(), left[0].in_use), (REFERENCE, false));
    assert!(left[0].records > 0);

    stand.store.artifact(&[("a", b"second"), ("b", b"second")]).await;
    stand.mount().await.unwrap();
    assert!(works(&stand.staging()).unwrap()[0].in_use);
    assert_eq!(fs::read_to_string(stand.path("a")).unwrap(), "mine");
    assert_eq!(fs::read_to_string(stand.path("b")).unwrap(), "first");
    stand.unmount().await;

    discard(&stand.staging(), REFERENCE).unwrap();
    assert!(works(&stand.staging()).unwrap().is_empty());
    stand.mount().await.unwrap();
    assert_eq!(fs::read_to_string(stand.path("a")).unwrap(), "second");
    assert_eq!(stand.changes(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_changed_is_nothing_staged() {
    let mut stand = Stand::new(&[("a", b"first")]).await;
    assert_eq!(fs::read_to_string(stand.path("a")).unwrap(), "first");
    stand.unmount().await;
    stand.store.artifact(&[("a", b"second")]).await;
    stand.mount().await.unwrap();
    assert_eq!(fs::read_to_string(stand.path("a")).unwrap(), "second");
}
