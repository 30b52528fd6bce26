//! The program, run by somebody who is not root.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use artifs::store::Layout;
use support::seed::Artifact;
use tempfile::TempDir;

/// Who may do nothing here but what everybody may.
const NOBODY: &str = "65534";

/// What [`AS_ROOT`] ends with where the kernel does not let it prepare anything.
const FORBIDDEN: i32 = 77;

/// Gives this and no other process a `/dev/fuse` that everybody may open, as most machines have it, and goes on
/// as nobody.
const AS_ROOT: &str = r#"
    mkdir dev && mount -t tmpfs tmpfs dev && mknod -m 666 dev/fuse c 10 229 && : <> dev/fuse || exit 77
    mount --bind dev/fuse /dev/fuse || exit 77
    exec setpriv --reuid "$1" --regid "$1" --clear-groups sh -eu -c "$2"
"#;

const AS_NOBODY: &str = r#"
    trap 'fusermount3 -u -z mnt 2>/dev/null || true' EXIT
    ./artifs mount ./layout:v1 mnt
    grep -q "fuse.artifs ro,nosuid,nodev,.*user_id=65534" /proc/mounts
    test "$(ls mnt)" = a.txt
    test "$(cat mnt/a.txt)" = hello
    ./artifs status mnt
    if touch mnt/new; then exit 1; fi
    ./artifs unmount mnt

    ./artifs mount --rw ./layout:v1 mnt
    echo new > mnt/new
    echo more >> mnt/a.txt
    mkdir mnt/d
    cp mnt/a.txt mnt/d/copy
    mv mnt/d/copy mnt/d/moved
    chmod 600 mnt/new
    if chown 1 mnt/new; then exit 1; fi
    test "$(stat -c %u:%a mnt/new)" = 65534:600
    ./artifs commit -m first mnt
    echo newer > mnt/new
    ./artifs unmount mnt

    ./artifs mount ./layout:v1 mnt
    test "$(cat mnt/new)" = newer
    test "$(cat mnt/d/moved)" = "hello
more"
    fusermount3 -u mnt
    test -z "$(ls mnt)"
"#;

#[test]
fn whoever_is_not_root_mounts_edits_and_publishes() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can become somebody who is not");
        return;
    }
    let folder = TempDir::new().unwrap();
    let layout = Layout::create(folder.path().join("layout")).unwrap();
    Artifact::new().file("a.txt", "hello\n").tag("v1").push(&layout, "");
    std::fs::create_dir(folder.path().join("mnt")).unwrap();
    // Built in a folder that may be root's alone.
    std::fs::copy(env!("CARGO_BIN_EXE_artifs"), folder.path().join("artifs")).unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let given = Command::new("chown").args(["-R", NOBODY]).arg(folder.path()).status().unwrap();
    assert!(given.success());

    let output = Command::new("timeout")
        .args(["120", "unshare", "--mount", "sh", "-c", AS_ROOT, "sh", NOBODY, AS_NOBODY])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", folder.path())
        .env("XDG_RUNTIME_DIR", folder.path().join("run"))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.code() == Some(FORBIDDEN) || said.starts_with("unshare:") {
        eprintln!("SKIPPED: this kernel lets nobody have a /dev/fuse of their own: {said}");
        return;
    }
    assert!(output.status.success(), "{}{said}", String::from_utf8_lossy(&output.stdout));
}
