//! Commit: what changed in a mount becomes a new manifest.
//!
//! A commit freezes the tree, makes a draft of it that keeps all that did not change ([`draft`]), and publishes that
//! as `artifs push` would: blobs, manifest, tag, with the tag looked at before and after. The mount goes on as it
//! is, over the base it began with; what was published is written down beside the staged work ([`publication`]), and
//! the next commit builds on it. When the mount ends with everything published, its staging folder
//! is emptied; else the work stays there and the next mount of the reference finds it.
//!
//! The manifest says what it was made from in the annotation [`PARENT`], and why in [`MESSAGE`]. Its `created`, if it
//! had one, becomes the time of the newest change, not of the commit: the same tree has the same digest, also when
//! a commit is tried again. What of the tree cannot be published (devices, links that lead outside) is reported.
//!
//! - `pieces`: the tree by artifacts · `branch`: one of them, published · `tags`: where its tags have to be
//! - `items`, `folders`, `slots`, `draft`, `content`: from a tree to a draft · `habits`: told in the producer's words
//! - `index`: one platform of several, published in a new index
//! - `describe`: what the manifest says of itself
//! - `possible`: what cannot be changed · `publication`, `since`: what was published, and what came after

mod branch;
mod content;
mod describe;
mod draft;
mod folders;
mod habits;
mod index;
mod items;
mod pieces;
mod possible;
mod publication;
mod since;
mod slots;
mod tags;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use super::overlay::{Change, Difference, Overlay};
use super::shelf::Shelf;
use super::staging::Staging;
use crate::artifact::Artifact;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Manifest, Name};
use crate::ops::Progress;
use crate::store::Target;
use branch::Branch;
use pieces::Piece;
use publication::{Publication, Publications};
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
    /// In a repository only the artifact this path from its root is in; all that changed if `None`.
    #[serde(default)]
    pub within: Option<String>,
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
    /// The artifact: what was mounted, or a tag of the repository that was.
    pub reference: String,
    /// The manifest there is now; of a dry run the one there would be.
    pub digest: String,
    /// The one it was made from; a new artifact may be made from none.
    pub parent: Option<String>,
    /// The tags it is under.
    pub tags: Vec<String>,
    /// Whether there was anything to publish.
    pub changed: bool,
    /// Whether the tag was deleted, and [`digest`](Self::digest) is what it pointed at.
    #[serde(default)]
    pub deleted: bool,
    /// What was published.
    pub changes: Vec<Change>,
    /// What of the tree is not in it, and why.
    pub left_out: Vec<String>,
}

/// Publishes what changes in one mount.
pub(super) struct Publisher {
    reference: String,
    base: Base,
    target: OnceLock<Arc<dyn Target>>,
    publications: tokio::sync::Mutex<Publications>,
    /// What of them tells what changed since.
    told: std::sync::Mutex<BTreeMap<String, Told>>,
}

/// What is mounted.
enum Base {
    /// One artifact, under the name it was mounted by.
    Artifact(Artifact, Name),
    /// The artifacts of a repository.
    Repository { shelf: Arc<Shelf>, may_delete: bool },
}

/// What was published of one artifact.
struct Told {
    since: Option<Since>,
    deleted: bool,
}

impl Publisher {
    /// For a mount of `artifact`, which `name` pointed at.
    pub(super) async fn of_artifact(artifact: Artifact, name: Name, staging: &Staging) -> Result<Self> {
        index::expect_changeable(&artifact).await?;
        Self::new(artifact.reference.clone(), Base::Artifact(artifact, name), staging)
    }

    /// For a mount of a repository.
    pub(super) fn of_repository(
        reference: &str,
        shelf: Arc<Shelf>,
        may_delete: bool,
        staging: &Staging,
    ) -> Result<Self> {
        Self::new(reference.to_owned(), Base::Repository { shelf, may_delete }, staging)
    }

