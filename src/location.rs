//! From what a person typed to stacked stores; the only place that knows every implementation.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

use crate::cache::{self, Cache};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::reference::Host;
use crate::oci::{Name, Reference, Tag};
use crate::registry::Registry;
use crate::store::{Catalog, Layout, Source, Target};

pub use crate::registry::{Resolve, Settings as RegistrySettings};

/// A place, before anything is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// A registry (`host`, `host/`), or one namespace of it (`host/team/`).
    Registry {
        /// The registry.
        host: Host,
        /// The path in front of the repositories that are meant, without slashes at its ends.
        namespace: Option<String>,
    },
    /// A repository, or a tag or digest in it.
    Repository(Reference),
    /// An OCI image layout folder, or a tag or digest in it.
    Layout {
        /// The folder.
        path: PathBuf,
        /// What in it, if said.
        name: Option<Name>,
    },
}

/// Reads `text` as a place.
///
/// - `host`, `host/`: a registry; `host/team/`: a namespace, told by the slash at its end
/// - `host/repository[:tag|@digest]`
/// - `/path`, `./path`, `../path`, each with `[:tag|@digest]`: an OCI layout; with `oci_layout` every text is one
pub fn parse(text: &str, oci_layout: bool) -> Result<Location> {
    if oci_layout || is_path(text) {
        return layout(text);
    }
    let Some((host, rest)) = text.split_once('/') else {
        return Ok(Location::Registry { host: self::host(text, text)?, namespace: None });
    };
    match rest.strip_suffix('/') {
        _ if rest.is_empty() => Ok(Location::Registry { host: self::host(text, host)?, namespace: None }),
        Some(namespace) => {
            // A namespace follows the grammar of a repository's path.
            let reference: Reference = format!("{host}/{namespace}").parse()?;
            if reference.name.is_some() {
                let why =
                    format!("{text:?}: a namespace has no tag or digest; leave out the slash at the end");
                return Err(Error::new(ErrorKind::Invalid, why));
            }
            Ok(Location::Registry {
                host: reference.repository.host,
                namespace: Some(reference.repository.path),
            })
        }
        None => Ok(Location::Repository(text.parse()?)),
    }
}

/// How a verb uses the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// Not at all.
    Off,
    /// Takes blobs that are complete in it, and adds none: for verbs that put the bytes elsewhere anyway.
    Read,
    /// Takes from it and adds to it.
    #[default]
    ReadWrite,
}

/// How places are opened.
#[derive(Clone, Default)]
pub struct Settings {
    /// How registries are reached.
    pub registry: RegistrySettings,
    /// How the cache is used.
    pub cache: CacheUse,
    /// Where the cache is; its usual place if nothing is said.
    pub cache_dir: Option<PathBuf>,
    /// How large the cache may grow.
    pub cache_size: Option<u64>,
    /// Ask no registry.
    pub offline: bool,
}

impl Settings {
    /// The cache these settings name, opened.
    pub fn open_cache(&self) -> Result<Cache> {
        let mut settings = match &self.cache_dir {
            Some(root) => cache::Settings { root: root.clone(), budget: None },
            None => cache::Settings::at_default_place()?,
        };
        settings.budget = self.cache_size;
        Cache::open(&settings)
    }
}

/// A place, opened.
pub struct Stack {
    /// What there is.
    pub opened: Opened,
    /// The cache in front of it, if there is one.
    pub cache: Option<Cache>,
}

/// What there is at a place.
#[derive(Clone)]
pub enum Opened {
    /// One repository, or an OCI layout.
    Repository(Arc<dyn Source>),
    /// A registry, or what lies below a namespace of it.
    Catalog {
        /// Its repositories.
        catalog: Arc<dyn Catalog>,
        /// The path to begin at.
        namespace: Option<String>,
    },
}

impl Location {
    /// Stacks the stores that answer for this place. Asks no network.
    ///
    /// A registry gets the cache in front of it. A layout is on this machine already and is read as it is.
    pub fn open(&self, settings: &Settings) -> Result<Stack> {
        match self {
            Self::Layout { path, .. } => {
                let layout: Arc<dyn Source> = Arc::new(Layout::open(path)?);
                Ok(Stack { opened: Opened::Repository(layout), cache: None })
            }
            Self::Repository(reference) => {
                let shelves = Shelves::open(&reference.repository.host, settings)?;
                let repository = shelves.repository(&reference.repository.path)?;
                Ok(Stack { opened: Opened::Repository(repository), cache: shelves.cache })
            }
            Self::Registry { host, namespace } => {
                let shelves = Shelves::open(host, settings)?;
                let cache = shelves.cache.clone();
                let opened = Opened::Catalog { catalog: Arc::new(shelves), namespace: namespace.clone() };
                Ok(Stack { opened, cache })
            }
        }
    }

    /// Opens the store of this place to write to it, without a cache. A layout that is not there is made. Asks no network.
    pub fn open_target(&self, settings: &RegistrySettings) -> Result<Arc<dyn Target>> {
        match self {
            Self::Layout { path, .. } => Ok(Arc::new(Layout::create(path)?)),
            Self::Repository(reference) => {
                let registry = Registry::new(&reference.repository.host, settings)?;
                Ok(Arc::new(registry.repository(&reference.repository.path)?))
            }
            Self::Registry { host, .. } => Err(Error::new(
                ErrorKind::Invalid,
                format!("{host} is a registry; a repository of it is needed"),
            )),
        }
    }

    /// What kind of place this is, as ORAS names it in `Pulled [registry] …`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Registry { .. } | Self::Repository(_) => "registry",
            Self::Layout { .. } => "oci-layout",
        }
    }

    /// The tag or digest, if one was given.
    pub fn name(&self) -> Option<&Name> {
        match self {
            Self::Registry { .. } => None,
            Self::Repository(reference) => reference.name.as_ref(),
            Self::Layout { name, .. } => name.as_ref(),
        }
    }
}

