//! What a reference on the command line means: a registry's artifact or an OCI layout's.

use std::path::PathBuf;

use artifs::cache::Cache;
use artifs::error::ErrorKind;
use artifs::location::{self, CacheUse, Location, Opened, Stack};
use artifs::oci::{Digest, Name, Tag};
use artifs::store::{Source, Target as Writable};
use clap::Args;
use std::sync::Arc;

use super::{CacheOptions, Remote};
use crate::cli::failure::{Failure, Result};
use crate::cli::usage;

/// The flags of verbs that take a reference.
#[derive(Args, Clone)]
pub(crate) struct Target {
    /// [Experimental] set the path for the target OCI image layout
    #[arg(long, value_name = "path", conflicts_with = "oci_layout")]
    oci_layout_path: Option<PathBuf>,
    /// set target as an OCI image layout
    #[arg(long)]
    pub(crate) oci_layout: bool,
    #[command(flatten)]
    pub(crate) remote: Remote,
    #[arg(skip)]
    referrers_api: Option<bool>,
}

/// A reference as typed, and what it means.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// As typed.
    pub(crate) raw: String,
    /// What it means.
    pub(crate) location: Location,
}

impl Target {
    /// Reads a reference in the light of the flags.
    pub(crate) fn place(&self, raw: &str) -> Result<Place> {
        let location = match &self.oci_layout_path {
            Some(path) => Location::Layout { path: path.clone(), name: layout_name(raw)? },
            None => location::parse(raw, self.oci_layout).map_err(bad_reference)?,
        };
        if matches!(location, Location::Layout { .. }) && !self.remote.header.is_empty() {
            return Err(Failure::new("custom header flags cannot be used on an OCI image layout target"));
        }
        Ok(Place { raw: raw.to_owned(), location })
    }

    /// Opens the stores behind a place.
    pub(crate) fn open(&self, place: &Place, cache: &CacheOptions, using: CacheUse) -> Result<Stack> {
        let settings = location::Settings {
            registry: self.remote.settings()?,
            cache: using,
            cache_dir: cache.cache_dir.clone(),
            cache_size: cache.cache_size,
            offline: cache.offline,
        };
        if let Location::Layout { path, .. } = &place.location
            && !path.exists()
        {
            return Err(place.no_layout(path));
        }
        Ok(place.location.open(&settings)?)
    }

    /// Opens the store behind a place to write to it, past the cache. A layout may be made.
    pub(crate) fn open_target(&self, place: &Place, make: bool) -> Result<Arc<dyn Writable>> {
        if let Location::Layout { path, .. } = &place.location
            && !make
            && !path.exists()
        {
            return Err(place.no_layout(path));
        }
        if matches!(place.location, Location::Registry { .. }) {
            return Err(place.no_repository());
        }
        let mut settings = self.remote.settings()?;
        settings.referrers_api = self.referrers_api;
        Ok(place.location.open_target(&settings)?)
    }

    /// The same, with what is known of the registry's referrers API.
    pub(crate) fn with_referrers(&self, api: Option<bool>) -> Self {
        Self { referrers_api: api, ..self.clone() }
    }

    /// Opens the one artifact a place names. `command` is for the words of the error if it names none.
    pub(crate) fn open_one(
        &self,
        place: &Place,
        command: &str,
        cache: &CacheOptions,
        using: CacheUse,
    ) -> Result<(One, Name)> {
        // What is wrong with the words is said before anything is opened.
        let name = match &place.location {
            Location::Registry { .. } => return Err(place.no_repository()),
            location => location.name().cloned().ok_or_else(|| place.unnamed(command))?,
        };
        let stack = self.open(place, cache, using)?;
        match stack.opened {
            Opened::Repository(source) => Ok((One { source, cache: stack.cache }, name)),
            Opened::Catalog { .. } => Err(place.no_repository()),
        }
    }
}

/// The store of one artifact, and the cache in front of it.
pub(crate) struct One {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) cache: Option<Cache>,
}

impl Place {
    /// `[registry] host/repository:tag`, as results name their artifact.
    pub(crate) fn annotated(&self) -> String {
        format!("[{}] {}", self.location.kind(), self.raw)
    }

    /// The same, by digest.
    pub(crate) fn annotated_as(&self, digest: &Digest) -> String {
        format!("[{}] {}@{digest}", self.location.kind(), self.repository())
    }

    /// Whether it is an OCI layout.
    pub(crate) fn is_layout(&self) -> bool {
        matches!(self.location, Location::Layout { .. })
    }

    /// A failure to push: what a refusal means is said in front of what the registry said.
    pub(crate) fn not_pushed(&self, error: artifs::Error) -> Failure {
        if matches!(error.kind(), ErrorKind::Unauthorized) { self.failed(error) } else { error.into() }
    }

    fn no_layout(&self, path: &std::path::Path) -> Failure {
        Failure::new(format!(
            "invalid argument {:?}: failed to find path \"{}\": no such file or directory",
            self.raw,
            path.display()
        ))
    }

    /// What comes in front of `@digest` when a result names an artifact.
    pub(crate) fn repository(&self) -> String {
        match &self.location {
            Location::Repository(reference) => reference.repository.to_string(),
            Location::Registry { host, .. } => host.to_string(),
            Location::Layout { path, .. } => path.display().to_string(),
        }
    }

    /// The same with what was being done in front.
    pub(crate) fn failed_doing(&self, doing: &str, error: artifs::Error) -> Failure {
        let failed = self.failed(error);
        failed.doing(doing)
    }

    /// A failure of the store behind this place, with "response from registry" where ORAS says so.
    pub(crate) fn failed(&self, error: artifs::Error) -> Failure {
        let answered = matches!(
            error.kind(),
            ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::RateLimited
        );
        if answered && matches!(self.location, Location::Repository(_) | Location::Registry { .. }) {
            return Failure::answered(innermost(&error));
        }
        error.into()
    }

    /// The place should have named a manifest.
    pub(crate) fn unnamed(&self, command: &str) -> Failure {
        let failure = Failure::new(format!("{:?}: no tag or digest specified", self.raw));
        failure.help(format!("Usage: {}", usage::line(command))).help(format!(
            "Please specify a reference in the form of \"<name>:<tag>\" or \"<name>@<digest>\". \
             Run \"artifs {command} -h\" for more options and examples"
        ))
    }

    /// The place should have been a repository.
    pub(crate) fn no_repository(&self) -> Failure {
        Failure::new(format!("{:?}: invalid reference: missing registry or repository", self.raw))
            .help(FORM_OF_A_REFERENCE)
    }
}

/// What the registry itself said, without what we were doing meanwhile.
fn innermost(error: &artifs::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(cause) = error.source().filter(|cause| cause.is::<artifs::Error>()) {
        error = cause;
    }
    error.to_string()
}

const FORM_OF_A_REFERENCE: &str =
    "Please make sure the provided reference is in the form of <registry>/<repo>[:tag|@digest]";

fn bad_reference(error: artifs::Error) -> Failure {
    Failure::from(error).help(FORM_OF_A_REFERENCE)
}

/// With `--oci-layout-path`, the whole argument is the tag, or a digest.
fn layout_name(raw: &str) -> Result<Option<Name>> {
    if raw.is_empty() {
        return Ok(None);
    }
    Ok(Some(match raw.parse::<Digest>() {
        Ok(digest) => Name::Digest(digest),
        Err(_) => Name::Tag(Tag::of_layout(raw)?),
    }))
}
