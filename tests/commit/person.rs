//! The program, as a person uses it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use artifs::mount::Ended;
use support::registry::Registry;
use tempfile::TempDir;

use crate::stand::{Stand, afternoon, afternoons_base, hundred, repository};

/// A person with a home of their own, a registry, and a mount that is taken away when they leave.
struct Person {
    home: TempDir,
    registry: Registry,
}

impl Person {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("mnt")).unwrap();
        let registry = Registry::start();
        hundred().tag("v1").push(&registry, "r");
        Self { home, registry }
    }

    fn reference(&self) -> String {
        format!("{}/r:v1", self.registry.host())
    }

    fn at(&self) -> PathBuf {
        self.home.path().join("mnt")
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifs"));
        command.env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.env("XDG_RUNTIME_DIR", self.home.path().join("run"));
        command.current_dir(self.home.path()).args(line).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Output {
        self.command(line).output().unwrap()
    }

    #[track_caller]
    fn works(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn fails(&self, line: &[&str]) -> String {
        let output = self.run(line);
        assert_eq!(output.status.code(), Some(1), "{line:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn mount(&self) {
        self.works(&["mount", "--plain-http", "--rw", "--deadline", "5", &self.reference(), "mnt"]);
    }

    fn pid(&self) -> String {
        let status = self.works(&["status", "--format", "json"]);
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["mounts"][0]["pid"].to_string()
    }
}

impl Drop for Person {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.at()).stderr(Stdio::null()).status();
    }
}

#[test]
fn a_person_edits_looks_and_unmounts() {
    let person = Person::new();
    person.mount();
    fs::write(person.at().join("f001"), "edited").unwrap();
    fs::write(person.at().join("new"), "new").unwrap();
    fs::remove_file(person.at().join("f002")).unwrap();
    fs::rename(person.at().join("f003"), person.at().join("moved")).unwrap();
    let expected = "  modified:   f001\n  deleted:    f002\n  renamed:    f003 -> moved\n  new file:   new\n";
    assert_eq!(person.works(&["diff", "mnt"]), expected);
    assert!(person.works(&["status"]).contains(expected));
    assert!(person.works(&["commit", "--dry-run"]).contains("Would publish"));
    assert_eq!(person.registry.requests().iter().filter(|request| request.method == "PUT").count(), 0);
    let said = person.works(&["unmount", "mnt"]);
    assert!(said.contains("Uploading") && said.contains("Published"), "{said}");
    let pulled = person.works(&["cat", "--plain-http", &person.reference(), "moved"]);
    assert_eq!(pulled, "content 3");
    assert!(!person.works(&["recover"]).contains("not published"));
}

#[test]
fn a_registry_that_is_gone_costs_the_exit_status_and_nothing_else() {
    let person = Person::new();
    person.mount();
    fs::write(person.at().join("f001"), "edited").unwrap();
    person.registry.down();
    let said = person.fails(&["unmount", "mnt"]);
    let reference = person.reference();
    assert!(said.contains(&format!("artifs mount --rw {reference}")), "{said}");
    assert!(person.works(&["recover"]).contains(&reference));
    person.registry.up();
    person.mount();
    assert_eq!(fs::read_to_string(person.at().join("f001")).unwrap(), "edited");
    assert!(person.works(&["unmount", "mnt"]).contains("Published"));
}

#[test]
fn killed_or_asked_to_end_it_is_published_or_found_again() {
    let person = Person::new();
    person.mount();
    fs::write(person.at().join("f001"), "edited").unwrap();
    person.works(&["commit", "-m", "first", "mnt"]);
    fs::write(person.at().join("f002"), "edited too").unwrap();
    let end = |signal: &str| {
        let pid = person.pid();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        let begun = Instant::now();
        while Path::new(&format!("/proc/{pid}/exe")).exists() {
            assert!(begun.elapsed() < Duration::from_secs(60), "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    end("-KILL");
    let _ = Command::new("umount").arg("-l").arg(person.at()).status();
    assert!(person.works(&["recover"]).contains(&person.reference()));
    person.mount();
    assert_eq!(fs::read_to_string(person.at().join("f002")).unwrap(), "edited too");
    end("-TERM");
    assert_eq!(person.works(&["cat", "--plain-http", &person.reference(), "f002"]), "edited too");
    assert_eq!(person.works(&["cat", "--plain-http", &person.reference(), "f001"]), "edited");
    assert_eq!(person.works(&["recover"]), "");

    person.mount();
    fs::write(person.at().join("f004"), "unwanted").unwrap();
    person.works(&["unmount", "--discard", "mnt"]);
    assert_eq!(person.works(&["cat", "--plain-http", &person.reference(), "f004"]), "content 4");
    assert_eq!(person.works(&["recover"]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn oras_reads_what_was_committed() {
    if Command::new("oras").arg("version").output().is_err() {
        return;
    }
    let registry = Registry::start();
    afternoons_base().push(&registry, "r");
    let mut stand = Stand::new(repository(&registry)).await;
    afternoon(&stand.at());
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    let out = stand.folder.path().join("out");
    let pulled = Command::new("oras")
        .args(["pull", "--plain-http", &format!("{}/r:v1", registry.host()), "-o"])
        .arg(&out)
        .output()
        .unwrap();
    assert!(pulled.status.success(), "{}", String::from_utf8_lossy(&pulled.stderr));
    assert_eq!(fs::read_to_string(out.join("d/sub/added")).unwrap(), "added");
    assert_eq!(fs::read_to_string(out.join("bin/run")).unwrap(), "#!/bin/sh");
}
