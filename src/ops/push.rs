//! Push: a draft becomes an artifact under its tags.
//!
//! Blobs first, then the manifest, then the tags: nothing is ever named before it is whole. A tag that is expected
//! to be where somebody left it is looked at right before and again after it was moved. No registry offers more
//! (registry.md §4.7): two who put a tag in the same moment cannot be kept apart, but the one whose manifest is
//! lost sees it, as long as both take less than [`SETTLE`] from looking to putting; whoever took longer is told so. A
//! store that can compare and move in one step (a layout) does.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _};

use super::{Progress, upload};
use crate::artifact::pack::{Draft, LayerPart, Packed};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name, Tag};
use crate::store::{Body, Target, expect_tag};

/// How long after a tag was put it is looked at for the last time.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Where the first tag is expected to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Anywhere: it is moved, whatever it points at.
    #[default]
    Any,
    /// At this manifest; nowhere yet if `None`.
    Base(Option<Digest>),
}

/// How to push.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// So many blobs at a time.
    pub concurrency: usize,
    /// Where the first tag is expected to be.
    pub expected: Expected,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self { concurrency: 5, expected: Expected::Any }
    }
}

/// What was pushed.
#[derive(Clone, Debug)]
pub struct Pushed {
    /// The manifest, with its artifact type and annotations.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Bytes,
    /// How long the tag was moved blindly, if that was longer than [`SETTLE`]: who moved it in that time may have been
    /// overwritten without anybody seeing it.
    pub blind: Option<Duration>,
}

/// Publishes `draft` at `target` under `tags`, under its digest alone if there are none.
///
/// [`Conflict`](ErrorKind::Conflict) if the first tag is not where it is expected: nothing is published under it
/// then. A race that is lost all the same is the same error, and the manifest is kept under a tag of its own.
pub async fn push(
    draft: Draft,
    target: &dyn Target,
    tags: &[Tag],
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    push_packed(draft.seal()?, target, tags, options, progress).await
}

/// Publishes `draft` as one of the manifests of `index`, whose others the target has: it gets no tag itself, the index
/// gets them, with all that [`push`] promises. What was pushed is the index.
pub async fn push_within(
    draft: Draft,
    index: Packed,
    target: &dyn Target,
    tags: &[Tag],
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    if let Some(tag) = tags.first() {
        check(target, tag, &index.descriptor, &options.expected).await?;
    }
    push(draft, target, &[], options, progress).await?;
    push_packed(index, target, tags, options, progress).await
}

async fn push_packed(
    packed: Packed,
    target: &dyn Target,
    tags: &[Tag],
    options: &PushOptions,
    progress: &dyn Progress,
) -> Result<Pushed> {
    if let Some(tag) = tags.first() {
        check(target, tag, &packed.descriptor, &options.expected).await?;
    }
    let manifest = plain(&packed.descriptor);
    let work = Work { target, packed: &packed, manifest: &manifest, options, progress };
    let there = target.contains(&manifest).await?;
    if there {
        progress.skipped(&manifest, &manifest.media_type);
    } else {
        work.send_parts().await?;
        progress.started(&manifest, &manifest.media_type);
    }
    let mut blind = None;
    match tags.split_first() {
        None if there => {}
        None => work.put(None).await?,
        Some((first, others)) => {
            blind = work.put_under(first).await?;
            let tagging = others.iter().map(|tag| target.tag(&manifest, tag)).collect();
            all(tagging, options.concurrency).await?;
        }
    }
    if !there {
        progress.advanced(&manifest, manifest.size);
        work.say_twins();
        progress.finished(&manifest, &manifest.media_type);
    }
    let Packed { descriptor, bytes, .. } = packed;
    Ok(Pushed { descriptor, bytes, blind })
}

struct Work<'a> {
    target: &'a dyn Target,
    packed: &'a Packed,
    manifest: &'a Descriptor,
    options: &'a PushOptions,
    progress: &'a dyn Progress,
}

