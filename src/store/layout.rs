//! An OCI image layout folder (image-spec, image-layout.md).
//!
//! ```text
//! oci-layout               {"imageLayoutVersion":"1.0.0"}; writers hold its lock while they change index.json
//! index.json               the manifests, each with its tag as an annotation; replaced whole, never edited in place
//! blobs/<alg>/<hex>        content, mode 0444, renamed into place once it is checked
//! .ingest-*                content on its way; only a killed writer leaves one behind
//! ```
//!
//! Readers take no lock: they see `index.json` as it was before or after a change. Nothing is remembered
//! between calls, so what other programs write is seen at once.

mod index;
mod write;

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use self::index::Index;
use super::local::{self, Local, blocking};
use super::referrers::as_referrer;
use super::{Blob, ByteStream, MANIFEST_LIMIT, Source, expect_range};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Manifest, Name, Tag};

/// The one version of the format there is.
const VERSION: &str = "1.0.0";

/// An OCI layout folder. Cloning is shallow.
#[derive(Clone)]
pub struct Layout {
    root: Arc<Path>,
}

impl Layout {
    /// The layout at `path`, which must be one.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self> {
        let root: Arc<Path> = path.into().into();
        let metadata = fs::metadata(&root).doing(|| format!("failed to find path \"{}\"", root.display()))?;
        if !metadata.is_dir() {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("\"{}\" is not a folder, so it is no OCI image layout", root.display()),
            ));
        }
        let layout = Self { root };
        layout.check_version()?;
        layout.index()?;
        Ok(layout)
    }

    /// The layout at `path`, made there if there is none.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self> {
        let root: Arc<Path> = path.into().into();
        fs::create_dir_all(root.join("blobs"))
            .doing(|| format!("make an OCI image layout at {}", root.display()))?;
        let layout = Self { root };
        let marker = format!(r#"{{"imageLayoutVersion":"{VERSION}"}}"#);
        layout.place_if_missing("oci-layout", marker.as_bytes())?;
        layout.check_version()?;
        layout.place_if_missing("index.json", &Index::empty().to_bytes()?)?;
        layout.index()?;
        Ok(layout)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What `index.json` lists, in its order, annotations included.
    pub fn entries(&self) -> Result<Vec<Descriptor>> {
        Ok(self.index()?.entries())
    }

    /// The one manifest everything else here hangs on, for layouts whose maker gave no tag: neither a child
    /// of another entry nor a referrer of one. `None` if there are several, or none.
    pub fn only_root(&self) -> Result<Option<Descriptor>> {
        let entries = self.entries()?;
        let listed: HashSet<&Digest> = entries.iter().map(|entry| &entry.digest).collect();
        let mut below = HashSet::new();
        for entry in &entries {
            let Ok(manifest) = self.read_manifest(entry) else { continue };
            below.extend(manifest.successors().into_iter().map(|child| child.digest.clone()));
            if manifest.subject().is_some_and(|subject| listed.contains(&subject.digest)) {
                below.insert(entry.digest.clone());
            }
        }
        let roots: BTreeSet<&Digest> = listed.into_iter().filter(|digest| !below.contains(*digest)).collect();
        match (roots.first(), roots.len()) {
            (Some(digest), 1) => Ok(entries.iter().find(|entry| entry.digest == **digest).map(plain)),
            _ => Ok(None),
        }
    }

    fn check_version(&self) -> Result<()> {
        let invalid =
            |why: String| Error::new(ErrorKind::Invalid, format!("invalid OCI Image Layout: {why}"));
        let path = self.root.join("oci-layout");
        let text = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                invalid(format!("\"{}\" has no file \"oci-layout\"", self.root.display()))
            }
            _ => Error::io(format!("read {}", path.display()), error),
        })?;
        let marker: serde_json::Value = serde_json::from_slice(&text)
            .map_err(|error| invalid(format!("{} is no JSON: {error}", path.display())))?;
        match marker["imageLayoutVersion"].as_str() {
            Some(VERSION) => Ok(()),
            Some(other) => Err(Error::new(
                ErrorKind::Unsupported,
                format!("invalid OCI Image Layout: version {other:?} is not {VERSION:?}, the one we know"),
            )),
            None => Err(invalid(format!("{} says no \"imageLayoutVersion\"", path.display()))),
        }
    }

    fn index(&self) -> Result<Index> {
        let path = self.root.join("index.json");
        let text = fs::read(&path).doing(|| format!("invalid OCI Image Index: read {}", path.display()))?;
        Index::parse(&text).doing(|| format!("invalid OCI Image Index: {}", path.display()))
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs").join(digest.algorithm()).join(digest.encoded())
    }

    fn open_blob(&self, blob: &Descriptor) -> Result<Arc<File>> {
        local::open(&self.blob_path(&blob.digest), blob)
    }

    /// A manifest's bytes, checked. Only ever small.
    fn read_raw(&self, manifest: &Descriptor) -> Result<Bytes> {
        if manifest.size > MANIFEST_LIMIT {
            return Err(Error::new(ErrorKind::TooLarge, format!("{} is too large", manifest.digest)));
        }
        local::open(&self.blob_path(&manifest.digest), manifest)?;
        let bytes =
            fs::read(self.blob_path(&manifest.digest)).doing(|| format!("read {}", manifest.digest))?;
        if !manifest.digest.matches(&bytes) {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the content of {} does not match its digest", manifest.digest),
            ));
        }
        Ok(bytes.into())
    }

    fn read_manifest(&self, manifest: &Descriptor) -> Result<Manifest> {
        Manifest::parse(self.read_raw(manifest)?, Some(&manifest.media_type))
    }

    /// A manifest that is here without being listed: the child of an index, as other tools leave it.
    fn unlisted(&self, digest: &Digest) -> Result<Descriptor> {
        let missing =
            || Error::new(ErrorKind::NotFound, format!("{digest}: not found in {}", self.root.display()));
        let metadata = fs::metadata(self.blob_path(digest)).map_err(|_| missing())?;
        let mut descriptor = Descriptor::new("", digest.clone(), metadata.len());
        match self.read_manifest(&descriptor) {
            Ok(manifest) => manifest.media_type().clone_into(&mut descriptor.media_type),
            // A blob: there is such content, but no such manifest.
            Err(error) if matches!(error.kind(), ErrorKind::Invalid | ErrorKind::TooLarge) => {
                return Err(missing());
            }
            Err(error) => return Err(error),
        }
        Ok(descriptor)
    }

    /// Every manifest that can be reached from `index.json`, each once.
    fn all_manifests(&self) -> Result<Vec<Descriptor>> {
        let mut found = self.entries()?;
        let mut seen: HashSet<Digest> = HashSet::new();
        found.retain(|entry| seen.insert(entry.digest.clone()));
        let mut next = 0;
        while let Some(entry) = found.get(next).cloned() {
            next += 1;
            if let Ok(Manifest::Index(index)) = self.read_manifest(&entry) {
                found.extend(index.manifests.into_iter().filter(|child| seen.insert(child.digest.clone())));
            }
        }
        Ok(found)
    }
}

