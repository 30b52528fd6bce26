//! `artifs tag`: more names for a manifest.

use std::io::{self, Write as _};

use artifs::oci::Tag as Name;
use artifs::ops::tag;
use clap::Args;

use super::failure::{Failure, Result};
use super::options::{Debug, Target};
use super::usage;

/// Tag a manifest in a registry or an OCI image layout
#[derive(Args)]
#[command(override_usage = "artifs tag [flags] <name>{:<tag>|@<digest>} <new_tag> [...]")]
#[command(after_help = "\
Example - Tag the manifest 'v1.0.1' in 'localhost:5000/hello' to 'v1.0.2':
  artifs tag localhost:5000/hello:v1.0.1 v1.0.2

Example - Tag the manifest 'v1.0.1' in 'localhost:5000/hello' to 'v1.0.2', 'latest'
  artifs tag localhost:5000/hello:v1.0.1 v1.0.2 latest

Example - Tag the manifest 'v1.0.1' to 'v1.0.2' in an OCI image layout folder 'layout-dir':
  artifs tag --oci-layout layout-dir:v1.0.1 v1.0.2")]
pub(crate) struct Tag {
    /// the manifest to tag
    #[arg(value_name = "name")]
    reference: String,
    /// its new tags
    #[arg(value_name = "new_tag", required = true)]
    tags: Vec<String>,
    /// concurrency level
    #[arg(long, value_name = "count", default_value_t = 5)]
    concurrency: usize,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    target: Target,
}

impl Tag {
    pub(crate) async fn run(self) -> Result<()> {
        if self.reference == "list" {
            return Err(Failure::new("there is no \"list\" sub-command for \"artifs tag\" command")
                .help(format!("Usage: {}", usage::line("tag")))
                .help("If you want to list available tags in a repository, use \"artifs repo tags\""));
        }
        let place = self.target.place(&self.reference)?;
        let name = place.location.name().cloned().ok_or_else(|| place.unnamed("tag"))?;
        let parse = |text: &String| {
            if place.is_layout() { Name::of_layout(text) } else { text.parse() }.map_err(|error| {
                Failure::new(format!(
                    "unable to add tag for '{}': {text:?}: invalid reference: {error}",
                    place.raw
                ))
            })
        };
        let tags = self.tags.iter().map(parse).collect::<Result<Vec<Name>>>()?;
        let target = self.target.open_target(&place, false)?;
        let manifest = tag::find(target.as_ref(), &name).await.map_err(|error| place.failed(error))?;
        writeln!(io::stdout(), "Tagging {}", place.annotated_as(&manifest.digest))?;
        let tagged = |tag: &Name| {
            // If nobody reads any more, there is nobody to tell.
            let _ = writeln!(io::stdout(), "Tagged {tag}");
        };
        tag::tag(target.as_ref(), &manifest, &tags, self.concurrency, tagged)
            .await
            .map_err(|error| place.not_pushed(error))
    }
}
