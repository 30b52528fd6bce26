//! What cannot be changed, told before anything is.

use super::habits::Habits;
use super::unsupported;
use crate::artifact::Artifact;
use crate::error::{Context as _, Result};
use crate::oci::{ImageManifest, media_type};
use crate::store::SourceExt as _;

/// Longer configs tell more than anybody needs to know of layers.
pub(super) const CONFIG_LIMIT: u64 = 8 << 20;

/// A config that has a list of its layers, but of what?
const IMAGE_CONFIGS: [&str; 2] = [media_type::IMAGE_CONFIG, "application/vnd.docker.container.image.v1+json"];

/// Configs that tell of their layers, and cannot be made anew, with what to do instead.
const OTHERS: [(&str, &str); 1] =
    [("application/vnd.cncf.helm.config.v1+json", "make it anew with helm package")];

/// [`Unsupported`](crate::error::ErrorKind::Unsupported) if a commit of `artifact` would contradict its config.
pub(super) async fn expect(artifact: &Artifact, image: &ImageManifest) -> Result<()> {
    let Some(config) = &image.config else {
        return Err(unsupported(
            &artifact.reference,
            "its manifest has no config, so it cannot be made anew",
        ));
    };
    let kind = media_type::essence(&config.media_type);
    if let Some((_, instead)) = OTHERS.iter().find(|(known, _)| media_type::same(known, kind)) {
        let why = format!("its config ({kind}) tells of its layers; {instead}");
        return Err(unsupported(&artifact.reference, &why));
    }
    if let Some(why) = Habits::of(image).and_then(|habits| habits.obstacle()) {
        return Err(unsupported(&artifact.reference, &why));
    }
    // ORAS gives that type to things that are no images: those say nothing of layers.
    if !IMAGE_CONFIGS.iter().any(|known| media_type::same(known, kind)) || config.size < 3 {
        return Ok(());
    }
    let bytes = artifact.source.fetch_all(config, CONFIG_LIMIT).await.doing(|| "read the config")?;
    let told: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    if told.pointer("/rootfs/diff_ids").is_some() {
        let why = "it is a container image; make a new one from it with docker build or buildah";
        return Err(unsupported(&artifact.reference, why));
    }
    Ok(())
}
