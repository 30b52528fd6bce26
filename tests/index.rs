//! One platform of an index, changed through the kernel: the index around it stays what it was.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use artifs::ErrorKind;
use artifs::artifact::{self, View};
use artifs::mount::{CommitOptions, Committed, Ended, Mount, Options, PARENT, Root, works};
use artifs::oci::reference::Host;
use artifs::oci::{Descriptor, Digest, Manifest, Name, media_type};
use artifs::ops::push::SETTLE;
use artifs::ops::{PullOptions, pull};
use artifs::registry::{self, Settings};
use artifs::store::{Layout, Memory, Source as _, SourceExt as _, Target};
use bytes::Bytes;
use serde_json::{Value, json};
use support::registry::{Endpoint, Registry};
use support::seed::{Artifact, Destination, Index};
use tempfile::TempDir;

/// A writable mount of `r:v1` as it is for one platform, gone when dropped.
struct Stand {
    target: Arc<dyn Target>,
    folder: TempDir,
    mount: Option<Mount>,
}

impl Stand {
    async fn new(target: Arc<dyn Target>) -> Self {
        let mut stand = Self::without_mount(target);
        stand.mount("linux/amd64").await.unwrap();
        stand
    }

    fn without_mount(target: Arc<dyn Target>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        Self { target, folder, mount: None }
    }

    async fn mount(&mut self, platform: &str) -> artifs::Result<()> {
        let mut options = Options::new(self.path(""), "test.example/r:v1");
        options.deadline = Duration::from_secs(5);
        options.staging = Some(self.staging());
        let source = Arc::clone(&self.target) as _;
        let root = Root::Artifact { source, name: name("v1"), view: view(platform) };
        let mount = Mount::start(root, options, None).await?;
        mount.publish_to(Arc::clone(&self.target));
        self.mount = Some(mount);
        Ok(())
    }

    async fn unmount(&mut self) -> Ended {
        let mount = self.mount.take().unwrap();
        mount.stop().await.unwrap();
        mount.ended().await
    }

    async fn published(&mut self) -> Committed {
        match self.unmount().await {
            Ended::Published(done) => one(done),
            other => panic!("not published: {other:?}"),
        }
    }

    async fn commit(&self, options: &CommitOptions) -> artifs::Result<Committed> {
        self.mount.as_ref().unwrap().commit(options, &()).await.map(one)
    }

    fn edit(&self, text: &str) {
        fs::write(self.path("program"), text).unwrap();
    }

    fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join("mnt").join(name)
    }

    async fn digest(&self, tag: &str) -> Digest {
        self.target.resolve(&name(tag)).await.unwrap().digest
    }

    /// The index a tag points at, as it is written.
    async fn index(&self, tag: &str) -> Value {
        let (_, manifest) = self.target.fetch_manifest(&name(tag)).await.unwrap();
        assert!(matches!(manifest, Manifest::Index(_)), "{tag} is no index");
        serde_json::from_slice(manifest.raw()).unwrap()
    }

    /// What a pull for a platform gives as `program`.
    async fn pulled(&self, tag: &str, platform: &str) -> String {
        let out = tempfile::tempdir().unwrap();
        let source = Arc::clone(&self.target) as _;
        let opened = artifact::open(source, &name(tag), "r", &view(platform)).await.unwrap();
        pull(&opened, out.path(), &PullOptions::default(), &()).await.unwrap();
        fs::read_to_string(out.path().join("program")).unwrap()
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn view(platform: &str) -> View {
    View { platform: Some(platform.parse().unwrap()), ..View::default() }
}

fn one(mut done: Vec<Committed>) -> Committed {
    assert_eq!(done.len(), 1, "{done:?}");
    done.remove(0)
}

fn repository(host: &Host) -> Arc<registry::Repository> {
    let settings = Settings {
        plain_http: Some(true),
        registry_configs: vec!["/nonexistent/config.json".into()],
        deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    Arc::new(registry::Registry::new(host, &settings).unwrap().repository("r").unwrap())
}

fn program(platform: &str) -> Artifact {
    Artifact::new().file("program", format!("for {platform}")).file("readme", "read me")
}

/// What says how another manifest was built, as Buildx lists it.
fn attestation(to: &impl Destination, subject: &Descriptor) -> Descriptor {
    let about = subject.digest.to_string();
    let mut entry = Artifact::new().file("provenance", about.clone()).push(to, "r");
    entry.annotations.insert("vnd.docker.reference.digest".into(), about);
    entry.annotations.insert("vnd.docker.reference.type".into(), "attestation-manifest".into());
    entry.platform = Some("unknown/unknown".parse().unwrap());
    entry
}

/// Two platforms with an attestation each, written as nobody here would write it: indented, without a type of its own,
/// with fields of others.
fn seed(to: &impl Destination) -> (Value, Descriptor) {
    let (amd, arm) = (program("amd64").push(to, "r"), program("arm64").push(to, "r"));
    let entries = [
        (amd.clone(), json!({"os": "linux", "os.features": ["x"], "architecture": "amd64"})),
        (attestation(to, &amd), json!({"os": "unknown", "architecture": "unknown"})),
        (arm.clone(), json!({"architecture": "arm64", "os": "linux"})),
        (attestation(to, &arm), json!({"os": "unknown", "architecture": "unknown"})),
    ];
    let entries = entries.into_iter().map(|(entry, platform)| {
        json!({
            "platform": platform, "size": entry.size, "from": "elsewhere", "digest": entry.digest,
            "annotations": entry.annotations, "mediaType": entry.media_type,
        })
    });
    let index = json!({
        "annotations": {"kept": "yes <&>"}, "manifests": entries.collect::<Vec<_>>(), "schemaVersion": 2, "new": 1,
    });
    let bytes = Bytes::from(serde_json::to_string_pretty(&index).unwrap());
    let descriptor = Descriptor::of(media_type::IMAGE_INDEX, &bytes);
    to.manifest("r", &descriptor, &bytes, Some("v1"));
    (index, descriptor)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_platform_changes_and_nothing_else_does() {
    let registry = Registry::start();
    let (mut wanted, before) = seed(&registry);
    let mut stand = Stand::new(repository(&registry.host())).await;
    assert_eq!(fs::read_to_string(stand.path("program")).unwrap(), "for amd64");
    stand.edit("edited");
    registry.forget_requests();
    let done = stand.published().await;

    let child: Digest = {
        let after = stand.index("v1").await;
        after["manifests"][0]["digest"].as_str().unwrap().parse().unwrap()
    };
    let old = wanted["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let (found, manifest) = stand.target.fetch_manifest(&Name::Digest(child.clone())).await.unwrap();
    assert_eq!(manifest.annotations()[PARENT], old);
    wanted["manifests"][0]["digest"] = json!(child);
    wanted["manifests"][0]["size"] = json!(found.size);
    let gone = wanted["manifests"].as_array_mut().unwrap().remove(1);
    let after = registry.manifest_at("r", "v1").unwrap();
    assert_eq!(String::from_utf8_lossy(&after), serde_json::to_string_pretty(&wanted).unwrap());

    assert_eq!(done.digest, Digest::of(&after).to_string());
    assert_eq!(done.parent, Some(before.digest.to_string()));
    assert_eq!(done.left_out.len(), 1, "{:?}", done.left_out);
    assert!(done.left_out[0].contains(gone["digest"].as_str().unwrap()), "{:?}", done.left_out);
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "edited");
    assert_eq!(stand.pulled("v1", "linux/arm64").await, "for arm64");
    assert!(works(&stand.staging()).unwrap().is_empty(), "what is published is staged no more");

    // One blob, then the manifest by its digest, then the index under the tag.
    let puts: Vec<_> = registry.requests().into_iter().filter(|request| request.method == "PUT").collect();
    let ends = |at: usize, end: &str| puts[at].path.ends_with(end);
    assert_eq!(puts.len(), 3, "{puts:?}");
    assert_eq!(puts[0].endpoint, Endpoint::Upload);
    assert!(ends(1, child.as_str()) && ends(2, "/manifests/v1"), "{puts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_follow_each_other_also_over_a_kill() {
    let registry = Registry::start();
    let (_, before) = seed(&registry);
    let mut stand = Stand::new(repository(&registry.host())).await;
    stand.edit("first");
    let first = stand.commit(&CommitOptions::default()).await.unwrap();
    assert_eq!(first.parent, Some(before.digest.to_string()));
    let again = stand.commit(&CommitOptions::default()).await.unwrap();
    assert!(!again.changed && again.digest == first.digest, "{again:?}");
    stand.edit("second");
    let second = stand.commit(&CommitOptions::default()).await.unwrap();
    assert_eq!((second.parent, &second.left_out), (Some(first.digest.clone()), &Vec::new()));

    stand.edit("third");
    registry.down();
    assert!(matches!(stand.unmount().await, Ended::Staged { .. }));
    registry.up();
    // Work that is staged goes on where it was begun, whatever platform is asked for now.
    stand.mount("linux/arm64").await.unwrap();
    assert_eq!(fs::read_to_string(stand.path("program")).unwrap(), "third");
    let third = stand.published().await;
    assert_eq!(third.parent, Some(second.digest.clone()));
    assert_eq!(stand.digest("v1").await.to_string(), third.digest);
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "third");
    assert_eq!(stand.pulled("v1", "linux/arm64").await, "for arm64");

    // The manifests of the platform are a chain of their own.
    let child = |index: &Value| index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let now = stand.target.fetch_manifest(&name(&child(&stand.index("v1").await))).await.unwrap().1;
    let last = stand.target.fetch_manifest(&name(&second.digest)).await.unwrap().1;
    assert_eq!(now.annotations()[PARENT], child(&serde_json::from_slice(last.raw()).unwrap()));

    // A new mount builds on what is there now.
    stand.mount("linux/arm64").await.unwrap();
    stand.edit("fourth");
    assert_eq!(stand.published().await.parent, Some(third.digest));
    assert_eq!(stand.pulled("v1", "linux/arm64").await, "fourth");
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "third");
}

/// This one looks whether everything an index lists is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_registry_takes_it() {
    let Some(registry) = support::server::Server::distribution() else { return };
    let index = Index::new().image("linux/amd64", program("amd64")).image("linux/arm64", program("arm64"));
    let before = index.tag("v1").push(&registry, "r");
    let mut stand = Stand::new(repository(&registry.host())).await;
    stand.edit("edited");
    assert_eq!(stand.published().await.parent, Some(before.digest.to_string()));
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "edited");
    assert_eq!(stand.pulled("v1", "linux/arm64").await, "for arm64");
}

