//! Commit: what changed in a mount becomes a new manifest.
//!
//! A commit freezes the tree, makes a draft of it that keeps all that did not change ([`draft`]), and publishes that
//! as `artifs push` would: blobs, manifest, tag, with the tag looked at before and after. The mount goes on as it
//! is, over the base it began with; what was published is written down beside the staged work
//! (`staging::Publication`), and the next commit builds on it. When the mount ends with everything published, its staging folder
//! is emptied; else the work stays there and the next mount of the reference finds it.
//!
//! The manifest says what it was made from in the annotation [`PARENT`], and why in [`MESSAGE`]. Its `created`, if it
//! had one, becomes the time of the newest change, not of the commit: the same tree has the same digest, also when
//! a commit is tried again. What of the tree cannot be published (extended attributes, owners, devices) is reported.

mod content;
mod draft;
mod folders;
mod items;
mod possible;
mod since;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::overlay::{Change, Frozen, FrozenContent, Overlay};
use super::staging::Publication;
use crate::artifact::pack::{CREATED, Draft, LayerPart, Packed};
use crate::artifact::{Artifact, attributes};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, ImageManifest, Manifest, Name, Tag};
use crate::ops::{self, Expected, Progress, PushOptions};
use crate::store::{MANIFEST_LIMIT, Source, SourceExt as _, Target};
use draft::Making;
use since::Since;

/// The annotation with the digest of the manifest a commit was made from.
pub const PARENT: &str = "land.artifs.parent";
/// The annotation with a commit's message.
pub const MESSAGE: &str = "land.artifs.message";

/// How to commit.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct CommitOptions {
    /// Why.
    pub message: Option<String>,
    /// Under these tags; under the mounted one if there are none.
    pub tags: Vec<String>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// Another artifact type.
    pub artifact_type: Option<String>,
    /// Whether the tag is moved wherever it is.
    pub force: bool,
    /// Whether nothing is published.
    pub dry_run: bool,
    /// When the artifact is said to be made, in seconds since 1970; the time of the newest change if `None`.
    pub created: Option<i64>,
    /// Whether owners and times are published as well.
    #[serde(default)]
    pub preserve: bool,
    /// Whether new folders become one layer each, as `oras push` makes of a folder.
    #[serde(default)]
    pub pack: bool,
}

impl CommitOptions {
    /// The usual ones, with the time `SOURCE_DATE_EPOCH` asks for (<https://reproducible-builds.org>).
    pub fn from_environment() -> Self {
        let epoch = std::env::var("SOURCE_DATE_EPOCH").ok();
        Self { created: epoch.and_then(|text| text.parse().ok()), ..Self::default() }
    }
}

/// What a commit did.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Committed {
    /// The reference that was mounted.
    pub reference: String,
    /// The manifest there is now; of a dry run the one there would be.
    pub digest: String,
    /// The one it was made from.
    pub parent: String,
    /// The tags it is under.
    pub tags: Vec<String>,
    /// Whether there was anything to publish.
    pub changed: bool,
    /// What was published.
    pub changes: Vec<Change>,
    /// What of the tree is not in it, and why.
    pub left_out: Vec<String>,
}

/// Publishes what changes in one mount.
pub(super) struct Publisher {
    reference: String,
    name: Name,
    source: Arc<dyn Source>,
    base: Arc<(Digest, ImageManifest)>,
    target: OnceLock<Arc<dyn Target>>,
    state: tokio::sync::Mutex<State>,
    since: std::sync::Mutex<Option<Since>>,
}

/// What was published so far.
struct State {
    parent: Arc<(Digest, ImageManifest)>,
    publication: Publication,
}

impl Publisher {
    /// For a mount of `artifact`, which `name` pointed at.
    pub(super) async fn new(artifact: &Artifact, name: Name, publication: Publication) -> Result<Self> {
        let Manifest::Image(image) = &artifact.manifest else {
            return Err(unsupported(&artifact.reference, "it is an index; mount one of its manifests"));
        };
        if artifact.named.digest != artifact.descriptor.digest {
            let child = &artifact.descriptor.digest;
            return Err(unsupported(
                &artifact.reference,
                &format!(
                    "it is an index of several platforms; mount the manifest of one by its digest: {child}"
                ),
            ));
        }
        possible::expect(artifact, image).await?;
        let base = Arc::new((artifact.descriptor.digest.clone(), image.clone()));
        let parent = match &publication.published {
            Some(digest) if *digest != base.0 => {
                Arc::new((digest.clone(), manifest(&artifact.source, digest).await?))
            }
            _ => Arc::clone(&base),
        };
        Ok(Self {
            reference: artifact.reference.clone(),
            name,
            source: Arc::clone(&artifact.source),
            base,
            target: OnceLock::new(),
            state: tokio::sync::Mutex::new(State { parent, publication }),
            since: std::sync::Mutex::default(),
        })
    }

    /// Says where to publish. Only the first word counts.
    pub(super) fn publish_to(&self, target: Arc<dyn Target>) {
        let _ = self.target.set(target);
    }

