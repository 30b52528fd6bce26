//! One artifact of a mount, published.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::describe::{describe, differs, expect_size};
use super::draft::{Making, Plan};
use super::habits::Habits;
use super::index::{Goal, Listed};
use super::pieces::{self, Piece};
use super::possible::CONFIG_LIMIT;
use super::publication::{Publication, Publications, Written};
use super::since::{self, Since};
use super::{Base, CommitOptions, Committed, Publisher, expect_changeable, unsupported};
use crate::artifact::is_placeholder;
use crate::artifact::pack::{ConfigPart, Draft, LayerPart};
use crate::artifact::tree::{Attributes, Folder, Plain};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::mount::overlay::{Change, Frozen, Overlay};
use crate::oci::{Descriptor, Digest, ImageManifest, Manifest, Name, Reference, Tag, media_type};
use crate::ops::{self, Progress, PushOptions};
use crate::store::{Body, HOME, SourceExt as _, Target};

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
    /// Its config, if that tells of its layers.
    config: Option<Bytes>,
    /// What it is the next version of, if of any.
    parent: Option<Parent>,
}

/// A manifest that is published.
#[derive(Clone)]
pub(super) struct Parent {
    pub(super) digest: Digest,
    /// What a tag points at that means it: itself, or the index it is in.
    pub(super) named: Digest,
    pub(super) image: ImageManifest,
}

impl<'a> Branch<'a> {
    /// Publishes it, or deletes its tag if it is gone.
    pub(super) async fn commit(&mut self) -> Result<Committed> {
        let Some(frozen) = &self.piece.frozen else { return self.delete().await };
        let (name, tags) = (self.own_name()?, self.tags()?);
        if is_among(&name, &tags) && !self.options.dry_run {
            self.take_up_attempt(&name).await?;
        }
        let (seen, changes, ground) = self.ground(frozen).await?;
        self.expect_not_emptied(&seen, &ground)?;
        let scratch = tempfile::Builder::new()
            .prefix("commit-")
            .tempdir_in(self.overlay.staging().folder())
            .doing(|| "make a folder for what is packed")?;
        let news = self.publisher.news(self.piece);
        let is_ours = self.publication().since.is_some() && self.publication().published.is_some();
        let fresh = is_ours.then(|| since::paths(&news));
        let making = Making {
            frozen: &seen,
            changes: &changes,
            root: &ground.root,
            base: &ground.image,
            parent: ground.parent.as_ref().map_or(&ground.image, |parent| &parent.image),
            fresh: fresh.as_ref(),
            scratch: scratch.path(),
            options: self.options,
            progress: self.progress,
            config: ground.config.as_deref(),
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
            parent: ground.parent.as_ref().map(|parent| parent.named.to_string()),
            tags: tags.iter().map(ToString::to_string).collect(),
            changed: true,
            deleted: false,
            changes: news,
            left_out,
        };
        if let Some(kept) = kept {
            done.digest = kept.named.to_string();
            done.changed = self.is_new();
            if !done.changed && self.options.tags.is_empty() {
                self.remember(frozen);
                done.changes.clear();
            } else if !self.options.dry_run {
                self.tag(kept, &name, &tags).await?;
                let written = Written::new(kept.digest.clone(), &kept.image.media_type, &kept.image.raw)?;
                self.put_down(written.reached_by(&kept.named), is_among(&name, &tags));
                self.remember(frozen);
            }
            return Ok(done);
        }
        describe(&mut draft, self.options, ground.parent.as_ref(), &seen);
        let packed = draft.clone().seal()?;
        expect_size(&packed)?;
        let listed = self.listed(&packed.descriptor, &packed.bytes)?;
        if let Some(listed) = &listed {
            expect_size(&listed.packed)?;
            done.left_out.extend(listed.left_out(ground.parent.as_ref()));
        }
        let goal = Goal { packed, listed };
        done.digest = goal.named().to_string();
        if self.options.dry_run {
            return Ok(done);
        }
        let blind = self.publish(draft, goal, (&name, &tags), ground.parent.as_ref()).await?;
        self.remember(frozen);
        if let Some(blind) = blind {
            let seconds = blind.as_secs_f32();
            done.left_out.push(format!(
                "the tag took {seconds:.1} s to move; whoever moved it in that time was overwritten unseen"
            ));
        }
        Ok(done)
    }

