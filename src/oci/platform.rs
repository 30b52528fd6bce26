//! Platforms: `os[/arch[/variant]][:os_version]` (oras.md §1.4 P; formats.md R3).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// What an image runs on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH, e.g. `amd64`.
    #[serde(default)]
    pub architecture: String,
    /// GOOS, e.g. `linux`.
    #[serde(default)]
    pub os: String,
    /// The operating system's version, as Windows images give it.
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// The architecture's variant, e.g. `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Fields we do not know.
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

impl Platform {
    /// The platform this program runs on, in Go's words.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self {
            architecture: architecture.into(),
            os: std::env::consts::OS.into(),
            os_version: None,
            variant: None,
            other: BTreeMap::new(),
        }
    }

    /// Whether `offered` satisfies this wish: os and architecture exactly, the rest only if wished for.
    pub fn accepts(&self, offered: &Self) -> bool {
        let asked = |wish: &Option<String>, have: &Option<String>| wish.is_none() || wish == have;
        self.os == offered.os
            && self.architecture == offered.architecture
            && asked(&self.variant, &offered.variant)
            && asked(&self.os_version, &offered.os_version)
    }
}

impl FromStr for Platform {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |why: &str| Error::new(ErrorKind::Invalid, why.to_owned());
        let (platform, os_version) = match text.split_once(':') {
            Some((platform, version)) => (platform, Some(version.to_owned())),
            None => (text, None),
        };
        let parts: Vec<&str> = platform.split('/').collect();
        if parts.len() > 3 {
            return Err(invalid(&format!(
                "failed to parse platform {text:?}: expected format os[/arch[/variant]]"
            )));
        }
        let host = Self::host();
        let parsed = Self {
            os: parts[0].to_owned(),
            architecture: parts.get(1).map_or(host.architecture, |arch| (*arch).to_owned()),
            variant: parts.get(2).map(|variant| (*variant).to_owned()),
            os_version,
            other: BTreeMap::new(),
        };
        if parsed.os.is_empty() {
            return Err(invalid("invalid platform: OS cannot be empty"));
        }
        if parsed.architecture.is_empty() {
            return Err(invalid("invalid platform: Architecture cannot be empty"));
        }
        Ok(parsed)
    }
}

/// `os/arch[/variant][:os_version]`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if let Some(variant) = &self.variant {
            write!(f, "/{variant}")?;
        }
        if let Some(version) = &self.os_version {
            write!(f, ":{version}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_exact_in_what_it_says_and_silent_in_the_rest() {
        let offered: Platform = "linux/arm/v7".parse().unwrap();
        assert!("linux/arm".parse::<Platform>().unwrap().accepts(&offered));
        assert!(!"linux/arm/v6".parse::<Platform>().unwrap().accepts(&offered));
        assert!(!"linux/arm64".parse::<Platform>().unwrap().accepts(&offered));
        assert_eq!(
            "a/b/c/d".parse::<Platform>().unwrap_err().to_string(),
            "failed to parse platform \"a/b/c/d\": expected format os[/arch[/variant]]"
        );
    }
}
