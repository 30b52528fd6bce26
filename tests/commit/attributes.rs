//! What titles cannot say: attributes, links, owners, times; and folders that become layers.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use artifs::artifact::from_dir::{self, FileArgument};
use artifs::artifact::{self, View};
use artifs::mount::{CommitOptions, Ended, Mount, Options, Root};
use artifs::ops::{PullOptions, pull};
use artifs::store::{Memory, Target};
use support::seed::{Artifact, Folder};

use crate::stand::{Stand, layers, listed, tag, title};

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let length = rustix::fs::getxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// Inode number and number of names.
fn names(path: &Path) -> (u64, u64) {
    let metadata = path.metadata().unwrap();
    (metadata.ino(), metadata.nlink())
}

async fn pulled(target: Arc<dyn Target>, out: &Path) {
    let opened = artifact::open(target, &tag("v1"), "r:v1", &View::default()).await.unwrap();
    pull(&opened, out, &PullOptions::default(), &()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn hard_links_and_extended_attributes_come_back() {
    let memory = Arc::new(Memory::new());
    let folder = Folder::new().file("a", 0o644, "A").file("sub/b", 0o644, "B");
    let base = Artifact::new().file("a", "a").file("e1/x", "x").file("e2/y", "y").folder("d", folder);
    base.tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    let path = |name: &str| stand.folder.path().join("mnt").join(name);
    fs::hard_link(path("a"), path("e1/a2")).unwrap();
    fs::set_permissions(path("a"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(path("n1"), "new").unwrap();
    fs::hard_link(path("n1"), path("e2/n2")).unwrap();
    fs::hard_link(path("d/a"), path("d/sub/z")).unwrap();
    let marked = ["a", "e1", "d", "d/a", "d/sub", "n1"];
    for name in marked {
        set_xattr(&path(name), "user.note", name.as_bytes());
        set_xattr(&path(name), "user.bin", &[0, 255, b'\n', b'=']);
    }
    let wanted = listed(&stand.at());
    let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
    assert!(done[0].left_out.is_empty(), "{:?}", done[0].left_out);
    let titles: Vec<String> = layers(memory.as_ref(), "v1").await.iter().map(title).collect();
    // Who knows nothing of hard links gets copies.
    assert_eq!(titles, ["a", "e1/x", "e2/y", "d", "e1/a2", "e2/n2", "n1", ""]);

    stand.mount().await;
    let out = stand.folder.path().join("out");
    pulled(Arc::clone(&memory) as _, &out).await;
    for root in [stand.at(), out.clone()] {
        let path = |name: &str| root.join(name);
        for (one, other) in [("a", "e1/a2"), ("n1", "e2/n2"), ("d/a", "d/sub/z")] {
            assert_eq!(names(&path(one)), names(&path(other)), "{one} in {}", root.display());
            assert_eq!(names(&path(one)).1, 2, "{one} in {}", root.display());
        }
        for name in marked {
            assert_eq!(xattr(&path(name), "user.note").as_deref(), Some(name.as_bytes()), "{name}");
            assert_eq!(xattr(&path(name), "user.bin").unwrap(), [0, 255, b'\n', b'='], "{name}");
        }
        assert_eq!(listed(&root), wanted);
    }
    // What is read only says the same.
    let shown = stand.folder.path().join("shown");
    fs::create_dir(&shown).unwrap();
    let root = Root::Artifact { source: Arc::clone(&memory) as _, name: tag("v1"), view: View::default() };
    let reading = Mount::start(root, Options::new(&shown, "test.example/r:v1"), None).await.unwrap();
    assert_eq!(xattr(&shown.join("n1"), "user.note").unwrap(), b"n1");
    assert_eq!(names(&shown.join("n1")), names(&shown.join("e2/n2")));
    reading.stop().await.unwrap();

    assert!(stand.mounted().changes().is_empty());
    let again = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
    assert!(!again[0].changed, "the same again is nothing to publish");
    assert!(matches!(stand.unmount().await, Ended::Clean));

    // Nobody looks at the other names.
    stand.mount().await;
    fs::write(stand.path("a"), "changed").unwrap();
    fs::write(stand.path("d/a"), "changed too").unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    stand.mount().await;
    assert_eq!(fs::read_to_string(stand.path("e1/a2")).unwrap(), "changed");
    assert_eq!(fs::read_to_string(stand.path("d/sub/z")).unwrap(), "changed too");
    assert_eq!(names(&stand.path("a")), names(&stand.path("e1/a2")));
    assert_eq!(names(&stand.path("d/a")), names(&stand.path("d/sub/z")));
}

/// Owner and time, the time to the nanosecond.
fn whose(path: &Path) -> (u32, u32, i64, i64) {
    let metadata = path.symlink_metadata().unwrap();
    (metadata.uid(), metadata.gid(), metadata.mtime(), metadata.mtime_nsec())
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_times_are_published_for_who_asks() {
    let memory = Arc::new(Memory::new());
    let folder = Folder::new().file("in", 0o644, "in");
    Artifact::new().file("a", "a").folder("d", folder).tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::create_dir(stand.path("new")).unwrap();
    fs::write(stand.path("new/f"), "f").unwrap();
    let all = ["a", "d/in", "new/f", "new"];
    for (number, name) in all.iter().enumerate() {
        let number = number as u32;
        std::os::unix::fs::chown(stand.path(name), Some(1000 + number), Some(3_000_000 + number)).unwrap();
        let time = std::time::UNIX_EPOCH + Duration::new(1_600_000_000 + u64::from(number), 123_456_789);
        fs::File::open(stand.path(name)).unwrap().set_modified(time).unwrap();
    }
    let wanted = all.map(|name| whose(&stand.path(name)));
    assert_eq!(wanted[1], (1001, 3_000_001, 1_600_000_001, 123_456_789));
    let options = CommitOptions { preserve: true, ..CommitOptions::default() };
    stand.mounted().commit(&options, &()).await.unwrap();
    assert!(matches!(stand.unmount().await, Ended::Clean));
    stand.mount().await;
    assert_eq!(all.map(|name| whose(&stand.path(name))), wanted);
    let out = stand.folder.path().join("out");
    pulled(Arc::clone(&memory) as _, &out).await;
    assert_eq!(all.map(|name| whose(&out.join(name))), wanted);

    // Once said, they are said again.
    fs::write(stand.path("other"), "other").unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    stand.mount().await;
    assert_eq!(all.map(|name| whose(&stand.path(name))), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_folders_are_packed_as_a_push_packs_them() {
    let memory = Arc::new(Memory::new());
    Artifact::new().file("a", "a").file("b", "b").tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::create_dir_all(stand.path("new/sub")).unwrap();
    fs::write(stand.path("new/sub/f"), "f").unwrap();
    fs::write(stand.path("new/g"), "g").unwrap();
    fs::rename(stand.path("b"), stand.path("new/b")).unwrap();
    let disk = stand.folder.path().join("disk");
    assert!(Command::new("cp").arg("-a").args([stand.at(), disk.clone()]).status().unwrap().success());
    fs::remove_file(disk.join("new/b")).unwrap();
    let time = stand.path("new").metadata().unwrap().modified().unwrap();
    fs::File::open(disk.join("new")).unwrap().set_modified(time).unwrap();
    let options = CommitOptions { pack: true, ..CommitOptions::default() };
    let done = stand.mounted().commit(&options, &()).await.unwrap();
    let now = layers(memory.as_ref(), "v1").await;
    // What the registry has is not packed again.
    assert_eq!(now.iter().map(title).collect::<Vec<_>>(), ["a", "new/b", "new"]);
    let argument = FileArgument { path: disk.join("new"), media_type: None };
    let pushed = from_dir::layer(&argument, "new", stand.folder.path()).await.unwrap();
    assert_eq!(now[2], *pushed.descriptor());
    let again = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap();
    assert_eq!((again[0].changed, &again[0].digest), (false, &done[0].digest));
    let wanted = listed(&stand.at());
    assert!(matches!(stand.unmount().await, Ended::Clean));
    stand.mount().await;
    assert_eq!(listed(&stand.at()), wanted);
}
