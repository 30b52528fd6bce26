//! From an index to the manifests it is made of (formats.md R3).

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::OnceCell;

use super::tree::{Attributes, Entries, FileName, Folder, Node, Plain, stable_id};
use super::{Artifact, View, Warnings, from_manifest, meta, names};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, ImageManifest, Index, Manifest, Name, Platform, media_type};
use crate::store::{Source, SourceExt as _};

/// Indexes in indexes: so deep and no deeper.
const MAX_NESTING: usize = 4;
/// Image configs are small; larger ones are not read for a platform (formats.md R20).
const CONFIG_LIMIT: u64 = 8 << 20;

/// What stays the same while indexes are followed.
#[derive(Clone)]
pub(super) struct Opening {
    pub(super) source: Arc<dyn Source>,
    pub(super) reference: String,
    pub(super) view: View,
    /// The indexes and subjects on the way here: none is entered twice.
    pub(super) above: Vec<Digest>,
    /// The index the manifest shown was chosen from.
    pub(super) chosen_from: Option<Arc<Choice>>,
}

/// What was chosen from an index.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The index.
    pub digest: Digest,
    /// What is in it.
    pub index: Index,
    /// Where in its list the manifest is that is shown.
    pub place: usize,
}

impl Opening {
    /// Shows `manifest`, following indexes to the wanted platform.
    pub(super) fn choose(
        self,
        named: Descriptor,
        descriptor: Descriptor,
        manifest: Manifest,
    ) -> BoxFuture<'static, Result<Artifact>> {
        Box::pin(async move {
            let index = match &manifest {
                Manifest::Image(image) => {
                    self.expect_platform(&descriptor, image).await?;
                    return Ok(self.show(named, descriptor, manifest));
                }
                Manifest::Index(index) => index,
            };
            let chosen = wanted(index, self.view.platform.as_ref())
                .map_err(|error| error.context(format!("open {}", self.reference)))?;
            match chosen.and_then(|child| place(index, child)) {
                Some(place) => {
                    let choice = Choice { digest: descriptor.digest, index: index.clone(), place };
                    self.enter(named, choice).await
                }
                None => Ok(self.show(named, descriptor, manifest)),
            }
        })
    }

    /// Shows the manifest `shown` of the index that is `manifest`, whatever would be chosen from it; chooses if it is
    /// no index, or another one.
    pub(super) async fn choose_again(
        self,
        descriptor: Descriptor,
        manifest: Manifest,
        shown: &Digest,
    ) -> Result<Artifact> {
        if let Manifest::Index(index) = &manifest {
            let wanted = wanted(index, self.view.platform.as_ref()).ok().flatten();
            let mut all = wanted.into_iter().chain(&index.manifests);
            let again = all.find(|child| child.is_manifest() && child.digest == *shown);
            if let Some(place) = again.and_then(|child| place(index, child)) {
                let choice = Choice { digest: descriptor.digest.clone(), index: index.clone(), place };
                return self.enter(descriptor, choice).await;
            }
        }
        self.choose(descriptor.clone(), descriptor, manifest).await
    }

    /// Shows what was chosen.
    async fn enter(mut self, named: Descriptor, choice: Choice) -> Result<Artifact> {
        let child = choice.index.manifests.get(choice.place).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{} has no such manifest", choice.digest))
        })?;
        self.go_below(&choice.digest)?;
        self.chosen_from = Some(Arc::new(choice));
        let (found, manifest) = self.fetch(&child).await?;
        // The platform was chosen here: the image's own config need not be asked again.
        if let Manifest::Image(_) = manifest {
            return Ok(self.show(named, found, manifest));
        }
        self.choose(named, found, manifest).await
    }

    /// The manifest an index or a referrers list points at.
    pub(super) async fn fetch(&self, child: &Descriptor) -> Result<(Descriptor, Manifest)> {
        if child.is_manifest()
            && let Some(bytes) = child.inline()
        {
            return Ok((child.clone(), Manifest::parse(bytes, Some(&child.media_type))?));
        }
        let (mut found, manifest) = self.source.fetch_manifest(&Name::Digest(child.digest.clone())).await?;
        if !media_type::essence(&child.media_type).is_empty()
            && !media_type::same(&child.media_type, manifest.media_type())
        {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "{} is described as {:?} but is {:?}; refusing (CVE-2021-41190)",
                    child.digest,
                    child.media_type,
                    manifest.media_type()
                ),
            ));
        }
        found.annotations.clone_from(&child.annotations);
        found.platform.clone_from(&child.platform);
        found.artifact_type.clone_from(&child.artifact_type);
        Ok((found, manifest))
    }

    /// Notes that `digest` is being entered: an error if that goes too deep or in a circle.
    pub(super) fn go_below(&mut self, digest: &Digest) -> Result<()> {
        if self.above.contains(digest) {
            return Err(Error::new(ErrorKind::Invalid, format!("{digest} contains itself")));
        }
        if self.above.len() >= MAX_NESTING {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{digest}: more than {MAX_NESTING} indexes inside each other"),
            ));
        }
        self.above.push(digest.clone());
        Ok(())
    }

    /// The artifact a manifest is, without asking anybody.
    pub(super) fn show(&self, named: Descriptor, descriptor: Descriptor, manifest: Manifest) -> Artifact {
        let warnings = Arc::new(Warnings::default());
        let files: Arc<dyn Folder> = match &manifest {
            Manifest::Image(image) => {
                from_manifest::folder(&self.source, &descriptor, image, &self.view, &warnings)
            }
            Manifest::Index(index) => Arc::new(self.children(&descriptor.digest, index, &warnings)),
        };
        let mut artifact = Artifact {
            source: Arc::clone(&self.source),
            reference: self.reference.clone(),
            named,
            descriptor,
            manifest,
            chosen_from: self.chosen_from.clone(),
            root: files,
            warnings,
        };
        artifact.root = Arc::new(meta::Root::new(&artifact, self));
        artifact
    }

    /// A folder with a folder for each artifact of an index.
    pub(super) fn children(&self, digest: &Digest, index: &Index, warnings: &Warnings) -> Plain {
        let mut entries = Entries::new();
        for child in &index.manifests {
            if !child.is_manifest() {
                let message = format!("{:?} is not a manifest type; not shown", child.media_type);
                warnings.add("R3", child.digest.as_str(), message);
                continue;
            }
            let mut name = name_of_child(child);
            if entries.contains_key(&name) {
                name = names::of_digest(&child.digest);
            }
            entries.insert(name, Node::Folder(self.child(digest, child)));
        }
        Plain {
            attributes: Attributes {
                modified: from_manifest::created(&index.annotations),
                ..Attributes::FOLDER
            },
            id: stable_id(&[b"index", digest.as_str().as_bytes()]),
            entries: Arc::new(entries),
        }
    }

    /// An artifact as a folder, fetched when it is entered.
    pub(super) fn child(&self, parent: &Digest, child: &Descriptor) -> Arc<dyn Folder> {
        Arc::new(Child {
            id: stable_id(&[b"child", parent.as_str().as_bytes(), child.digest.as_str().as_bytes()]),
            parent: parent.clone(),
            attributes: Attributes {
                modified: from_manifest::created(&child.annotations),
                ..Attributes::FOLDER
            },
            descriptor: child.clone(),
            opening: Self { chosen_from: None, ..self.clone() },
            opened: OnceCell::new(),
        })
    }

    /// Refuses a single image that is not of the platform a person asked for (oras.md §2.6).
    async fn expect_platform(&self, descriptor: &Descriptor, image: &ImageManifest) -> Result<()> {
        let Some(wish) = &self.view.platform else { return Ok(()) };
        let config = image.config.as_ref().filter(|config| {
            media_type::same(&config.media_type, media_type::IMAGE_CONFIG)
                || media_type::same(&config.media_type, "application/vnd.docker.container.image.v1+json")
        });
        let Some(config) = config else {
            let found = image.config.as_ref().map_or("", |config| config.media_type.as_str());
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("fail to recognize platform from unknown config {found}: unsupported"),
            ));
        };
        let bytes = self.source.fetch_all(config, CONFIG_LIMIT).await?;
        let offered: Platform = serde_json::from_slice(&bytes).map_err(|error| {
            Error::with_source(ErrorKind::Invalid, format!("read the config of {}", descriptor.digest), error)
        })?;
        if wish.accepts(&offered) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NotFound,
            format!("{}: the image is for {offered}, not for {wish}", self.reference),
        ))
    }
}

