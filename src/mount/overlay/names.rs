//! Names: looking them up, listing them, making, moving and removing them.

use std::sync::Arc;

use super::attributes::{Stat, stat};
use super::contents::{Opened, Register};
use super::copying::Opener;
use super::inode::{Inode, What};
use super::refusal::{Answer, Refusal};
use super::tree::Tree;
use super::{Overlay, now};
use crate::artifact::tree::FileName;
use crate::mount::fs::Counts;
use crate::mount::staging::{Made, Record};

/// The longest name.
const LONGEST: usize = 255;

/// Set-group-id: of a folder, that what is made in it belongs to its group.
const SGID: u32 = 0o2000;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(in crate::mount) struct Who {
    pub(in crate::mount) uid: u32,
    pub(in crate::mount) gid: u32,
}

/// What is to be made.
pub(in crate::mount) struct New {
    pub(in crate::mount) what: Made,
    /// With the umask taken off already.
    pub(in crate::mount) mode: u32,
    pub(in crate::mount) who: Who,
}

/// A folder's names as they were when it was opened.
pub(in crate::mount) struct Listing {
    folder: u64,
    pub(in crate::mount) parent: u64,
    pub(in crate::mount) entries: Vec<(FileName, u64)>,
}

/// What may be in the way of a rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Target {
    /// Replaced.
    Any,
    /// Refused.
    Free,
    /// Given the other's place.
    Exchanged,
}

impl Overlay {
    /// What `name` is. Not being there is an answer.
    pub(in crate::mount) async fn lookup(&self, parent: u64, name: &[u8]) -> Answer<Option<Stat>> {
        Counts::add(&self.counts.lookups, 1);
        if name.len() > LONGEST {
            return Err(Refusal::NameTooLong);
        }
        self.enter(parent).await?;
        let unlisted = {
            let mut tree = self.tree();
            if let Some(number) = tree.entry(parent, name)? {
                return tell(&mut tree, number).map(Some);
            }
            let folder = tree.inode(parent)?;
            let unlisted = folder.fixed || tree.is_meta(parent, name) || self.may_appear(&tree, parent, name);
            folder.directory()?.base.clone().filter(|_| unlisted)
        };
        let Some(base) = unlisted else { return Ok(None) };
        let Some(node) = self.in_time("look up a name", base.lookup(name)).await? else { return Ok(None) };
        let mut tree = self.tree();
        let number = if self.may_appear(&tree, parent, name) {
            tree.appear(parent, name, &node)?
        } else {
            tree.adopt(parent, name, &node)?
        };
        tell(&mut tree, number).map(Some)
    }

    /// The kernel forgot a number `times` times.
    pub(in crate::mount) fn forget(&self, number: u64, times: u64) {
        let mut tree = self.tree();
        if let Ok(inode) = tree.inode_mut(number) {
            inode.lookups = inode.lookups.saturating_sub(times);
            tree.reap(number);
        }
        drop(tree);
        self.give_back();
    }

    /// Where a link points.
    pub(in crate::mount) fn readlink(&self, number: u64) -> Answer<Vec<u8>> {
        match &self.tree().inode(number)?.what {
            What::Link(target) => Ok(target.clone()),
            _ => Err(Refusal::Invalid),
        }
    }

    /// Opens a folder: what is in it now is what this handle lists.
    pub(in crate::mount) async fn open_folder(&self, number: u64) -> Answer<u64> {
        Counts::add(&self.counts.listings, 1);
        self.enter(number).await?;
        self.look_again(number).await?;
        let tree = self.tree();
        let directory = tree.inode(number)?.directory()?;
        let entries = directory.entries.iter().map(|(name, number)| (name.clone(), *number)).collect();
        let listing = Listing { folder: number, parent: directory.parent, entries };
        Ok(self.listings.insert(listing))
    }

    /// The snapshot an open folder lists.
    pub(in crate::mount) fn listing(&self, handle: u64) -> Answer<Arc<Listing>> {
        self.listings.get(handle).ok_or(Refusal::Invalid)
    }

    pub(in crate::mount) fn release_folder(&self, handle: u64) {
        self.listings.remove(handle);
    }

