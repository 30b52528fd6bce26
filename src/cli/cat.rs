//! `artifs cat`: files of an artifact, to standard output.

use std::io::{self, Write as _};
use std::sync::Arc;

use artifs::artifact::{self, File, Node, View};
use artifs::location::CacheUse;
use artifs::store::{Trust, expect_digest};
use clap::Args;

use super::failure::{Failure, Result};
use super::find::find;
use super::options::{CacheOptions, Debug, PlatformOption, Target};

/// Print files of an artifact
#[derive(Args)]
#[command(override_usage = "artifs cat [flags] <name>{:<tag>|@<digest>} <path> [...]")]
#[command(after_help = "\
Example - Print one file:
  artifs cat localhost:5000/model:v1 config.json

Example - Print a file out of a folder that was pushed as an archive:
  artifs cat localhost:5000/model:v1 docs/intro.md

Example - Print the manifest, byte for byte:
  artifs cat localhost:5000/model:v1 .oci/manifest.json

Example - Look at the first bytes only; what is not read is not fetched:
  artifs cat localhost:5000/model:v1 weights.safetensors | head -c 64 | xxd")]
pub(crate) struct Cat {
    /// the artifact and the files in it to print
    #[arg(value_name = "name")]
    reference: String,
    /// files, as paths from the artifact's root
    #[arg(value_name = "path", required = true)]
    paths: Vec<String>,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

/// How much is read and handed on at a time: large enough that a step costs nothing beside its bytes.
const STEP: u64 = 1 << 20;

impl Cat {
    pub(crate) async fn run(self) -> Result<()> {
        let place = self.target.place(&self.reference)?;
        let (stack, name) = self.target.open_one(&place, "cat", &self.cache, CacheUse::ReadWrite)?;
        let view = View { platform: self.platform.wanted()?, ..View::default() };
        let artifact = artifact::open(stack.source, &name, &self.reference, &view)
            .await
            .map_err(|error| place.failed(error))?;
        let root = Node::Folder(artifact.root);
        for path in &self.paths {
            match find(&root, path.as_bytes(), true).await? {
                Node::File(file) => print(&file, path).await?,
                Node::Folder(_) => return Err(Failure::new(format!("{path:?}: is a directory"))),
                Node::Link(_) => return Err(Failure::new(format!("{path:?}: is a link"))),
            }
        }
        // Whoever stopped reading waits for nothing; what was read to its end is hashed once, now.
        if let Some(cache) = stack.cache {
            cache.settle().await;
        }
        Ok(())
    }
}

/// Prints a file. One that is a whole layer is checked against its digest as it goes by.
async fn print(file: &Arc<File>, path: &str) -> Result<()> {
    let failed = |error: artifs::Error| Failure::from(error.context(format!("{path:?}")));
    let reader = file.reader().map_err(failed)?;
    let layer = file.whole_layer().filter(|_| reader.trust() == Trust::Pending);
    let mut hasher = layer.map(|layer| layer.digest.hasher()).transpose().map_err(failed)?;
    let mut at = 0;
    while at < file.size {
        let end = file.size.min(at + STEP);
        let bytes = reader.read(at..end).await.map_err(failed)?;
        if let Some(hasher) = &mut hasher {
            hasher.update(&bytes);
        }
        io::stdout().write_all(&bytes)?;
        at = end;
    }
    if let (Some(hasher), Some(layer)) = (hasher, layer) {
        expect_digest(hasher, &layer.digest).map_err(failed)?;
    }
    Ok(io::stdout().flush()?)
}
