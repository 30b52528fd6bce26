//! The README's promises about reading, one test each, through the whole stack: registry, cache, kernel.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use artifs::artifact::View;
use artifs::location::{self, Opened, Settings};
use artifs::mount::{Mount, Options, Root, Verify};
use artifs::oci::Digest;
use support::registry::Registry;
use support::seed::Artifact;
use support::seen::xattr;
use support::{Big, Content};
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

/// How long a program waits at most for a registry that is gone, in these tests.
const DEADLINE: Duration = Duration::from_secs(2);

/// A registry with one artifact of one large file, and a cache.
struct Stand {
    registry: Registry,
    cache: TempDir,
    big: Big,
}

impl Stand {
    fn new(size: u64) -> Self {
        let stand =
            Self { registry: Registry::start(), cache: TempDir::new().unwrap(), big: Big::new(size, 7) };
        stand.push("v1", "big.bin", stand.big.clone());
        stand
    }

    fn push(&self, tag: &str, title: &str, content: impl Into<Content>) {
        Artifact::new().file(title, content).tag(tag).push(&self.registry, "team/model");
    }

    async fn mount(&self) -> Mounted {
        self.mount_with(|_, _| {}).await
    }

    async fn mount_with(&self, change: impl FnOnce(&mut Options, &mut Settings)) -> Mounted {
        let at = TempDir::new().unwrap();
        let reference = format!("{}/team/model:v1", self.registry.host());
        let mut options = Options { deadline: DEADLINE, ..Options::new(at.path(), &reference) };
        let mut settings = Settings { cache_dir: Some(self.cache.path().to_owned()), ..Settings::default() };
        change(&mut options, &mut settings);
        let place = location::parse(&reference, false).unwrap();
        let stack = place.open(&settings).unwrap();
        let Opened::Repository(source) = stack.opened else { panic!("{reference} is one repository") };
        let name = place.name().unwrap().clone();
        let root = Root::Artifact { source, name, view: View::default() };
        let mount = Mount::start(root, options, stack.cache).await.unwrap();
        Mounted { mount: Arc::new(mount), at }
    }

    fn fetched(&self) -> u64 {
        self.registry.blob_bytes()
    }
}

/// Detached when dropped, panics included.
struct Mounted {
    mount: Arc<Mount>,
    at: TempDir,
}

impl Mounted {
    fn path(&self, name: &str) -> PathBuf {
        self.at.path().join(name)
    }
}

/// The digest of a file, read from one end to the other.
fn digest(path: &Path) -> std::io::Result<Digest> {
    let file = std::fs::File::open(path)?;
    let mut hasher = artifs::oci::Hasher::for_algorithm("sha256").unwrap();
    let mut buffer = vec![0; MIB as usize];
    let mut offset = 0;
    loop {
        let count = file.read_at(&mut buffer, offset)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
        offset += count as u64;
    }
}

