//! Power cuts: the staging folder is on a disk of its own, an ext4 in a file, that is stopped as xfstests stops one.
//! What was not synced is lost then, for the kernel forgets what it has not written.

use std::fs::{self, File};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::registry::Registry;
use support::seed::{Artifact, Folder};
use tempfile::TempDir;

use crate::home::{Home, Mounted, STUCK, take_away};
use crate::killed::{BASE, BLOCK, Dice, Known};

/// `EXT4_IOC_SHUTDOWN`, and "without writing even the log".
const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
const LOG_NOT_WRITTEN: u32 = 2;

/// A disk that can lose its power.
struct Disk {
    folder: TempDir,
}

impl Disk {
    /// `None`, with a word, where the machine has no loop devices to make one from.
    fn new() -> Option<Self> {
        if !Path::new("/dev/loop-control").exists() {
            eprintln!("SKIPPED: this machine has no loop devices, so no power was cut");
            return None;
        }
        let disk = Self { folder: tempfile::tempdir().unwrap() };
        let image = File::create(disk.image()).unwrap();
        image.set_len(256 << 20).unwrap();
        run(Command::new("mkfs.ext4").arg("-q").arg(disk.image()));
        fs::create_dir(disk.at()).unwrap();
        disk.on();
        Some(disk)
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("image")
    }

