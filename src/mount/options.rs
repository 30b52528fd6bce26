//! What can be chosen about a mount.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// What can be chosen about a mount.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where: a folder that exists.
    pub mountpoint: PathBuf,
    /// What `/proc/mounts` and `status` call it.
    pub reference: String,
    /// Whether other users may enter.
    pub allow_other: bool,
    /// Words given with `-o`, as mount(8) and fstab give them.
    pub mount_options: Vec<String>,
    /// How often tags are resolved again; `None` pins them.
    pub follow: Option<Duration>,
    /// When a blob is checked.
    pub verify: Verify,
    /// Whether everything is fetched in the background.
    pub prefetch: bool,
    /// After how long a program that waits for the network gets an error.
    pub deadline: Duration,
    /// Whether the kernel may read verified blobs by itself.
    pub passthrough: bool,
    /// Threads that answer the kernel.
    pub threads: usize,
    /// Where the log goes, for `status` to say.
    pub log: Option<PathBuf>,
    /// Where changes are staged (see [`place`](super::place)); `None` mounts read-only.
    pub staging: Option<PathBuf>,
    /// Whether removing the folder of a tag, in a repository mounted for writing, deletes the tag.
    pub allow_delete: bool,
}

/// When a blob is checked against its digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verify {
    /// Once all of it is here.
    #[default]
    Lazy,
    /// Before its first byte is handed out.
    Full,
}

impl Options {
    /// The choices most people want.
    pub fn new(mountpoint: impl Into<PathBuf>, reference: impl Into<String>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            reference: reference.into(),
            allow_other: false,
            mount_options: Vec::new(),
            follow: None,
            verify: Verify::Lazy,
            prefetch: false,
            deadline: Duration::from_secs(60),
            passthrough: true,
            // One per core: a request costs mostly the wake-up of another core (limits.md §5).
            threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)),
            log: None,
            staging: None,
            allow_delete: false,
        }
    }
}

/// What the words of `-o` ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Words {
    pub(super) allow_other: bool,
    pub(super) no_exec: bool,
    pub(super) no_atime: bool,
    pub(super) uid: Option<u32>,
    pub(super) gid: Option<u32>,
}

impl Words {
    /// Reads the words; each may itself be a list with commas. What only concerns mount(8), systemd or
    /// writers is passed over, so that a line of fstab can be handed on whole; what we do not know is refused.
    pub(super) fn parse(given: &[String]) -> Result<Self> {
        let mut words = Self::default();
        for word in given.iter().flat_map(|list| list.split(',')).map(str::trim) {
            let (name, value) =
                word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
            match name {
                "allow_other" => words.allow_other = true,
                "noexec" => words.no_exec = true,
                "noatime" => words.no_atime = true,
                "uid" => words.uid = Some(number(word, value)?),
                "gid" => words.gid = Some(number(word, value)?),
                // `dev` and `suid` come with every mount(8) by root; device nodes and set-user-id programs
                // out of a registry are not something to be had by default.
                ""
                | "ro"
                | "rw"
                | "dev"
                | "nodev"
                | "suid"
                | "nosuid"
                | "exec"
                | "atime"
                | "relatime"
                | "norelatime"
                | "strictatime"
                | "diratime"
                | "nodiratime"
                | "lazytime"
                | "sync"
                | "async"
                | "dirsync"
                | "default_permissions"
                | "auto"
                | "noauto"
                | "user"
                | "users"
                | "nouser"
                | "owner"
                | "group"
                | "defaults"
                | "nofail"
                | "_netdev"
                | "comment"
                | "fsname"
                | "subtype" => {}
                other if other.starts_with("x-") || other.starts_with("X-") => {}
                other => {
                    return Err(Error::new(ErrorKind::Invalid, format!("unknown mount option {other:?}")));
                }
            }
        }
        Ok(words)
    }
}

fn number(word: &str, value: Option<&str>) -> Result<u32> {
    value
        .and_then(|value| value.parse().ok())
        .ok_or_else(|| Error::new(ErrorKind::Invalid, format!("mount option {word:?} needs a number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_fstab_is_understood_and_a_misspelt_word_is_not() {
        let line = "rw,nosuid,nodev,_netdev,nofail,user,x-systemd.automount,allow_other,uid=7".to_owned();
        let words = Words::parse(&[line]).unwrap();
        assert_eq!(words, Words { allow_other: true, uid: Some(7), ..Words::default() });
        assert!(Words::parse(&["alow_other".to_owned()]).is_err());
        assert!(Words::parse(&["uid=me".to_owned()]).is_err());
    }
}
