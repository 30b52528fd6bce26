//! Attributes: what `stat` shows, and setting it.

use std::sync::Arc;

use super::inode::{Inode, What};
use super::refusal::{Answer, Refusal};
use super::{Overlay, now};
use crate::mount::staging::{Contents, Record, Time};

/// What kind of thing an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Kind {
    Folder,
    File,
    Link,
    /// The type bits of its mode say which.
    Special(u32),
}

/// What `stat` shows.
#[derive(Clone, Copy, Debug)]
pub(in crate::mount) struct Stat {
    pub(in crate::mount) number: u64,
    pub(in crate::mount) kind: Kind,
    pub(in crate::mount) size: u64,
    pub(in crate::mount) blocks: u64,
    pub(in crate::mount) mode: u32,
    pub(in crate::mount) owner: (u32, u32),
    pub(in crate::mount) links: u32,
    pub(in crate::mount) accessed: Time,
    pub(in crate::mount) modified: Time,
    pub(in crate::mount) changed: Time,
    pub(in crate::mount) device: u32,
    /// Whether it may change without the kernel being told, or by the kernel without us being told.
    pub(in crate::mount) restless: bool,
}

/// What is to be set; `None` stays as it is. The kernel has checked that the program may.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::mount) struct Setting {
    pub(in crate::mount) mode: Option<u32>,
    pub(in crate::mount) uid: Option<u32>,
    pub(in crate::mount) gid: Option<u32>,
    pub(in crate::mount) size: Option<u64>,
    pub(in crate::mount) accessed: Option<When>,
    pub(in crate::mount) modified: Option<When>,
    /// Whether changing the size or the owner takes set-user-id and set-group-id away.
    pub(in crate::mount) unprivileged: bool,
}

/// A time to be set.
#[derive(Clone, Copy, Debug)]
pub(in crate::mount) enum When {
    Now,
    At(Time),
}

/// Set-user-id and set-group-id.
const SUID: u32 = 0o4000;
const SGID: u32 = 0o2000;

impl Overlay {
    /// What an inode is.
    pub(in crate::mount) fn getattr(&self, number: u64) -> Answer<Stat> {
        stat(number, self.tree().inode(number)?)
    }

    /// Sets attributes, and shows them.
    pub(in crate::mount) fn setattr(&self, number: u64, setting: Setting) -> Answer<Stat> {
        if let Some(size) = setting.size {
            self.resize(number, size)?;
        }
        let at = now();
        let resolve = |when: When| match when {
            When::Now => at,
            When::At(time) => time,
        };
        let mut tree = self.tree();
        let inode = tree.inode(number)?;
        if inode.fixed {
            return Err(Refusal::ReadOnly);
        }
        let staged = staged(inode);
        let modified = setting.modified.map(resolve);
        if let (Some(contents), Some(modified)) = (&staged, modified) {
            contents.set_modified(modified)?;
        }
        let resized = setting.size.is_some();
        let record = Record::Attributes {
            inode: number,
            mode: mode(inode, &setting),
            uid: setting.uid,
            gid: setting.gid,
            accessed: setting.accessed.map(resolve),
            modified: modified.filter(|_| staged.is_none()),
            at,
        };
        let silent = matches!(
            &record,
            Record::Attributes { mode: None, uid: None, gid: None, accessed: None, modified: None, .. }
        );
        // A new size is in the data file, and its times are too.
        if !(silent && (resized || staged.is_some())) {
            self.change(&mut tree, &record, None)?;
        }
        stat(number, tree.inode(number)?)
    }

    /// Takes set-user-id and set-group-id away, as a write by somebody else does.
    pub(super) fn strip_privileges(&self, number: u64) -> Answer<()> {
        let mut tree = self.tree();
        let inode = tree.inode(number)?;
        let stripped = stripped(inode.mode);
        if stripped == inode.mode {
            return Ok(());
        }
        let (mode, at) = (Some(stripped), now());
        let record = Record::Attributes {
            inode: number,
            mode,
            uid: None,
            gid: None,
            accessed: None,
            modified: None,
            at,
        };
        self.change(&mut tree, &record, None)
    }
}

/// The mode after `setting`, if it changes.
fn mode(inode: &Inode, setting: &Setting) -> Option<u32> {
    let mode = setting.mode.unwrap_or(inode.mode) & 0o7777;
    let is_file = matches!(inode.what, What::File(_));
    let loses = is_file
        && setting.mode.is_none()
        && setting.unprivileged
        && (setting.size.is_some() || setting.uid.is_some() || setting.gid.is_some());
    let mode = if loses { stripped(mode) } else { mode };
    (setting.mode.is_some() || mode != inode.mode).then_some(mode)
}

/// Without group execution, set-group-id means locking and stays.
fn stripped(mode: u32) -> u32 {
    let sgid = if mode & 0o010 != 0 { SGID } else { 0 };
    mode & !(SUID | sgid)
}

/// The bytes of a file that has a local part.
fn staged(inode: &Inode) -> Option<Arc<Contents>> {
    inode.contents().ok().filter(|contents| contents.is_staged()).map(Arc::clone)
}

/// What `stat` shows of an inode.
pub(super) fn stat(number: u64, inode: &Inode) -> Answer<Stat> {
    let (mut modified, mut changed) = (inode.modified, inode.changed);
    let mut device = 0;
    let mut links = inode.links;
    let mut restless = false;
    let (kind, size, blocks) = match &inode.what {
        What::Folder(directory) => {
            // Not known before somebody enters; until then 1, as other file systems have it that do not know.
            restless = !directory.entered;
            if links > 0 && directory.entered {
                links = directory.folders.saturating_add(2);
            }
            (Kind::Folder, 0, 0)
        }
        What::File(contents) => {
            let base = contents.base().map_or(0, |base| base.size);
            if let Some(shape) = contents.shape()? {
                restless = inode.opens > 0;
                modified = shape.modified;
                changed = changed.max(shape.changed);
                (Kind::File, shape.size, shape.blocks.max(base.min(shape.size).div_ceil(512)))
            } else {
                (Kind::File, base, base.div_ceil(512))
            }
        }
        What::Link(target) => (Kind::Link, target.len() as u64, 0),
        What::Special { kind, device: number } => {
            device = *number;
            (Kind::Special(*kind), 0, 0)
        }
    };
    Ok(Stat {
        number,
        kind,
        size,
        blocks,
        mode: inode.mode,
        owner: (inode.uid, inode.gid),
        links,
        accessed: inode.accessed,
        modified,
        changed,
        device,
        restless,
    })
}
