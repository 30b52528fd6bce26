//! Content digests: `algorithm:encoded` (image-spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::error::{Error, ErrorKind, Result};

/// A content digest. Cloning is shallow.
///
/// An unregistered algorithm parses (its content can be named, listed and copied), but has no
/// [`Hasher`], so nothing under it can ever be read as checked content (formats.md R18).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    whole: Arc<str>,
    colon: usize,
}

impl Digest {
    /// The digest of `{}`, the two bytes of `application/vnd.oci.empty.v1+json`.
    pub const EMPTY_JSON: &'static str =
        "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    /// The digest of no bytes at all.
    pub const ZERO: &'static str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    /// The sha256 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::Sha256(sha2::Sha256::new());
        hasher.update(bytes);
        hasher.finish()
    }

    /// The algorithm part, e.g. `sha256`.
    pub fn algorithm(&self) -> &str {
        &self.whole[..self.colon]
    }

    /// The encoded part: lower-case hex for every registered algorithm.
    pub fn encoded(&self) -> &str {
        &self.whole[self.colon + 1..]
    }

    /// `algorithm:encoded`.
    pub fn as_str(&self) -> &str {
        &self.whole
    }

    /// What people are shown: the first 12 characters of the encoded part.
    pub fn short(&self) -> &str {
        let encoded = self.encoded();
        &encoded[..encoded.len().min(12)]
    }

    /// A fresh hasher of this digest's algorithm; [`ErrorKind::Unsupported`] for one we do not have.
    pub fn hasher(&self) -> Result<Hasher> {
        Hasher::for_algorithm(self.algorithm())
    }

    /// Whether `bytes` are this digest's content. An algorithm without a hasher never matches.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let Ok(mut hasher) = self.hasher() else { return false };
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

/// Computes a [`Digest`] piece by piece.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256, the one every registry accepts.
    Sha256(sha2::Sha256),
    /// SHA-384, which ORAS accepts in references.
    Sha384(sha2::Sha384),
    /// SHA-512, registered in the image-spec.
    Sha512(sha2::Sha512),
}

impl Hasher {
    /// A hasher by its registered name: `sha256`, `sha384`, `sha512`.
    pub fn for_algorithm(algorithm: &str) -> Result<Self> {
        match algorithm {
            "sha256" => Ok(Self::Sha256(sha2::Sha256::new())),
            "sha384" => Ok(Self::Sha384(sha2::Sha384::new())),
            "sha512" => Ok(Self::Sha512(sha2::Sha512::new())),
            other => Err(Error::new(
                ErrorKind::Unsupported,
                format!("digest algorithm {other:?} is not supported"),
            )),
        }
    }

    /// Takes in the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha384(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken in.
    pub fn finish(self) -> Digest {
        let (algorithm, bytes) = match self {
            Self::Sha256(hasher) => ("sha256", hasher.finalize().to_vec()),
            Self::Sha384(hasher) => ("sha384", hasher.finalize().to_vec()),
            Self::Sha512(hasher) => ("sha512", hasher.finalize().to_vec()),
        };
        let mut whole = format!("{algorithm}:");
        for byte in bytes {
            use fmt::Write as _;
            let _ = write!(whole, "{byte:02x}");
        }
        Digest { whole: whole.into(), colon: algorithm.len() }
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| Error::new(ErrorKind::Invalid, format!("invalid digest {text:?}: {why}"));
        let Some((algorithm, encoded)) = text.split_once(':') else { return Err(bad("no \":\"")) };
        // image-spec grammar: algorithm-component [algorithm-separator algorithm-component]*
        let component = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if text.len() > 256 || !algorithm.split(['+', '.', '_', '-']).all(component) {
            return Err(bad("malformed algorithm"));
        }
        if encoded.is_empty() || !encoded.bytes().all(|b| b.is_ascii_alphanumeric() || b"=_-".contains(&b)) {
            return Err(bad("malformed encoded part"));
        }
        let hex_length = match algorithm {
            "sha256" => Some(64),
            "sha384" => Some(96),
            "sha512" => Some(128),
            _ => None,
        };
        if let Some(length) = hex_length {
            let is_hex = encoded.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            if encoded.len() != length || !is_hex {
                return Err(bad(&format!("{algorithm} needs {length} lower-case hex digits")));
            }
        }
        Ok(Self { whole: text.into(), colon: algorithm.len() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.whole)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.whole)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_contents_have_their_known_digests() {
        assert_eq!(Digest::of(b"{}").as_str(), Digest::EMPTY_JSON);
        assert_eq!(Digest::of(b"").as_str(), Digest::ZERO);
    }

    #[test]
    fn what_is_not_a_digest_does_not_parse() {
        let upper = Digest::ZERO.to_uppercase();
        for text in
            ["", "sha256", "sha256:", "sha256:abc", ":abc", "sha256:../../etc/passwd", &upper, "SHA256:00"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_algorithm_parses_and_never_matches() {
        let digest: Digest = "blake3:abcdef".parse().unwrap();
        assert_eq!(digest.algorithm(), "blake3");
        assert!(!digest.matches(b""));
        assert_eq!(digest.hasher().err().unwrap().kind(), ErrorKind::Unsupported);
    }
}
