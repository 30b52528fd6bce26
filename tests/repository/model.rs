//! Random operations between the artifacts of a repository, with commits and remounts among them, and the same on a
//! plain folder: no difference, neither in the mount nor in what is published.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use artifs::mount::{CommitOptions, Ended, works};
use proptest::prelude::*;
use rustix::fs::{CWD, RenameFlags};
use support::noise;
use support::registry::Registry;
use support::seed::{Artifact, Folder};

use crate::stand::{DELETES, Stand, repository};

#[derive(Clone, Debug)]
enum Operation {
    Write {
        path: String,
        at: u64,
        length: usize,
        byte: u8,
    },
    Replace {
        path: String,
        length: usize,
        byte: u8,
    },
    Resize {
        path: String,
        to: u64,
    },
    Mode {
        path: String,
        mode: u32,
    },
    MakeFolder {
        path: String,
    },
    Remove {
        path: String,
    },
    Rename {
        from: String,
        to: String,
        exchange: bool,
    },
    Link {
        from: String,
        to: String,
    },
    Copy {
        from: String,
        to: String,
    },
    CopyPart {
        from: String,
        to: String,
        at: u64,
        length: usize,
    },
    CopyFolder {
        from: String,
        to: String,
    },
    Commit,
    /// Mounted again; with the registry gone when the mount ended, the work is found staged.
    Remount {
        staged: bool,
    },
}

fn tag() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["t1", "t2", "t3"]).prop_map(str::to_owned)
}

/// Few names, so that operations meet.
fn path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c", "d"]);
    (tag(), prop::collection::vec(name, 1..3)).prop_map(|(tag, names)| format!("{tag}/{}", names.join("/")))
}

fn folder() -> impl Strategy<Value = String> {
    prop_oneof![tag(), path()]
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let byte = any::<u8>;
    prop_oneof![
        3 => (path(), 0_u64..9000, 0_usize..3000, byte())
            .prop_map(|(path, at, length, byte)| Write { path, at, length, byte }),
        2 => (path(), 0_usize..3000, byte()).prop_map(|(path, length, byte)| Replace { path, length, byte }),
        1 => (path(), 0_u64..9000).prop_map(|(path, to)| Resize { path, to }),
        1 => (path(), prop::sample::select(vec![0o644, 0o600, 0o755]))
            .prop_map(|(path, mode)| Mode { path, mode }),
        2 => folder().prop_map(|path| MakeFolder { path }),
        2 => folder().prop_map(|path| Remove { path }),
        4 => (path(), path(), any::<bool>()).prop_map(|(from, to, exchange)| Rename { from, to, exchange }),
        2 => (tag(), tag(), any::<bool>()).prop_map(|(from, to, exchange)| Rename { from, to, exchange }),
        2 => (path(), path()).prop_map(|(from, to)| Link { from, to }),
        4 => (path(), path()).prop_map(|(from, to)| Copy { from, to }),
        2 => (path(), path(), 0_u64..6000, 0_usize..6000)
            .prop_map(|(from, to, at, length)| CopyPart { from, to, at, length }),
        3 => (folder(), folder()).prop_map(|(from, to)| CopyFolder { from, to }),
        3 => Just(Commit),
        2 => any::<bool>().prop_map(|staged| Remount { staged }),
    ]
}

