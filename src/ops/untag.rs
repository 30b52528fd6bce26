//! Untag: a name is taken from a manifest.

use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Name, Tag};
use crate::store::Target;

/// How many tags are looked at at a time.
const CONCURRENCY: usize = 8;

/// Takes `tag` away from `manifest`, which it points at.
///
/// Many registries delete manifests only, which takes every tag of it along: then the manifest is deleted if no other
/// tag points at it, and else nothing is ([`Unsupported`](ErrorKind::Unsupported)).
pub async fn untag(target: &dyn Target, tag: &Tag, manifest: &Descriptor) -> Result<()> {
    match target.untag(tag).await {
        Err(error) if error.kind() == ErrorKind::Unsupported => {}
        done => return done,
    }
    let others: Vec<Tag> = target.tags().await?.into_iter().filter(|other| other != tag).collect();
    let looking = others.into_iter().map(|other| async move {
        match target.resolve(&Name::Tag(other.clone())).await {
            Ok(found) => Ok((found.digest == manifest.digest).then_some(other)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    });
    let looking: Vec<futures_util::future::BoxFuture<'_, Result<Option<Tag>>>> =
        looking.map(|look| Box::pin(look) as _).collect();
    let found: Vec<Option<Tag>> =
        futures_util::stream::iter(looking).buffer_unordered(CONCURRENCY).try_collect().await?;
    if let Some(other) = found.into_iter().flatten().next() {
        let why = format!(
            "{tag} cannot be deleted: this registry deletes manifests, not tags, and {other} is the same manifest"
        );
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    target.delete(manifest).await
}