/// The child of an index to show, `None` if the index is shown as a folder of all of them.
fn wanted<'a>(index: &'a Index, wish: Option<&Platform>) -> Result<Option<&'a Descriptor>> {
    let offered: Vec<&Descriptor> = index.manifests.iter().filter(|child| is_choice(child)).collect();
    let matching = |wish: &Platform| {
        offered.iter().copied().find(|child| child.platform.as_ref().is_some_and(|have| wish.accepts(have)))
    };
    match wish {
        Some(wish) => matching(wish).map(Some).ok_or_else(|| no_match(&wish.to_string(), &offered)),
        None if offered.len() == 1 => Ok(offered.first().copied()),
        None if offered.iter().all(|child| child.platform.is_none()) => Ok(None),
        None => {
            let host = Platform::host();
            matching(&host).map(Some).ok_or_else(|| no_match(&host.to_string(), &offered))
        }
    }
}

/// Where a child of an index is in it.
fn place(index: &Index, child: &Descriptor) -> Option<usize> {
    index.manifests.iter().position(|other| std::ptr::eq(other, child))
}

/// Whether a child is something to choose: not an attestation about its siblings.
fn is_choice(child: &Descriptor) -> bool {
    let unknown = child
        .platform
        .as_ref()
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    child.is_manifest() && !unknown && !child.annotations.contains_key("vnd.docker.reference.type")
}

