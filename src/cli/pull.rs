//! `artifs pull`: an artifact's files, into a folder.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use artifs::artifact::pack::TITLE;
use artifs::artifact::{self, Artifact, View};
use artifs::location::CacheUse;
use artifs::oci::Descriptor;
use artifs::ops::{self, Progress, PullOptions, Pulled};
use clap::Args;
use serde_json::{Value, json};

use super::display::{self, Shape};
use super::failure::Result;
use super::options::{CacheOptions, Debug, Format, Place, PlatformOption, Target, Terminal};
use super::progress;

/// Pull files from a registry or an OCI image layout
#[derive(Args)]
#[command(override_usage = "artifs pull [flags] <name>{:<tag>|@<digest>} [<path> ...]")]
#[command(after_help = "\
Example - Pull artifact files from a registry:
  artifs pull localhost:5000/hello:v1

Example - Pull only some files and folders of an artifact:
  artifs pull localhost:5000/hello:v1 config.json docs

Example - Pull into a folder, four files at a time:
  artifs pull --output out --concurrency 4 localhost:5000/hello:v1

Example - Pull again after an interruption: what is right already is not fetched again:
  artifs pull -o out localhost:5000/hello:v1

Example - Pull artifact files and the config, which is saved as 'config.json':
  artifs pull --config config.json localhost:5000/hello:v1

Example - Pull the files for a platform:
  artifs pull --platform linux/arm64 localhost:5000/hello:v1

Example - Pull artifact files with local cache only, asking no registry:
  artifs pull --offline localhost:5000/hello:v1

Example - Pull artifact files from the OCI image layout folder 'layout-dir':
  artifs pull --oci-layout layout-dir:v1")]
pub(crate) struct Pull {
    /// the artifact reference you want to pull
    #[arg(value_name = "name")]
    reference: String,
    /// only these files and folders
    #[arg(value_name = "path")]
    paths: Vec<String>,
    /// output directory
    #[arg(short, long, value_name = "dir", default_value = ".")]
    output: PathBuf,
    /// do not replace existing files when pulling, treat them as errors
    #[arg(short, long)]
    keep_old_files: bool,
    /// allow storing files out of the output directory
    #[arg(short = 'T', long)]
    allow_path_traversal: bool,
    /// [Preview] recursively pull the subject of artifacts
    #[arg(long)]
    include_subject: bool,
    /// output manifest config file
    #[arg(long, value_name = "path[:type]")]
    config: Option<String>,
    /// concurrency level
    #[arg(long, value_name = "count", default_value_t = 3)]
    concurrency: usize,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    platform: PlatformOption,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    cache: CacheOptions,
}

impl Pull {
    pub(crate) async fn run(&self) -> Result<()> {
        let shape = self.format.shape()?;
        let place = self.target.place(&self.reference)?;
        let (one, name) = self.target.open_one(&place, "pull", &self.cache, CacheUse::Read)?;
        let view = View { platform: self.platform.wanted()?, ..View::default() };
        let artifact = artifact::open(one.source, &name, &self.reference, &view)
            .await
            .map_err(|error| place.failed(error))?;
        let watcher = progress::pulling(self.debug.said(shape.is_text()), self.terminal.draws(&self.debug));
        let manifest = &artifact.descriptor;
        watcher.started(manifest, &manifest.media_type);
        let pulled = ops::pull(&artifact, &self.output, &self.options(), watcher.as_ref()).await?;
        Self::say_skipped(&artifact, &pulled, watcher.as_ref());
        watcher.finished(manifest, &manifest.media_type);
        drop(watcher);
        self.report(&shape, &place, &artifact, &pulled)
    }

    fn options(&self) -> PullOptions {
        PullOptions {
            paths: self.paths.clone(),
            keep_old: self.keep_old_files,
            allow_path_traversal: self.allow_path_traversal,
            concurrency: self.concurrency,
            include_subject: self.include_subject,
            // Parted at the last colon, as ORAS does.
            config: self.config.as_deref().map(|config| match config.rsplit_once(':') {
                Some((path, kind)) if !kind.is_empty() => (path.into(), Some(kind.to_owned())),
                _ => (config.trim_end_matches(':').into(), None),
            }),
        }
    }

    /// Names what has content and no name, and was left.
    fn say_skipped(artifact: &Artifact, pulled: &Pulled, watcher: &dyn Progress) {
        if pulled.unnamed == 0 {
            return;
        }
        let here = |part: &Descriptor| pulled.files.iter().any(|file| file.descriptor.digest == part.digest);
        for part in artifact.manifest.successors() {
            let named = part.annotation(TITLE).is_some() || part.is_manifest() || part.is_empty_json();
            if !named && part.size > 0 && !here(part) {
                watcher.skipped(part, &part.media_type);
            }
        }
    }

    fn report(&self, shape: &Shape, place: &Place, artifact: &Artifact, pulled: &Pulled) -> Result<()> {
        let root = if self.platform.wanted()?.is_some() { &artifact.descriptor } else { &artifact.named };
        if !shape.is_text() {
            let repository = place.repository();
            let files = pulled
                .files
                .iter()
                .map(|file| described(&repository, &file.path, file.folder, &file.descriptor));
            let files = files.collect::<Result<Vec<Value>>>()?;
            return shape.print(&json!({
                "reference": format!("{repository}@{}", root.digest),
                "files": if files.is_empty() { Value::Null } else { files.into() },
            }));
        }
        let mut out = io::stdout().lock();
        if pulled.unnamed > 0 {
            writeln!(out, "Skipped pulling layers without file name in {TITLE:?}")?;
            writeln!(out, "Use 'artifs ls {} .oci/layers' to see all layers.", self.reference)?;
        } else {
            writeln!(out, "Pulled {}", place.annotated())?;
            writeln!(out, "Digest: {}", root.digest)?;
        }
        Ok(())
    }
}

/// A pulled file as ORAS's JSON has it: its absolute path first, with a slash at its end if it was unpacked.
fn described(repository: &str, path: &Path, folder: bool, descriptor: &Descriptor) -> Result<Value> {
    let path = std::path::absolute(path)?;
    let slash = if folder { "/" } else { "" };
    let mut entry = json!({"path": format!("{}{slash}", path.display())});
    if let (Value::Object(entry), Value::Object(more)) =
        (&mut entry, display::descriptor(repository, descriptor))
    {
        entry.extend(more);
    }
    Ok(entry)
}
