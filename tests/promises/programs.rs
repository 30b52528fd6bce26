//! The programs people use, in a mount that can be written to; and what they left is what is published.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::registry::Registry;
use support::seed::Artifact;

use crate::home::{Home, STUCK, wait};

/// Lets `work` happen in a mount, once with the kernel writing by itself and once through its cache, publishes what
/// became of it, and compares what is pulled then. The programs it needs must be there; only outside of CI may they
/// be missing, with a word.
fn in_mounts(programs: &[&str], work: impl Fn(&Path, &Path)) {
    for program in programs {
        if Command::new(program).arg("--version").stdout(Stdio::null()).status().is_err() {
            assert!(std::env::var_os("CI").is_none(), "{program} is not installed, and CI is set");
            eprintln!("skipped: {program} is not installed");
            return;
        }
    }
    for flags in [&[][..], &["--no-passthrough"]] {
        let registry = Registry::start();
        let long = (0..20_000).map(|line| format!("line {line}\n")).collect::<Vec<_>>().concat();
        Artifact::new().file("notes.txt", long).tag("v1").push(&registry, "r");
        let home = Home::new(format!("{}/r:v1", registry.host()));
        let mounted = home.mount(flags);
        let beside = tempfile::tempdir().unwrap();
        work(&home.at(), beside.path());
        let wanted = listed(&home.at());
        home.unmount();
        assert!(mounted.ended().success(), "{}", home.said());
        home.works(&["pull", "--plain-http", home.reference(), "-o", "pulled"]);
        expect_same(&wanted, &listed(&home.folder().join("pulled")), false);
        let mounted = home.mount(flags);
        expect_same(&wanted, &listed(&home.at()), true);
        home.unmount();
        assert!(mounted.ended().success(), "{}", home.said());
    }
}

type Listed = Vec<(PathBuf, u32, Vec<u8>)>;

/// Fails with the first difference; what is pulled has modes of its own.
fn expect_same(wanted: &Listed, found: &Listed, modes: bool) {
    for (one, other) in wanted.iter().zip(found) {
        assert_eq!(one.0, other.0);
        assert!(one.2 == other.2, "{} is another", one.0.display());
        assert!(!modes || one.1 == other.1, "{} is {:o}", one.0.display(), other.1);
    }
    assert_eq!(wanted.len(), found.len());
}

/// Every path below `at` with its mode and its bytes or target.
fn listed(at: &Path) -> Listed {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(at).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            Vec::new()
        };
        found.push((
            entry.path().strip_prefix(at).unwrap().to_owned(),
            metadata.permissions().mode(),
            content,
        ));
    }
    found
}

/// Runs a program in a folder; what it says.
#[track_caller]
fn run<S: AsRef<OsStr>>(folder: &Path, line: &[S]) -> String {
    let (program, arguments) = line.split_first().unwrap();
    let mut command = Command::new(program);
    command.args(arguments).current_dir(folder).stdin(Stdio::null()).env("TERM", "xterm");
    command.env_remove("CARGO_TARGET_DIR").env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = command.output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{}: {said}", program.as_ref().display());
    said
}

/// Runs a program on a terminal. Each part of the keys is typed when the words before it are on the screen.
fn type_into(folder: &Path, program: &str, keys: &[(&str, &str)]) {
    let mut command = Command::new("script");
    command.args(["-qec", program, "/dev/null"]).current_dir(folder).env("TERM", "xterm");
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut typed, mut shown) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let (tell, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(count @ 1..) = shown.read(&mut piece) {
            let _ = tell.send(piece[..count].to_vec());
        }
    });
    let mut screen = Vec::new();
    for (words, keys) in keys {
        while !screen.windows(words.len()).any(|part| part == words.as_bytes()) {
            let Ok(more) = told.recv_timeout(STUCK) else {
                let _ = child.kill();
                panic!("{program} does not show {words:?}: {}", String::from_utf8_lossy(&screen));
            };
            screen.extend(more);
        }
        screen.clear();
        typed.write_all(keys.as_bytes()).unwrap();
    }
    let ended = wait(&mut child);
    assert!(ended.success(), "{program}: {ended}");
    drop(typed);
    reader.join().unwrap();
}

