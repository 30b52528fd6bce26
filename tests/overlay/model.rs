//! Random operations, on a mount and on a plain folder: no difference.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{CWD, RenameFlags};
use support::noise;

use crate::stand::Stand;

/// What both are made of at first.
fn base() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("a", noise(10_000)),
        ("b", Vec::new()),
        ("d/a", noise(5000)),
        ("d/e/b", noise(70_000)),
        ("d/e/c", noise(1)),
    ]
}

#[derive(Clone, Debug)]
enum Operation {
    Write { path: String, at: u64, length: usize, byte: u8 },
    Append { path: String, length: usize, byte: u8 },
    Replace { path: String, length: usize, byte: u8 },
    Resize { path: String, to: u64 },
    Remove { path: String },
    MakeFolder { path: String },
    RemoveFolder { path: String },
    Rename { from: String, to: String, flags: u8 },
    Link { from: String, to: String },
    Symlink { to: String, path: String },
    Copy { from: String, to: String },
    CopyPart { from: String, to: String, at: u64, to_at: u64, length: usize },
    Mode { path: String, mode: u32 },
    Time { path: String, seconds: i64 },
    Remount,
}

/// Few names, so that operations meet.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d", "e"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        4 => (path(), 0_u64..80_000, 0_usize..20_000, any::<u8>())
            .prop_map(|(path, at, length, byte)| Write { path, at, length, byte }),
        2 => (path(), 0_usize..5000, any::<u8>()).prop_map(|(path, length, byte)| Append { path, length, byte }),
        2 => (path(), 0_usize..5000, any::<u8>()).prop_map(|(path, length, byte)| Replace { path, length, byte }),
        2 => (path(), 0_u64..80_000).prop_map(|(path, to)| Resize { path, to }),
        2 => path().prop_map(|path| Remove { path }),
        3 => path().prop_map(|path| MakeFolder { path }),
        1 => path().prop_map(|path| RemoveFolder { path }),
        4 => (path(), path(), 0_u8..3).prop_map(|(from, to, flags)| Rename { from, to, flags }),
        2 => (path(), path()).prop_map(|(from, to)| Link { from, to }),
        1 => (path(), path()).prop_map(|(to, path)| Symlink { to, path }),
        3 => (path(), path()).prop_map(|(from, to)| Copy { from, to }),
        2 => (path(), path(), 0_u64..60_000, prop_oneof![4 => Just(0_u64), 1 => 1_u64..9000], 0_usize..60_000)
            .prop_map(|(from, to, at, off, length)| CopyPart { from, to, at, to_at: at + off, length }),
        1 => (path(), 0_u32..0o1000).prop_map(|(path, mode)| Mode { path, mode }),
        1 => (path(), 0_i64..1 << 31).prop_map(|(path, seconds)| Time { path, seconds }),
        1 => Just(Remount),
    ]
}

fn perform(root: &Path, operation: &Operation) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    let bytes = |length: usize, byte: u8| vec![byte; length];
    match operation {
        Operation::Write { path, at: offset, length, byte } => {
            let file = File::options().write(true).create(true).truncate(false).open(at(path))?;
            file.write_all_at(&bytes(*length, *byte), *offset)
        }
        Operation::Append { path, length, byte } => {
            File::options().append(true).open(at(path))?.write_all(&bytes(*length, *byte))
        }
        Operation::Replace { path, length, byte } => fs::write(at(path), bytes(*length, *byte)),
        Operation::Resize { path, to } => File::options().write(true).open(at(path))?.set_len(*to),
        Operation::Remove { path } => fs::remove_file(at(path)),
        Operation::MakeFolder { path } => fs::create_dir(at(path)),
        Operation::RemoveFolder { path } => fs::remove_dir(at(path)),
        Operation::Rename { from, to, flags } => {
            let flags = match flags {
                0 => RenameFlags::empty(),
                1 => RenameFlags::NOREPLACE,
                _ => RenameFlags::EXCHANGE,
            };
            Ok(rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags)?)
        }
        Operation::Link { from, to } => fs::hard_link(at(from), at(to)),
        Operation::Symlink { to, path } => std::os::unix::fs::symlink(to, at(path)),
        Operation::Copy { from, to } => fs::copy(at(from), at(to)).map(drop),
        Operation::CopyPart { from, to, at: offset, to_at, length } => {
            let from = File::open(at(from))?;
            let to = File::options().write(true).create(true).truncate(false).open(at(to))?;
            let (mut offset, mut to_at, mut left) = (*offset, *to_at, *length);
            while left > 0 {
                match rustix::fs::copy_file_range(&from, Some(&mut offset), &to, Some(&mut to_at), left)? {
                    0 => break,
                    count => left -= count,
                }
            }
            Ok(())
        }
        Operation::Mode { path, mode } => {
            let file = rustix::fs::lstat(at(path))?;
            if file.st_mode & libc::S_IFMT == libc::S_IFLNK {
                return Ok(());
            }
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Operation::Time { path, seconds } => {
            let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(*seconds as u64);
            File::options().write(true).open(at(path))?.set_times(fs::FileTimes::new().set_modified(time))
        }
        Operation::Remount => Ok(()),
    }
}

