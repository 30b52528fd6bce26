//! From what a person typed to stacked stores; the only place that knows every implementation.

use std::path::PathBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::oci::reference::Host;
use crate::oci::{Name, Reference, Tag};

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

impl Location {
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
