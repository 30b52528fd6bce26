//! Killed at any moment, also while it publishes: what was synced is there, what is published is whole, nothing is
//! stuck.
//!
//! Several lanes at once, each with a repository of its own, in rounds: mount, compare with what is known, work until
//! the kill, take the dead mount away. `ARTIFS_TEST_KILLS` is how many rounds there are in all.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use artifs::mount::is_mounted;
use artifs::oci::{Descriptor, Digest};
use bytes::Bytes;
use support::http::Client;
use support::registry::Registry;
use support::seed::{Artifact, Folder};
use support::server::Server;

use crate::home::Home;

const LANES: usize = 4;
pub(crate) const BLOCK: usize = 4096;
pub(crate) const BASE: usize = 64 * BLOCK;
const TITLE: &str = "org.opencontainers.image.title";

/// Where the random decisions of one lane come from.
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn up_to(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// What the file of a number holds: anybody can tell whether it is all of it.
fn content(number: u64) -> Vec<u8> {
    let line = format!("this is file number {number}\n");
    line.bytes().cycle().take(1 + (number as usize * 7919) % 20_000).collect()
}

fn named(number: u64) -> String {
    format!("whole-{number}")
}

/// What must be in the mount.
pub(crate) struct Known {
    /// Synced files by number, and those whose removal was synced.
    files: BTreeMap<u64, bool>,
    /// The file of the base that is edited in place.
    base: Vec<u8>,
    /// Lines appended to a file.
    lines: u64,
    /// What was begun and not heard of again: may have happened or not.
    open: Option<Step>,
    next: u64,
}

/// Something that is either done and synced, or not heard of again.
#[derive(Clone, Debug)]
enum Step {
    Add(u64),
    Remove(u64),
    Edit { block: usize, with: u8 },
    Append(u64),
}

impl Known {
    pub(crate) fn new() -> Self {
        Self { files: BTreeMap::new(), base: vec![b'.'; BASE], lines: 0, open: None, next: 0 }
    }

    /// One random step.
    fn choose(&mut self, dice: &mut Dice) -> Step {
        let there: Vec<u64> = self.files.iter().filter(|(_, there)| **there).map(|(n, _)| *n).collect();
        match dice.up_to(8) {
            0 | 1 => Step::Edit { block: dice.up_to(64) as usize, with: b'a' + dice.up_to(26) as u8 },
            2 | 3 => Step::Append(self.lines),
            4 if there.len() > 5 => Step::Remove(there[dice.up_to(there.len() as u64) as usize]),
            _ => {
                self.next += 1;
                Step::Add(self.next)
            }
        }
    }

    fn done(&mut self, step: &Step) {
        match step {
            Step::Add(number) => drop(self.files.insert(*number, true)),
            Step::Remove(number) => drop(self.files.insert(*number, false)),
            Step::Edit { block, with } => self.base[block * BLOCK..(block + 1) * BLOCK].fill(*with),
            Step::Append(_) => self.lines += 1,
        }
    }

    /// Works in the mount until it is gone or `enough` says so, so many steps at most. A step that ends after that
    /// was said counts as not heard of.
    pub(crate) fn work(
        &mut self,
        dice: &mut Dice,
        at: &Path,
        enough: &AtomicBool,
        most: u64,
    ) -> io::Result<()> {
        for _ in 0..most {
            if enough.load(Ordering::SeqCst) {
                break;
            }
            let step = self.choose(dice);
            let taken = take(&step, at);
            if taken.is_err() || enough.load(Ordering::SeqCst) {
                self.open = Some(step);
                return taken;
            }
            self.done(&step);
        }
        Ok(())
    }

    /// Compares with a mount, and learns what became of the step that was not heard of again.
    pub(crate) fn compare(&mut self, at: &Path) {
        let open = self.open.take();
        if let Some(step) = &open {
            let happened = match step {
                Step::Add(number) => at.join(named(*number)).exists(),
                Step::Remove(number) => !at.join(named(*number)).exists(),
                Step::Edit { block, with } => {
                    fs::read(at.join("base")).unwrap().get(block * BLOCK) == Some(with)
                }
                Step::Append(line) => fs::read(at.join("lines")).is_ok_and(|found| found == lines(line + 1)),
            };
            if happened {
                self.done(step);
            }
        }
        for (number, there) in &self.files {
            let (name, wanted) = (named(*number), content(*number));
            match fs::read(at.join(&name)) {
                Ok(_) if !there => panic!("{name} was removed; last was {open:?}"),
                Ok(found) => assert!(
                    found == wanted,
                    "{name} is another, {} bytes of {}; last was {open:?}",
                    found.len(),
                    wanted.len()
                ),
                Err(error) => assert!(!there, "{name} was synced: {error}; last was {open:?}"),
            }
        }
        assert!(
            fs::read(at.join("base")).unwrap() == self.base,
            "the file that is edited in place; last was {open:?}"
        );
        let found = fs::read(at.join("lines")).unwrap_or_default();
        assert_eq!(String::from_utf8(found).unwrap(), String::from_utf8(lines(self.lines)).unwrap());
        assert_eq!(fs::read_to_string(at.join("folder/untouched")).unwrap(), "untouched");
    }
}

fn lines(count: u64) -> Vec<u8> {
    (0..count).flat_map(|number| format!("line {number}\n").into_bytes()).collect()
}

/// Does `step`, and returns when it is on disk.
fn take(step: &Step, at: &Path) -> io::Result<()> {
    let folder = || File::open(at)?.sync_all();
    match step {
        Step::Add(number) => {
            let (new, name) = (at.join(format!("half-{number}")), at.join(named(*number)));
            let mut file = File::create(&new)?;
            let bytes = content(*number);
            let (first, second) = bytes.split_at(bytes.len() / 2);
            file.write_all(first)?;
            file.write_all(second)?;
            file.sync_all()?;
            fs::rename(new, name)?;
            folder()
        }
        Step::Remove(number) => {
            fs::remove_file(at.join(named(*number)))?;
            folder()
        }
        Step::Edit { block, with } => {
            let file = File::options().write(true).open(at.join("base"))?;
            file.write_all_at(&[*with; BLOCK], (block * BLOCK) as u64)?;
            file.sync_data()
        }
        Step::Append(line) => {
            let mut file = File::options().append(true).create(true).open(at.join("lines"))?;
            file.write_all(format!("line {line}\n").as_bytes())?;
            file.sync_all()?;
            folder()
        }
    }
}

/// The registry of a lane.
enum Place {
    Ours(Registry),
    Distribution(Server),
}

impl Place {
    fn client(&self) -> Client {
        match self {
            Self::Ours(registry) => Client::new(registry.host()),
            Self::Distribution(registry) => registry.client(),
        }
    }

    fn host(&self) -> String {
        match self {
            Self::Ours(registry) => registry.host().to_string(),
            Self::Distribution(registry) => registry.host().to_string(),
        }
    }

    fn seed(&self, artifact: &Artifact) -> Descriptor {
        match self {
            Self::Ours(registry) => artifact.push(registry, "r"),
            Self::Distribution(registry) => artifact.push(registry, "r"),
        }
    }

    fn get(&self, what: &str) -> Bytes {
        let accept = [("accept", "application/vnd.oci.image.manifest.v1+json")];
        let got = self.client().request("GET", &format!("/v2/r/{what}"), &accept, &"".into()).unwrap();
        assert_eq!(got.status, 200, "{what}");
        got.body
    }

    /// Every manifest there is: of a registry of ours also those without a tag.
    fn manifests(&self) -> Vec<Bytes> {
        match self {
            Self::Ours(registry) => registry.manifests("r"),
            Self::Distribution(_) => {
                let tags: serde_json::Value = serde_json::from_slice(&self.get("tags/list")).unwrap();
                let tags = tags["tags"].as_array().unwrap().iter();
                tags.map(|tag| self.get(&format!("manifests/{}", tag.as_str().unwrap()))).collect()
            }
        }
    }
}

/// One lane: a repository, a home, what is known.
struct Lane {
    place: Place,
    home: Home,
    known: Known,
    dice: Dice,
    /// Blobs that were looked at.
    seen: HashSet<Digest>,
    flags: &'static [&'static str],
    published: usize,
}

