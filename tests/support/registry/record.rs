//! What was asked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// What kind of thing a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `GET /v2/`.
    Ping,
    /// `/v2/_catalog`.
    Catalog,
    /// `/v2/<repository>/tags/list`.
    Tags,
    /// `/v2/<repository>/manifests/<name>`.
    Manifest,
    /// `/v2/<repository>/blobs/<digest>`.
    Blob,
    /// `/v2/<repository>/blobs/uploads/…`.
    Upload,
    /// `/v2/<repository>/referrers/<digest>`.
    Referrers,
    /// `/token`.
    Token,
    /// Anything at the second host.
    Storage,
    /// Anything else.
    Other,
}

/// One request, and what became of it. `sent` and `status` go on changing while it is answered.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`, `HEAD`, ….
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Without the `?`; empty if there was none.
    pub query: String,
    /// What it asks for.
    pub endpoint: Endpoint,
    /// All headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The request's body, for the token endpoint.
    pub body: String,
    pub(super) status: Arc<AtomicU64>,
    pub(super) sent: Arc<AtomicU64>,
}

impl Request {
    /// The first header of this (lower-case) name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// The Range header.
    pub fn range(&self) -> Option<&str> {
        self.header("range")
    }

    /// The status answered; 0 while (or if never) answered.
    pub fn status(&self) -> u16 {
        self.status.load(Ordering::SeqCst) as u16
    }

    /// How many bytes of body were handed to the connection.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Whether it asks for a blob's bytes, here or at the second host.
    pub fn is_for_blob_bytes(&self) -> bool {
        matches!(self.endpoint, Endpoint::Blob | Endpoint::Storage) && self.method == "GET"
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)?;
        if !self.query.is_empty() {
            write!(f, "?{}", self.query)?;
        }
        if let Some(range) = self.range() {
            write!(f, " [{range}]")?;
        }
        write!(f, " -> {} ({} bytes)", self.status(), self.sent())
    }
}