fn perform(root: &Path, operation: &Operation) -> io::Result<()> {
    let at = |path: &str| root.join(path);
    let for_writing = |path: &str| File::options().write(true).create(true).truncate(false).open(at(path));
    match operation {
        Operation::Write { path, at, length, byte } => {
            for_writing(path)?.write_all_at(&vec![*byte; *length], *at)
        }
        Operation::Replace { path, length, byte } => fs::write(at(path), vec![*byte; *length]),
        Operation::Resize { path, to } => File::options().write(true).open(at(path))?.set_len(*to),
        Operation::Mode { path, mode } => {
            if fs::metadata(at(path))?.is_dir() {
                return Ok(());
            }
            fs::set_permissions(at(path), fs::Permissions::from_mode(*mode))
        }
        Operation::MakeFolder { path } => fs::create_dir(at(path)),
        Operation::Remove { path } if fs::metadata(at(path))?.is_dir() => fs::remove_dir_all(at(path)),
        Operation::Remove { path } => fs::remove_file(at(path)),
        Operation::Rename { from, to, exchange } => {
            let flags = if *exchange { RenameFlags::EXCHANGE } else { RenameFlags::empty() };
            Ok(rustix::fs::renameat_with(CWD, at(from), CWD, at(to), flags)?)
        }
        Operation::Link { from, to } => fs::hard_link(at(from), at(to)),
        Operation::Copy { from, to } => fs::copy(at(from), at(to)).map(drop),
        Operation::CopyPart { from, to, at: offset, length } => {
            let (from, to) = (File::open(at(from))?, for_writing(to)?);
            let (mut here, mut there, mut left) = (*offset, *offset, *length);
            while left > 0 {
                match rustix::fs::copy_file_range(&from, Some(&mut here), &to, Some(&mut there), left)? {
                    0 => break,
                    count => left -= count,
                }
            }
            Ok(())
        }
        Operation::CopyFolder { from, to } if to.starts_with(&format!("{from}/")) || from == to => Ok(()),
        Operation::CopyFolder { from, to } => copy_folder(&at(from), &at(to)),
        Operation::Commit | Operation::Remount { .. } => Ok(()),
    }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    let mut names: Vec<_> =
        fs::read_dir(from)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?;
    names.sort();
    fs::create_dir(to)?;
    for name in names {
        let (from, to) = (from.join(&name), to.join(&name));
        if fs::metadata(&from)?.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

/// Names, kinds, and of files the permissions and bytes.
fn seen(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in walkdir::WalkDir::new(root).min_depth(1) {
        let entry = entry.unwrap();
        let metadata = entry.metadata().unwrap();
        let what = if metadata.is_dir() {
            "folder".to_owned()
        } else {
            let bytes = fs::read(entry.path()).unwrap();
            let hash = xxhash_rust::xxh3::xxh3_64(&bytes);
            format!("file {:o} {} {hash:x}", metadata.mode() & 0o777, bytes.len())
        };
        found.insert(entry.path().strip_prefix(root).unwrap().to_str().unwrap().to_owned(), what);
    }
    found
}

/// Whether any file has names in several artifacts.
fn links_artifacts(root: &Path) -> bool {
    let mut homes: HashMap<u64, PathBuf> = HashMap::new();
    let mut files = walkdir::WalkDir::new(root).into_iter().map(Result::unwrap);
    files.any(|entry| {
        let metadata = entry.metadata().unwrap();
        let below = entry.path().strip_prefix(root).unwrap();
        let home = below.iter().next().map(PathBuf::from).unwrap_or_default();
        metadata.is_file() && *homes.entry(metadata.ino()).or_insert_with(|| home.clone()) != home
    })
}

/// The artifacts at first, and the same in a plain folder.
fn begin(registry: &Registry, plain: &Path) {
    let files = [("a", noise(7000)), ("b", noise(6000)), ("c", Vec::new())];
    let members = [("a", noise(5000)), ("b", noise(4000))];
    for tag in ["t1", "t2"] {
        let mut artifact = Artifact::new().annotation("of", tag);
        fs::create_dir_all(plain.join(tag).join("d")).unwrap();
        for (name, bytes) in &files {
            artifact = artifact.typed_file(name, "test/file", bytes.clone());
            fs::write(plain.join(tag).join(name), bytes).unwrap();
        }
        let mut folder = Folder::new();
        for (name, bytes) in &members {
            folder = folder.file(name, 0o644, bytes.clone());
            fs::write(plain.join(tag).join("d").join(name), bytes).unwrap();
        }
        artifact.folder("d", folder).tag(tag).push(registry, "r");
    }
}

async fn commit(stand: &Stand) {
    // What was emptied is published empty.
    let options = CommitOptions { force: true, ..CommitOptions::default() };
    stand.mounted().commit(&options, &()).await.unwrap();
    assert_eq!(stand.changes(), [], "all is published");
}

async fn compare(operations: &[Operation], passthrough: bool) {
    let registry = Registry::start();
    let plain = tempfile::tempdir_in("/dev/shm").unwrap();
    begin(&registry, plain.path());
    let target = repository(&registry.host().to_string());
    let mut stand = Stand::with(target, passthrough, DELETES).await;
    for operation in operations {
        match operation {
            Operation::Commit => commit(&stand).await,
            Operation::Remount { staged: true } => {
                registry.down();
                stand.unmount().await;
                registry.up();
                stand.mount().await;
            }
            Operation::Remount { staged: false } => {
                commit(&stand).await;
                // Published, names of one file in several artifacts are several files.
                if links_artifacts(plain.path()) {
                    continue;
                }
                assert!(matches!(stand.unmount().await, Ended::Clean));
                stand.mount().await;
                assert_eq!(seen(&stand.at("")), seen(plain.path()), "published");
            }
            _ => {
                let expected = perform(plain.path(), operation).map_err(|error| error.raw_os_error());
                let found = perform(&stand.at(""), operation).map_err(|error| error.raw_os_error());
                assert_eq!(found, expected, "{operation:?}");
            }
        }
    }
    assert_eq!(seen(&stand.at("")), seen(plain.path()));
    commit(&stand).await;
    assert!(matches!(stand.unmount().await, Ended::Clean));
    assert!(works(&stand.staging()).unwrap().is_empty());
    stand.mount().await;
    assert_eq!(seen(&stand.at("")), seen(plain.path()), "published");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 150, ..ProptestConfig::default() })]
    #[test]
    fn what_is_done_between_artifacts_is_what_is_published(
        operations in prop::collection::vec(operation(), 1..30),
        passthrough in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(compare(&operations, passthrough));
    }
}
