//! Names: making, moving and removing them, and finding them again.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{CWD, RenameFlags, XattrFlags};
use support::seen::names;

use crate::stand::Stand;

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_made_moved_and_removed_is_so_after_the_next_mount_too() {
    let base: &[(&str, &[u8])] =
        &[("keep.txt", b"keep"), ("gone.txt", b"gone"), ("docs/a.md", b"# a"), ("docs/deep/b.md", b"# b")];
    let mut stand = Stand::new(base).await;
    fs::create_dir(stand.path("new")).unwrap();
    fs::write(stand.path("new/file"), "fresh").unwrap();
    fs::remove_file(stand.path("gone.txt")).unwrap();
    // A folder of the base nobody looked into moves with everything in it.
    fs::rename(stand.path("docs"), stand.path("new/papers")).unwrap();
    fs::rename(stand.path("new/papers/a.md"), stand.path("a.md")).unwrap();
    std::os::unix::fs::symlink("keep.txt", stand.path("link")).unwrap();
    fs::hard_link(stand.path("keep.txt"), stand.path("same")).unwrap();
    fs::set_permissions(stand.path("a.md"), fs::Permissions::from_mode(0o600)).unwrap();
    rustix::fs::setxattr(stand.path("a.md"), "user.note", b"mine", XattrFlags::CREATE).unwrap();

    let expected = [
        "a.md Renamed { from: \"docs/a.md\", modified: false }",
        "gone.txt Deleted",
        "link Added",
        "new Added",
        "new/file Added",
        "new/papers Renamed { from: \"docs\", modified: false }",
        "same Added",
    ];
    for again in [false, true] {
        if again {
            stand.remount().await;
        }
        assert_eq!(names(&stand.at()), ["a.md", "keep.txt", "link", "new", "same"]);
        assert_eq!(names(&stand.path("new")), ["file", "papers"]);
        assert_eq!(names(&stand.path("new/papers")), ["deep"]);
        assert_eq!(fs::read_to_string(stand.path("new/papers/deep/b.md")).unwrap(), "# b");
        assert_eq!(fs::read_to_string(stand.path("new/file")).unwrap(), "fresh");
        assert_eq!(fs::read_to_string(stand.path("a.md")).unwrap(), "# a");
        assert_eq!(fs::read_to_string(stand.path("link")).unwrap(), "keep");
        assert_eq!(fs::metadata(stand.path("same")).unwrap().nlink(), 2);
        assert_eq!(
            fs::metadata(stand.path("same")).unwrap().ino(),
            fs::metadata(stand.path("keep.txt")).unwrap().ino()
        );
        assert_eq!(fs::metadata(stand.path("a.md")).unwrap().mode() & 0o7777, 0o600);
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(stand.path("a.md"), "user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"mine");
        assert_eq!(stand.changes(), expected, "mounted again: {again}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_means_what_it_was_last_given_to() {
    let stand = Stand::new(&[("old", b"base"), ("full/x", b"x")]).await;
    // What editors do.
    fs::write(stand.path("old.new"), "edited").unwrap();
    fs::rename(stand.path("old.new"), stand.path("old")).unwrap();
    assert_eq!(fs::read_to_string(stand.path("old")).unwrap(), "edited");
    assert_eq!(stand.changes(), ["old Modified"]);

    fs::create_dir(stand.path("empty")).unwrap();
    assert_eq!(errno(fs::rename(stand.path("empty"), stand.path("full"))), Some(libc::ENOTEMPTY));
    fs::rename(stand.path("full"), stand.path("empty")).unwrap();
    assert_eq!(fs::read_to_string(stand.path("empty/x")).unwrap(), "x");
    assert_eq!(errno(fs::remove_dir(stand.path("empty"))), Some(libc::ENOTEMPTY));
    assert_eq!(errno(fs::rename(stand.path("empty"), stand.path("empty/x/y"))), Some(libc::ENOTDIR));
    assert_eq!(errno(fs::rename(stand.path("empty"), stand.path("empty/y"))), Some(libc::EINVAL));

    let renamed = |from: &str, to: &str, flags| {
        rustix::fs::renameat_with(CWD, stand.path(from), CWD, stand.path(to), flags)
    };
    assert_eq!(renamed("old", "empty/x", RenameFlags::NOREPLACE), Err(rustix::io::Errno::EXIST));
    renamed("old", "empty", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(fs::read_to_string(stand.path("old/x")).unwrap(), "x");
    assert_eq!(fs::read_to_string(stand.path("empty")).unwrap(), "edited");
    assert_eq!(errno(fs::write(stand.path(&"n".repeat(256)), "")), Some(libc::ENAMETOOLONG));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_lives_on_without_its_name() {
    let stand = Stand::new(&[("base", b"from the registry")]).await;
    let mut base = fs::File::options().read(true).write(true).open(stand.path("base")).unwrap();
    let mut new =
        fs::File::options().read(true).write(true).create_new(true).open(stand.path("new")).unwrap();
    fs::remove_file(stand.path("base")).unwrap();
    fs::remove_file(stand.path("new")).unwrap();
    assert_eq!(names(&stand.at()), [""; 0]);
    base.write_all(b"FROM").unwrap();
    let mut text = String::new();
    base.read_to_string(&mut text).unwrap();
    assert_eq!(text, " the registry");
    new.write_all(b"still here").unwrap();
    assert_eq!(new.metadata().unwrap().len(), 10);
    assert_eq!(new.metadata().unwrap().nlink(), 0);
    drop((base, new));
    assert_eq!(stand.changes(), ["base Deleted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_artifact_says_of_itself_is_nobodys_to_change() {
    let stand = Stand::new(&[("a", b"a")]).await;
    let oci = stand.path(".oci");
    assert!(fs::read(oci.join("manifest.json")).unwrap().starts_with(b"{"));
    assert_eq!(names(&stand.at()), ["a"], "and it is not listed");
    assert_eq!(errno(fs::write(oci.join("manifest.json"), "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::write(oci.join("new"), "x")), Some(libc::EROFS));
    assert_eq!(errno(fs::remove_file(oci.join("manifest.json"))), Some(libc::EROFS));
    assert_eq!(errno(fs::rename(&oci, stand.path("mine"))), Some(libc::EROFS));
    let mut digest = [0; 128];
    assert!(rustix::fs::getxattr(stand.path("a"), "user.oci.digest", &mut digest).is_ok());
    fs::write(stand.path("a"), "b").unwrap();
    let stale = rustix::fs::getxattr(stand.path("a"), "user.oci.digest", &mut digest);
    assert_eq!(stale, Err(rustix::io::Errno::NODATA), "a changed file is not that blob any more");
    assert_eq!(stand.changes(), ["a Modified"]);
}