    /// Sends it all, and writes down what is published. How long the tag was moved blindly, if too long.
    async fn publish(
        &mut self,
        mut draft: Draft,
        goal: Goal,
        (name, tags): (&Name, &[Tag]),
        parent: Option<&Parent>,
    ) -> Result<Option<Duration>> {
        self.take_from_neighbours(&mut draft).await;
        let target = self.target()?;
        let expected = self.expected(target, name, tags, parent).await?;
        let written = goal.written()?;
        let moves_ours = is_among(name, tags);
        if moves_ours {
            self.publication().attempt = Some(written.clone());
            self.publications.write(self.overlay.staging())?;
        }
        let push = PushOptions { expected, ..PushOptions::default() };
        let pushed = match goal.listed {
            Some(Listed { packed: index, .. }) => {
                ops::push_within(draft, index, target, tags, &push, self.progress).await?
            }
            None => ops::push(draft, target, tags, &push, self.progress).await?,
        };
        self.put_down(written, moves_ours);
        Ok(pushed.blind)
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
            let ground = Ground { root: nothing(), image: empty()?, config: None, parent: self.published()? };
            return Ok((pieces::seen_from_nowhere(frozen), piece.changes.clone(), ground));
        };
        let Manifest::Image(image) = &artifact.manifest else {
            return Err(unsupported(&artifact.reference, "it is an index"));
        };
        let tells = Habits::of(image).is_some_and(|habits| habits.tells_in_config());
        let config = match image.config.as_ref().filter(|_| tells) {
            Some(config) => {
                Some(artifact.source.fetch_all(config, CONFIG_LIMIT).await.doing(|| "read the config")?)
            }
            None => None,
        };
        let seen = if donor.is_empty() { frozen.clone() } else { pieces::seen_from(frozen, &donor) };
        let changes = if piece.is_own() {
            piece.changes.clone()
        } else {
            pieces::changes_from(&seen, &artifact.root).await?
        };
        let begun = Parent {
            digest: artifact.descriptor.digest.clone(),
            named: artifact.named.digest.clone(),
            image: image.clone(),
        };
        let ground = Ground {
            root: artifact.root,
            image: image.clone(),
            config,
            parent: self.published()?.or(Some(begun)),
        };
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

    pub(super) fn publication(&mut self) -> &mut Publication {
        self.publications.of(&self.piece.name)
    }

    fn published(&mut self) -> Result<Option<Parent>> {
        let written = self.publication().published.clone();
        let parent = |written: Written| {
            let (image, named) = (written.image()?, written.named().clone());
            Ok(Parent { image, named, digest: written.digest })
        };
        written.map(parent).transpose()
    }

    /// Whether nothing was published under this name that these files came from.
    fn is_new(&mut self) -> bool {
        let begun = !self.piece.is_own() || self.publication().deleted;
        begun && self.publication().published.is_none()
    }

    pub(super) fn target(&self) -> Result<&'a dyn Target> {
        self.publisher.target.get().map(AsRef::as_ref).ok_or_else(|| {
            Error::new(ErrorKind::Offline, "this mount was told of no place to publish to (--offline?)")
        })
    }

    pub(super) fn reference(&self) -> String {
        match &self.publisher.base {
            Base::Artifact(..) => self.publisher.reference.clone(),
            Base::Repository { shelf, .. } => shelf.reference(self.piece.name.as_bytes()),
        }
    }

    /// Keeps what was published; `ours` if the mounted tag was moved there.
    fn put_down(&mut self, written: Written, ours: bool) {
        let publication = self.publication();
        if ours {
            publication.tag_at = Some(written.named().clone());
        }
        (publication.published, publication.deleted) = (Some(written), false);
    }

    /// Remembers the tree that is published now.
    fn remember(&mut self, frozen: &Frozen) {
        let since = Since::new(frozen, &self.piece.changes);
        self.publication().since = Some(since);
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

/// Whether the mounted name is one of the tags.
fn is_among(name: &Name, tags: &[Tag]) -> bool {
    tags.iter().any(|tag| matches!(name, Name::Tag(name) if name == tag))
}
