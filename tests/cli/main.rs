//! The program as people and scripts meet it: what it prints, where, and how it exits.
//!
//! Expected texts were printed by ORAS 1.3.3 for the same artifacts, with its name replaced by ours.

mod account;
mod cache;
mod look;
mod pull;
mod usage;

use std::path::PathBuf;
use std::process::{Command, Stdio};

use artifs::oci::Digest;
use snapbox::assert_data_eq;
use support::registry::Registry;
use support::seed::{Artifact, Folder};
use support::server::Server;

/// A person with a home of their own, and nothing of the machine's own configuration.
struct Person {
    home: tempfile::TempDir,
}

/// What a command did. In its texts the registry is `REG` and the home `HOME`.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Person {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifs"));
        command.env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir(self.home.path()).args(line).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Done {
        let output = self.command(line).output().unwrap();
        self.done(output)
    }

    fn run_with_input(&self, line: &[&str], input: &str) -> Done {
        std::fs::write(self.path("input"), input).unwrap();
        let input = std::fs::File::open(self.path("input")).unwrap();
        self.done(self.command(line).stdin(input).output().unwrap())
    }

    fn done(&self, output: std::process::Output) -> Done {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(self.home.path().to_str().unwrap(), "HOME")
        };
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Done {
    /// It worked, and printed exactly this.
    #[track_caller]
    fn printed(self, out: &str) {
        assert_eq!(self.code, Some(0), "{}", self.err);
        assert_data_eq!(self.out, snapbox::Data::text(out));
        assert_eq!(self.err, "");
    }

    /// It failed with 1, and said exactly this on stderr.
    #[track_caller]
    fn failed(self, err: &str) {
        assert_data_eq!(self.err, snapbox::Data::text(err));
        assert_eq!(self.code, Some(1));
        assert_eq!(self.out, "");
    }
}

fn model() -> Artifact {
    Artifact::new()
        .file("hi.txt", "hi")
        .folder("d", Folder::new().file("a", 0o640, "A").file("sub/b", 0o755, "B").link("l", "sub/b"))
        .file("docs/same.txt", "hi")
}

fn hex12(digest: &Digest) -> &str {
    digest.short()
}

/// The registries a verb must say the same about.
fn everywhere(test: impl Fn(&str, &dyn Fn(&Artifact, &str) -> Digest)) {
    let registry = Registry::start();
    test(registry.host().as_str(), &|artifact, repository| artifact.push(&registry, repository).digest);
    if let Some(real) = Server::distribution() {
        test(real.host().as_str(), &|artifact, repository| artifact.push(&real, repository).digest);
    }
}