    /// Whether there is somewhere to publish.
    pub(super) fn has_target(&self) -> bool {
        self.target.get().is_some()
    }

    /// What differs from what was published last.
    pub(super) fn changes(&self, overlay: &Overlay) -> Vec<Change> {
        let mut since = self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match &mut *since {
            None => overlay.changes(),
            Some(since) => match overlay.freeze() {
                Ok(frozen) => since.changes(&overlay.changes(), &frozen),
                Err(_) => overlay.changes(),
            },
        }
    }

    /// Publishes the tree as it is now. One commit at a time.
    pub(super) async fn commit(
        &self,
        overlay: &Overlay,
        options: &CommitOptions,
        progress: &dyn Progress,
    ) -> Result<Committed> {
        let mut state = self.state.lock().await;
        let frozen = overlay.freeze()?;
        let changes = overlay.changes();
        let shown = self.changes(overlay);
        let tags = self.tags(options)?;
        let moves_ours = tags.iter().any(|tag| matches!(&self.name, Name::Tag(name) if name == tag));
        if moves_ours && !options.dry_run {
            self.take_up_attempt(&mut state).await;
        }
        let parent = Arc::clone(&state.parent);
        let scratch = tempfile::Builder::new()
            .prefix("commit-")
            .tempdir_in(overlay.staging().folder())
            .doing(|| "make a folder for what is packed")?;
        let making = Making {
            frozen: &frozen,
            changes: &changes,
            root: &overlay.base,
            base: &self.base.1,
            parent: &parent.1,
            scratch: scratch.path(),
        };
        let plan = making.plan().await?;
        let mut draft = plan.draft;
        let asked = options.artifact_type.is_some() || !options.annotations.is_empty();
        let anything = asked || differs(&draft, &parent.1);
        let mut done = Committed {
            reference: self.reference.clone(),
            digest: parent.0.to_string(),
            parent: parent.0.to_string(),
            tags: tags.iter().map(ToString::to_string).collect(),
            changed: anything,
            changes: shown,
            left_out: plan.left_out,
        };
        if !anything && (options.tags.is_empty() || options.dry_run) {
            self.published(&frozen, &changes);
            done.changes.clear();
            return Ok(done);
        }
        if anything {
            describe(&mut draft, options, &parent, &frozen);
        }
        let packed = draft.clone().seal()?;
        expect_size(&packed)?;
        if anything {
            done.digest = packed.descriptor.digest.to_string();
        }
        if options.dry_run {
            return Ok(done);
        }
        let target = self.target.get().ok_or_else(|| {
            Error::new(ErrorKind::Offline, "this mount was told of no place to publish to (--offline?)")
        })?;
        if !anything {
            self.tag_again(target.as_ref(), &parent, &tags, options).await?;
            return Ok(done);
        }
        if moves_ours {
            state.publication.attempt = Some(packed.descriptor.digest.clone());
            overlay.staging().note(&state.publication)?;
        }
        let expected = self.expected(target.as_ref(), &state, tags.first(), options).await?;
        let push = PushOptions { expected, ..PushOptions::default() };
        let pushed = ops::push(draft, target.as_ref(), &tags, &push, progress).await?;
        let Manifest::Image(image) =
            Manifest::parse(pushed.bytes.clone(), Some(&pushed.descriptor.media_type))?
        else {
            return Err(Error::new(ErrorKind::Corrupt, "what was published is not an image manifest"));
        };
        let digest = pushed.descriptor.digest;
        state.publication.published = Some(digest.clone());
        if moves_ours {
            state.publication.tag_at = Some(digest.clone());
        }
        overlay.staging().note(&state.publication)?;
        state.parent = Arc::new((digest, image));
        self.published(&frozen, &changes);
        if let Some(blind) = pushed.blind {
            let seconds = blind.as_secs_f32();
            done.left_out.push(format!(
                "the tag took {seconds:.1} s to move; whoever moved it in that time was overwritten unseen"
            ));
        }
        Ok(done)
    }

    /// Remembers the tree that is published now.
    fn published(&self, frozen: &Frozen, changes: &[Change]) {
        let since = Since::new(frozen, changes);
        *self.since.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(since);
    }