/// A folder with a little of everything.
fn a_project(at: &Path) {
    fs::create_dir_all(at.join("src/deep/deeper")).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    for number in 0..40 {
        let text = format!("{number} ").repeat(number * 50);
        fs::write(at.join(format!("src/deep/file-{number}")), text).unwrap();
    }
    fs::write(at.join("run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(at.join("run"), fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("src/deep/file-7", at.join("seven")).unwrap();
}

#[test]
fn git_clones_commits_packs_and_finds_nothing_wrong() {
    in_mounts(&["git"], |mnt, beside| {
        let git = |folder: &Path, line: &[&str]| {
            let who = ["git", "-c", "user.name=n", "-c", "user.email=e@x", "-c", "safe.directory=*"];
            run(folder, &[&who[..], line].concat())
        };
        let origin = beside.join("origin");
        fs::create_dir(&origin).unwrap();
        a_project(&origin);
        git(&origin, &["init", "-q"]);
        git(&origin, &["add", "."]);
        git(&origin, &["commit", "-qm", "first"]);
        git(mnt, &["clone", "-q", &format!("file://{}", origin.display()), "clone"]);
        let clone = mnt.join("clone");
        fs::write(clone.join("src/deep/file-3"), "edited").unwrap();
        fs::rename(clone.join("run"), clone.join("start")).unwrap();
        git(&clone, &["add", "-A"]);
        git(&clone, &["commit", "-qm", "second"]);
        git(&clone, &["checkout", "-q", "-b", "other", "HEAD~1"]);
        git(&clone, &["checkout", "-q", "-"]);
        git(&clone, &["gc", "-q"]);
        git(&clone, &["fsck", "--strict", "--full"]);
        assert_eq!(git(&clone, &["status", "--porcelain"]), "");
        assert_eq!(git(&clone, &["log", "--format=%s"]), "second\nfirst\n");
    });
}

#[test]
fn sqlite_keeps_its_databases_whole() {
    in_mounts(&["sqlite3"], |mnt, _| {
        for mode in ["delete", "wal"] {
            let file = format!("{mode}.db");
            let ask = |sql: &str| run(mnt, &["sqlite3", "-cmd", ".timeout 20000", &file, sql]);
            assert_eq!(ask(&format!("pragma journal_mode={mode}")).trim(), mode);
            ask("create table t (n integer primary key, text); create index i on t (text)");
            // Two at once, who keep each other out.
            std::thread::scope(|scope| {
                for who in 0..2 {
                    scope.spawn(move || {
                        for round in 0..5 {
                            ask(&format!(
                                "begin immediate; with recursive c(x) as (select 1 union all select x+1 from c \
                                 where x < 200) insert into t (text) select '{who}-{round}-'||x from c; commit"
                            ));
                        }
                    });
                }
            });
            ask("delete from t where n % 3 = 0");
            ask("vacuum");
            assert_eq!(ask("pragma integrity_check").trim(), "ok");
            assert_eq!(ask("select count(*) from t").trim(), "1334");
        }
    });
}

#[test]
fn editors_save() {
    in_mounts(&["vim", "nano", "script"], |mnt, _| {
        let begins = |with: &str| {
            let text = fs::read_to_string(mnt.join("notes.txt")).unwrap();
            assert!(text.starts_with(with) && text.ends_with("\nline 19999\n"), "{text:.60}");
        };
        // The old file moved away, the old file copied and written over, no copy at all.
        for (number, how) in
            ["backup backupcopy=no", "backup backupcopy=yes", "nobackup nowritebackup"].iter().enumerate()
        {
            let set = format!("set {how} backupext=.bak{number} fsync");
            let write = format!("call append(0, 'vim {number}')");
            run(
                mnt,
                &[
                    "vim",
                    "-es",
                    "-u",
                    "NONE",
                    "-i",
                    "NONE",
                    "-c",
                    &set,
                    "-c",
                    &write,
                    "-c",
                    "wq",
                    "notes.txt",
                ],
            );
            begins(&format!("vim {number}\n"));
        }
        let nano = "stty rows 24 cols 80; exec nano -I notes.txt";
        type_into(mnt, nano, &[("line 0", "nano was here\r\x0f"), ("to Write", "\r"), ("Wrote", "\x18")]);
        begins("nano was here\nvim 2\n");
        run(mnt, &["sed", "-i", "1s/.*/sed/", "notes.txt"]);
        begins("sed\nvim 2\n");
    });
}

#[test]
fn rsync_copies_and_updates() {
    in_mounts(&["rsync"], |mnt, beside| {
        a_project(beside);
        let from = format!("{}/", beside.display());
        run(mnt, &["rsync", "-a", &from, "copy/"]);
        for way in ["--whole-file", "--inplace", "--append-verify"] {
            let text = fs::read_to_string(beside.join("src/deep/file-30")).unwrap();
            fs::write(beside.join("src/deep/file-30"), format!("{text}{way}")).unwrap();
            fs::write(beside.join(format!("src/{}", &way[2..])), way).unwrap();
            run(mnt, &["rsync", "-a", "--no-whole-file", "--delete", "--ignore-times", way, &from, "copy/"]);
        }
        fs::remove_file(beside.join("src/deep/file-1")).unwrap();
        run(mnt, &["rsync", "-a", "--delete", &from, "copy/"]);
        let differs = run(mnt, &["rsync", "-ainc", "--delete", &from, "copy/"]);
        assert_eq!(differs, "");
    });
}

#[test]
fn tar_unpacks_and_packs() {
    in_mounts(&["tar"], |mnt, beside| {
        let (project, packed) = (beside.join("project"), beside.join("packed.tar"));
        fs::create_dir(&project).unwrap();
        a_project(&project);
        fs::hard_link(project.join("run"), project.join("again")).unwrap();
        let packed = packed.to_str().unwrap();
        run(beside, &["tar", "cf", packed, "project"]);
        run(mnt, &["tar", "xf", packed]);
        run(mnt, &["tar", "df", packed]);
        run(mnt, &["tar", "czf", "again.tgz", "project"]);
        run(beside, &["tar", "df", mnt.join("again.tgz").to_str().unwrap()]);
    });
}

#[test]
fn cargo_builds_twice() {
    in_mounts(&["cargo"], |mnt, _| {
        run(mnt, &["cargo", "new", "--quiet", "--vcs", "none", "hello"]);
        let hello = mnt.join("hello");
        run(&hello, &["cargo", "build", "--offline", "--quiet"]);
        let said = |word: &str| {
            let built = hello.join("target/debug/hello");
            assert_eq!(run(&hello, &[built.to_str().unwrap()]), format!("Hello, {word}!\n"));
        };
        said("world");
        let main = hello.join("src/main.rs");
        fs::write(&main, fs::read_to_string(&main).unwrap().replace("world", "mount")).unwrap();
        run(&hello, &["cargo", "build", "--offline", "--quiet"]);
        said("mount");
    });
}
