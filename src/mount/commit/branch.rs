//! One artifact of a mount, published.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::draft::{Making, Plan};
use super::pieces::{self, Piece};
use super::publication::{Publication, Publications, Written};
use super::since::Since;
use super::{Base, CommitOptions, Committed, MESSAGE, PARENT, Publisher, expect_changeable, unsupported};
use crate::artifact::pack::{CREATED, ConfigPart, Draft, LayerPart, Packed};
use crate::artifact::tree::{Attributes, Folder, Plain};
use crate::artifact::{attributes, is_placeholder};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::mount::overlay::{Change, Frozen, FrozenContent, Overlay};
use crate::oci::{Descriptor, Digest, ImageManifest, Manifest, Name, Reference, Tag, media_type};
use crate::ops::{self, Expected, Progress, PushOptions};
use crate::store::{Body, HOME, MANIFEST_LIMIT, Target};

/// One artifact on its way.
pub(super) struct Branch<'a> {
    pub(super) publisher: &'a Publisher,
    pub(super) overlay: &'a Overlay,
    pub(super) options: &'a CommitOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) piece: &'a Piece,
    pub(super) publications: &'a mut Publications,
}

/// What an artifact is made from.
struct Ground {
    /// What its files came from.
    root: Arc<dyn Folder>,
    image: ImageManifest,
    /// What it is the next version of, if of any.
    parent: Option<Parent>,
}

#[derive(Clone)]
struct Parent {
    digest: Digest,
    image: ImageManifest,
}

impl<'a> Branch<'a> {
    /// Publishes it, or deletes its tag if it is gone.
    pub(super) async fn commit(&mut self) -> Result<Committed> {
        let Some(frozen) = &self.piece.frozen else { return self.delete().await };
        let (name, tags) = (self.own_name()?, self.tags()?);
        let moves_ours = tags.iter().any(|tag| matches!(&name, Name::Tag(name) if name == tag));
        if moves_ours && !self.options.dry_run {
            self.take_up_attempt(&name).await?;
        }
        let (seen, changes, ground) = self.ground(frozen).await?;
        self.expect_not_emptied(&seen, &ground)?;
        let scratch = tempfile::Builder::new()
            .prefix("commit-")
            .tempdir_in(self.overlay.staging().folder())
            .doing(|| "make a folder for what is packed")?;
        let making = Making {
            frozen: &seen,
            changes: &changes,
            root: &ground.root,
            base: &ground.image,
            parent: ground.parent.as_ref().map_or(&ground.image, |parent| &parent.image),
            scratch: scratch.path(),
        };
        let Plan { mut draft, left_out } = making.plan().await?;
        if ground.parent.is_none() {
            draft.config = ConfigPart::Empty(BTreeMap::new());
        }
        let asked = self.options.artifact_type.is_some() || !self.options.annotations.is_empty();
        let kept = ground.parent.as_ref().filter(|parent| !asked && !differs(&draft, &parent.image));
        let mut done = Committed {
            reference: self.reference(),
            digest: String::new(),
            parent: ground.parent.as_ref().map(|parent| parent.digest.to_string()),
            tags: tags.iter().map(ToString::to_string).collect(),
            changed: true,
            deleted: false,
            changes: self.publisher.news(self.piece),
            left_out,
        };
        if let Some(kept) = kept {
            done.digest = kept.digest.to_string();
            done.changed = self.is_new();
            if !done.changed && self.options.tags.is_empty() {
                self.remember(frozen);
                done.changes.clear();
            } else if !self.options.dry_run {
                self.tag(kept, &name, &tags).await?;
                self.put_down(kept.digest.clone(), &kept.image, moves_ours, frozen)?;
            }
            return Ok(done);
        }
        describe(&mut draft, self.options, ground.parent.as_ref(), &seen);
        let packed = draft.clone().seal()?;
        expect_size(&packed)?;
        done.digest = packed.descriptor.digest.to_string();
        if self.options.dry_run {
            return Ok(done);
        }
        self.take_from_neighbours(&mut draft).await;
        let target = self.target()?;
        let expected = self.expected(target, &name, &tags, ground.parent.as_ref()).await?;
        if moves_ours {
            let media_type = &packed.descriptor.media_type;
            let attempt = Written::new(packed.descriptor.digest.clone(), media_type, &packed.bytes)?;
            self.publication().attempt = Some(attempt);
            self.publications.write(self.overlay.staging())?;
        }
        let push = PushOptions { expected, ..PushOptions::default() };
        let pushed = ops::push(draft, target, &tags, &push, self.progress).await?;
        let Manifest::Image(image) =
            Manifest::parse(pushed.bytes.clone(), Some(&pushed.descriptor.media_type))?
        else {
            return Err(Error::new(ErrorKind::Corrupt, "what was published is not an image manifest"));
        };
        self.put_down(pushed.descriptor.digest, &image, moves_ours, frozen)?;
        if let Some(blind) = pushed.blind {
            let seconds = blind.as_secs_f32();
            done.left_out.push(format!(
                "the tag took {seconds:.1} s to move; whoever moved it in that time was overwritten unseen"
            ));
        }
        Ok(done)
    }

