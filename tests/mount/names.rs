//! Names and what they say of a file.

use std::os::unix::fs::MetadataExt as _;

use artifs::oci::Descriptor;
use artifs::store::Source as _;
use support::seen::{names, xattr};
use support::store::Store;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn extended_attributes_say_what_a_file_is() {
    let store = Store::keeping();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("a.txt");
    let text = |name| String::from_utf8(xattr(&path, name).unwrap()).unwrap();

    assert_eq!(text("user.oci.digest"), artifs::oci::Digest::of(b"hello").as_str());
    assert_eq!(text("user.oci.mediatype"), "text/plain");
    assert_eq!(text("user.oci.annotations"), r#"{"org.opencontainers.image.title":"a.txt"}"#);
    assert_eq!(text("user.oci.verified"), "pending");
    store.clone().open(&Descriptor::of("text/plain", b"hello")).unwrap().complete().await.unwrap();
    assert_eq!(text("user.oci.verified"), "blob");
    assert_eq!(xattr(&mounted.at, "user.oci.digest").unwrap(), manifest.digest.as_str().as_bytes());

    // `ls -l` stops asking for labels and access lists where they are not supported.
    for (other, errno) in [("security.selinux", libc::EOPNOTSUPP), ("user.mime_type", libc::ENODATA)] {
        assert_eq!(xattr(&path, other).unwrap_err().raw_os_error(), Some(errno), "{other}");
    }
    let mut list = vec![0; 4096];
    let length = rustix::fs::listxattr(&path, &mut list).unwrap();
    let list = String::from_utf8(list[..length].to_vec()).unwrap();
    for name in list.split_terminator('\0') {
        xattr(&path, name).unwrap();
    }
    assert_eq!(list.split_terminator('\0').count(), 4);
    let small = rustix::fs::getxattr(&path, "user.oci.digest", &mut [0_u8; 3]);
    assert_eq!(small.unwrap_err(), rustix::io::Errno::RANGE);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_is_behind_the_hidden_folder() {
    let store = Store::new();
    let manifest = store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert_eq!(names(&mounted.at), ["a.txt"]);
    let bytes = std::fs::read(mounted.path(".oci/manifest.json")).unwrap();
    assert!(manifest.digest.matches(&bytes));
    let digest = std::fs::read_to_string(mounted.path(".oci/digest")).unwrap();
    assert_eq!(digest.trim_end(), manifest.digest.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_asked_for_once() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    for _ in 0..50 {
        assert!(!std::fs::exists(mounted.path("config.json")).unwrap());
        assert!(std::fs::exists(mounted.path("a.txt")).unwrap());
    }
    assert_eq!(mounted.mount.status().lookups, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_files_are_listed_whole_and_only_once() {
    let store = Store::new();
    let files: Vec<String> = (0..10_000).map(|number| format!("part-{number:05}.bin")).collect();
    let layers: Vec<(&str, &[u8])> = files.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    store.artifact("v1", &layers).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let walk = || {
        let mut seen = 0;
        for entry in std::fs::read_dir(&mounted.at).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            assert_eq!(metadata.len(), entry.file_name().len() as u64);
            assert_eq!(metadata.ino(), std::os::unix::fs::DirEntryExt::ino(&entry));
            seen += 1;
        }
        seen
    };
    assert_eq!(walk(), 10_000);
    assert_eq!(mounted.mount.status().lookups, 0, "attributes come with the listing");
    assert_eq!(walk(), 10_000);
    assert_eq!(names(&mounted.at), files);
    assert_eq!(std::fs::read_to_string(mounted.path(&files[9_999])).unwrap(), files[9_999]);
}
