//! What the tests stand on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use artifs::mount::{Mount, Options, Root};
use support::store::Store;
use tempfile::TempDir;

/// A mount in a temporary folder, gone when dropped, panics included.
pub(crate) struct Mounted {
    pub(crate) mount: Mount,
    pub(crate) at: PathBuf,
    _folder: TempDir,
}

impl Mounted {
    pub(crate) async fn new(root: Root, change: impl FnOnce(&mut Options)) -> Self {
        let folder = TempDir::new().unwrap();
        let at = folder.path().join("mnt");
        std::fs::create_dir(&at).unwrap();
        let mut options = Options::new(&at, "test.example/repository:v1");
        options.deadline = Duration::from_secs(2);
        change(&mut options);
        let mount = Mount::start(root, options, None).await.unwrap();
        Self { mount, at, _folder: folder }
    }

    pub(crate) async fn artifact(store: &Arc<Store>, tag: &str) -> Self {
        Self::new(store.root(tag), |_| {}).await
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}