fn no_match(wish: &str, offered: &[&Descriptor]) -> Error {
    let mut list: Vec<String> =
        offered.iter().filter_map(|child| child.platform.as_ref()).map(ToString::to_string).collect();
    list.dedup();
    let list = if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    Error::new(
        ErrorKind::NotFound,
        format!("nothing here is for {wish}; choose with --platform from: {list}"),
    )
}

/// `os-arch[-variant]`, else what annotations call it, else the digest's start.
fn name_of_child(child: &Descriptor) -> FileName {
    let platform = child.platform.as_ref().filter(|platform| !platform.os.is_empty()).map(|platform| {
        let mut name = format!("{}-{}", platform.os, platform.architecture);
        for more in [&platform.variant, &platform.os_version].into_iter().flatten() {
            name.push('-');
            name.push_str(more);
        }
        name
    });
    platform
        .as_deref()
        .or(child.annotation("org.opencontainers.image.ref.name"))
        .or(child.annotation(from_manifest::TITLE))
        .and_then(names::single)
        .unwrap_or_else(|| format!("{}-{}", child.digest.algorithm(), child.digest.short()).into_bytes())
}

/// An artifact inside an index or a list of referrers.
struct Child {
    id: u64,
    parent: Digest,
    attributes: Attributes,
    descriptor: Descriptor,
    opening: Opening,
    opened: OnceCell<Artifact>,
}

impl Child {
    async fn root(&self) -> Result<&Arc<dyn Folder>> {
        let open = async {
            let mut opening = self.opening.clone();
            if opening.above.last() != Some(&self.parent) {
                opening.go_below(&self.parent)?;
            }
            opening.reference = format!("{} in {}", self.descriptor.digest, opening.reference);
            let (found, manifest) = opening.fetch(&self.descriptor).await?;
            // Whatever platform a person wishes for, here they chose by name.
            opening.view.platform = None;
            match manifest {
                Manifest::Image(_) => Ok(opening.show(found.clone(), found, manifest)),
                Manifest::Index(_) => opening.choose(found.clone(), found, manifest).await,
            }
        };
        Ok(&self.opened.get_or_try_init(|| open).await?.root)
    }
}

#[async_trait]
impl Folder for Child {
    fn attributes(&self) -> Attributes {
        self.attributes
    }

    fn id(&self) -> u64 {
        self.id
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.root().await?.lookup(name).await
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        self.root().await?.list().await
    }

    fn origin(&self) -> Option<&Descriptor> {
        Some(&self.descriptor)
    }
}
