//! Tag: more names for a manifest.

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, TryStreamExt as _};

use crate::error::Result;
use crate::oci::{Descriptor, Name, Tag};
use crate::store::{MANIFEST_LIMIT, Target};

/// Points `tags` at what `name` points at, so many at a time. `tagged` hears of each.
pub async fn tag(
    target: &dyn Target,
    manifest: &Descriptor,
    tags: &[Tag],
    concurrency: usize,
    tagged: impl Fn(&Tag) + Send + Sync,
) -> Result<()> {
    let tagged = &tagged;
    let tagging = tags.iter().map(|tag| -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            target.tag(manifest, tag).await?;
            tagged(tag);
            Ok(())
        })
    });
    let tagging: Vec<_> = tagging.collect();
    futures_util::stream::iter(tagging).buffer_unordered(concurrency.max(1)).try_collect().await
}

/// What is to be tagged. Its manifest is fetched: it is sent back under each new name.
pub async fn find(target: &dyn Target, name: &Name) -> Result<Descriptor> {
    Ok(target.manifest(name, MANIFEST_LIMIT).await?.0)
}