    /// What the artifact is made from, and its tree and changes as seen from there.
    async fn ground(&mut self, frozen: &Frozen) -> Result<(Frozen, Vec<Change>, Ground)> {
        let piece = self.piece;
        let base = match &self.publisher.base {
            Base::Artifact(artifact, _) => Some((String::new(), artifact.clone())),
            Base::Repository { shelf, .. } => match pieces::donor(piece) {
                Some(donor) => Some((donor.clone(), shelf.artifact(donor.as_bytes()).await?)),
                None => None,
            },
        };
        let changeable = match &base {
            Some((_, artifact)) => piece.is_own() || expect_changeable(artifact).await.is_ok(),
            None => false,
        };
        let Some((donor, artifact)) = base.filter(|_| changeable) else {
            let ground = Ground { root: nothing(), image: empty()?, parent: self.published()? };
            return Ok((pieces::seen_from_nowhere(frozen), piece.changes.clone(), ground));
        };
        let Manifest::Image(image) = &artifact.manifest else {
            return Err(unsupported(&artifact.reference, "it is an index"));
        };
        let seen = if donor.is_empty() { frozen.clone() } else { pieces::seen_from(frozen, &donor) };
        let changes = if piece.is_own() {
            piece.changes.clone()
        } else {
            pieces::changes_from(&seen, &artifact.root).await?
        };
        let begun = Parent { digest: artifact.descriptor.digest.clone(), image: image.clone() };
        let ground =
            Ground { root: artifact.root, image: image.clone(), parent: self.published()?.or(Some(begun)) };
        Ok((seen, changes, ground))
    }

    /// Content that another repository of the registry has is taken from there, where the registry can.
    async fn take_from_neighbours(&self, draft: &mut Draft) {
        let (source, own) = match &self.publisher.base {
            Base::Artifact(artifact, _) => (&artifact.source, &artifact.reference),
            Base::Repository { shelf, .. } => (shelf.source(), &self.publisher.reference),
        };
        let Ok(own) = own.parse::<Reference>() else { return };
        for part in &mut draft.layers {
            let LayerPart::New { descriptor, body: Body::Source(content, _) } = part else { continue };
            let Some(known) = source.recall(&descriptor.digest, HOME).await else { continue };
            let home = std::str::from_utf8(&known).ok().and_then(|home| home.parse::<Reference>().ok());
            if let Some(Reference { repository: home, .. }) = home
                && home.host == own.repository.host
                && home != own.repository
            {
                let (descriptor, source) = (descriptor.clone(), Arc::clone(content));
                *part = LayerPart::Elsewhere { descriptor, home, source };
            }
        }
    }

    fn publication(&mut self) -> &mut Publication {
        self.publications.of(&self.piece.name)
    }

    fn published(&mut self) -> Result<Option<Parent>> {
        let written = self.publication().published.clone();
        written.map(|written| Ok(Parent { image: written.image()?, digest: written.digest })).transpose()
    }

    /// Whether nothing was published under this name that these files came from.
    fn is_new(&mut self) -> bool {
        !self.piece.is_own() && self.publication().published.is_none()
    }

