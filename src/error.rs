//! The one error type of the crate.
//!
//! An [`Error`] says what kind of thing went wrong (for machines: retry, errno, exit code), what was
//! being done (for people), and why (the source). It names nothing above it, so every layer may use it.

use std::fmt;
use std::sync::Arc;

/// What went wrong, in a short closed list. Errno and exit codes are derived from it at the edges only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The thing asked for does not exist.
    NotFound,
    /// Credentials are missing or were refused (HTTP 401).
    Unauthorized,
    /// Known, and not allowed (HTTP 403).
    Denied,
    /// It is there already and may not be replaced.
    Exists,
    /// Somebody else changed it meanwhile.
    Conflict,
    /// Content that does not match its digest, size or checksum.
    Corrupt,
    /// Input that cannot be right: a malformed reference, manifest, header, option.
    Invalid,
    /// Understood, but not possible here.
    Unsupported,
    /// The other side cannot be reached or is failing; trying again may help.
    Unavailable,
    /// Asked to wait (HTTP 429); trying again later helps.
    RateLimited,
    /// The network was needed and `--offline` forbids it.
    Offline,
    /// Larger than what we are willing to hold in memory.
    TooLarge,
    /// The local machine: disk, permissions, processes.
    Io,
}

/// A result with the crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Arc<dyn std::error::Error + Send + Sync + 'static>;

/// What went wrong, what was being done, and why. Cloning is shallow: many waiters may share one failure.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    doing: String,
    source: Option<Source>,
}

impl Error {
    /// An error without a cause of its own; `message` is a whole statement in lower case.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind, doing: message.into(), source: None }))
    }

    /// An error caused by `source`; `doing` says what was being attempted.
    pub fn with_source(
        kind: ErrorKind,
        doing: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self(Arc::new(Inner { kind, doing: doing.into(), source: Some(Arc::from(source.into())) }))
    }

    /// A local I/O failure. A missing file keeps its meaning ([`ErrorKind::NotFound`]).
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        let kind = match source.kind() {
            std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        Self::with_source(kind, doing, source)
    }

    /// This error, seen from one step further out: same kind, `doing` in front.
    #[must_use]
    pub fn context(self, doing: impl Into<String>) -> Self {
        Self(Arc::new(Inner { kind: self.kind(), doing: doing.into(), source: Some(Arc::new(self)) }))
    }

    /// What kind of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The outermost statement, without its causes.
    pub fn message(&self) -> &str {
        &self.0.doing
    }

    /// Whether the same attempt may succeed a little later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::RateLimited)
    }
}

/// The whole chain on one line, outermost first: `doing: because: because`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.doing)?;
        if let Some(source) = &self.0.source {
            if let Some(ours) = source.downcast_ref::<Self>() {
                return write!(f, ": {ours}");
            }
            write!(f, ": {source}")?;
            let mut next = source.source();
            while let Some(cause) = next {
                write!(f, ": {cause}")?;
                next = cause.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.kind())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| &**source as &(dyn std::error::Error + 'static))
    }
}

/// Says what was being done when a result failed.
pub trait Context<T> {
    /// Wraps an error; `doing` is only evaluated on failure.
    fn doing<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for Result<T> {
    fn doing<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| error.context(doing()))
    }
}

impl<T> Context<T> for std::io::Result<T> {
    fn doing<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error))
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn doing<D: Into<String>>(self, doing: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|error| Error::io(doing(), error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_reads_from_the_outside_in() {
        let io = std::io::Error::other("disk on fire");
        let error = Error::io("write /x", io).context("save the blob");
        assert_eq!(error.to_string(), "save the blob: write /x: disk on fire");
        assert_eq!(error.kind(), ErrorKind::Io);
    }
}
