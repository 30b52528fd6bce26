//! Writing a layout: content checked before it has a name, `index.json` replaced under a lock.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use rustix::fs::{FlockOperation, flock};

use super::Layout;
use super::index::Index;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name, Tag};
use crate::store::local::blocking;
use crate::store::{Body, Source as _, Target, expect_digest, expect_no_more_than, expect_size, expect_tag};

impl Layout {
    /// Changes `index.json` while no other writer does.
    async fn change(&self, change: impl FnOnce(&mut Index) -> Result<()> + Send + 'static) -> Result<()> {
        let layout = self.clone();
        blocking(move || {
            // The marker is never replaced, so its lock holds; a lock for writing also works over NFS.
            let path = layout.root.join("oci-layout");
            let doing = || format!("lock {} to change the layout", path.display());
            let lock = OpenOptions::new().read(true).write(true).open(&path).doing(doing)?;
            flock(&lock, FlockOperation::LockExclusive).doing(doing)?;
            let mut index = layout.index()?;
            let before = index.to_bytes()?;
            change(&mut index)?;
            let after = index.to_bytes()?;
            if after == before { Ok(()) } else { layout.place("index.json", &after) }
        })
        .await
    }

    /// Puts a small file in place, whole or not at all.
    fn place(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let doing = || format!("write {}", path.display());
        let mut temporary = self.temporary(0o644).doing(doing)?;
        temporary.write_all(content).doing(doing)?;
        temporary.as_file().sync_all().doing(doing)?;
        temporary.persist(&path).map_err(|error| error.error).doing(doing)?;
        sync_folder(&self.root);
        Ok(())
    }

    /// The same, unless something is there: two that create a layout at once end up with one.
    pub(super) fn place_if_missing(&self, name: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(name);
        let doing = || format!("write {}", path.display());
        if path.exists() {
            return Ok(());
        }
        let mut temporary = self.temporary(0o644).doing(doing)?;
        temporary.write_all(content).doing(doing)?;
        match temporary.persist_noclobber(&path) {
            Ok(_) => Ok(()),
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(Error::io(doing(), error.error)),
        }
    }

    fn temporary(&self, mode: u32) -> io::Result<tempfile::NamedTempFile> {
        tempfile::Builder::new()
            .prefix(".ingest-")
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(&self.root)
    }

    /// Writes a blob beside the others, checks it, and only then gives it its name.
    async fn store(&self, blob: &Descriptor, body: &Body) -> Result<()> {
        let path = self.blob_path(&blob.digest);
        let mut hasher = Some(blob.digest.hasher()?);
        let mut temporary = Some(self.temporary(0o600).doing(|| format!("write {}", path.display()))?);
        let mut came = 0;
        let mut pieces = body.open().await?;
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            came += piece.len() as u64;
            expect_no_more_than(blob, came)?;
            if let (Some(mut file), Some(mut hash)) = (temporary.take(), hasher.take()) {
                let written = blocking(move || {
                    hash.update(&piece);
                    file.write_all(&piece).doing(|| "write a blob")?;
                    Ok((file, hash))
                });
                let (file, hash) = written.await?;
                (temporary, hasher) = (Some(file), Some(hash));
            }
        }
        expect_size(blob, came)?;
        if let (Some(file), Some(hash)) = (temporary, hasher) {
            expect_digest(hash, &blob.digest)?;
            blocking(move || settle(file, &path).doing(|| format!("write {}", path.display()))).await?;
        }
        Ok(())
    }
}

/// Gives a checked blob its name.
fn settle(file: tempfile::NamedTempFile, path: &Path) -> io::Result<()> {
    file.as_file().set_permissions(Permissions::from_mode(0o444))?;
    file.as_file().sync_all()?;
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder)?;
    file.persist(path).map_err(|error| error.error)?;
    sync_folder(folder);
    Ok(())
}

/// Makes a rename last through a power cut, where the file system can.
fn sync_folder(path: &Path) {
    if let Ok(folder) = File::open(path) {
        let _ = folder.sync_all();
    }
}

#[async_trait]
impl Target for Layout {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.open_blob(descriptor) {
            Ok(_) => Ok(true),
            // Of a wrong size: whoever pushes it now puts it right.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn push(&self, descriptor: &Descriptor, body: &Body) -> Result<()> {
        if !self.contains(descriptor).await? {
            self.store(descriptor, body).await.doing(|| format!("store {}", descriptor.digest))?;
        }
        if descriptor.is_manifest() {
            let entry = descriptor.clone();
            self.change(move |index| index.add(entry)).await?;
        }
        Ok(())
    }

    async fn tag(&self, descriptor: &Descriptor, tag: &Tag) -> Result<()> {
        self.open_blob(descriptor).doing(|| format!("tag {} as {tag}", descriptor.digest))?;
        let (entry, tag) = (descriptor.clone(), tag.clone());
        self.change(move |index| index.tag(entry, &tag)).await
    }

    async fn publish_over(
        &self,
        manifest: &Descriptor,
        body: &Body,
        tag: &Tag,
        base: Option<&Digest>,
    ) -> Option<Result<()>> {
        if let Err(error) = self.push(manifest, body).await {
            return Some(Err(error));
        }
        let (entry, tag, base) = (manifest.clone(), tag.clone(), base.cloned());
        let change = move |index: &mut Index| {
            let now = index.tagged(&tag).map(|now| now.digest);
            expect_tag(&tag, now.as_ref(), base.as_ref(), &entry.digest)?;
            index.tag(entry, &tag)
        };
        Some(self.change(change).await)
    }

    async fn untag(&self, tag: &Tag) -> Result<()> {
        self.resolve(&Name::Tag(tag.clone())).await?;
        let tag = tag.clone();
        self.change(move |index| index.untag(&tag)).await
    }

    async fn delete(&self, descriptor: &Descriptor) -> Result<()> {
        let path = self.blob_path(&descriptor.digest);
        let digest = descriptor.digest.clone();
        // Off the list first: what is listed must be there.
        self.change(move |index| index.remove(&digest)).await?;
        blocking(move || fs::remove_file(&path).doing(|| format!("delete {}", path.display()))).await
    }
}