/// The repositories of one registry, each with the cache in front of it.
struct Shelves {
    host: Host,
    /// `None`: offline.
    registry: Option<Registry>,
    cache: Option<Cache>,
    fills: bool,
}

impl Shelves {
    fn open(host: &Host, settings: &Settings) -> Result<Self> {
        let cached = settings.cache != CacheUse::Off || settings.offline;
        Ok(Self {
            host: host.clone(),
            registry: if settings.offline { None } else { Some(Registry::new(host, &settings.registry)?) },
            cache: if cached { Some(settings.open_cache()?) } else { None },
            fills: settings.cache == CacheUse::ReadWrite,
        })
    }
}

#[async_trait]
impl Catalog for Shelves {
    async fn repositories(&self) -> Result<Vec<String>> {
        match &self.registry {
            Some(registry) => registry.repositories(None).await,
            None => Err(Error::new(
                ErrorKind::Offline,
                format!("the list of {}'s repositories is not kept, and --offline forbids asking", self.host),
            )),
        }
    }

    fn repository(&self, path: &str) -> Result<Arc<dyn Source>> {
        let source = match &self.registry {
            Some(registry) => Some(Arc::new(registry.repository(path)?) as Arc<dyn Source>),
            None => None,
        };
        let Some(cache) = &self.cache else {
            return source.ok_or_else(|| Error::new(ErrorKind::Offline, "--offline needs the cache"));
        };
        let cached = cache.in_front_of(source, &format!("{}/{path}", self.host));
        Ok(if self.fills { cached } else { cached.without_filling() })
    }
}

fn is_path(text: &str) -> bool {
    matches!(text, "." | "..") || ["/", "./", "../"].iter().any(|start| text.starts_with(start))
}

/// `PATH[:tag|@digest]`: the last `@` parts a digest, else the last `:` a tag, as in ORAS.
fn layout(text: &str) -> Result<Location> {
    let (path, name) = if let Some((path, digest)) = text.rsplit_once('@') {
        let digest = digest.parse().map_err(|error| {
            Error::with_source(ErrorKind::Invalid, format!("{text:?}: invalid digest"), error)
        })?;
        (path, Some(Name::Digest(digest)))
    } else if let Some((path, tag)) = text.rsplit_once(':') {
        let tag = Tag::of_layout(tag).map_err(|error| error.context(format!("{text:?}")))?;
        (path, Some(Name::Tag(tag)))
    } else {
        (text, None)
    };
    if path.is_empty() {
        return Err(Error::new(ErrorKind::Invalid, format!("found empty file path in {text:?}")));
    }
    Ok(Location::Layout { path: path.into(), name })
}

fn host(text: &str, host: &str) -> Result<Host> {
    host.parse().map_err(|error| Error::with_source(ErrorKind::Invalid, format!("{text:?}"), error))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    fn registry(host: &str, namespace: Option<&str>) -> Location {
        Location::Registry { host: host.parse().unwrap(), namespace: namespace.map(Into::into) }
    }

    #[test]
    fn places_without_a_repository() {
        for (text, host, namespace) in [
            ("ghcr.io", "ghcr.io", None),
            ("localhost:5000", "localhost:5000", None),
            ("localhost:5000/", "localhost:5000", None),
            ("[::1]:5000", "[::1]:5000", None),
            ("ghcr.io/team/", "ghcr.io", Some("team")),
            ("ghcr.io/team/sub/", "ghcr.io", Some("team/sub")),
        ] {
            assert_eq!(parse(text, false).unwrap(), registry(host, namespace), "{text}");
        }
    }

    #[test]
    fn a_repository_needs_no_slash_at_its_end() {
        assert_eq!(parse("h/a/b:v1", false).unwrap(), Location::Repository("h/a/b:v1".parse().unwrap()));
        assert_eq!(parse("h/a", false).unwrap(), Location::Repository("h/a".parse().unwrap()));
    }

    #[test]
    fn layouts_are_told_by_their_path_or_by_the_flag() {
        let tag = |text: &str| Some(Name::Tag(Tag::of_layout(text).unwrap()));
        let digest = Digest::of(b"x");
        for (text, flag, path, name) in [
            ("./lay", false, "./lay", None),
            ("../lay:v1", false, "../lay", tag("v1")),
            ("/a/b:t/u", false, "/a/b", tag("t/u")),
            (".", false, ".", None),
            ("lay:v1", true, "lay", tag("v1")),
            ("h:5000/lay:v1", true, "h:5000/lay", tag("v1")),
            (&format!("./lay@{digest}"), false, "./lay", Some(Name::Digest(digest.clone()))),
        ] {
            assert_eq!(parse(text, flag).unwrap(), Location::Layout { path: path.into(), name }, "{text}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_in_words_of_the_field() {
        for (text, flag, message) in [
            ("", false, "\"\": invalid reference: invalid registry \"\""),
            ("h/A:v1", false, "\"h/A:v1\": invalid reference: invalid repository \"A\""),
            ("h/a:", false, "\"h/a:\": invalid reference: invalid tag \"\""),
            (":v1", true, "found empty file path in \":v1\""),
            ("./lay:", false, "\"./lay:\": a tag cannot be empty"),
        ] {
            assert_eq!(parse(text, flag).unwrap_err().to_string(), message, "{text}");
        }
        for text in ["h/..", "h/../x/", "h/a:v1/", "h//", "h/a/../b:v", "h o/a"] {
            assert!(parse(text, false).is_err(), "{text}");
        }
    }
}
