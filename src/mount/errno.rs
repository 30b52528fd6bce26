//! The errno that says what an [`Error`] means to a program.

use super::overlay::Refusal;
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

/// The same for a refused change.
pub(super) fn of_refusal(refusal: &Refusal) -> i32 {
    match refusal {
        Refusal::NotFound => libc::ENOENT,
        Refusal::Exists => libc::EEXIST,
        Refusal::NotEmpty => libc::ENOTEMPTY,
        Refusal::NotAFolder => libc::ENOTDIR,
        Refusal::IsAFolder => libc::EISDIR,
        Refusal::NameTooLong => libc::ENAMETOOLONG,
        Refusal::ReadOnly => libc::EROFS,
        Refusal::Invalid => libc::EINVAL,
        Refusal::NotPermitted => libc::EPERM,
        Refusal::NoAttribute => libc::ENODATA,
        Refusal::Unsupported => libc::EOPNOTSUPP,
        Refusal::BeyondEnd => libc::ENXIO,
        // The staging disk's words are the program's own: no space, quota, file too large.
        Refusal::Disk(error) => error.raw_os_error().unwrap_or(libc::EIO),
        Refusal::Failed(error) => of(error),
    }
}
