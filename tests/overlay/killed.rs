//! Killed without warning: what was synced is there, and the rest is a state that was.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use artifs::mount::{Mount, is_mounted};
use support::noise;
use support::seen::names;
use support::store::Store;

use crate::stand::options;

const BASE: usize = 1 << 20;
const PLACE: &str = "ARTIFS_TEST_KILLED";

/// Not a test of its own: the mount the others kill.
#[tokio::test(flavor = "multi_thread")]
async fn victim() {
    let Some(folder) = std::env::var_os(PLACE) else { return };
    let store = Store::new();
    store.artifact("v1", &[("base", &noise(BASE))]).await;
    let mount = Mount::start(store.root("v1"), options(Path::new(&folder)), None).await.unwrap();
    mount.ended().await;
}

/// A mount in a process of its own.
struct Victim<'a> {
    process: Child,
    folder: &'a Path,
}

impl<'a> Victim<'a> {
    fn start(folder: &'a Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "killed::victim", "--nocapture"]).env(PLACE, folder);
        command.stdout(std::process::Stdio::null()).process_group(0);
        let process = command.spawn().unwrap();
        let victim = Self { process, folder };
        let begun = Instant::now();
        while !is_mounted(&victim.at()) || fs::metadata(victim.at().join("base")).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(30), "the mount does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        victim
    }

    fn at(&self) -> std::path::PathBuf {
        self.folder.join("mnt")
    }
}

impl Drop for Victim<'_> {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("umount").arg("-l").arg(self.at()).stderr(std::process::Stdio::null()).status();
    }
}

#[test]
fn every_synced_byte_is_there_after_a_kill() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("mnt")).unwrap();
    let mut base = noise(BASE);
    let mut files: Vec<String> = Vec::new();
    let rounds = std::env::var("ARTIFS_TEST_KILLS").map_or(10, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let victim = Victim::start(folder.path());
        let at = victim.at();
        // What the rounds before left.
        for (number, name) in files.iter().enumerate() {
            assert_eq!(fs::read(at.join(name)).unwrap(), noise(1000 * number + 1), "round {round}: {name}");
        }
        assert!(fs::read(at.join("base")).unwrap() == base, "round {round}: the edited file");
        let listed = names(&at).into_iter().filter(|name| name != "base" && !name.starts_with("loose"));
        assert_eq!(listed.count(), files.len(), "round {round}");

        let name = format!("synced-{round:02}");
        let mut file = File::create(at.join(format!("{name}.new"))).unwrap();
        file.write_all(&noise(1000 * round + 1)).unwrap();
        file.sync_all().unwrap();
        fs::rename(at.join(format!("{name}.new")), at.join(&name)).unwrap();
        File::open(&at).unwrap().sync_all().unwrap();
        files.push(name);

        let edited = File::options().write(true).open(at.join("base")).unwrap();
        let place = (round * 77_777) % (BASE - 5000);
        let edit = vec![round as u8; 5000];
        std::os::unix::fs::FileExt::write_all_at(&edited, &edit, place as u64).unwrap();
        edited.sync_data().unwrap();
        base[place..place + 5000].copy_from_slice(&edit);

        // Not synced: may be there or not, whole names only.
        let (loose, over) = (at.clone(), Arc::new(AtomicBool::new(false)));
        let enough = Arc::clone(&over);
        let writer = std::thread::spawn(move || {
            for number in 0.. {
                // With the mount away, it would go on in the folder below.
                if enough.load(Ordering::SeqCst) {
                    return;
                }
                if fs::write(loose.join(format!("loose-{round}-{number}")), b"loose").is_err() {
                    return;
                }
            }
        });
        std::thread::sleep(Duration::from_millis(3 * (round as u64 % 20)));
        drop(victim);
        over.store(true, Ordering::SeqCst);
        writer.join().unwrap();
    }
}
