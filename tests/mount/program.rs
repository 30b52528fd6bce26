//! The program: in the background, from fstab, killed.

use std::path::PathBuf;
use std::time::Duration;

use artifs::store::Layout;
use support::seed::Artifact;
use tempfile::TempDir;

/// The program, with state, sockets and cache of its own. Whatever it left mounted is detached when dropped.
struct Program {
    folder: TempDir,
}

impl Program {
    /// A layout with one artifact, and an empty folder to mount it at.
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let layout = Layout::create(folder.path().join("layout")).unwrap();
        Artifact::new().file("a.txt", "hello").tag("v1").push(&layout, "");
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { folder }
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let at = |name: &str| self.folder.path().join(name);
        std::process::Command::new(env!("CARGO_BIN_EXE_artifs"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("XDG_RUNTIME_DIR", at("run"))
            .env("XDG_STATE_HOME", at("state"))
            .env("ARTIFS_CACHE", at("cache"))
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap()
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn pid(&self) -> rustix::process::Pid {
        let status: serde_json::Value =
            serde_json::from_str(&self.succeeds(&["status", "--format", "json", "mnt"])).unwrap();
        rustix::process::Pid::from_raw(status["mounts"][0]["pid"].as_i64().unwrap() as i32).unwrap()
    }

    /// Waits until a mount in the background has written this.
    async fn logged(&self, text: &str) {
        for _ in 0..500 {
            let logs = std::fs::read_dir(self.folder.path().join("state/artifs")).unwrap();
            if logs
                .flatten()
                .any(|log| std::fs::read_to_string(log.path()).is_ok_and(|log| log.contains(text)))
            {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{text:?} was never logged");
    }

    fn is_mounted(&self) -> bool {
        artifs::mount::is_mounted(&self.at().canonicalize().unwrap_or_else(|_| self.at()))
    }

    async fn is_gone(&self) -> bool {
        for _ in (0..500).take_while(|_| self.is_mounted()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        !self.is_mounted()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.is_mounted() {
            let _ = rustix::mount::unmount(self.at(), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[tokio::test]
async fn the_program_mounts_in_the_background_and_unmounts() {
    for round in 0..3 {
        let program = Program::new();
        program.succeeds(&["mount", "./layout:v1", "mnt"]);
        assert_eq!(std::fs::read(program.at().join("a.txt")).unwrap(), b"hello");
        let shown = program.succeeds(&["status"]);
        assert!(shown.starts_with("./layout:v1 at "), "{shown}");
        assert!(program.fails(&["mount", "./layout:v1", "mnt"]).contains("artifs unmount mnt"));

        let open = std::fs::File::open(program.at().join("a.txt")).unwrap();
        assert!(program.fails(&["unmount", "mnt"]).contains("in use"));
        // A signal is refused in the same way.
        rustix::process::kill_process(program.pid(), rustix::process::Signal::TERM).unwrap();
        program.logged("in use").await;
        assert!(program.is_mounted());
        drop(open);
        program.succeeds(&["unmount", "mnt"]);
        assert!(!program.is_mounted(), "round {round}");
        assert_eq!(program.succeeds(&["status"]), "");
    }
}

#[tokio::test]
async fn errors_before_the_mount_reach_the_terminal() {
    let program = Program::new();
    assert!(program.fails(&["mount", "./layout:v9", "mnt"]).contains("v9"));
    assert!(program.fails(&["mount", "./layout:v1", "nowhere"]).contains("nowhere"));
    assert!(program.fails(&["mount", "./layout:v1", "mnt", "-o", "alow_other"]).contains("alow_other"));
    assert!(!program.is_mounted());
}

#[tokio::test]
async fn a_line_of_fstab_mounts_and_a_signal_or_fusermount_ends_it() {
    let program = Program::new();
    let at = program.at();
    let fstab = ["./layout:v1", at.to_str().unwrap(), "-o", "rw,dev,suid,_netdev,nofail,verify=full"];
    program.succeeds(&fstab);
    assert_eq!(std::fs::read(at.join("a.txt")).unwrap(), b"hello");
    rustix::process::kill_process(program.pid(), rustix::process::Signal::TERM).unwrap();
    assert!(program.is_gone().await);

    program.succeeds(&fstab);
    let status = std::process::Command::new("fusermount3").arg("-u").arg(&at).status().unwrap();
    assert!(status.success());
    assert!(program.is_gone().await);
}

#[tokio::test]
async fn a_killed_mount_can_be_taken_away_and_made_again() {
    let program = Program::new();
    program.succeeds(&["mount", "./layout:v1", "mnt"]);
    rustix::process::kill_process(program.pid(), rustix::process::Signal::KILL).unwrap();
    for _ in (0..500).take_while(|_| std::fs::read_dir(program.at()).is_ok()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(program.fails(&["mount", "./layout:v1", "mnt"]).contains("artifs unmount mnt"));
    assert_eq!(program.succeeds(&["status"]), "", "its socket is stale");
    program.succeeds(&["unmount", "mnt"]);
    program.succeeds(&["mount", "./layout:v1", "mnt"]);
    assert_eq!(std::fs::read(program.at().join("a.txt")).unwrap(), b"hello");
    program.succeeds(&["unmount", "--lazy", "mnt"]);
    assert!(!program.is_mounted());
}
