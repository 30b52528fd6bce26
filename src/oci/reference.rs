//! References: `host[:port]/repository[:tag|@digest]` (oras.md §2.1, registry.md §0).

use std::fmt;
use std::str::FromStr;

use super::Digest;
use crate::error::{Error, ErrorKind, Result};

/// A tag: `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}` in a registry. An OCI layout allows any non-empty text;
/// such a one is made by [`Tag::of_layout`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(String);

impl Tag {
    /// A tag of an OCI layout, whose `ref.name` may be any non-empty text.
    pub fn of_layout(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "a tag cannot be empty"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The tag's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether tools made this tag to hold something beside the artifacts people made: the referrers
    /// fallback (`sha256-<hex>`) and cosign's `.sig`, `.att`, `.sbom` below it.
    pub fn is_for_tools(&self) -> bool {
        let (stem, suffix) = self.0.split_once('.').unwrap_or((&self.0, ""));
        let Some((algorithm, hex)) = stem.split_once('-') else { return false };
        matches!(algorithm, "sha256" | "sha384" | "sha512")
            && hex.len() >= 32
            && hex.bytes().all(|b| b.is_ascii_hexdigit())
            && matches!(suffix, "" | "sig" | "att" | "sbom")
    }
}

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let good = matches!(text.as_bytes(), [first, rest @ ..]
            if word(*first) && rest.len() < 128 && rest.iter().all(|b| word(*b) || b".-".contains(b)));
        if good {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::new(ErrorKind::Invalid, format!("invalid tag {text:?}")))
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a manifest is asked for by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A name that may point elsewhere tomorrow.
    Tag(Tag),
    /// The content itself.
    Digest(Digest),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(tag) => tag.fmt(f),
            Self::Digest(digest) => digest.fmt(f),
        }
    }
}

impl FromStr for Name {
    type Err = Error;

    /// A text with a `:` is a digest, any other a tag.
    fn from_str(text: &str) -> Result<Self> {
        if text.contains(':') { Ok(Self::Digest(text.parse()?)) } else { Ok(Self::Tag(text.parse()?)) }
    }
}

/// A registry's host with its port, as a person writes it: `ghcr.io`, `localhost:5000`, `[::1]:5000`.
/// Lower-case always.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(String);

impl Host {
    /// The text, lower-case, with the port if one was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The host without its port, brackets kept off.
    pub fn name(&self) -> &str {
        if let Some(rest) = self.0.strip_prefix('[') {
            return rest.split(']').next().unwrap_or(rest);
        }
        self.0.split(':').next().unwrap_or(&self.0)
    }

    /// Whether this is the machine itself: `localhost`, 127.0.0.0/8, `::1`.
    pub fn is_loopback(&self) -> bool {
        let name = self.name();
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    }

    /// Whether this is one of Docker Hub's names.
    pub fn is_docker_hub(&self) -> bool {
        matches!(self.0.as_str(), "docker.io" | "index.docker.io" | "registry-1.docker.io")
    }
}

impl FromStr for Host {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid =
            || Error::new(ErrorKind::Invalid, format!("invalid reference: invalid registry {text:?}"));
        let (name, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (inside, after) = rest.split_once(']').ok_or_else(invalid)?;
                inside.parse::<std::net::Ipv6Addr>().map_err(|_| invalid())?;
                (
                    inside,
                    if after.is_empty() { None } else { Some(after.strip_prefix(':').ok_or_else(invalid)?) },
                )
            }
            None => match text.split_once(':') {
                Some((name, port)) => (name, Some(port)),
                None => (text, None),
            },
        };
        let bracketed = text.starts_with('[');
        let good_name = bracketed
            || (!name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)));
        let good_port = port.is_none_or(|port| port.parse::<u16>().is_ok());
        if good_name && good_port { Ok(Self(text.to_ascii_lowercase())) } else { Err(invalid()) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository of a registry: `host/path`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository {
    /// The registry.
    pub host: Host,
    /// The path below it, e.g. `library/alpine`.
    pub path: String,
}

impl Repository {
    /// A repository from its parts; the path must follow the distribution-spec's grammar.
    pub fn new(host: Host, path: &str) -> Result<Self> {
        if path.len() > 255 || !path.split('/').all(is_path_component) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("invalid reference: invalid repository {path:?}"),
            ));
        }
        Ok(Self { host, path: path.to_owned() })
    }
}