    /// A listed entry, told to the kernel; `None` if the name means something else by now.
    pub(in crate::mount) fn tell_listed(&self, listing: &Listing, name: &[u8], number: u64) -> Option<Stat> {
        let mut tree = self.tree();
        if tree.entry(listing.folder, name).ok()? != Some(number) {
            return None;
        }
        tell(&mut tree, number).ok()
    }

    /// Makes something new under a free name.
    pub(in crate::mount) async fn make(&self, parent: u64, name: &[u8], new: New) -> Answer<Stat> {
        self.enter(parent).await?;
        let mut tree = self.tree();
        let number = self.make_in(&mut tree, parent, name, new)?;
        if let Ok(contents) = tree.inode(number)?.contents() {
            contents.keep_open(false)?;
        }
        tell(&mut tree, number)
    }

    /// Makes a file and opens it.
    pub(in crate::mount) async fn create(
        &self,
        parent: u64,
        name: &[u8],
        new: New,
        by: Opener,
        register: Register<'_>,
    ) -> Answer<(Stat, Opened)> {
        self.make_room();
        self.enter(parent).await?;
        let mut tree = self.tree();
        let number = self.make_in(&mut tree, parent, name, new)?;
        let opened = self.open_in(&mut tree, number, by, register)?;
        Ok((tell(&mut tree, number)?, opened))
    }

    fn make_in(&self, tree: &mut Tree, parent: u64, name: &[u8], new: New) -> Answer<u64> {
        let New { what, mode, who } = new;
        free(tree, parent, name)?;
        self.top.expect_place(parent, name, what == Made::Folder)?;
        let folder = tree.inode(parent)?;
        let inherits = folder.mode & SGID != 0;
        let gid = if inherits { folder.gid } else { who.gid };
        let mode = if inherits && what == Made::Folder { mode | SGID } else { mode } & 0o7777;
        let inode = tree.next;
        let file = if what == Made::File { Some(self.staging.data().make(inode)?) } else { None };
        let (name, at) = (name.to_vec(), now());
        let record = Record::Make { inode, parent, name, what, mode, uid: who.uid, gid, at };
        self.change(tree, &record, file).inspect_err(|_| self.staging.data().remove(inode))?;
        Ok(inode)
    }

    /// Gives a file one more name.
    pub(in crate::mount) async fn link(&self, number: u64, parent: u64, name: &[u8]) -> Answer<Stat> {
        self.enter(parent).await?;
        let mut tree = self.tree();
        free(&tree, parent, name)?;
        self.top.expect_place(parent, name, false)?;
        let inode = tree.inode(number)?;
        if inode.is_folder() {
            return Err(Refusal::NotPermitted);
        }
        if inode.fixed {
            return Err(Refusal::ReadOnly);
        }
        if inode.links == 0 {
            return Err(Refusal::NotFound);
        }
        let record = Record::Link { inode: number, parent, name: name.to_vec(), at: now() };
        self.change(&mut tree, &record, None)?;
        tell(&mut tree, number)
    }

    /// Takes a name from anything but a folder. What is open lives on.
    pub(in crate::mount) async fn unlink(&self, parent: u64, name: &[u8]) -> Answer<()> {
        self.enter(parent).await?;
        let mut tree = self.tree();
        if taken(&tree, parent, name)?.1.is_folder() {
            return Err(Refusal::IsAFolder);
        }
        self.change(&mut tree, &Record::Remove { parent, name: name.to_vec(), at: now() }, None)?;
        drop(tree);
        self.give_back();
        Ok(())
    }

    /// Removes an empty folder.
    pub(in crate::mount) async fn rmdir(&self, parent: u64, name: &[u8]) -> Answer<()> {
        self.enter(parent).await?;
        let number = taken(&self.tree(), parent, name)?.0;
        self.enter(number).await?;
        let mut tree = self.tree();
        let (now_there, folder) = taken(&tree, parent, name)?;
        // The kernel lets nobody else change a name that is being removed.
        if now_there != number || !folder.directory()?.entries.is_empty() {
            return Err(Refusal::NotEmpty);
        }
        self.top.expect_leave(&tree, parent, number)?;
        self.change(&mut tree, &Record::Remove { parent, name: name.to_vec(), at: now() }, None)
    }

