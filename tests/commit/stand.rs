//! A writable mount of one artifact, and what is at its target.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use artifs::artifact::View;
use artifs::mount::{Committed, Ended, Mount, Options, Root};
use artifs::oci::{Digest, Manifest, Name};
use artifs::registry::{self, Settings};
use artifs::store::{SourceExt as _, Target};
use support::registry::Registry;
use support::seed::{Artifact, Folder};
use tempfile::TempDir;

/// A writable mount of `r:v1`, gone when dropped.
pub(crate) struct Stand {
    pub(crate) target: Arc<dyn Target>,
    pub(crate) folder: TempDir,
    pub(crate) mount: Option<Mount>,
}

impl Stand {
    pub(crate) async fn new(target: Arc<dyn Target>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mnt")).unwrap();
        let mut stand = Self { target, folder, mount: None };
        stand.mount().await;
        stand
    }

    pub(crate) async fn mount(&mut self) {
        let mut options = Options::new(self.at(), "test.example/r:v1");
        options.deadline = Duration::from_secs(5);
        options.staging = Some(self.staging());
        let source = Arc::clone(&self.target) as _;
        let root = Root::Artifact { source, name: tag("v1"), view: View::default() };
        let mount = Mount::start(root, options, None).await.unwrap();
        mount.publish_to(Arc::clone(&self.target));
        self.mount = Some(mount);
    }

    pub(crate) async fn unmount(&mut self) -> Ended {
        let mount = self.mount.take().unwrap();
        mount.stop().await.unwrap();
        mount.ended().await
    }

    pub(crate) fn mounted(&self) -> &Mount {
        self.mount.as_ref().unwrap()
    }

    pub(crate) fn at(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.path().join("staging")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.at().join(name)
    }
}

pub(crate) fn tag(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) async fn digest(target: &dyn Target, name: &str) -> Digest {
    target.resolve(&tag(name)).await.unwrap().digest
}

pub(crate) async fn layers(target: &dyn Target, name: &str) -> Vec<artifs::oci::Descriptor> {
    match target.fetch_manifest(&tag(name)).await.unwrap().1 {
        Manifest::Image(image) => image.layers,
        Manifest::Index(_) => panic!("an index"),
    }
}

pub(crate) fn repository(of: &Registry) -> Arc<registry::Repository> {
    let settings = Settings {
        plain_http: Some(true),
        registry_configs: vec!["/nonexistent/config.json".into()],
        deadline: Duration::from_secs(5),
        ..Settings::default()
    };
    Arc::new(registry::Registry::new(&of.host(), &settings).unwrap().repository("r").unwrap())
}

/// What one commit of a mounted artifact did.
pub(crate) fn one(mut done: Vec<Committed>) -> Committed {
    assert_eq!(done.len(), 1, "{done:?}");
    done.remove(0)
}

pub(crate) fn hundred() -> Artifact {
    (0..100).fold(Artifact::new(), |artifact, number| {
        artifact.typed_file(&format!("f{number:03}"), "a/b", format!("content {number}"))
    })
}

/// What a person does in an afternoon.
pub(crate) fn afternoon(at: &Path) {
    fs::write(at.join("new"), "new").unwrap();
    fs::create_dir_all(at.join("bin")).unwrap();
    fs::write(at.join("bin/run"), "#!/bin/sh").unwrap();
    fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(at.join("empty")).unwrap();
    fs::set_permissions(at.join("empty"), fs::Permissions::from_mode(0o700)).unwrap();
    std::os::unix::fs::symlink("bin/run", at.join("latest")).unwrap();
    fs::rename(at.join("b"), at.join("renamed")).unwrap();
    fs::remove_file(at.join("c")).unwrap();
    fs::write(at.join("d/sub/added"), "added").unwrap();
    let edited = fs::File::options().write(true).open(at.join("big")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&edited, b"here", 1_500_000).unwrap();
}

pub(crate) fn afternoons_base() -> Artifact {
    let folder = Folder::new().file("a", 0o640, "A").file("sub/b", 0o755, "B").link("l", "sub/b");
    Artifact::new()
        .file("a", "a")
        .typed_file("b", "text/b", "b")
        .file("c", "c")
        .folder("d", folder)
        .file("big", "0123456789".repeat(300_000))
        .annotation("kept", "yes")
        .tag("v1")
}

/// Every path below `at` with what it is.
pub(crate) fn listed(at: &Path) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in walkdir::WalkDir::new(at).min_depth(1).sort_by_file_name() {
        let entry = entry.unwrap();
        let metadata = entry.path().symlink_metadata().unwrap();
        let content = if metadata.is_symlink() {
            fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            fs::read(entry.path()).unwrap()
        } else {
            Vec::new()
        };
        let path = entry.path().strip_prefix(at).unwrap().to_owned();
        found.push((path, metadata.permissions().mode(), content));
    }
    found
}

pub(crate) fn title(layer: &artifs::oci::Descriptor) -> String {
    layer.annotation("org.opencontainers.image.title").unwrap_or_default().to_owned()
}
