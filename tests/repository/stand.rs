//! What the tests stand on: a repository mounted for writing.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use artifs::artifact::View;
use artifs::mount::{Change, Ended, Mount, Options, Root};
use artifs::oci::{Digest, ImageManifest, Manifest, Name};
use artifs::registry::{self, Settings};
use artifs::store::{Source as _, SourceExt as _, Target};
use support::noise;
use support::registry::{Endpoint, Registry};
use support::seed::{Artifact, Folder};
use tempfile::TempDir;

pub(crate) const DELETES: bool = true;

/// A writable mount of the repository `r`, gone when dropped.
pub(crate) struct Stand {
    pub(crate) target: Arc<registry::Repository>,
    pub(crate) folder: TempDir,
    pub(crate) mount: Option<Mount>,
    pub(crate) passthrough: bool,
    pub(crate) may_delete: bool,
}

impl Stand {
    pub(crate) async fn new(target: Arc<registry::Repository>) -> Self {
        Self::with(target, true, !DELETES).await
    }

    pub(crate) async fn with(target: Arc<registry::Repository>, passthrough: bool, may_delete: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let mut stand = Self { target, folder, mount: None, passthrough, may_delete };
        stand.mount().await;
        stand
    }

    pub(crate) async fn mount(&mut self) {
        self.try_mount().await.unwrap();
    }

    pub(crate) async fn try_mount(&mut self) -> artifs::Result<()> {
        let mut options = Options::new(self.at(""), "test.example/r");
        options.deadline = Duration::from_secs(5);
        options.staging = Some(self.staging());
        options.passthrough = self.passthrough;
        options.allow_delete = self.may_delete;
        let source = Arc::clone(&self.target) as _;
        let mount = Mount::start(Root::Repository { source, view: View::default() }, options, None).await?;
        mount.publish_to(Arc::clone(&self.target) as Arc<dyn Target>);
        self.mount = Some(mount);
        Ok(())
    }

    pub(crate) fn mounted(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    pub(crate) async fn unmount(&mut self) -> Ended {
        let mount = self.mount.take().unwrap();
        mount.stop().await.unwrap();
        mount.ended().await
    }

    /// Ends without publishing.
    pub(crate) async fn end_without(&mut self, registry: &Registry) {
        registry.down();
        assert!(matches!(self.unmount().await, Ended::Staged { .. }));
        registry.up();
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    pub(crate) fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join("mnt").join(path)
    }

    /// Runs `cp`.
    pub(crate) fn cp(&self, arguments: &[&str], from: &str, to: &str) {
        let done = Command::new("cp").args(arguments).arg(self.at(from)).arg(self.at(to)).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    pub(crate) async fn image(&self, name: &str) -> ImageManifest {
        let name: Name = name.parse().unwrap();
        match self.target.fetch_manifest(&name).await.unwrap().1 {
            Manifest::Image(image) => image,
            Manifest::Index(_) => panic!("an index"),
        }
    }

    pub(crate) async fn digest(&self, name: &str) -> Option<Digest> {
        let name: Name = name.parse().unwrap();
        self.target.resolve(&name).await.ok().map(|found| found.digest)
    }

    pub(crate) fn changes(&self) -> Vec<Change> {
        self.mounted().changes()
    }
}

pub(crate) fn repository(host: &str) -> Arc<registry::Repository> {
    Arc::new(registry_of(host).repository("r").unwrap())
}

pub(crate) fn registry_of(host: &str) -> registry::Registry {
    let settings = Settings {
        plain_http: Some(true),
        registry_configs: vec!["/nonexistent/config.json".into()],
        deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    registry::Registry::new(&host.parse().unwrap(), &settings).unwrap()
}

/// Two files with habits of their own, and a folder that is a layer.
pub(crate) fn model() -> Artifact {
    let folder = Folder::new().file("one", 0o644, "1").file("two", 0o644, "2");
    Artifact::new()
        .kind("test/model")
        .config("test/config", r#"{"a":1}"#)
        .annotation("keep", "me")
        .typed_file("weights.bin", "test/weights", noise(3_000_000))
        .layer_annotation("of", "weights")
        .typed_file("readme", "test/text", "read me")
        .folder("tokens", folder)
}

pub(crate) fn puts(registry: &Registry, endpoint: Endpoint) -> usize {
    registry.count(|request| request.method == "PUT" && request.endpoint == endpoint)
}

pub(crate) fn io_error(result: std::io::Result<()>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}
