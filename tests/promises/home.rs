//! A person with a home of their own, who mounts one reference for writing.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use artifs::mount::is_mounted;
use tempfile::TempDir;

/// Nothing here takes that long, unless it is stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(60);

/// The home, with the folder `mnt` to mount at. What is mounted there is gone when it is dropped.
pub(crate) struct Home {
    folder: TempDir,
    reference: String,
    state: Option<PathBuf>,
}

impl Home {
    pub(crate) fn new(reference: String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { folder, reference, state: None }
    }

    /// Stages in another folder than the home's own.
    pub(crate) fn staging_in(mut self, state: PathBuf) -> Self {
        self.state = Some(state);
        self
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    pub(crate) fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifs"));
        command.env_clear().env("HOME", self.folder.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_RUNTIME_DIR", self.folder.path().join("run"));
        if let Some(state) = &self.state {
            command.env("ARTIFS_STATE", state);
        }
        command.current_dir(self.folder.path()).args(line).stdin(Stdio::null());
        command
    }

    /// Runs `artifs`, which must end by itself.
    pub(crate) fn run(&self, line: &[&str]) -> Output {
        let mut command = self.command(line);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = |pipe: &mut dyn std::io::Read| {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).map(|_| bytes).unwrap_or_default()
        };
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        std::thread::scope(|scope| {
            let (out, err) = (scope.spawn(move || output(&mut out)), scope.spawn(move || output(&mut err)));
            let status = wait(&mut child);
            Output { status, stdout: out.join().unwrap(), stderr: err.join().unwrap() }
        })
    }

    #[track_caller]
    pub(crate) fn works(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    pub(crate) fn fails(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Mounts for writing, with the mount's own process a child of ours.
    pub(crate) fn mount(&self, flags: &[&str]) -> Mounted<'_> {
        let mut line = vec!["mount", "-f", "--rw", "--plain-http", "--deadline", "10"];
        line.extend(flags);
        line.extend([self.reference.as_str(), "mnt"]);
        let log = self.folder.path().join("log");
        let child = self.command(&line).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let mut mounted = Mounted { child, home: self };
        let begun = Instant::now();
        // Asked through the mount and not of the mount table: what answers is there. Its other door opens after.
        let answers = || fs::read_dir(self.at()).is_ok() && self.run(&["diff", "mnt"]).status.success();
        while !is_mounted(&self.at()) || !answers() {
            let ended = mounted.child.try_wait().unwrap();
            assert!(ended.is_none(), "it does not mount: {}", fs::read_to_string(&log).unwrap());
            assert!(begun.elapsed() < STUCK, "the mount does not come");
            std::thread::sleep(Duration::from_millis(2));
        }
        mounted
    }

    /// Unmounts, which must work as soon as nobody is in it: a process that another test has just forked may hold
    /// what is open here until it becomes another program.
    #[track_caller]
    pub(crate) fn unmount(&self) -> String {
        loop {
            let output = self.run(&["unmount", "mnt"]);
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() {
                return String::from_utf8(output.stdout).unwrap();
            }
            assert!(said.contains("is in use"), "{said}");
        }
    }

    /// What the mount's process said last.
    pub(crate) fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        take_away(&self.at());
    }
}

/// A running mount.
pub(crate) struct Mounted<'a> {
    child: Child,
    home: &'a Home,
}

impl Mounted<'_> {
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Kills it without warning.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        let ended = wait(&mut self.child);
        assert!(ended.signal() == Some(9) || ended.code().is_some());
    }

    /// Asks it to end until it has: it stays while somebody is in it.
    pub(crate) fn asked_to_end(mut self, signal: rustix::process::Signal) -> ExitStatus {
        let begun = Instant::now();
        loop {
            self.signal(signal);
            std::thread::sleep(Duration::from_millis(50));
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(begun.elapsed() < STUCK, "it does not end");
        }
    }

    /// Waits until it ends by itself.
    pub(crate) fn ended(mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the mount said: {}", self.home.said());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits for a process; one that is stuck is killed, and is a failure.
pub(crate) fn wait(child: &mut Child) -> ExitStatus {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if begun.elapsed() > STUCK {
            let _ = child.kill();
            let _ = child.wait();
            panic!("a process does not end");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Detaches whatever is mounted at `path`.
pub(crate) fn take_away(path: &Path) {
    let _ = Command::new("umount").arg("-l").arg(path).stderr(Stdio::null()).status();
}
