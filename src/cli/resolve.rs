//! `artifs resolve`: what a tag points at now.

use std::io::{self, Write as _};

use artifs::error::{Error, ErrorKind};
use artifs::location::CacheUse;
use artifs::oci::{Digest, Manifest, Name, Platform, media_type};
use artifs::store::{Source, SourceExt as _};
use clap::Args;

use super::failure::Result;
use super::options::{CacheOptions, Debug, PlatformOption, Target};

/// [Preview] Resolve the digest of an artifact
#[derive(Args)]
#[command(visible_alias = "digest", override_usage = "artifs resolve [flags] <name>{:<tag>|@<digest>}")]
#[command(after_help = "\
Example - Resolve the digest of a tag:
  artifs resolve localhost:5000/hello-world:v1

Example - Resolve to a reference that never changes:
  artifs resolve --full-reference localhost:5000/hello-world:v1

Example - Resolve a tag of the OCI image layout folder 'layout':
  artifs resolve --oci-layout layout:v1")]
pub(crate) struct Resolve {
    /// the target artifact reference to resolve
    #[arg(value_name = "name")]
    reference: String,
    /// print the full artifact reference with digest
    #[arg(short = 'l', long)]
    full_reference: bool,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

impl Resolve {
    pub(crate) async fn run(self) -> Result<()> {
        let place = self.target.place(&self.reference)?;
        let (source, name) = self.target.open_one(&place, "resolve", &self.cache, CacheUse::Off)?;
        let source = source.source;
        let digest = match &self.platform.wanted()? {
            None => source.resolve(&name).await.map(|descriptor| descriptor.digest),
            Some(platform) => chosen(source.as_ref(), &name, platform).await,
        };
        let digest = digest.map_err(|error| place.failed_doing("failed to resolve digest", error))?;
        let mut out = io::stdout().lock();
        if self.full_reference {
            write!(out, "{}@", place.repository())?;
        }
        Ok(writeln!(out, "{digest}")?)
    }
}

/// The digest of the manifest in an index that is for this platform.
pub(super) async fn chosen(
    source: &(impl Source + ?Sized),
    name: &Name,
    platform: &Platform,
) -> artifs::Result<Digest> {
    let (descriptor, manifest) = source.fetch_manifest(name).await?;
    let none =
        |why: &str| Error::new(ErrorKind::NotFound, format!("{}: not found: {why}", descriptor.digest));
    match manifest {
        Manifest::Index(index) => index
            .manifests
            .iter()
            .find(|child| child.platform.as_ref().is_some_and(|offered| platform.accepts(offered)))
            .map(|child| child.digest.clone())
            .ok_or_else(|| none("no matching manifest was found in the manifest list")),
        Manifest::Image(image) => {
            let config =
                image.config.ok_or_else(|| none("platform in manifest does not match target platform"))?;
            if !media_type::same(&config.media_type, media_type::IMAGE_CONFIG) {
                let message = format!(
                    "fail to recognize platform from unknown config {}: expect {}: unsupported",
                    config.media_type,
                    media_type::IMAGE_CONFIG
                );
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            let config = source.fetch_all(&config, artifs::store::MANIFEST_LIMIT).await?;
            match serde_json::from_slice::<Platform>(&config) {
                Ok(offered) if platform.accepts(&offered) => Ok(descriptor.digest),
                _ => Err(none("platform in manifest does not match target platform")),
            }
        }
    }
}