    /// Moves a name.
    pub(in crate::mount) async fn rename(
        &self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        target: Target,
    ) -> Answer<()> {
        self.enter(from.0).await?;
        self.enter(to.0).await?;
        let here = self.tree().entry(from.0, from.1)?.filter(|_| self.top.is_shelf(from.0));
        let there = self.tree().entry(to.0, to.1)?.filter(|_| target == Target::Any);
        for number in [here, there].into_iter().flatten() {
            match self.enter(number).await {
                Ok(()) | Err(Refusal::NotAFolder) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        let mut tree = self.tree();
        let (here, moved) = taken(&tree, from.0, from.1)?;
        if from.0 != to.0 || target != Target::Exchanged {
            self.top.expect_leave(&tree, from.0, here)?;
        }
        self.top.expect_place(to.0, to.1, moved.is_folder())?;
        match (tree.entry(to.0, to.1)?, target) {
            (Some(there), _) if there == here => return Ok(()),
            (Some(there), Target::Any) => replaceable(moved, tree.inode(there)?)?,
            (Some(there), Target::Exchanged) if tree.inode(there)?.fixed => return Err(Refusal::ReadOnly),
            (Some(there), Target::Exchanged) => {
                self.top.expect_place(from.0, from.1, tree.inode(there)?.is_folder())?;
            }
            (Some(_), Target::Free) => return Err(Refusal::Exists),
            (None, Target::Exchanged) => return Err(Refusal::NotFound),
            (None, Target::Any | Target::Free) => free(&tree, to.0, to.1)?,
        }
        let record = Record::Rename {
            parent: from.0,
            name: from.1.to_vec(),
            to: to.0,
            new_name: to.1.to_vec(),
            exchange: target == Target::Exchanged,
            at: now(),
        };
        self.change(&mut tree, &record, None)?;
        drop(tree);
        self.give_back();
        Ok(())
    }
}

/// Whether a rename may put `moved` in the place of `there`.
fn replaceable(moved: &Inode, there: &Inode) -> Answer<()> {
    match (moved.is_folder(), &there.what) {
        _ if there.fixed => Err(Refusal::ReadOnly),
        (true, What::Folder(directory)) if directory.entries.is_empty() => Ok(()),
        (true, What::Folder(_)) => Err(Refusal::NotEmpty),
        (true, _) => Err(Refusal::NotAFolder),
        (false, What::Folder(_)) => Err(Refusal::IsAFolder),
        (false, _) => Ok(()),
    }
}

/// Whether something can be made as `name`.
fn free(tree: &Tree, parent: u64, name: &[u8]) -> Answer<()> {
    if name.len() > LONGEST {
        return Err(Refusal::NameTooLong);
    }
    let folder = tree.inode(parent)?;
    if folder.fixed || tree.is_meta(parent, name) {
        return Err(Refusal::ReadOnly);
    }
    // A folder that was removed while somebody is in it.
    if folder.links == 0 {
        return Err(Refusal::NotFound);
    }
    match folder.directory()?.entries.get(name) {
        Some(_) => Err(Refusal::Exists),
        None => Ok(()),
    }
}

/// What is called `name`, to be moved or removed.
fn taken<'a>(tree: &'a Tree, parent: u64, name: &[u8]) -> Answer<(u64, &'a Inode)> {
    let folder = tree.inode(parent)?;
    let Some(number) = folder.directory()?.entries.get(name).copied() else {
        let ours = folder.fixed || tree.is_meta(parent, name);
        return Err(if ours { Refusal::ReadOnly } else { Refusal::NotFound });
    };
    let inode = tree.inode(number)?;
    if inode.fixed { Err(Refusal::ReadOnly) } else { Ok((number, inode)) }
}

/// Counts an inode as told to the kernel once more.
fn tell(tree: &mut Tree, number: u64) -> Answer<Stat> {
    let inode = tree.inode_mut(number)?;
    let stat = stat(number, inode)?;
    inode.lookups += 1;
    Ok(stat)
}
