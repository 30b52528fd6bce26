//! Files: their bytes, by every way there is.

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::time::Duration;

use support::noise;
use support::seen::{names, xattr};
use support::store::Store;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn every_way_of_reading_gives_the_same_bytes() {
    let store = Store::new();
    let bytes = noise(3 * 1024 * 1024 + 17);
    store.artifact("v1", &[("weights.bin", &bytes), ("sub/empty", b""), ("sub/note.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("weights.bin");

    assert!(std::fs::read(&path).unwrap() == bytes, "read");
    let file = std::fs::File::open(&path).unwrap();
    for (offset, length) in [(0, 1), (4095, 2), (1 << 20, 4096), (bytes.len() - 5, 5), (bytes.len() - 1, 1)] {
        let mut part = vec![0; length];
        file.read_exact_at(&mut part, offset as u64).unwrap();
        assert!(part == bytes[offset..offset + length], "pread at {offset}");
    }
    assert_eq!(file.read_at(&mut [0; 8], bytes.len() as u64).unwrap(), 0, "beyond the end");
    for flags in [rustix::mm::MapFlags::PRIVATE, rustix::mm::MapFlags::SHARED] {
        // SAFETY: a fresh read-only mapping of a file that cannot change, unmapped once, read only in between.
        unsafe {
            let at = rustix::mm::mmap(
                std::ptr::null_mut(),
                bytes.len(),
                rustix::mm::ProtFlags::READ,
                flags,
                &file,
                0,
            )
            .unwrap();
            assert!(std::slice::from_raw_parts(at.cast::<u8>(), bytes.len()) == bytes, "mmap {flags:?}");
            rustix::mm::munmap(at, bytes.len()).unwrap();
        }
    }
    let copy = tempfile::NamedTempFile::new().unwrap();
    let mut sent = 0;
    while sent < bytes.len() {
        let count = rustix::fs::sendfile(copy.as_file(), &file, None, bytes.len() - sent).unwrap();
        assert!(count > 0);
        sent += count;
    }
    assert!(std::fs::read(copy.path()).unwrap() == bytes, "sendfile");
    assert_eq!(std::fs::read(mounted.path("sub/note.txt")).unwrap(), b"hello");
    assert_eq!(std::fs::read(mounted.path("sub/empty")).unwrap(), b"");
    assert_eq!(names(&mounted.at), ["sub", "weights.bin"]);
    assert_eq!(std::fs::metadata(&path).unwrap().len(), bytes.len() as u64);
    drop(file);
    mounted.mount.stop().await.unwrap();
    assert_eq!(names(&mounted.at), [""; 0], "after stop the folder is what it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_stays_in_the_page_cache_over_opens() {
    let store = Store::new();
    let bytes = noise(1 << 20);
    store.artifact("v1", &[("a.bin", &bytes)]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let before = mounted.mount.status();
    assert!(before.reads > 0);
    assert!(std::fs::read(mounted.path("a.bin")).unwrap() == bytes);
    let after = mounted.mount.status();
    assert_eq!((after.opens, after.reads, after.passed_through), (before.opens + 1, before.reads, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn prefetch_completes_every_file() {
    let store = Store::keeping();
    store.artifact("v1", &[("a.bin", &noise(4096)), ("sub/b.bin", &noise(5000))]).await;
    let mounted = Mounted::new(store.root("v1"), |options| options.prefetch = true).await;
    for _ in 0..1000 {
        let verified = ["a.bin", "sub/b.bin"]
            .iter()
            .all(|name| xattr(&mounted.path(name), "user.oci.verified").unwrap() == b"blob");
        if verified {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not everything was fetched");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_can_be_changed() {
    let store = Store::new();
    store.artifact("v1", &[("a.txt", b"hello")]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    let path = mounted.path("a.txt");
    let refused = |outcome: std::io::Result<()>| {
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(libc::EROFS));
    };
    refused(std::fs::write(&path, b"x"));
    refused(std::fs::write(mounted.path("new"), b"x"));
    refused(std::fs::create_dir(mounted.path("new")));
    refused(std::fs::remove_file(&path));
    refused(std::fs::rename(&path, mounted.path("b.txt")));
    refused(std::fs::hard_link(&path, mounted.path("b.txt")));
    refused(std::os::unix::fs::symlink("a.txt", mounted.path("b.txt")));
    refused(std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)));
    refused(rustix::fs::setxattr(&path, "user.x", b"1", rustix::fs::XattrFlags::empty()).map_err(Into::into));
    assert_eq!(std::fs::read(&path).unwrap(), b"hello");
}