    fn at(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn on(&self) {
        run(Command::new("mount").args(["-o", "loop"]).arg(self.image()).arg(self.at()));
    }

    /// From now on nothing reaches the disk.
    fn off(&self) {
        let folder = File::open(self.at()).unwrap();
        let how = LOG_NOT_WRITTEN;
        // SAFETY: the descriptor is open, and the request reads one u32.
        let done = unsafe { libc::ioctl(folder.as_raw_fd(), SHUTDOWN, &raw const how) };
        assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
    }

    /// The power comes back, when nobody uses the disk any more.
    fn restart(&self) {
        let begun = Instant::now();
        while !Command::new("umount").arg(self.at()).output().unwrap().status.success() {
            assert!(begun.elapsed() < STUCK, "somebody still uses the disk");
            std::thread::sleep(Duration::from_millis(10));
        }
        self.on();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        take_away(&self.at());
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A mount of an artifact whose `base` has no zeros.
fn begin(disk: &Disk) -> (Registry, Home) {
    let registry = Registry::start();
    let folder = Folder::new().file("untouched", 0o644, "untouched");
    Artifact::new().file("base", vec![b'.'; BASE]).folder("folder", folder).tag("v1").push(&registry, "r");
    let home = Home::new(format!("{}/r:v1", registry.host())).staging_in(disk.at());
    (registry, home)
}

fn cut(disk: &Disk, home: &Home, mounted: Mounted<'_>) {
    disk.off();
    mounted.kill();
    take_away(&home.at());
    disk.restart();
}

#[test]
fn what_was_synced_is_there_when_the_power_comes_back() {
    for flags in [&[][..], &["--no-passthrough"]] {
        let Some(disk) = Disk::new() else { return };
        let (_registry, home) = begin(&disk);
        let (mut known, mut dice) = (Known::new(), Dice(0x1234_5678_9abc_def1));
        for _ in 0..12 {
            let mounted = home.mount(flags);
            known.compare(&home.at());
            let (at, enough) = (home.at(), AtomicBool::new(false));
            let life = Duration::from_millis(20 + dice.up_to(150));
            std::thread::scope(|scope| {
                let (known, dice, enough, at) = (&mut known, &mut dice, &enough, &at);
                scope.spawn(move || known.work(dice, at, enough, u64::MAX));
                scope.spawn(move || loosely(at, enough));
                std::thread::sleep(life);
                // A sync that is on its way while the disk goes off may be told that it succeeded.
                enough.store(true, Ordering::SeqCst);
                disk.off();
                mounted.kill();
            });
            take_away(&home.at());
            disk.restart();
        }
        let mounted = home.mount(flags);
        known.compare(&home.at());
        home.unmount();
        assert!(mounted.ended().success(), "{}", home.said());
    }
}

/// Writes a lot without syncing.
fn loosely(at: &Path, enough: &AtomicBool) {
    for number in 0_u64.. {
        let path = at.join(format!("loose-{}", number % 7));
        if enough.load(Ordering::SeqCst) || fs::write(path, vec![b'x'; 10_000]).is_err() {
            return;
        }
    }
}

fn sync_another(home: &Home, name: &str) {
    let file = File::create(home.path(name)).unwrap();
    file.write_all_at(name.as_bytes(), 0).unwrap();
    file.sync_all().unwrap();
}

/// An edit nobody synced may be lost, but what was there before is not: not even where somebody else's sync took the
/// names and ranges to the disk.
#[test]
fn an_edit_that_was_not_synced_leaves_the_old_bytes_or_the_new() {
    for flags in [&[][..], &["--no-passthrough"]] {
        let Some(disk) = Disk::new() else { return };
        let (_registry, home) = begin(&disk);
        let mounted = home.mount(flags);
        for (block, with) in [(3, b'a'), (9, b'b')] {
            let edited = File::options().write(true).open(home.path("base")).unwrap();
            edited.write_all_at(&[with; BLOCK], (block * BLOCK) as u64).unwrap();
            drop(edited);
            sync_another(&home, &format!("other-{block}"));
        }
        let edited = File::options().write(true).open(home.path("base")).unwrap();
        edited.write_all_at(&[b'c'; BLOCK], (20 * BLOCK) as u64).unwrap();
        edited.set_len((30 * BLOCK) as u64).unwrap();
        drop(edited);
        sync_another(&home, "last");
        cut(&disk, &home, mounted);

        let mounted = home.mount(flags);
        for name in ["other-3", "other-9", "last"] {
            assert_eq!(fs::read_to_string(home.path(name)).unwrap(), name);
        }
        let found = fs::read(home.path("base")).unwrap();
        assert!([BASE, 30 * BLOCK].contains(&found.len()), "{}", found.len());
        for (block, bytes) in found.chunks(BLOCK).enumerate() {
            let new = match block {
                3 => b'a',
                9 => b'b',
                20 => b'c',
                _ => b'.',
            };
            let whole = |byte: u8| bytes.iter().all(|found| *found == byte);
            assert!(whole(b'.') || whole(new), "block {block} begins with {:?}", &bytes[..4]);
        }
        home.unmount();
        assert!(mounted.ended().success(), "{}", home.said());
    }
}

/// A file that takes another one's place, or is removed, is there as it was or is gone: never empty. The disk may
/// write its own names at any time, as ext4 does every five seconds.
#[test]
fn what_was_replaced_and_not_synced_is_the_old_or_the_new() {
    let Some(disk) = Disk::new() else { return };
    let (_registry, home) = begin(&disk);
    let mounted = home.mount(&[]);
    for name in ["replaced", "removed", "new"] {
        sync_another(&home, name);
    }
    fs::rename(home.path("new"), home.path("replaced")).unwrap();
    fs::remove_file(home.path("removed")).unwrap();
    let folders = walkdir::WalkDir::new(disk.at()).into_iter().flatten();
    for folder in folders.filter(|entry| entry.file_name() == "data") {
        File::open(folder.path()).unwrap().sync_all().unwrap();
    }
    cut(&disk, &home, mounted);

    let mounted = home.mount(&[]);
    let replaced = fs::read_to_string(home.path("replaced")).unwrap();
    assert!(["replaced", "new"].contains(&replaced.as_str()), "{replaced:?}");
    let removed = fs::read_to_string(home.path("removed")).ok();
    assert!(removed.as_deref().is_none_or(|text| text == "removed"), "{removed:?}");
    home.unmount();
    assert!(mounted.ended().success(), "{}", home.said());
}