impl Work<'_> {
    fn body(&self) -> Body {
        Body::Bytes(self.packed.bytes.clone())
    }

    /// The parts, each content once.
    fn parts(&self) -> impl Iterator<Item = &LayerPart> {
        let mut seen = HashSet::new();
        self.packed.parts.iter().filter(move |part| seen.insert(part.descriptor().digest.clone()))
    }

    async fn send_parts(&self) -> Result<()> {
        // The layers in their order, and the small config last.
        let (config, layers): (Vec<_>, Vec<_>) = {
            let first = self.packed.parts.first().map(|part| &part.descriptor().digest);
            self.parts().partition(|part| Some(&part.descriptor().digest) == first)
        };
        let sending = layers.into_iter().chain(config).map(|part| -> BoxFuture<'_, Result<()>> {
            Box::pin(upload::part(part, self.target, self.progress))
        });
        all(sending.collect(), self.options.concurrency).await
    }

    /// Puts the manifest. A registry may have lost a blob since it was looked for (an hour is enough for some): what
    /// it misses is sent, and the manifest put again.
    async fn put(&self, tag: Option<&Tag>) -> Result<()> {
        match self.put_once(tag).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::debug!(%error, "looking for what the target lacks");
                self.send_parts().await?;
                self.put_once(tag).await
            }
            done => done,
        }
    }

    async fn put_once(&self, tag: Option<&Tag>) -> Result<()> {
        match tag {
            Some(tag) => self.target.publish(self.manifest, &self.body(), tag).await,
            None => self.target.push(self.manifest, &self.body()).await,
        }
    }

    /// Moves the first tag, and looks whether it stays where it was put.
    async fn put_under(&self, tag: &Tag) -> Result<Option<Duration>> {
        if let Expected::Base(base) = &self.options.expected
            && let Some(done) =
                self.target.publish_over(self.manifest, &self.body(), tag, base.as_ref()).await
        {
            return done.map(|()| None);
        }
        let looked = Instant::now();
        check(self.target, tag, self.manifest, &self.options.expected).await?;
        self.put(Some(tag)).await?;
        let took = looked.elapsed();
        if self.options.expected == Expected::Any {
            return Ok(None);
        }
        self.expect_won(tag).await?;
        tokio::time::sleep(SETTLE).await;
        self.expect_won(tag).await?;
        Ok((took > SETTLE).then_some(took))
    }

    async fn expect_won(&self, tag: &Tag) -> Result<()> {
        let now = at(self.target, tag).await?;
        let ours = &self.manifest.digest;
        if now.as_ref() == Some(ours) {
            return Ok(());
        }
        let kept = unique(tag, ours);
        let kept = match self.target.tag(self.manifest, &kept).await {
            Ok(()) => format!("what was pushed is kept as {kept}"),
            Err(error) => format!("what was pushed is {ours}, and could not be given a tag: {error}"),
        };
        Err(Error::new(
            ErrorKind::Conflict,
            format!(
                "{tag} was moved by somebody else in the same moment: it is {} now; {kept}",
                shown(now.as_ref())
            ),
        ))
    }

    /// Layers whose content another one has too.
    fn say_twins(&self) {
        let mut seen = HashSet::new();
        for part in &self.packed.parts {
            let descriptor = part.descriptor();
            if !seen.insert(&descriptor.digest)
                && descriptor.annotation(crate::artifact::pack::TITLE).is_some()
            {
                self.progress.skipped(descriptor, upload::name_of(descriptor));
            }
        }
    }
}

/// Does all of it, so many at a time, until one fails.
async fn all(work: Vec<BoxFuture<'_, Result<()>>>, concurrency: usize) -> Result<()> {
    futures_util::stream::iter(work).buffer_unordered(concurrency.max(1)).try_collect().await
}

/// [`Conflict`](ErrorKind::Conflict) unless the tag is where it is expected, or where it is to go.
async fn check(target: &dyn Target, tag: &Tag, manifest: &Descriptor, expected: &Expected) -> Result<()> {
    let Expected::Base(base) = expected else { return Ok(()) };
    expect_tag(tag, at(target, tag).await?.as_ref(), base.as_ref(), &manifest.digest)
}

async fn at(target: &dyn Target, tag: &Tag) -> Result<Option<Digest>> {
    match target.resolve(&Name::Tag(tag.clone())).await {
        Ok(found) => Ok(Some(found.digest)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn shown(digest: Option<&Digest>) -> String {
    digest.map_or_else(|| "not there".into(), ToString::to_string)
}

/// A tag nobody else makes: the wanted one and the beginning of the digest.
fn unique(tag: &Tag, digest: &Digest) -> Tag {
    let stem: String = tag.as_str().chars().take(100).collect();
    let text = format!("{stem}-{}", digest.short());
    text.parse().or_else(|_| Tag::of_layout(&text)).unwrap_or_else(|_| tag.clone())
}

fn plain(descriptor: &Descriptor) -> Descriptor {
    let mut plain = Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size);
    // Layouts list a manifest with what it is.
    plain.artifact_type.clone_from(&descriptor.artifact_type);
    plain.annotations.clone_from(&descriptor.annotations);
    plain
}