impl Lane {
    fn new(number: usize, place: Place) -> Self {
        let folder = Folder::new().file("untouched", 0o644, "untouched").file("sub/more", 0o644, "more");
        let artifact = Artifact::new().file("base", vec![b'.'; BASE]).folder("folder", folder).tag("v1");
        place.seed(&artifact);
        let home = Home::new(format!("{}/r:v1", place.host()));
        let flags: &[&str] = if number.is_multiple_of(2) { &[] } else { &["--no-passthrough"] };
        let dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (number as u64 + 1));
        Self { place, home, known: Known::new(), dice, seen: HashSet::new(), flags, published: 0 }
    }

    /// Everything published is whole; a file that was renamed into place is published whole or not at all.
    fn check_published(&mut self) {
        let manifests = self.place.manifests();
        for bytes in manifests {
            if !self.seen.insert(Digest::of(&bytes)) {
                continue;
            }
            self.published += 1;
            let manifest: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            let layers = manifest["layers"].as_array().unwrap();
            for part in layers.iter().chain([&manifest["config"]]) {
                let digest: Digest = part["digest"].as_str().unwrap().parse().unwrap();
                if self.seen.insert(digest.clone()) {
                    assert!(digest.matches(&self.place.get(&format!("blobs/{digest}"))), "{digest}");
                }
                let title = part["annotations"][TITLE].as_str().unwrap_or_default();
                if let Some(number) = title.strip_prefix("whole-") {
                    assert_eq!(digest, Digest::of(&content(number.parse().unwrap())), "{title}");
                }
            }
        }
    }

    /// A round that ends with a kill.
    fn round(&mut self, round: usize) {
        let Self { home, known, dice, flags, .. } = self;
        let mounted = home.mount(flags);
        known.compare(&home.at());
        let at = home.at();
        let (life, enough) = (Duration::from_millis(dice.up_to(150)), AtomicBool::new(false));
        let (pause, way) = (Duration::from_millis(dice.up_to(60)), dice.up_to(3));
        let others = std::thread::scope(|scope| {
            let (enough, at, home) = (&enough, &at, &*home);
            // What is published while somebody writes is refused most of the time; so mostly nobody does.
            let most = if way == 0 { u64::MAX } else { dice.up_to(12) };
            let worker = scope.spawn(move || known.work(dice, at, enough, most));
            let loose = (way == 0).then(|| scope.spawn(|| loosely(at, round, enough)));
            let others = scope.spawn(move || {
                if way == 0 {
                    std::thread::sleep(pause);
                    return home.run(&["commit", "mnt"]);
                }
                // It ends with the mount.
                let _ = worker.join().unwrap();
                home.run(&[if way == 1 { "commit" } else { "unmount" }, "mnt"])
            });
            std::thread::sleep(life);
            mounted.kill();
            drop(loose);
            others.join().unwrap()
        });
        expect_no_stranger(&others);
        if is_mounted(&home.at()) {
            home.unmount();
        }
        assert!(!is_mounted(&home.at()));
        self.check_published();
    }

    /// A round that ends as it should: then what is known is what is published.
    fn good_round(&mut self) {
        let Self { home, known, dice, flags, .. } = self;
        let mounted = home.mount(flags);
        known.compare(&home.at());
        let enough = AtomicBool::new(false);
        let worked = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(50));
                enough.store(true, Ordering::SeqCst);
            });
            known.work(dice, &home.at(), &enough, u64::MAX)
        });
        assert!(worked.is_ok(), "{worked:?}: {}", home.said());
        home.unmount();
        assert!(mounted.ended().success(), "{}", home.said());
        assert_eq!(home.works(&["recover"]), "");
        let pulled = home.folder().join("pulled");
        let _ = fs::remove_dir_all(&pulled);
        home.works(&["pull", "--plain-http", home.reference(), "-o", "pulled"]);
        known.compare(&pulled);
        self.check_published();
    }
}

