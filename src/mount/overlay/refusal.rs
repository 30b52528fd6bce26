//! Why a change, or a question about something changeable, is refused.

use crate::error::Error;

/// The reasons programs know, and the ones they do not. `errno` has the number for each.
#[derive(Debug)]
pub(in crate::mount) enum Refusal {
    /// There is no such name, or the inode is not known any more.
    NotFound,
    /// The name is taken.
    Exists,
    /// The folder has something in it.
    NotEmpty,
    /// A folder is needed.
    NotAFolder,
    /// Anything but a folder is needed.
    IsAFolder,
    /// More than 255 bytes.
    NameTooLong,
    /// It is not a program's to change: what an artifact says of itself.
    ReadOnly,
    /// The arguments make no sense together.
    Invalid,
    /// Nobody may.
    NotPermitted,
    /// No such extended attribute.
    NoAttribute,
    /// Understood, and not to be had here.
    Unsupported,
    /// Beyond the end of the file.
    BeyondEnd,
    /// The staging disk refused: no space, a quota, a file too large for it.
    Disk(std::io::Error),
    /// The base's bytes or names could not be had, or the journal does not fit the base.
    Failed(Error),
}

/// An answer or a refusal.
pub(in crate::mount) type Answer<T> = Result<T, Refusal>;

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}
