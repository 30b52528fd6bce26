//! What is staged: one mount's at a time, found again, thrown away.

use std::fs;

use artifs::ErrorKind;
use artifs::mount::{FrozenContent, Mount, discard, works};
use support::noise;
use support::seen::names;

use crate::stand::{REFERENCE, Stand, options};

#[tokio::test(flavor = "multi_thread")]
async fn one_reference_has_one_writer() {
    let stand = Stand::new(&[("a", b"a")]).await;
    let mut second = options(stand.folder.path());
    second.mountpoint = stand.folder.path().join("other");
    fs::create_dir(&second.mountpoint).unwrap();
    let refused = Mount::start(stand.store.root("v1"), second, None).await.err().unwrap();
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

    stand.store.artifact("v1", &[("a", b"second"), ("b", b"second")]).await;
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
    stand.store.artifact("v1", &[("a", b"second")]).await;
    stand.mount().await.unwrap();
    assert_eq!(fs::read_to_string(stand.path("a")).unwrap(), "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_said_and_costs_nothing_that_was_there() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount the small disk this needs");
        return;
    }
    let mut stand = Stand::new(&[("base", &noise(100_000))]).await;
    stand.unmount().await;
    let small = Small::mount(&stand.staging());
    stand.mount().await.unwrap();
    fs::write(stand.path("first"), noise(1000)).unwrap();
    for again in [false, true] {
        let refused = fs::write(stand.path("large"), noise(4 << 20)).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOSPC), "again: {again}");
        fs::remove_file(stand.path("large")).unwrap();
        assert!(fs::read(stand.path("first")).unwrap() == noise(1000));
        fs::write(stand.path("second"), noise(2000)).unwrap();
        stand.remount().await;
    }
    assert_eq!(names(&stand.at()), ["base", "first", "second"]);
    assert!(fs::read(stand.path("second")).unwrap() == noise(2000));
    stand.unmount().await;
    drop(small);
}

/// A disk of 2 MiB.
struct Small(std::path::PathBuf);

impl Small {
    fn mount(at: &std::path::Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("small", at, "tmpfs", flags, Some(c"size=2m")).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_it_says_where_every_byte_is() {
    let base: &[(&str, &[u8])] = &[("big", &noise(100_000)), ("kept", b"kept"), ("lazy/x", b"x")];
    let stand = Stand::new(base).await;
    let big = fs::File::options().write(true).open(stand.path("big")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&big, &[1; 4096], 8192).unwrap();
    drop(big);
    fs::write(stand.path("new"), "new").unwrap();
    fs::hard_link(stand.path("new"), stand.path("same")).unwrap();
    let shown = |content: &FrozenContent| match content {
        FrozenContent::Staged { local, base } => {
            format!("staged of {}, {:?} from base: {}", local.size(), local.from_base(), base.is_some())
        }
        FrozenContent::Base(file) => format!("base, {} bytes", file.size),
        FrozenContent::HardLink(path) => format!("the same as {}", String::from_utf8_lossy(path)),
        FrozenContent::Untouched(_) => "untouched".into(),
        FrozenContent::Folder | FrozenContent::Link(_) | FrozenContent::Special(_) => "other".into(),
    };
    let frozen = stand.mounted().freeze().unwrap().unwrap();
    let found: Vec<String> = frozen
        .entries
        .iter()
        .map(|entry| format!("{}: {}", String::from_utf8_lossy(&entry.path), shown(&entry.content)))
        .collect();
    assert_eq!(
        found,
        [
            "big: staged of 100000, [(0, 8192), (12288, 100000)] from base: true",
            "kept: base, 4 bytes",
            "lazy: untouched",
            "new: staged of 3, [] from base: false",
            "same: the same as new",
        ]
    );
    let FrozenContent::Staged { local, .. } = &frozen.entries[0].content else { panic!("not staged") };
    let mut edit = [0; 4096];
    std::os::unix::fs::FileExt::read_exact_at(&local.open().unwrap(), &mut edit, 8192).unwrap();
    assert_eq!(edit, [1; 4096]);
    assert!(local.is_unchanged().unwrap());
    fs::File::options().write(true).open(stand.path("big")).unwrap().set_len(5).unwrap();
    assert!(!local.is_unchanged().unwrap());
}
