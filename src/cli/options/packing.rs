//! What is packed into an artifact: files, config, annotations. ORAS's flags, and its words when they do not fit.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use artifs::artifact::from_dir::{self, FileArgument};
use artifs::artifact::pack::{ConfigPart, Draft, LayerPart, TITLE, UNKNOWN_CONFIG};
use clap::Args;

use crate::cli::display::printable;
use crate::cli::failure::{Failure, Result};

/// Where the manifest's own annotations are in an annotation file, and the config's.
const OF_MANIFEST: &str = "$manifest";
const OF_CONFIG: &str = "$config";
/// The time to write into the manifest instead of now, in seconds since 1970 (<https://reproducible-builds.org>).
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// The flags of verbs that pack.
#[derive(Args, Clone)]
pub(crate) struct Packing {
    /// manifest annotations, may be repeated
    #[arg(short, long, value_name = "key=value")]
    annotation: Vec<String>,
    /// path of the annotation file
    #[arg(long, value_name = "path")]
    annotation_file: Option<PathBuf>,
    /// path of image config file
    #[arg(long, value_name = "path[:type]")]
    pub(crate) config: Option<String>,
    /// concurrency level
    #[arg(long, value_name = "count", default_value_t = 5)]
    pub(crate) concurrency: usize,
    /// skip path validation
    #[arg(long)]
    disable_path_validation: bool,
    /// path of the pushed manifest
    #[arg(long, value_name = "path")]
    export_manifest: Option<PathBuf>,
}

/// What the flags and arguments come to, before any file was read.
pub(crate) struct Plan {
    files: Vec<FileArgument>,
    config: Option<FileArgument>,
    annotations: BTreeMap<String, BTreeMap<String, String>>,
}

impl Packing {
    /// Checks the words: nothing is read but the annotation file.
    pub(crate) fn plan(&self, files: &[String]) -> Result<Plan> {
        let files = files.iter().map(|text| FileArgument::parse(text)).collect::<Result<Vec<_>, _>>()?;
        let absolute: Vec<String> = files
            .iter()
            .filter(|file| file.path.is_absolute() && !self.disable_path_validation)
            .map(|file| file.path.display().to_string())
            .collect();
        if !absolute.is_empty() {
            let message = format!(
                "absolute file path detected. If it's intentional, use --disable-path-validation flag to skip this check: {}",
                absolute.join(", ")
            );
            return Err(Failure::new(message));
        }
        let config = self.config.as_deref().map(FileArgument::parse).transpose()?;
        Ok(Plan { files, config, annotations: self.annotations()? })
    }

    fn annotations(&self) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
        if let Some(path) = &self.annotation_file {
            if !self.annotation.is_empty() {
                return Err(Failure::new("`--annotation` and `--annotation-file` cannot be both specified"));
            }
            let parsed = std::fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
            return parsed.ok_or_else(|| {
                let message =
                    format!("invalid annotation json file: failed to load annotations from {}", path.display());
                Failure::new(message).help(
                    "Annotation file doesn't match the required format: {\"$manifest\": {\"key\": \"value\"}, \
                     \"$config\": {…}, \"<file>\": {…}}",
                )
            });
        }
        let mut annotations = BTreeMap::new();
        for pair in &self.annotation {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::new("annotation value doesn't match the required format")
                    .help("Please use the correct format in the flag: --annotation \"key=value\"")
            })?;
            if annotations.insert(key.to_owned(), value.to_owned()).is_some() {
                return Err(Failure::new(format!("duplicate annotation key: {key}, ")));
            }
        }
        Ok(BTreeMap::from([(OF_MANIFEST.to_owned(), annotations)]))
    }

    /// Whether there is something to attach besides files.
    pub(crate) fn says_nothing(&self) -> bool {
        self.annotation.is_empty() && self.annotation_file.is_none()
    }

    /// Writes the manifest where it was asked for.
    pub(crate) fn export(&self, manifest: &[u8]) -> Result<()> {
        match &self.export_manifest {
            Some(path) => std::fs::write(path, manifest)
                .map_err(|error| Failure::new(format!("write {}: {error}", path.display()))),
            None => Ok(()),
        }
    }
}

impl Plan {
    /// Whether there is any file.
    pub(crate) fn has_files(&self) -> bool {
        !self.files.is_empty()
    }

    /// Reads the files: config, layers, annotations. Archives of folders go to `scratch`; `say` tells of each file.
    pub(crate) async fn draft(self, scratch: &Path, say: bool) -> Result<Draft> {
        let mut draft = Draft::default();
        let of_config = self.annotations.get(OF_CONFIG).cloned().unwrap_or_default();
        draft.config = match &self.config {
            None => ConfigPart::Empty(of_config),
            Some(file) => ConfigPart::Part(config(file, of_config, scratch).await?),
        };
        for file in &self.files {
            let typed = file.path.to_string_lossy();
            let own = self.annotations.get(typed.as_ref());
            let title = own.and_then(|own| own.get(TITLE)).cloned().unwrap_or_else(|| file.title());
            if say {
                writeln!(io::stdout(), "Preparing {}", printable(&title))?;
            }
            let taken = |layer: &LayerPart| layer.descriptor().annotation(TITLE) == Some(title.as_str());
            if draft.layers.iter().any(taken) {
                return Err(Failure::new(format!("{title}: duplicate name")));
            }
            let mut layer = from_dir::layer(file, &title, scratch).await?;
            layer.descriptor_mut().annotations.extend(own.cloned().unwrap_or_default());
            draft.layers.push(layer);
        }
        if self.files.is_empty() && say {
            writeln!(io::stdout(), "Uploading empty artifact")?;
        }
        draft.annotations = self.annotations.get(OF_MANIFEST).cloned().unwrap_or_default();
        draft.created_at(now()?)?;
        Ok(draft)
    }
}

async fn config(
    file: &FileArgument,
    annotations: BTreeMap<String, String>,
    scratch: &Path,
) -> Result<LayerPart> {
    let typed = FileArgument {
        media_type: Some(file.media_type.clone().unwrap_or(UNKNOWN_CONFIG.into())),
        ..file.clone()
    };
    let mut part = from_dir::layer(&typed, "config", scratch).await?;
    part.descriptor_mut().annotations = annotations;
    Ok(part)
}

fn now() -> Result<jiff::Timestamp> {
    let Some(text) = std::env::var_os(EPOCH) else { return Ok(jiff::Timestamp::now()) };
    text.to_str().and_then(|text| jiff::Timestamp::from_second(text.parse().ok()?).ok()).ok_or_else(|| {
        Failure::new(format!("{EPOCH} should be a number of seconds since 1970: {}", text.display()))
    })
}
