//! The errno that says what an [`Error`] means to a program.

use crate::error::{Error, ErrorKind};

/// The one place where a kind of error becomes a number.
///
/// Whatever a program could not do anything about is `EIO`; the words are in the log and in `artifs status`.
pub(super) fn of(error: &Error) -> i32 {
    match error.kind() {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::Unauthorized | ErrorKind::Denied => libc::EACCES,
        ErrorKind::Exists => libc::EEXIST,
        ErrorKind::Conflict => libc::EBUSY,
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        ErrorKind::TooLarge => libc::EFBIG,
        ErrorKind::Corrupt
        | ErrorKind::Invalid
        | ErrorKind::Unavailable
        | ErrorKind::RateLimited
        | ErrorKind::Offline
        | ErrorKind::Io => libc::EIO,
    }
}