/// Writes without syncing, so that there is more than what is known.
fn loosely(at: &Path, round: usize, enough: &AtomicBool) {
    for number in 0.. {
        let path: PathBuf = at.join(format!("loose-{}", number % 7));
        if enough.load(Ordering::SeqCst) || fs::write(path, format!("{round} {number}")).is_err() {
            return;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// A commit that fails because its mount was killed is to be expected; nobody else is there to move the tag.
fn expect_no_stranger(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("somebody else"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn whenever_it_is_killed_nothing_synced_is_lost_and_nothing_half_published() {
    let kills: usize = std::env::var("ARTIFS_TEST_KILLS").map_or(200, |kills| kills.parse().unwrap());
    std::thread::scope(|scope| {
        let lanes = (0..LANES).map(|number| {
            scope.spawn(move || {
                let place = match number {
                    0 => Server::distribution().map(Place::Distribution),
                    _ => Some(Place::Ours(Registry::start())),
                };
                let Some(place) = place else { return };
                let mut lane = Lane::new(number, place);
                for round in 0..kills / LANES {
                    if round % 10 == 9 {
                        lane.good_round();
                    }
                    lane.round(round);
                }
                lane.good_round();
                assert!(lane.published > kills / LANES / 10, "only {} were published", lane.published);
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            lane.join().unwrap();
        }
    });
}
