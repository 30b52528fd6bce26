//! What the tests stand on: a made-up artifact in memory, mounted for writing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifs::Result;
use artifs::mount::{Mount, Options};
use support::store::Store;
use tempfile::TempDir;

/// A writable mount in a temporary folder, gone when dropped, panics included.
pub(crate) struct Stand {
    pub(crate) store: Arc<Store>,
    pub(crate) folder: TempDir,
    mount: Option<Mount>,
    passthrough: bool,
}

impl Stand {
    pub(crate) async fn new(files: &[(&str, &[u8])]) -> Self {
        Self::with(files, true).await
    }

    /// The same without passthrough: the kernel writes through its writeback cache.
    pub(crate) async fn without_passthrough(files: &[(&str, &[u8])]) -> Self {
        Self::with(files, false).await
    }

    async fn with(files: &[(&str, &[u8])], passthrough: bool) -> Self {
        let store = Store::new();
        store.artifact("v1", files).await;
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("mnt")).unwrap();
        let mut stand = Self { store, folder, mount: None, passthrough };
        stand.mount().await.unwrap();
        stand
    }

    pub(crate) async fn mount(&mut self) -> Result<()> {
        let mut options = options(self.folder.path());
        options.passthrough = self.passthrough;
        self.mount = Some(Mount::start(self.store.root("v1"), options, None).await?);
        Ok(())
    }

    pub(crate) async fn unmount(&mut self) {
        self.mount.as_ref().unwrap().stop().await.unwrap();
        self.mount = None;
    }

    /// Unmounts and mounts again: what is seen then comes from the journal.
    pub(crate) async fn remount(&mut self) {
        self.unmount().await;
        self.mount().await.unwrap();
    }

    pub(crate) fn mounted(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    /// What differs from the base, as `path difference` lines.
    pub(crate) fn changes(&self) -> Vec<String> {
        let changes = self.mounted().changes();
        changes.iter().map(|change| format!("{} {:?}", change.path, change.difference)).collect()
    }
}

pub(crate) const REFERENCE: &str = "test.example/repository:v1";

pub(crate) fn options(folder: &Path) -> Options {
    let mut options = Options::new(folder.join("mnt"), REFERENCE);
    options.deadline = Duration::from_secs(2);
    options.staging = Some(folder.join("staging"));
    options
}