/// What points at a manifest, without what a particular list says about it.
fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)
}

#[async_trait]
impl Source for Layout {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        let index = self.index()?;
        let found = match name {
            Name::Tag(tag) => index.tagged(tag),
            Name::Digest(digest) => index.by_digest(digest),
        };
        match (found, name) {
            (Some(found), _) => Ok(plain(&found)),
            (None, Name::Digest(digest)) => self.unlisted(digest),
            (None, Name::Tag(tag)) => {
                Err(Error::new(ErrorKind::NotFound, format!("{tag}: not found in {}", self.root.display())))
            }
        }
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        expect_range(descriptor, &range)?;
        Ok(local::stream(self.open_blob(descriptor)?, range))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Local::new(self.open_blob(blob)?, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Ok(self.index()?.tags())
    }

    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let (layout, subject) = (self.clone(), subject.clone());
        let artifact_type = artifact_type.map(str::to_owned);
        blocking(move || {
            // Manifests that are missing or broken here refer to nobody; who reads them is told.
            let referrer = |manifest: &Descriptor| {
                let raw = layout.read_raw(manifest).ok()?;
                as_referrer(manifest, raw, &subject, artifact_type.as_deref())
            };
            Ok(layout.all_manifests()?.iter().filter_map(referrer).collect())
        })
        .await
    }
}