fn verified(path: &Path) -> String {
    String::from_utf8(xattr(path, "user.oci.verified").unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_1_a_tag_is_pinned_unless_it_is_followed() {
    let stand = Stand::new(MIB);
    stand.push("v1", "a.txt", "old");
    let pinned = stand.mount().await;
    let followed = stand.mount_with(|options, _| options.follow = Some(Duration::from_millis(100))).await;
    let open = std::fs::File::open(followed.path("a.txt")).unwrap();
    stand.push("v1", "a.txt", "newer");

    let read = |mounted: &Mounted| std::fs::read_to_string(mounted.path("a.txt")).unwrap();
    for _ in (0..500).take_while(|_| read(&followed) != "newer") {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(read(&followed), "newer");
    assert_eq!(read(&pinned), "old");
    let mut bytes = [0; 3];
    open.read_exact_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"old", "what is open keeps its bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_only_what_is_touched_is_fetched() {
    let stand = Stand::new(64 * MIB);
    let mounted = stand.mount().await;
    assert_eq!(std::fs::metadata(mounted.path("big.bin")).unwrap().len(), 64 * MIB);
    let before = stand.fetched();
    let file = std::fs::File::open(mounted.path("big.bin")).unwrap();
    let mut part = vec![0; MIB as usize];
    file.read_exact_at(&mut part, 20 * MIB + 4096).unwrap();
    assert!(part == stand.big.read(20 * MIB + 4096..21 * MIB + 4096));
    let cost = stand.fetched() - before;
    assert!((MIB..=2 * MIB + MIB / 2).contains(&cost), "{cost} bytes for 1 MiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_2_every_byte_is_fetched_once_for_readers_mounts_and_processes() {
    let stand = Stand::new(48 * MIB);
    let mounts = [stand.mount().await, stand.mount().await];
    let readers: Vec<_> = (0..8)
        .map(|reader| {
            let path = mounts[reader % 2].path("big.bin");
            std::thread::spawn(move || digest(&path).unwrap())
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().unwrap(), stand.big.digest());
    }
    let fetched = stand.fetched();
    assert!(fetched <= 48 * MIB * 102 / 100, "{fetched} bytes for 48 MiB");

    let again = stand.mount().await;
    assert_eq!(digest(&again.path("big.bin")).unwrap(), stand.big.digest());
    let cat = std::process::Command::new(env!("CARGO_BIN_EXE_artifs"))
        .args(["cat", "--cache-dir"])
        .arg(stand.cache.path())
        .arg(format!("{}/team/model:v1", stand.registry.host()))
        .arg("big.bin")
        .output()
        .unwrap();
    assert!(cat.status.success(), "{}", String::from_utf8_lossy(&cat.stderr));
    assert_eq!(Digest::of(&cat.stdout), stand.big.digest());
    assert!(stand.fetched() - fetched < 64 * 1024, "a second mount and a second process fetch no blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_a_blob_counts_as_verified_once_all_of_it_was_checked() {
    let stand = Stand::new(8 * MIB);
    let mounted = stand.mount().await;
    let path = mounted.path("big.bin");
    assert_eq!(verified(&path), "pending");
    assert_eq!(digest(&path).unwrap(), stand.big.digest());
    for _ in (0..500).take_while(|_| verified(&path) != "blob") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(verified(&path), "blob");
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_3_content_that_does_not_match_its_digest_is_an_error() {
    let stand = Stand::new(8 * MIB);
    let other = Big::new(8 * MIB, 8);
    stand.registry.corrupt_blob("team/model", &stand.big.digest(), other.clone());

    let checked = stand.mount_with(|options, _| options.verify = Verify::Full).await;
    let error = std::fs::File::open(checked.path("big.bin")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO), "not one byte is handed out");
    assert!(checked.mount.status().failures > 0);
    drop(checked);

    // Read lazily, the first pass may end before the digest is known; from then on there are only errors.
    let lazy = stand.mount().await;
    let path = lazy.path("big.bin");
    let mut refused = digest(&path).is_err();
    for _ in 0..500 {
        if refused {
            break;
        }
        assert_eq!(verified(&path), "pending");
        tokio::time::sleep(Duration::from_millis(10)).await;
        let again = stand.mount().await;
        refused = digest(&again.path("big.bin")).is_err();
    }
    assert!(refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_4_a_registry_that_is_gone_costs_an_error_and_what_is_cached_stays() {
    let stand = Stand::new(32 * MIB);
    let mounted = stand.mount().await;
    let file = std::fs::File::open(mounted.path("big.bin")).unwrap();
    let mut first = vec![0; 4096];
    file.read_exact_at(&mut first, 0).unwrap();
    stand.registry.down();

    let since = Instant::now();
    let mut far = [0; 4096];
    let error = file.read_exact_at(&mut far, 31 * MIB).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    // Not a measurement: the difference between a deadline and a hang.
    assert!(since.elapsed() < DEADLINE * 10);
    let mut again = vec![0; 4096];
    file.read_exact_at(&mut again, 0).unwrap();
    assert!(again == first && again == stand.big.read(0..4096));
    assert!(mounted.mount.status().last_failure.is_some());

    stand.registry.up();
    for _ in (0..500).take_while(|_| file.read_exact_at(&mut far, 31 * MIB).is_err()) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(far[..] == stand.big.read(31 * MIB..31 * MIB + 4096));
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_4_offline_asks_no_registry_at_all() {
    let stand = Stand::new(4 * MIB);
    let online = stand.mount().await;
    assert_eq!(digest(&online.path("big.bin")).unwrap(), stand.big.digest());
    for _ in (0..500).take_while(|_| verified(&online.path("big.bin")) != "blob") {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    stand.registry.forget_requests();
    let offline = stand.mount_with(|_, settings| settings.offline = true).await;
    assert_eq!(digest(&offline.path("big.bin")).unwrap(), stand.big.digest());
    assert_eq!(stand.registry.requests().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_9_no_name_leads_outside_the_mount() {
    let stand = Stand::new(MIB);
    let hostile =
        ["../../escape.txt", "/etc/absolute.txt", "a/../../b/up.txt", "dot/./plain.txt", "..", "nul\0byte"];
    let mut artifact = Artifact::new();
    for title in hostile {
        artifact = artifact.file(title, title.to_owned());
    }
    artifact.tag("v1").push(&stand.registry, "team/model");
    let mounted = stand.mount().await;
    let root = mounted.at.path().canonicalize().unwrap();
    let mut files = 0;
    for entry in walkdir::WalkDir::new(&root) {
        let entry = entry.unwrap();
        assert!(entry.path().canonicalize().unwrap().starts_with(&root));
        if entry.file_type().is_file() {
            assert!(hostile.contains(&std::fs::read_to_string(entry.path()).unwrap().as_str()));
            files += 1;
        }
    }
    assert!(files > 0);
    assert!(!root.parent().unwrap().join("escape.txt").exists());
    assert!(!Path::new("/etc/absolute.txt").exists());
}