impl fmt::Display for Repository {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.path)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`, the grammar of one component of a repository's path.
fn is_path_component(text: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return false;
    }
    bytes.split(|b| alphanumeric(*b)).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|b| *b == b'-')
    })
}

/// A repository, and a tag or digest in it if one was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    /// Where.
    pub repository: Repository,
    /// What, if said.
    pub name: Option<Name>,
}

impl FromStr for Reference {
    type Err = Error;

    /// `host/repository[:tag][@digest]`; with both, the digest counts and the tag is dropped, as in ORAS.
    fn from_str(text: &str) -> Result<Self> {
        let bad = |error: Error| Error::with_source(ErrorKind::Invalid, format!("{text:?}"), error);
        let (host, rest) = text.split_once('/').ok_or_else(|| {
            bad(Error::new(
                ErrorKind::Invalid,
                format!("invalid reference: missing registry or repository {text:?}"),
            ))
        })?;
        let host: Host = host.parse().map_err(bad)?;
        let (before, digest) = match rest.split_once('@') {
            Some((before, digest)) => (before, Some(digest.parse::<Digest>().map_err(bad)?)),
            None => (rest, None),
        };
        let (path, tag) = match before.split_once(':') {
            Some((path, tag)) => (
                path,
                Some(tag.parse::<Tag>().map_err(|_| {
                    bad(Error::new(ErrorKind::Invalid, format!("invalid reference: invalid tag {tag:?}")))
                })?),
            ),
            None => (before, None),
        };
        let repository = Repository::new(host, path).map_err(bad)?;
        let name = digest.map(Name::Digest).or(tag.map(Name::Tag));
        Ok(Self { repository, name })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.repository.fmt(f)?;
        match &self.name {
            Some(Name::Tag(tag)) => write!(f, ":{tag}"),
            Some(Name::Digest(digest)) => write!(f, "@{digest}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_go_in_and_out() {
        let digest = format!("localhost:5000/a@{}", Digest::ZERO);
        for text in ["localhost:5000/a/b:v1", "ghcr.io/x", "[::1]:5000/a:t", "h/a__b/c---d.e_f:_x", &digest] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
        let both: Reference = format!("h/a:v1@{}", Digest::ZERO).parse().unwrap();
        assert_eq!(both.to_string(), format!("h/a@{}", Digest::ZERO));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        for text in [
            "",
            "/oras",
            "host",
            "h/",
            "h/A",
            "h/a:",
            "h/a:b/c",
            "h/a//b",
            "h/a@sha256:00",
            "h/a..b",
            "h/-a",
            "[::1/a",
            "h:99999/a",
            "h/a___b",
            "h/../b",
            "h/a:-x",
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
        assert_eq!(
            "/oras".parse::<Reference>().unwrap_err().to_string(),
            "\"/oras\": invalid reference: invalid registry \"\""
        );
    }

    #[test]
    fn tags_of_tools_are_known() {
        let hex = "a".repeat(64);
        for tag in [format!("sha256-{hex}"), format!("sha256-{hex}.sig"), format!("sha256-{hex}.att")] {
            assert!(tag.parse::<Tag>().unwrap().is_for_tools(), "{tag}");
        }
        for tag in ["v1", "sha256-abc", "latest.sig"] {
            assert!(!tag.parse::<Tag>().unwrap().is_for_tools(), "{tag}");
        }
    }
}