    fn target(&self) -> Result<&'a dyn Target> {
        self.publisher.target.get().map(AsRef::as_ref).ok_or_else(|| {
            Error::new(ErrorKind::Offline, "this mount was told of no place to publish to (--offline?)")
        })
    }

    fn reference(&self) -> String {
        match &self.publisher.base {
            Base::Artifact(..) => self.publisher.reference.clone(),
            Base::Repository { shelf, .. } => shelf.reference(&self.piece.name),
        }
    }

    /// The name it has in the mount.
    fn own_name(&self) -> Result<Name> {
        match &self.publisher.base {
            Base::Artifact(_, name) => Ok(name.clone()),
            Base::Repository { .. } => tag(&self.piece.name).map(Name::Tag),
        }
    }

    /// The tags it is to have.
    fn tags(&self) -> Result<Vec<Tag>> {
        if !self.options.tags.is_empty() {
            return self.options.tags.iter().map(|text| tag(text)).collect();
        }
        match self.own_name()? {
            Name::Tag(tag) => Ok(vec![tag]),
            Name::Digest(_) => Err(Error::new(
                ErrorKind::Invalid,
                format!("{} names no tag to publish under; commit with --tag", self.publisher.reference),
            )),
        }
    }

    /// Killed after the tag was put and before that was written down: then the tag is where we wanted it.
    async fn take_up_attempt(&mut self, name: &Name) -> Result<()> {
        let (Some(attempt), Some(target)) = (self.publication().attempt.clone(), self.publisher.target.get())
        else {
            return Ok(());
        };
        let known = self.publication().published.as_ref().is_some_and(|known| known.digest == attempt.digest);
        if !known && target.resolve(name).await.is_ok_and(|now| now.digest == attempt.digest) {
            let publication = self.publication();
            publication.tag_at = Some(attempt.digest.clone());
            (publication.published, publication.deleted) = (Some(attempt), false);
            self.publications.write(self.overlay.staging())?;
        }
        Ok(())
    }

    /// Where the mounted name has to be.
    fn own_place(&mut self) -> Expected {
        let publication = self.publication();
        if publication.deleted {
            return Expected::Base(None);
        }
        let seen = publication.tag_at.clone();
        Expected::Base(seen.or_else(|| match &self.publisher.base {
            Base::Artifact(artifact, _) => Some(artifact.descriptor.digest.clone()),
            Base::Repository { shelf, .. } => shelf.pinned(self.piece.name.as_bytes()),
        }))
    }

    /// Where the first tag has to be; the others are looked at.
    async fn expected(
        &mut self,
        target: &dyn Target,
        name: &Name,
        tags: &[Tag],
        parent: Option<&Parent>,
    ) -> Result<Expected> {
        let mut places = Vec::new();
        for tag in tags.iter().filter(|_| !self.options.force) {
            if matches!(name, Name::Tag(name) if name == tag) {
                places.push(self.own_place());
                continue;
            }
            // Another tag is to be new, or where this work comes from.
            let now = match target.resolve(&Name::Tag(tag.clone())).await {
                Ok(now) => Some(now.digest),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let ours = now.as_ref().is_some_and(|now| parent.is_some_and(|parent| parent.digest == *now));
            if !ours && !places.is_empty() {
                expect_free(tag, now.as_ref())?;
            }
            places.push(Expected::Base(now.filter(|_| ours)));
        }
        Ok(places.into_iter().next().unwrap_or_default())
    }

    /// No file changed: the manifest there is gets the tags.
    async fn tag(&mut self, kept: &Parent, own: &Name, tags: &[Tag]) -> Result<()> {
        let manifest =
            Descriptor::new(&kept.image.media_type, kept.digest.clone(), kept.image.raw.len() as u64);
        for tag in tags {
            let target = self.target()?;
            let now = target.resolve(&Name::Tag(tag.clone())).await.ok().map(|now| now.digest);
            let ours = matches!(own, Name::Tag(own) if own == tag);
            let place = if ours { self.own_place() } else { Expected::Base(None) };
            let fits = self.options.force
                || now.as_ref() == Some(&kept.digest)
                || place == Expected::Base(now.clone());
            if !fits {
                expect_free(tag, now.as_ref())?;
            }
            self.target()?.tag(&manifest, tag).await?;
        }
        Ok(())
    }

    /// Writes down what was published.
    fn put_down(&mut self, digest: Digest, image: &ImageManifest, ours: bool, frozen: &Frozen) -> Result<()> {
        let written = Written::new(digest.clone(), &image.media_type, &image.raw)?;
        let publication = self.publication();
        publication.published = Some(written);
        publication.deleted = false;
        if ours {
            publication.tag_at = Some(digest);
        }
        self.remember(frozen);
        Ok(())
    }

    /// Remembers the tree that is published now.
    fn remember(&mut self, frozen: &Frozen) {
        let since = Since::new(frozen, &self.piece.changes);
        self.publication().since = Some(since);
    }

    /// Deletes the tag of an artifact whose folder was removed.
    async fn delete(&mut self) -> Result<Committed> {
        let tag = tag(&self.piece.name)?;
        let Expected::Base(expected) = self.own_place() else { return Err(moved(&tag, None)) };
        let mut done = Committed {
            reference: self.reference(),
            digest: expected.as_ref().map(ToString::to_string).unwrap_or_default(),
            parent: None,
            tags: vec![tag.to_string()],
            changed: true,
            deleted: true,
            changes: self.publisher.news(self.piece),
            left_out: Vec::new(),
        };
        if !matches!(self.publisher.base, Base::Repository { may_delete: true, .. }) {
            done.changed = false;
            done.left_out.push(format!(
                "{}: its folder was removed, and its tag stays: mount with --allow-delete to delete tags",
                done.reference
            ));
            return Ok(done);
        }
        if self.options.dry_run {
            return Ok(done);
        }
        let target = self.target()?;
        match target.resolve(&Name::Tag(tag.clone())).await {
            Ok(now) if Some(&now.digest) == expected.as_ref() || self.options.force => {
                ops::untag(target, &tag, &now).await?;
            }
            Ok(now) => return Err(moved(&tag, Some(&now.digest))),
            // Somebody did already.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        *self.publication() = Publication { deleted: true, ..Publication::default() };
        Ok(done)
    }

    fn expect_not_emptied(&self, frozen: &Frozen, ground: &Ground) -> Result<()> {
        let image = ground.parent.as_ref().map_or(&ground.image, |parent| &parent.image);
        let held = image.layers.iter().any(|layer| !is_placeholder(layer));
        let in_repository = matches!(self.publisher.base, Base::Repository { .. });
        if in_repository && held && frozen.entries.is_empty() && !self.options.force {
            let why = format!(
                "every file of {0} was deleted, and nothing was published for it. To delete the tag, mount with --allow-delete and remove the folder; to publish it empty: artifs commit --force",
                self.reference()
            );
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        Ok(())
    }
}

/// What an artifact that comes from nowhere begins as.
fn empty() -> Result<ImageManifest> {
    let config = Descriptor::of(media_type::EMPTY_JSON, b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": media_type::IMAGE_MANIFEST, "config": config, "layers": [],
    });
    match Manifest::parse(Bytes::from(manifest.to_string()), None)? {
        Manifest::Image(image) => Ok(image),
        Manifest::Index(_) => Err(Error::new(ErrorKind::Corrupt, "an empty manifest is an index")),
    }
}

fn nothing() -> Arc<dyn Folder> {
    Arc::new(Plain { attributes: Attributes::FOLDER, id: 0, entries: Arc::default() })
}

fn tag(text: &str) -> Result<Tag> {
    text.parse::<Tag>().or_else(|_| Tag::of_layout(text))
}

fn expect_free(tag: &Tag, now: Option<&Digest>) -> Result<()> {
    match now {
        Some(now) => {
            let why = format!("{tag} is {now} already; nothing was published under it");
            Err(Error::new(ErrorKind::Conflict, why))
        }
        None => Ok(()),
    }
}

fn moved(tag: &Tag, now: Option<&Digest>) -> Error {
    let now = now.map_or_else(|| "not there".to_owned(), ToString::to_string);
    let why = format!("{tag} was moved by somebody else: it is {now} now; it was not deleted");
    Error::new(ErrorKind::Conflict, why)
}

/// What the manifest says of itself.
fn describe(draft: &mut Draft, options: &CommitOptions, parent: Option<&Parent>, frozen: &Frozen) {
    if let Some(parent) = parent {
        draft.annotations.insert(PARENT.into(), parent.digest.to_string());
    }
    match &options.message {
        Some(message) => draft.annotations.insert(MESSAGE.into(), message.clone()),
        None => draft.annotations.remove(MESSAGE),
    };
    if let Some(kind) = &options.artifact_type {
        draft.artifact_type = Some(kind.clone());
    }
    if let Some(before) = parent.and_then(|parent| parent.image.annotations.get(CREATED)) {
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
        ConfigPart::Part(part) => Some(part.descriptor()),
        ConfigPart::Empty(_) => None,
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
