//! Commits, through the kernel: what is sent, what stays, what is refused, what comes back.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifs::ErrorKind;
use artifs::artifact::from_dir::{self, FileArgument};
use artifs::artifact::{self, View};
use artifs::mount::{CommitOptions, Committed, Ended, Mount, Options, PARENT, Root, works};
use artifs::oci::{Digest, Manifest, Name};
use artifs::ops::{PullOptions, pull};
use artifs::registry::{self, Settings};
use artifs::store::{Body, Layout, Memory, Source as _, SourceExt as _, Target};
use support::registry::{Endpoint, Registry};
use support::seed::{Artifact, Folder};
use tempfile::TempDir;

/// A writable mount of `r:v1`, gone when dropped.
struct Stand {
    target: Arc<dyn Target>,
    folder: TempDir,
    mount: Option<Mount>,
}

impl Stand {
    async fn new(target: Arc<dyn Target>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let mut stand = Self { target, folder, mount: None };
        stand.mount().await;
        stand
    }

    async fn mount(&mut self) {
        let mut options = Options::new(self.at(), "test.example/r:v1");
        options.deadline = Duration::from_secs(5);
        options.staging = Some(self.staging());
        let source = Arc::clone(&self.target) as _;
        let root = Root::Artifact { source, name: tag("v1"), view: View::default() };
        let mount = Mount::start(root, options, None).await.unwrap();
        mount.publish_to(Arc::clone(&self.target));
        self.mount = Some(mount);
    }

    async fn unmount(&mut self) -> Ended {
        let mount = self.mount.take().unwrap();
        mount.stop().await.unwrap();
        mount.ended().await
    }

    fn mounted(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }
}

fn tag(text: &str) -> Name {
    text.parse().unwrap()
}

async fn digest(target: &dyn Target, name: &str) -> Digest {
    target.resolve(&tag(name)).await.unwrap().digest
}

async fn layers(target: &dyn Target, name: &str) -> Vec<artifs::oci::Descriptor> {
    match target.fetch_manifest(&tag(name)).await.unwrap().1 {
        Manifest::Image(image) => image.layers,
        Manifest::Index(_) => panic!("an index"),
    }
}

fn repository(of: &Registry) -> Arc<registry::Repository> {
    let settings = Settings {
        plain_http: Some(true),
        registry_configs: vec!["/nonexistent/config.json".into()],
        deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    Arc::new(registry::Registry::new(&of.host(), &settings).unwrap().repository("r").unwrap())
}

fn hundred() -> Artifact {
    (0..100).fold(Artifact::new(), |artifact, number| {
        artifact.typed_file(&format!("f{number:03}"), "a/b", format!("content {number}"))
    })
}

/// What one commit of a mounted artifact did.
fn one(mut done: Vec<Committed>) -> Committed {
    assert_eq!(done.len(), 1, "{done:?}");
    done.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_a_hundred_is_one_blob_and_one_manifest() {
    let registry = Registry::start();
    let before = hundred().tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry)).await;
    fs::write(stand.path("f050"), "edited").unwrap();
    let begun = registry.requests().len();
    let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
    let done = one(done);
    let sent: Vec<_> = registry.requests().split_off(begun);
    let puts = |endpoint| {
        sent.iter().filter(|request| request.method == "PUT" && request.endpoint == endpoint).count()
    };
    assert_eq!((puts(Endpoint::Upload), puts(Endpoint::Manifest)), (1, 1));
    assert_eq!(done.parent, Some(before.digest.to_string()));
    assert!(works(&stand.staging()).unwrap().is_empty(), "what is published is staged no more");

    let target = repository(&registry);
    let after = layers(target.as_ref(), "v1").await;
    for (number, (now, then)) in after.iter().zip(hundred().layers()).enumerate() {
        if number == 50 {
            assert_eq!(now.digest, Digest::of(b"edited"));
            assert_eq!((&now.media_type, &now.annotations), (&then.media_type, &then.annotations));
        } else {
            assert_eq!(now, then);
        }
    }
    let manifest = target.fetch_manifest(&tag("v1")).await.unwrap().1;
    assert_eq!(manifest.annotations()[PARENT], before.digest.to_string());
    let created = &manifest.annotations()["org.opencontainers.image.created"];
    assert!(created.as_str() > "2020-01-01T00:00:00Z", "{created}");
}

