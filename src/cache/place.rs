//! Where things are in the cache folder.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Digest, Tag};

/// The number of the on-disk format.
const VERSION: &str = "1";

/// The cache folder, its version known to be ours.
pub(super) struct Place {
    root: PathBuf,
}

/// See [`super::Settings::at_default_place`].
pub(super) fn default_root() -> Result<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    if let Some(root) = std::env::var_os("ARTIFS_CACHE").filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(root));
    }
    if let Some(caches) = absolute("XDG_CACHE_HOME") {
        return Ok(caches.join("artifs"));
    }
    absolute("HOME").map(|home| home.join(".cache/artifs")).ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "neither ARTIFS_CACHE, XDG_CACHE_HOME nor HOME says where the cache is; use --cache-dir DIR",
        )
    })
}

impl Place {
    pub(super) fn open(root: &Path) -> Result<Self> {
        let doing = || format!("open the cache {}", root.display());
        make_folder(root).doing(doing)?;
        let root = fs::canonicalize(root).doing(doing)?;
        let version = root.join("version");
        match fs::read_to_string(&version) {
            Ok(text) if text.trim() == VERSION => {}
            Ok(text) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!(
                        "the cache {} has format {:?} and this artifs knows {VERSION}; use another --cache-dir, or remove it",
                        root.display(),
                        text.trim().chars().take(20).collect::<String>(),
                    ),
                ));
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let place = Self { root: root.clone() };
                place.replace(&version, format!("{VERSION}\n").as_bytes())?;
            }
            Err(error) => return Err(Error::io(doing(), error)),
        }
        for part in ["blobs", "partial", "index", "refs"] {
            make_folder(&root.join(part)).doing(doing)?;
        }
        Ok(Self { root })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.encoded())
    }

    pub(super) fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(digest.algorithm()).join(digest.encoded())
    }

    /// What says which repository a blob was in.
    pub(super) fn home(&self, digest: &Digest) -> PathBuf {
        self.root.join("homes").join(digest.algorithm()).join(digest.encoded())
    }

    pub(super) fn index(&self, digest: &Digest, kind: &str) -> PathBuf {
        self.root.join("index").join(digest.algorithm()).join(format!("{}.{kind}", digest.encoded()))
    }

    /// The folder of a repository's tags. `scope` is `host/repository`, whose grammar has no `..`;
    /// whatever else comes (a layout's path) is kept inside by replacing what could lead out.
    pub(super) fn refs(&self, scope: &str) -> PathBuf {
        let mut path = self.root.join("refs");
        for part in scope.split('/').filter(|part| !part.is_empty()) {
            path.push(if part == "." || part == ".." { "_" } else { part });
        }
        path
    }

    /// Tags are prefixed by `:` so that the tag `b` of `a` and the repository `a/b` can both be remembered.
    pub(super) fn reference(&self, scope: &str, tag: &Tag) -> PathBuf {
        self.refs(scope).join(format!(":{}", tag.as_str().replace('/', "%2f")))
    }

    /// Writes a small file whole or not at all.
    pub(super) fn replace(&self, path: &Path, content: &[u8]) -> Result<()> {
        let doing = || format!("write {}", path.display());
        let folder = path.parent().unwrap_or(&self.root);
        make_folder(folder).doing(doing)?;
        let mut temporary = tempfile::Builder::new().prefix(".tmp-").tempfile_in(folder).doing(doing)?;
        temporary.write_all(content).doing(doing)?;
        temporary.persist(path).map_err(|error| Error::io(doing(), error.error))?;
        Ok(())
    }
}

/// Makes a folder only its owner can enter: what a private registry holds stays private.
pub(super) fn make_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Opens a file for reading and writing, making it if it is missing.
pub(super) fn open_file(path: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
