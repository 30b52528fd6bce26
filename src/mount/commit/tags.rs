//! The tags of an artifact that is published: where they have to be, and moving and deleting them.

use super::branch::{Branch, Parent};
use super::publication::Publication;
use super::{Base, Committed};
use crate::error::{Error, ErrorKind, Result};
use crate::mount::shelf;
use crate::oci::{Descriptor, Digest, Name, Tag};
use crate::ops::{self, Expected};
use crate::store::Target;

impl Branch<'_> {
    /// The name it has in the mount.
    pub(super) fn own_name(&self) -> Result<Name> {
        match &self.publisher.base {
            Base::Artifact(_, name) => Ok(name.clone()),
            Base::Repository { .. } => self.folders_tag().map(Name::Tag),
        }
    }

    /// The tag the folder of an artifact stands for.
    fn folders_tag(&self) -> Result<Tag> {
        let name = &self.piece.name;
        let wrong = || Error::new(ErrorKind::Invalid, format!("the folder {name} is not named as a tag is"));
        shelf::tag(name.as_bytes()).ok_or_else(wrong)
    }

    /// The tags it is to have.
    pub(super) fn tags(&self) -> Result<Vec<Tag>> {
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
    pub(super) async fn take_up_attempt(&mut self, name: &Name) -> Result<()> {
        let (Some(attempt), Some(target)) = (self.publication().attempt.clone(), self.publisher.target.get())
        else {
            return Ok(());
        };
        let known = self.publication().published.as_ref().is_some_and(|known| known.digest == attempt.digest);
        if !known && target.resolve(name).await.is_ok_and(|now| now.digest == *attempt.named()) {
            let publication = self.publication();
            publication.tag_at = Some(attempt.named().clone());
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
            Base::Artifact(artifact, _) => Some(artifact.named.digest.clone()),
            Base::Repository { shelf, .. } => shelf.pinned(self.piece.name.as_bytes()),
        }))
    }

    /// Where the first tag has to be; the others are looked at.
    pub(super) async fn expected(
        &mut self,
        target: &dyn Target,
        name: &Name,
        tags: &[Tag],
        parent: Option<&Parent>,
    ) -> Result<Expected> {
        let mut places = Vec::new();
        for tag in tags.iter().filter(|_| !self.options.force) {
            if matches!(name, Name::Tag(name) if name == tag) {
                let place = self.own_place();
                if !places.is_empty() {
                    self.expect_at(target, tag, &place).await?;
                }
                places.push(place);
                continue;
            }
            // Another tag is to be new, or where this work comes from.
            let now = match target.resolve(&Name::Tag(tag.clone())).await {
                Ok(now) => Some(now.digest),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(error),
            };
            let ours = now.as_ref().is_some_and(|now| parent.is_some_and(|parent| parent.named == *now));
            if !ours && !places.is_empty() {
                expect_free(tag, now.as_ref())?;
            }
            places.push(Expected::Base(now.filter(|_| ours)));
        }
        Ok(places.into_iter().next().unwrap_or_default())
    }

    /// [`Conflict`](ErrorKind::Conflict) if a tag is elsewhere.
    async fn expect_at(&self, target: &dyn Target, tag: &Tag, place: &Expected) -> Result<()> {
        let now = match target.resolve(&Name::Tag(tag.clone())).await {
            Ok(now) => Some(now.digest),
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if *place == Expected::Base(now.clone()) {
            return Ok(());
        }
        let now = now.map_or_else(|| "not there".to_owned(), |now| now.to_string());
        let why = format!("{tag} was moved by somebody else: it is {now} now; nothing was published");
        Err(Error::new(ErrorKind::Conflict, why))
    }

    /// No file changed: the manifest there is gets the tags.
    pub(super) async fn tag(&mut self, kept: &Parent, own: &Name, tags: &[Tag]) -> Result<()> {
        let manifest =
            Descriptor::new(&kept.image.media_type, kept.digest.clone(), kept.image.raw.len() as u64);
        let manifest = match self.listed(&manifest, &kept.image.raw)? {
            Some(listed) => listed.packed.descriptor,
            None => manifest,
        };
        for tag in tags {
            let target = self.target()?;
            let now = target.resolve(&Name::Tag(tag.clone())).await.ok().map(|now| now.digest);
            let ours = matches!(own, Name::Tag(own) if own == tag);
            let place = if ours { self.own_place() } else { Expected::Base(None) };
            let fits = self.options.force
                || now.as_ref() == Some(&kept.named)
                || place == Expected::Base(now.clone());
            if !fits {
                expect_free(tag, now.as_ref())?;
            }
            self.target()?.tag(&manifest, tag).await?;
        }
        Ok(())
    }

    /// Deletes the tag of an artifact whose folder was removed.
    pub(super) async fn delete(&mut self) -> Result<Committed> {
        let tag = self.folders_tag()?;
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