    fn new(reference: String, base: Base, staging: &Staging) -> Result<Self> {
        let publications = Publications::read(staging)?;
        let told = |publication: &Publication| Told {
            since: publication.since.clone(),
            deleted: publication.deleted,
        };
        let told = publications.0.iter().map(|(name, publication)| (name.clone(), told(publication)));
        Ok(Self {
            reference,
            base,
            target: OnceLock::new(),
            told: std::sync::Mutex::new(told.collect()),
            publications: tokio::sync::Mutex::new(publications),
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
        let Ok(pieces) = self.pieces(overlay) else { return overlay.changes() };
        let below = |name: &str, path: &str| match (name, path) {
            ("", path) => path.to_owned(),
            (name, "") => format!("{name}/"),
            (name, path) => format!("{name}/{path}"),
        };
        let named = |piece: &Piece| -> Vec<Change> {
            let named = self.news(piece).into_iter().map(|change| {
                let difference = match change.difference {
                    Difference::Renamed { from, modified } => {
                        Difference::Renamed { from: below(&piece.name, &from), modified }
                    }
                    difference => difference,
                };
                Change { path: below(&piece.name, &change.path), difference }
            });
            named.collect()
        };
        pieces.iter().flat_map(named).collect()
    }

    /// The artifacts there are changes in.
    fn pieces(&self, overlay: &Overlay) -> Result<Vec<Piece>> {
        let (frozen, changes) = (overlay.freeze()?, overlay.changes());
        if let Base::Artifact(..) = &self.base {
            return Ok(vec![Piece::whole(frozen, changes)]);
        }
        let told = self.told();
        let published = told.iter().filter(|(_, told)| told.deleted || told.since.is_some());
        let published = published.map(|(name, told)| (name.clone(), told.deleted)).collect();
        Ok(pieces::of_repository(&frozen, &changes, &published))
    }

    /// What differs in an artifact from what was published last. The artifact itself is "".
    fn news(&self, piece: &Piece) -> Vec<Change> {
        let told = self.told();
        let told = told.get(&piece.name);
        let itself = |difference| Change { path: String::new(), difference };
        match (&piece.frozen, told) {
            (None, Some(told)) if told.deleted => Vec::new(),
            (None, _) => vec![itself(Difference::Deleted)],
            (Some(frozen), Some(Told { since: Some(since), .. })) => since.changes(&piece.changes, frozen),
            (Some(_), told) if piece.is_own() && told.is_none_or(|told| !told.deleted) => {
                piece.changes.clone()
            }
            (Some(_), _) => {
                let begun = itself(Difference::Added);
                std::iter::once(begun).chain(piece.changes.iter().cloned()).collect()
            }
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Told>> {
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Publishes the tree as it is now. One commit at a time.
    ///
    /// Of a repository each artifact that changed is published by itself: the error tells of those that were not, after
    /// all were tried.
    pub(super) async fn commit(
        &self,
        overlay: &Overlay,
        options: &CommitOptions,
        progress: &dyn Progress,
    ) -> Result<Vec<Committed>> {
        let mut publications = self.publications.lock().await;
        let mut pieces = self.pieces(overlay)?;
        if let Base::Repository { .. } = &self.base {
            let wanted = options.within.as_deref().and_then(|path| path.split('/').next());
            pieces.retain(|piece| wanted.is_none_or(|wanted| piece.name == wanted));
            pieces.retain(|piece| !self.news(piece).is_empty());
            if !options.tags.is_empty() && pieces.len() != 1 {
                let why =
                    format!("--tag is for one artifact, and {} of {} changed", pieces.len(), self.reference);
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        }
        let (mut done, mut failed) = (Vec::new(), Vec::new());
        for piece in pieces {
            let publications = &mut *publications;
            let (publisher, piece) = (self, &piece);
            let mut branch = Branch { publisher, overlay, options, progress, piece, publications };
            let outcome = branch.commit().await;
            let publication = publications.of(&piece.name);
            let told = Told { since: publication.since.clone(), deleted: publication.deleted };
            self.told().insert(piece.name.clone(), told);
            // What was reached is written down also when the rest failed.
            publications.write(overlay.staging())?;
            match outcome {
                Ok(committed) => done.push(committed),
                Err(error) => failed.push(error),
            }
        }
        match failed.len() {
            0 => Ok(done),
            1 if done.is_empty() => failed.pop().map_or(Ok(done), Err),
            _ if options.dry_run => Err(several(&failed, &[])),
            _ => Err(several(&failed, &done)),
        }
    }
}

/// Why an artifact of a repository cannot be changed, if it cannot.
pub(super) async fn expect_changeable(artifact: &Artifact) -> Result<()> {
    match (&artifact.manifest, &artifact.chosen_from) {
        (Manifest::Image(image), None) => possible::expect(artifact, image).await,
        (Manifest::Image(_), Some(_)) => {
            let why = "it is an index of several platforms; to change one, mount the tag, not the repository";
            Err(unsupported(&artifact.reference, why))
        }
        (Manifest::Index(_), _) => {
            Err(unsupported(&artifact.reference, "it is an index; mount one of its manifests"))
        }
    }
}

/// Several artifacts could not be published, or some could and some could not.
fn several(failed: &[Error], done: &[Committed]) -> Error {
    let conflict = failed.iter().any(|error| error.kind() == ErrorKind::Conflict);
    let kind = failed.iter().map(Error::kind).find(|kind| !conflict || *kind == ErrorKind::Conflict);
    let mut said: Vec<String> = failed.iter().map(ToString::to_string).collect();
    said.dedup();
    let published = done.iter().filter(|done| done.changed).map(|done| done.reference.as_str());
    let published: Vec<&str> = published.collect();
    if !published.is_empty() {
        said.push(format!("published all the same: {}", published.join(", ")));
    }
    Error::new(kind.unwrap_or(ErrorKind::Io), said.join("; "))
}

fn unsupported(reference: &str, why: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("{reference} cannot be changed: {why}"))
}