/// Killed after the tag was put and before that was written down.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_and_not_written_down_is_known_again() {
    let registry = Registry::start();
    seed(&registry);
    let mut stand = Stand::new(repository(&registry.host())).await;
    stand.edit("first");
    let first = stand.commit(&CommitOptions::default()).await.unwrap();
    stand.edit("second");
    registry.down();
    assert!(matches!(stand.unmount().await, Ended::Staged { .. }));
    registry.up();
    let notes = walkdir::WalkDir::new(stand.staging()).into_iter().map(Result::unwrap);
    let notes: Vec<_> = notes.filter(|entry| entry.file_name() == "publication.json").collect();
    assert_eq!(notes.len(), 1);
    let note: Value = serde_json::from_slice(&fs::read(notes[0].path()).unwrap()).unwrap();
    let before = json!({"": {"attempt": note[""]["published"]}});
    assert!(before[""]["attempt"].is_object(), "{note}");
    fs::write(notes[0].path(), before.to_string()).unwrap();
    stand.mount("linux/amd64").await.unwrap();
    assert_eq!(stand.published().await.parent, Some(first.digest));
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "second");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_publishes_nothing_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::create(folder.path().join("layout")).unwrap());
    let memory = Arc::new(Memory::new());
    for (target, before) in [
        (Arc::clone(&layout) as Arc<dyn Target>, seed(layout.as_ref()).1),
        (Arc::clone(&memory) as _, seed(memory.as_ref()).1),
    ] {
        let mut stand = Stand::new(Arc::clone(&target)).await;
        stand.edit("mine");
        // Somebody else changes the other platform.
        let mut other = Stand::without_mount(Arc::clone(&target));
        other.mount("linux/arm64").await.unwrap();
        other.edit("theirs");
        let theirs = other.published().await.digest;
        let Ended::Staged { why, conflict, .. } = stand.unmount().await else { panic!("published") };
        assert!(conflict && why.contains(before.digest.as_str()) && why.contains(&theirs), "{why}");
        assert_eq!(stand.digest("v1").await.to_string(), theirs);
        assert_eq!(stand.pulled("v1", "linux/arm64").await, "theirs");

        stand.mount("linux/amd64").await.unwrap();
        let beside = CommitOptions { tags: vec!["mine".into()], ..CommitOptions::default() };
        let done = stand.commit(&beside).await.unwrap();
        assert_eq!(stand.digest("mine").await.to_string(), done.digest);
        assert_eq!(stand.pulled("mine", "linux/amd64").await, "mine");
        assert_eq!(stand.pulled("mine", "linux/arm64").await, "for arm64");
        assert_eq!(stand.digest("v1").await.to_string(), theirs);
        // Without a change more names are more names of the index.
        let more = CommitOptions { tags: vec!["more".into()], ..CommitOptions::default() };
        for _ in 0..2 {
            assert_eq!(stand.commit(&more).await.unwrap().digest, done.digest);
        }
        assert_eq!(stand.digest("more").await.to_string(), done.digest);
        // A tag that is where this work comes from is moved.
        stand.edit("more");
        let done = stand.commit(&more).await.unwrap();
        assert_eq!(stand.digest("more").await.to_string(), done.digest);
        stand.edit("mine again");
        let forced = CommitOptions { force: true, ..CommitOptions::default() };
        let done = stand.commit(&forced).await.unwrap();
        assert_eq!(stand.digest("v1").await.to_string(), done.digest);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_race_finds_the_index_under_a_tag_of_its_own() {
    let registry = Registry::start();
    seed(&registry);
    let winner = program("winner").push(&registry, "r");
    let stand = Stand::new(repository(&registry.host())).await;
    stand.edit("loser");
    let racing = tokio::spawn({
        let target = repository(&registry.host());
        async move {
            // Their tag comes after ours, before we look for the last time.
            while target.resolve(&name("v1")).await.unwrap().digest == seed(&Memory::new()).1.digest {
                tokio::time::sleep(SETTLE / 20).await;
            }
            target.tag(&winner, &"v1".parse().unwrap()).await.unwrap();
        }
    });
    let error = stand.commit(&CommitOptions::default()).await.unwrap_err();
    racing.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    let tags = stand.target.tags().await.unwrap();
    let kept = tags.iter().find(|tag| tag.as_str().starts_with("v1-")).expect("a tag of its own");
    assert!(error.to_string().contains(kept.as_str()), "{error}");
    assert_eq!(stand.pulled(kept.as_str(), "linux/amd64").await, "loser");
    assert_eq!(stand.pulled(kept.as_str(), "linux/arm64").await, "for arm64");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_tree_is_the_same_index() {
    let options = CommitOptions { created: Some(1_600_000_000), ..CommitOptions::default() };
    let mut digests = Vec::new();
    for way in 0..2 {
        let memory = Arc::new(Memory::new());
        let (_, before) = seed(memory.as_ref());
        let stand = Stand::new(memory).await;
        if way == 1 {
            fs::write(stand.path("passing"), "by").unwrap();
            fs::remove_file(stand.path("passing")).unwrap();
        }
        stand.edit("edited");
        let dry = CommitOptions { dry_run: true, ..options.clone() };
        let told = stand.commit(&dry).await.unwrap();
        assert_eq!(stand.digest("v1").await, before.digest);
        let done = stand.commit(&options).await.unwrap();
        assert_eq!((told.digest, told.left_out), (done.digest.clone(), done.left_out));
        digests.push(done.digest);
    }
    assert_eq!(digests[0], digests[1]);
}

/// Platforms may share a manifest: who changes one changes one.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_two_platforms_share_is_changed_for_one() {
    let memory = Arc::new(Memory::new());
    let both = program("both").kind("a/b");
    let index = Index::new().kind("c/d").image("linux/arm64", both.clone()).image("linux/amd64", both);
    index.tag("v1").push(memory.as_ref(), "r");
    let mut stand = Stand::new(memory).await;
    stand.edit("edited");
    let kind = CommitOptions { artifact_type: Some("e/f".into()), ..CommitOptions::default() };
    stand.commit(&kind).await.unwrap();
    let index = stand.index("v1").await;
    let kinds: Vec<&Value> = (0..2).map(|at| &index["manifests"][at]["artifactType"]).collect();
    assert_eq!((&index["artifactType"], kinds), (&json!("c/d"), vec![&json!("a/b"), &json!("e/f")]));
    // What was said of it once is said of it on.
    stand.edit("edited again");
    stand.published().await;
    assert_eq!(stand.index("v1").await["manifests"][1]["artifactType"], "e/f");
    assert_eq!(stand.pulled("v1", "linux/arm64").await, "for both");
    assert_eq!(stand.pulled("v1", "linux/amd64").await, "edited again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_one_manifest_of_an_index_is_refused() {
    let registry = Registry::start();
    let inner = Index::new().image("linux/amd64", program("amd64")).image("linux/arm64", program("arm64"));
    let mut inner = inner.push(&registry, "r");
    inner.platform = Some("linux/amd64".parse().unwrap());
    Index::new().entry(inner).tag("v1").push(&registry, "r");
    let mut stand = Stand::without_mount(repository(&registry.host()));
    // The second time it is known that something was begun here.
    for _ in 0..2 {
        let error = stand.mount("linux/amd64").await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unsupported && error.to_string().contains("index of indexes"),
            "{error}"
        );
    }
    let folders = Index::new().child(program("one")).child(program("two")).tag("v1").push(&registry, "r");
    let mut stand = Stand::without_mount(repository(&registry.host()));
    let mut options = Options::new(stand.path(""), "test.example/r:v1");
    options.staging = Some(stand.staging());
    let source = Arc::clone(&stand.target) as _;
    let root = Root::Artifact { source, name: name("v1"), view: View::default() };
    let error = Mount::start(root, options, None).await.err().unwrap();
    assert!(
        error.kind() == ErrorKind::Unsupported && error.to_string().contains("it is an index;"),
        "{error}"
    );
    assert_eq!(stand.digest("v1").await, folders.digest);
    stand.mount = None;
}