    fn tags(&self, options: &CommitOptions) -> Result<Vec<Tag>> {
        if !options.tags.is_empty() {
            let parse = |text: &String| text.parse::<Tag>().or_else(|_| Tag::of_layout(text));
            return options.tags.iter().map(parse).collect();
        }
        match &self.name {
            Name::Tag(tag) => Ok(vec![tag.clone()]),
            Name::Digest(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!("{} names no tag to publish under; commit with --tag", self.reference),
            )),
        }
    }

    /// Killed after the tag was put and before that was written down: then the tag is where we wanted it.
    async fn take_up_attempt(&self, state: &mut State) {
        let (Some(attempt), Some(target)) = (state.publication.attempt.clone(), self.target.get()) else {
            return;
        };
        if attempt == state.parent.0
            || target.resolve(&self.name).await.is_ok_and(|now| now.digest != attempt)
        {
            return;
        }
        if let Ok(image) = manifest(&self.source, &attempt).await {
            (state.publication.published, state.publication.tag_at) =
                (Some(attempt.clone()), Some(attempt.clone()));
            state.parent = Arc::new((attempt, image));
        }
    }

    /// Where the first tag has to be.
    async fn expected(
        &self,
        target: &dyn Target,
        state: &State,
        tag: Option<&Tag>,
        options: &CommitOptions,
    ) -> Result<Expected> {
        let Some(tag) = tag.filter(|_| !options.force) else { return Ok(Expected::Any) };
        if matches!(&self.name, Name::Tag(name) if name == tag) {
            let at = state.publication.tag_at.clone().unwrap_or_else(|| self.base.0.clone());
            return Ok(Expected::Base(Some(at)));
        }
        // Another tag is to be new, or where this work comes from.
        match target.resolve(&Name::Tag(tag.clone())).await {
            Ok(now) if now.digest == state.parent.0 => Ok(Expected::Base(Some(now.digest))),
            Ok(_) => Ok(Expected::Base(None)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Expected::Base(None)),
            Err(error) => Err(error),
        }
    }

    /// Nothing changed: the manifest there is gets the tags.
    async fn tag_again(
        &self,
        target: &dyn Target,
        parent: &(Digest, ImageManifest),
        tags: &[Tag],
        options: &CommitOptions,
    ) -> Result<()> {
        let (digest, image) = parent;
        let manifest = Descriptor::new(&image.media_type, digest.clone(), image.raw.len() as u64);
        for tag in tags {
            let there = target.resolve(&Name::Tag(tag.clone())).await;
            if let Ok(there) = &there
                && there.digest != *digest
                && !options.force
            {
                let why = format!("{tag} is {} already; nothing was published under it", there.digest);
                return Err(Error::new(ErrorKind::Conflict, why));
            }
            target.tag(&manifest, tag).await?;
        }
        Ok(())
    }
}

/// What the manifest says of itself.
fn describe(
    draft: &mut Draft,
    options: &CommitOptions,
    (parent, image): &(Digest, ImageManifest),
    frozen: &Frozen,
) {
    draft.annotations.insert(PARENT.into(), parent.to_string());
    match &options.message {
        Some(message) => draft.annotations.insert(MESSAGE.into(), message.clone()),
        None => draft.annotations.remove(MESSAGE),
    };
    if let Some(kind) = &options.artifact_type {
        draft.artifact_type = Some(kind.clone());
    }
    if let Some(before) = image.annotations.get(CREATED) {
        let before = before.parse::<jiff::Timestamp>().map_or(0, jiff::Timestamp::as_second);
        let seconds = options.created.unwrap_or_else(|| newest(frozen).max(before));
        if let Ok(time) = jiff::Timestamp::from_second(seconds) {
            draft.annotations.insert(CREATED.into(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        }
    }
    draft.annotations.extend(options.annotations.clone());
}

/// When the newest change was made; what says it is of the future was made now.
fn newest(frozen: &Frozen) -> i64 {
    let changed = frozen.entries.iter().filter(|entry| {
        let local = matches!(entry.content, FrozenContent::Staged { .. } | FrozenContent::Folder);
        local || entry.touched || entry.origin.is_none()
    });
    let times = changed.map(|entry| entry.attributes.modified.0);
    times.chain([frozen.modified.0]).max().unwrap_or(0).min(jiff::Timestamp::now().as_second())
}

/// Whether a draft's files are other files than the manifest's.
fn differs(draft: &Draft, image: &ImageManifest) -> bool {
    let config = match &draft.config {
        crate::artifact::pack::ConfigPart::Part(part) => Some(part.descriptor()),
        crate::artifact::pack::ConfigPart::Empty(_) => None,
    };
    let layers: Vec<&Descriptor> = draft.layers.iter().map(LayerPart::descriptor).collect();
    // Two layers of attributes that say the same are the same.
    let same = |one: &Descriptor, other: &Descriptor| {
        one == other || attributes::is_attributes(one) && one.digest == other.digest
    };
    config != image.config.as_ref()
        || layers.len() != image.layers.len()
        || layers.iter().zip(&image.layers).any(|(one, other)| !same(one, other))
}

fn expect_size(packed: &Packed) -> Result<()> {
    let size = packed.bytes.len() as u64;
    if size <= MANIFEST_LIMIT {
        return Ok(());
    }
    let why = format!(
        "the manifest would have {size} bytes, and registries take {MANIFEST_LIMIT}; put some of the files into an archive"
    );
    Err(Error::new(ErrorKind::TooLarge, why))
}

async fn manifest(source: &Arc<dyn Source>, digest: &Digest) -> Result<ImageManifest> {
    let (_, manifest) = source
        .fetch_manifest(&Name::Digest(digest.clone()))
        .await
        .doing(|| format!("open what was published before, {digest}"))?;
    match manifest {
        Manifest::Image(image) => Ok(image),
        Manifest::Index(_) => Err(Error::new(ErrorKind::Unsupported, format!("{digest} is an index"))),
    }
}

fn unsupported(reference: &str, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{reference} cannot be changed: {why}"))
}