/// Everything a program can see, but for times nobody set.
pub(crate) fn seen(root: &Path) -> BTreeMap<PathBuf, String> {
    // The link count of a folder is known once it was entered.
    assert!(walkdir::WalkDir::new(root).into_iter().all(|entry| entry.is_ok()));
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let what = if kind.is_symlink() {
            format!("-> {}", fs::read_link(entry.path()).unwrap().display())
        } else if kind.is_dir() {
            let links = fs::File::open(entry.path()).unwrap().metadata().unwrap().nlink();
            format!("folder {:o} {links}", metadata.mode())
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            assert_eq!(bytes.len() as u64, metadata.len());
            let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
            let set = Some(metadata.mtime()).filter(|seconds| *seconds < 1 << 30);
            format!("file {:o} {} {} {hash:x} {set:?}", metadata.mode(), metadata.nlink(), bytes.len())
        };
        found.insert(entry.path().strip_prefix(root).unwrap().to_owned(), what);
    }
    found
}

async fn compare(operations: &[Operation], passthrough: bool) {
    let base = base();
    let files: Vec<(&str, &[u8])> = base.iter().map(|(name, bytes)| (*name, bytes.as_slice())).collect();
    let mut stand =
        if passthrough { Stand::new(&files).await } else { Stand::without_passthrough(&files).await };
    let plain = tempfile::tempdir_in("/dev/shm").unwrap();
    for (name, bytes) in &base {
        let path = plain.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        File::open(&path)
            .unwrap()
            .set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))
            .unwrap();
    }
    for operation in operations {
        if matches!(operation, Operation::Remount) {
            stand.remount().await;
            continue;
        }
        let expected = perform(plain.path(), operation).map_err(|error| error.raw_os_error());
        let found = perform(&stand.at(), operation).map_err(|error| error.raw_os_error());
        assert_eq!(found, expected, "{operation:?}");
    }
    assert_eq!(seen(&stand.at()), seen(plain.path()));
    stand.remount().await;
    assert_eq!(seen(&stand.at()), seen(plain.path()), "mounted again");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn a_mount_is_like_a_plain_folder(
        operations in prop::collection::vec(operation(), 1..80),
        passthrough in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(compare(&operations, passthrough));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_many_programs_did_at_once_is_replayed_as_it_was() {
    let mut stand = Stand::new(&[("a", &noise(10_000)), ("d/a", b"1"), ("d/e/b", b"2")]).await;
    let at = stand.at();
    let programs: Vec<_> = (0..6_u64)
        .map(|program| {
            let at = at.clone();
            std::thread::spawn(move || {
                let mut state = program + 1;
                let mut random = |below: u64| {
                    state =
                        state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33) % below
                };
                let mut path = || {
                    let names = ["a", "b", "c", "d", "e"];
                    let depth = 1 + random(3);
                    (0..depth).map(|_| names[random(5) as usize]).collect::<Vec<_>>().join("/")
                };
                for round in 0..400_u64 {
                    let (first, second) = (path(), path());
                    let operation = match (round * 7 + program) % 8 {
                        0 => Operation::MakeFolder { path: first },
                        1 => Operation::Rename { from: first, to: second, flags: (round % 3) as u8 },
                        2 => Operation::Remove { path: first },
                        3 => Operation::Link { from: first, to: second },
                        4 => Operation::Append { path: first, length: 100, byte: round as u8 },
                        5 => Operation::Resize { path: first, to: round * 10 },
                        6 => Operation::RemoveFolder { path: first },
                        _ => Operation::Write { path: first, at: round, length: 50, byte: program as u8 },
                    };
                    // Most are refused, each for a good reason.
                    let _ = perform(&at, &operation);
                }
            })
        })
        .collect();
    for program in programs {
        program.join().unwrap();
    }
    let before = seen(&stand.at());
    stand.remount().await;
    assert_eq!(seen(&stand.at()), before);
}
