//! Blobs on their way into a target, watched.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::Progress;
use crate::artifact::pack::{LayerPart, TITLE};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Name, Tag};
use crate::store::{Blob, Body, ByteStream, Source, Target};

/// How people know a part: its title, else its type.
pub(super) fn name_of(part: &Descriptor) -> &str {
    part.annotation(TITLE).unwrap_or(&part.media_type)
}

/// Sees to it that a part is at the target.
pub(super) async fn part(part: &LayerPart, target: &dyn Target, progress: &dyn Progress) -> Result<()> {
    let descriptor = part.descriptor();
    let name = name_of(descriptor);
    if matches!(part, LayerPart::Known(_)) || is_foreign(&descriptor.media_type) {
        return Ok(());
    }
    if target.contains(descriptor).await? {
        progress.skipped(descriptor, name);
        return Ok(());
    }
    match part {
        LayerPart::Known(_) => {}
        LayerPart::New { body, .. } => {
            progress.started(descriptor, name);
            let push = |body: Body| -> BoxFuture<'_, _> {
                Box::pin(async move { target.push(descriptor, &body).await })
            };
            watched(body, descriptor, progress, push).await?;
            progress.finished(descriptor, name);
        }
        LayerPart::Elsewhere { home, source, .. } => {
            progress.started(descriptor, name);
            let body = Body::Source(Arc::clone(source), descriptor.clone());
            let adopt = |body: Body| -> BoxFuture<'_, _> {
                Box::pin(async move { target.adopt(descriptor, home, &body).await })
            };
            if watched(&body, descriptor, progress, adopt).await? {
                progress.mounted(descriptor, name);
            } else {
                progress.finished(descriptor, name);
            }
        }
    }
    Ok(())
}

/// Layers that registries do not take (and nobody asks them for).
fn is_foreign(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".rootfs.foreign.")
}

/// Does `work` with a body that tells how far it has been read.
async fn watched<'a, T>(
    body: &Body,
    descriptor: &'a Descriptor,
    progress: &dyn Progress,
    work: impl FnOnce(Body) -> BoxFuture<'a, Result<T>>,
) -> Result<T> {
    // Small ones are over before anybody could look, and bytes in memory are checked before they are sent.
    if matches!(body, Body::Bytes(_)) {
        let done = work(body.clone()).await?;
        progress.advanced(descriptor, descriptor.size);
        return Ok(done);
    }
    let (tell, mut told) = mpsc::unbounded_channel();
    let watched = Watched { body: body.clone(), furthest: Arc::default(), tell };
    let mut work = work(Body::Source(Arc::new(watched), descriptor.clone()));
    loop {
        tokio::select! {
            biased;
            Some(bytes) = told.recv() => progress.advanced(descriptor, bytes),
            done = &mut work => return done,
        }
    }
}

/// Content that tells how far it has been read; what is read again after a failure is not told again.
struct Watched {
    body: Body,
    furthest: Arc<AtomicU64>,
    tell: UnboundedSender<u64>,
}

#[async_trait]
impl Source for Watched {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        Err(nothing_but_content(name))
    }

    async fn fetch(&self, _: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        let pieces = self.body.open_part(range.clone()).await?;
        let (furthest, tell) = (Arc::clone(&self.furthest), self.tell.clone());
        let mut at = range.start;
        Ok(Box::pin(pieces.inspect(move |piece| {
            if let Ok(piece) = piece {
                at += piece.len() as u64;
                let before = furthest.fetch_max(at, Ordering::Relaxed);
                if at > before {
                    // Nobody listens any more once the upload is over.
                    let _ = tell.send(at - before);
                }
            }
        })))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Err(nothing_but_content(&blob.digest))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Ok(Vec::new())
    }

    async fn referrers(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }

    async fn recall(&self, _: &Digest, _: &str) -> Option<bytes::Bytes> {
        None
    }
}

fn nothing_but_content(what: &dyn std::fmt::Display) -> Error {
    Error::new(ErrorKind::NotFound, format!("{what}: not found"))
}