/// What a person does in an afternoon.
fn afternoon(at: &Path) {
    fs::write(at.join("new"), "new").unwrap();
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::write(at.join("bin/run"), "#!/bin/sh").unwrap();
    fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::set_permissions(at.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("bin/run", at.join("latest")).unwrap();
    fs::rename(at.join("b"), at.join("renamed")).unwrap();
    fs::remove_file(at.join("c")).unwrap();
    fs::write(at.join("d/sub/added"), "added").unwrap();
    let edited = fs::File::options().write(true).open(at.join("big")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&edited, b"here", 1_500_000).unwrap();
}

fn afternoons_base() -> Artifact {
    let folder = Folder::new().file("a", 0o640, "A").file("sub/b", 0o755, "B").link("l", "sub/b");
    Artifact::new()
        .file("a", "a")
        .typed_file("b", "text/b", "b")
        .file("c", "c")
        .folder("d", folder)
        .file("big", "0123456789".repeat(300_000))
        .annotation("kept", "yes")
        .tag("v1")
}

/// Every path below `at` with what it is.
fn listed(at: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
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
        let path = entry.path().strip_prefix(at).unwrap().to_owned();
        found.push((path, metadata.permissions().mode(), content));
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_comes_back_from_a_registry_a_layout_and_by_pull() {
    let registry = Registry::start();
    afternoons_base().push(&registry, "r");
    let layout_folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(layout_folder.path().join("layout")).unwrap();
    afternoons_base().push(&layout, "r");
    for target in [repository(&registry) as Arc<dyn Target>, Arc::new(layout)] {
        let mut stand = Stand::new(Arc::clone(&target)).await;
        afternoon(&stand.at());
        let wanted = listed(&stand.at());
        let Ended::Published(done) = stand.unmount().await else { panic!("not published") };
        let done = one(done);
        assert!(done.left_out.is_empty(), "{:?}", done.left_out);
        stand.mount().await;
        assert_eq!(listed(&stand.at()), wanted);
        assert!(stand.mounted().changes().is_empty());
        assert!(matches!(stand.unmount().await, Ended::Clean));

        let layers = layers(target.as_ref(), "v1").await;
        let titles: Vec<&str> = layers
            .iter()
            .map(|layer| layer.annotation("org.opencontainers.image.title").unwrap_or("-"))
            .collect();
        assert_eq!(titles, ["a", "renamed", "d", "big", "bin/run", "new", "-"]);
        assert_eq!(layers[1].media_type, "text/b");
        let manifest = target.fetch_manifest(&tag("v1")).await.unwrap().1;
        assert_eq!(manifest.annotations()["kept"], "yes");

        let out = stand.folder.path().join("out");
        let opened = artifact::open(target, &tag("v1"), "r:v1", &View::default()).await.unwrap();
        pull(&opened, &out, &PullOptions::default(), &()).await.unwrap();
        let pulled = listed(&out);
        let content = |all: &[(PathBuf, u32, Vec<u8>)]| {
            all.iter().map(|(path, _, content)| (path.clone(), content.clone())).collect::<Vec<_>>()
        };
        assert_eq!(content(&pulled), content(&wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tree_has_the_same_digest() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let memory = Arc::new(Memory::new());
        hundred().tag("v1").push(memory.as_ref(), "r");
        let stand = Stand::new(memory).await;
        fs::write(stand.path("f001"), "edited").unwrap();
        fs::write(stand.path("f100"), "new").unwrap();
        let options = CommitOptions { created: Some(1_700_000_000), ..CommitOptions::default() };
        let done = one(stand.mounted().commit(&options, &()).await.unwrap());
        let again = one(stand.mounted().commit(&options, &()).await.unwrap());
        assert!(!again.changed, "the same again is nothing to publish");
        assert_eq!(again.digest, done.digest);
        digests.push(done.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_goes_on_after_a_commit() {
    let memory = Arc::new(Memory::new());
    afternoons_base().push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    afternoon(&stand.at());
    let first = one(stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap());
    assert!(stand.mounted().changes().is_empty());
    fs::write(stand.path("new"), "newer").unwrap();
    let changes = stand.mounted().changes();
    assert_eq!(changes.iter().map(|change| change.path.as_str()).collect::<Vec<_>>(), ["new"]);
    let second = one(stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap());
    assert_eq!(second.parent, Some(first.digest));
    fs::remove_file(stand.path("new")).unwrap();
    let Ended::Published(third) = stand.unmount().await else { panic!("not published") };
    let third = one(third);
    assert_eq!(third.parent, Some(second.digest));
    assert_eq!(digest(memory.as_ref(), "v1").await.to_string(), third.digest);
    stand.mount().await;
    assert!(!stand.path("new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_publishes_nothing_and_loses_nothing() {
    let memory = Arc::new(Memory::new());
    let before = hundred().tag("v1").push(memory.as_ref(), "r").digest;
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::write(stand.path("f001"), "mine").unwrap();
    let theirs = hundred().file("theirs", "theirs").tag("v1").push(memory.as_ref(), "r").digest;
    let Ended::Staged { why, conflict, .. } = stand.unmount().await else { panic!("published") };
    assert!(conflict && why.contains(before.as_str()) && why.contains(theirs.as_str()), "{why}");
    assert_eq!(digest(memory.as_ref(), "v1").await, theirs);
    assert_eq!(memory.tags().await.unwrap().len(), 1);

    stand.mount().await;
    assert_eq!(fs::read_to_string(stand.path("f001")).unwrap(), "mine");
    let error = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let beside = CommitOptions { tags: vec!["mine".into()], ..CommitOptions::default() };
    let done = one(stand.mounted().commit(&beside, &()).await.unwrap());
    assert_eq!(digest(memory.as_ref(), "mine").await.to_string(), done.digest);
    assert_eq!(digest(memory.as_ref(), "v1").await, theirs);
    fs::write(stand.path("f002"), "mine too").unwrap();
    let forced = CommitOptions { force: true, ..CommitOptions::default() };
    let done = one(stand.mounted().commit(&forced, &()).await.unwrap());
    assert_eq!(digest(memory.as_ref(), "v1").await.to_string(), done.digest);
}

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

/// A manifest whose config tells of its layers is refused before anybody changes anything.
#[tokio::test(flavor = "multi_thread")]
async fn what_would_come_out_wrong_is_refused_at_the_mount() {
    let config = "application/vnd.oci.image.config.v1+json";
    let told = r#"{"rootfs":{"type":"layers","diff_ids":["sha256:0"]}}"#;
    for (content, possible) in [("{}", true), (r#"{"architecture":"amd64"}"#, true), (told, false)] {
        let memory = Arc::new(Memory::new());
        let artifact = Artifact::new().without_kind().config(config, content).file("a", "a").tag("v1");
        artifact.push(memory.as_ref(), "r");
        let folder = tempfile::tempdir().unwrap();
        let mut options = Options::new(folder.path().join("mnt"), "test.example/r:v1");
        fs::create_dir(&options.mountpoint).unwrap();
        options.staging = Some(folder.path().join("staging"));
        let root = Root::Artifact { source: memory, name: tag("v1"), view: View::default() };
        match (Mount::start(root, options, None).await, possible) {
            (Ok(mount), true) => mount.stop().await.unwrap(),
            (Err(error), false) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains("it is a container image"), "{error}");
            }
            (other, _) => panic!("{content}: {:?}", other.err()),
        }
    }
}

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

fn title(layer: &artifs::oci::Descriptor) -> String {
    layer.annotation("org.opencontainers.image.title").unwrap_or_default().to_owned()
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

const FILEPATH: &str = "org.cncf.model.filepath";
const METADATA: &str = "org.cncf.model.file.metadata+json";

/// A layer as modctl and others describe it.
fn model_file(artifact: Artifact, kind: &str, path: &str, content: &str) -> Artifact {
    let layer = artifact.unnamed(kind, content.as_bytes().to_vec());
    let name = path.rsplit('/').next().unwrap();
    let told = format!(
        r#"{{"name":"{name}","mode":384,"uid":1000,"gid":7,"size":{},"mtime":"2025-06-01T12:00:00Z","typeflag":48}}"#,
        content.len()
    );
    layer.layer_annotation(FILEPATH, path).layer_annotation(METADATA, &told)
}

async fn image(target: &dyn Target) -> artifs::oci::ImageManifest {
    match target.fetch_manifest(&tag("v1")).await.unwrap().1 {
        Manifest::Image(image) => image,
        Manifest::Index(_) => panic!("an index"),
    }
}

async fn config(target: &dyn Target) -> serde_json::Value {
    let config = image(target).await.config.unwrap();
    serde_json::from_slice(&target.fetch_all(&config, 1 << 20).await.unwrap()).unwrap()
}

fn told(layer: &artifs::oci::Descriptor) -> serde_json::Value {
    serde_json::from_str(&layer.annotations[METADATA]).unwrap()
}

const MODEL_CONFIG: &str = "application/vnd.cncf.model.config.v1+json";

fn model() -> Artifact {
    let weight = "application/vnd.cncf.model.weight.v1.raw";
    let mut artifact = model_file(Artifact::new(), weight, "m/a.safetensors", "aaa");
    artifact = model_file(artifact, "application/vnd.cncf.model.doc.v1.raw", "README.md", "read");
    artifact = model_file(artifact, "application/vnd.cncf.model.weight.config.v1.raw", "config.json", "{} ");
    let digests: Vec<String> = artifact.layers().map(|layer| layer.digest.to_string()).collect();
    let config = serde_json::json!({
        "descriptor": {"name": "m"}, "config": {"architecture": "x"},
        "modelfs": {"type": "layers", "diffIds": digests}, "later": 1,
    });
    artifact.kind("application/vnd.cncf.model.manifest.v1+json").config(MODEL_CONFIG, config.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_pack_is_told_anew() {
    let mut digests = Vec::new();
    for _ in 0..2 {
        let memory = Arc::new(Memory::new());
        model().tag("v1").push(memory.as_ref(), "r");
        let mut stand = Stand::new(Arc::clone(&memory) as _).await;
        let mode = |path: &str| stand.path(path).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(
            (mode("README.md"), stand.path("README.md").metadata().unwrap().mtime()),
            (0o600, 1_748_779_200)
        );
        fs::write(stand.path("config.json"), r#"{"edited":1}"#).unwrap();
        fs::rename(stand.path("README.md"), stand.path("m/NOTES.md")).unwrap();
        fs::set_permissions(stand.path("m/a.safetensors"), fs::Permissions::from_mode(0o444)).unwrap();
        fs::write(stand.path("m/run.py"), "run").unwrap();
        fs::set_permissions(stand.path("m/run.py"), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, seconds) in [("config.json", 1_750_000_000), ("m/run.py", 1_750_000_001)] {
            let time = std::time::UNIX_EPOCH + Duration::from_secs(seconds);
            fs::File::options().write(true).open(stand.path(name)).unwrap().set_modified(time).unwrap();
        }
        let wanted = listed(&stand.at());
        let options = CommitOptions { created: Some(1_760_000_000), ..CommitOptions::default() };
        let done = one(stand.mounted().commit(&options, &()).await.unwrap());
        assert!(done.left_out.is_empty(), "{:?}", done.left_out);
        assert!(!one(stand.mounted().commit(&options, &()).await.unwrap()).changed);
        assert!(matches!(stand.unmount().await, Ended::Clean));
        stand.mount().await;
        assert_eq!(listed(&stand.at()), wanted);

        let now = layers(memory.as_ref(), "v1").await;
        let paths: Vec<&str> = now.iter().map(|layer| layer.annotations[FILEPATH].as_str()).collect();
        assert_eq!(paths, ["m/a.safetensors", "m/NOTES.md", "config.json", "m/run.py"]);
        assert_eq!(now[3].media_type, "application/vnd.cncf.model.code.v1.raw");
        let whole = serde_json::json!({
            "name": "config.json", "mode": 384, "uid": 1000, "gid": 7, "size": 12,
            "mtime": "2025-06-15T15:06:40Z", "typeflag": 48,
        });
        assert_eq!(told(&now[2]), whole);
        assert_eq!(
            (told(&now[0])["mode"].clone(), told(&now[1])["name"].clone()),
            (0o444.into(), "NOTES.md".into())
        );
        assert_eq!((told(&now[3])["mode"].clone(), told(&now[3])["size"].clone()), (0o755.into(), 3.into()));
        let config = config(memory.as_ref()).await;
        let listed: Vec<String> = now.iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!(config["modelfs"]["diffIds"], serde_json::json!(listed));
        assert_eq!((config["descriptor"]["name"].clone(), config["later"].clone()), ("m".into(), 1.into()));
        digests.push(done.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_producer_has_no_words_for_is_refused_by_name() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "r");
    let stand = Stand::new(repository(&registry)).await;
    fs::write(stand.path("config.json"), "edited").unwrap();
    std::os::unix::fs::symlink("config.json", stand.path("latest")).unwrap();
    let error = stand.mounted().commit(&CommitOptions::default(), &()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("latest"), "{error}");
    assert!(!registry.requests().iter().any(|request| request.method == "PUT" || request.method == "POST"));
}

/// Blob names stay titles, paths are the annotation's.
#[tokio::test(flavor = "multi_thread")]
async fn ramalama_keeps_its_titles_and_moves_its_paths() {
    let memory = Arc::new(Memory::new());
    let artifact = model_file(Artifact::new(), "application/octet-stream", "tiny.gguf", "gguf")
        .layer_annotation("org.opencontainers.image.title", "sha256-0f9c");
    artifact.tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::rename(stand.path("tiny.gguf"), stand.path("small.gguf")).unwrap();
    fs::write(stand.path("card"), "card").unwrap();
    let Ended::Published(_) = stand.unmount().await else { panic!("not published") };
    let now = layers(memory.as_ref(), "v1").await;
    assert_eq!((title(&now[0]), now[0].annotations[FILEPATH].as_str()), ("sha256-0f9c".into(), "small.gguf"));
    assert_eq!(title(&now[1]), format!("sha256-{}", Digest::of(b"card").encoded()));
    assert_eq!(now.len(), 2);
}

/// Configs with other words for the same thing.
#[tokio::test(flavor = "multi_thread")]
async fn digests_in_configs_follow_their_layers() {
    let kit = "application/vnd.kitops.modelkit.config.v1+json";
    let runner = "application/vnd.docker.ai.model.config.v0.2+json";
    for (kind, layer, pointer) in [
        (kit, "application/vnd.kitops.modelkit.docs.v1.raw", "/docs/0/digest"),
        (kit, "application/vnd.kitops.modelkit.docs.v1.raw", "/docs/0/diffId"),
        (runner, "application/vnd.docker.ai.model.file", "/rootfs/diff_ids/0"),
        ("application/vnd.wasm.config.v0+json", "application/wasm", "/layerDigests/0"),
    ] {
        let memory = Arc::new(Memory::new());
        let artifact = model_file(Artifact::new(), layer, "d/f", "before");
        let digest = artifact.layers().next().unwrap().digest.to_string();
        let config_before = serde_json::json!({
            "docs": [{"path": "d/f", "digest": digest, "diffId": digest}],
            "rootfs": {"type": "rootfs", "diff_ids": [digest]}, "layerDigests": [digest], "kept": {"z": 1, "a": 2},
        });
        artifact.config(kind, config_before.to_string()).tag("v1").push(memory.as_ref(), "r");
        let mut stand = Stand::new(Arc::clone(&memory) as _).await;
        fs::write(stand.path("d/f"), "after").unwrap();
        let Ended::Published(_) = stand.unmount().await else { panic!("{kind}: not published") };
        let now = config(memory.as_ref()).await;
        assert_eq!(now.pointer(pointer).unwrap(), Digest::of(b"after").as_str(), "{kind}");
        assert_eq!(now["kept"].to_string(), r#"{"z":1,"a":2}"#);
        stand.mount().await;
        assert_eq!(fs::read_to_string(stand.path("d/f")).unwrap(), "after");
    }
}

/// Some producers' manifests do not say what they are, and their readers expect that.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_silent_of_its_type_stays_so() {
    let memory = Arc::new(Memory::new());
    let artifact = Artifact::new().file("a", "a");
    artifact.push(memory.as_ref(), "r");
    let mut fields: serde_json::Value = serde_json::from_slice(&artifact.manifest().1).unwrap();
    fields.as_object_mut().unwrap().remove("mediaType");
    fields["later"] = serde_json::json!({"kept": true});
    let bytes = fields.to_string().into_bytes();
    let descriptor = artifs::oci::Descriptor::of(artifs::oci::media_type::IMAGE_MANIFEST, &bytes);
    memory.publish(&descriptor, &Body::Bytes(bytes.into()), &"v1".parse().unwrap()).await.unwrap();
    let mut stand = Stand::new(Arc::clone(&memory) as _).await;
    fs::write(stand.path("a"), "b").unwrap();
    assert!(matches!(stand.unmount().await, Ended::Published(_)));
    let now: serde_json::Value = serde_json::from_slice(&image(memory.as_ref()).await.raw).unwrap();
    assert!(now.get("mediaType").is_none());
    assert_eq!(now["later"]["kept"], true);
}

/// What was read for its digest.
#[derive(Default)]
struct Read(std::sync::Mutex<Vec<String>>);

impl artifs::ops::Progress for Read {
    fn preparing(&self, name: &str, _size: u64) {
        self.0.lock().unwrap().push(name.to_owned());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_commit_has_published_the_next_one_does_not_read_again() {
    let memory = Arc::new(Memory::new());
    Artifact::new()
        .file("a", "1")
        .folder("d", Folder::new().file("x", 0o644, "x"))
        .tag("v1")
        .push(&*memory, "r");
    let stand = Stand::new(Arc::clone(&memory) as _).await;
    let commit = async || {
        let read = Read::default();
        let done = one(stand.mounted().commit(&CommitOptions::default(), &read).await.unwrap());
        (read.0.into_inner().unwrap(), done)
    };
    fs::write(stand.path("large"), "large").unwrap();
    fs::write(stand.path("d/x"), "edited").unwrap();
    assert_eq!(commit().await.0, ["large"]);
    fs::write(stand.path("small"), "small").unwrap();
    assert_eq!(commit().await.0, ["small"]);
    fs::write(stand.path("large"), "larger").unwrap();
    assert_eq!(commit().await.0, ["large"]);
    let digests: Vec<Digest> =
        layers(memory.as_ref(), "v1").await.into_iter().map(|layer| layer.digest).collect();
    for bytes in ["1", "larger", "small"] {
        assert!(digests.contains(&Digest::of(bytes.as_bytes())), "{bytes}");
    }
    let (none, done) = commit().await;
    assert!(none.is_empty() && !done.changed);
}
