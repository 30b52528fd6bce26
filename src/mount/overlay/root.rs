//! The root: one artifact's things, or a folder for each tag of a repository.
//!
//! In a repository nothing but artifacts can be at the root: a new folder begins an artifact, named as a tag must be. A
//! folder of the base that leaves the root is a tag that goes, which is refused unless the mount may delete. Tags that
//! somebody else makes meanwhile appear; one that was moved or removed here does not come back.

use std::sync::Arc;

use super::Overlay;
use super::inode::Origin;
use super::refusal::{Answer, Refusal};
use super::tree::Tree;
use crate::artifact::tree::Entries;
use crate::error::ErrorKind;
use crate::mount::inodes::ROOT;
use crate::mount::shelf::{self, Shelf};
use crate::mount::staging::Record;

/// What lies at the root.
pub(in crate::mount) enum Top {
    /// What is in one artifact.
    Artifact,
    /// A folder for each tag.
    Repository {
        /// The tags as they were found.
        shelf: Arc<Shelf>,
        /// Whether a tag may be deleted.
        may_delete: bool,
    },
}

impl Top {
    /// How many folders lie above an artifact's root.
    pub(super) fn depth(&self) -> u32 {
        u32::from(matches!(self, Self::Repository { .. }))
    }

    /// What a journal takes to be at the root: the tags it speaks of, where they were then. Everything else appears
    /// later, where no name of ours is in its way.
    pub(super) fn spoken_of(&self, records: &[Record]) -> Option<Entries> {
        let Self::Repository { shelf, .. } = self else { return None };
        for record in records {
            if let Record::Pin { name, digest } = record {
                shelf.pin(name, digest);
            }
        }
        let named = records.iter().filter_map(|record| match record {
            Record::Base { parent: ROOT, name, .. } => Some((name.clone(), shelf.node(name)?)),
            _ => None,
        });
        Some(named.collect())
    }

    /// The tags whose names at the root a record changes: a replay finds there only what was introduced.
    pub(super) fn named(&self, tree: &Tree, record: &Record) -> [Option<u64>; 2] {
        let tag = |parent: u64, name: &[u8]| {
            let there = self.is_shelf(parent).then(|| tree.entry(parent, name));
            there.and_then(|entry| entry.ok().flatten())
        };
        match record {
            Record::Remove { parent, name, .. } => [tag(*parent, name), None],
            Record::Rename { parent, name, to, new_name, .. } => [tag(*parent, name), tag(*to, new_name)],
            _ => [None, None],
        }
    }

    /// What the journal must say in front of an introduction: what the tag it introduces was.
    pub(super) fn pinned(&self, introduction: &Record) -> Option<Record> {
        match introduction {
            Record::Base { parent: ROOT, name, .. } => self.pin(name),
            _ => None,
        }
    }

    /// What the tag `name` was when its folder was entered, for the journal.
    pub(super) fn pin(&self, name: &[u8]) -> Option<Record> {
        let Self::Repository { shelf, .. } = self else { return None };
        let digest = shelf.pinned(name)?.to_string();
        Some(Record::Pin { name: name.to_vec(), digest })
    }

    /// The name of the tag `number` came from, if it is an artifact's root.
    pub(super) fn artifact(&self, tree: &Tree, number: u64) -> Option<Vec<u8>> {
        match (self, tree.origin(number)?) {
            (Self::Repository { .. }, Origin { parent: ROOT, name }) => Some(name.clone()),
            _ => None,
        }
    }

    /// Whether the artifact of a tag is one nobody can change: an index, say.
    pub(super) async fn is_fixed(&self, name: &[u8]) -> bool {
        let Self::Repository { shelf, .. } = self else { return false };
        match shelf.expect_changeable(name).await {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                tracing::warn!(%error, "shown, and not to be changed");
                true
            }
            // What cannot be known now is told by the commit.
            _ => false,
        }
    }

    /// Whether there is a folder for each tag in `folder`.
    pub(super) fn is_shelf(&self, folder: u64) -> bool {
        folder == ROOT && matches!(self, Self::Repository { .. })
    }

    /// Whether something may be put under `name` into `parent`.
    pub(super) fn expect_place(&self, parent: u64, name: &[u8], is_folder: bool) -> Answer<()> {
        match self.is_shelf(parent) {
            true if !is_folder => Err(Refusal::NotPermitted),
            true if !shelf::may_be_new(name) => Err(Refusal::Invalid),
            _ => Ok(()),
        }
    }

    /// Whether `number` may leave `parent`.
    pub(super) fn expect_leave(&self, tree: &Tree, parent: u64, number: u64) -> Answer<()> {
        match self {
            Self::Repository { may_delete: false, .. } if parent == ROOT && tree.origin(number).is_some() => {
                Err(Refusal::NotPermitted)
            }
            _ => Ok(()),
        }
    }
}

impl Overlay {
    /// Lists the root, so that a mount nobody could enter fails before it is there. With work staged the registry may
    /// be gone.
    pub(super) async fn look_inside(&self, work: bool) -> Answer<()> {
        if let Top::Repository { shelf, .. } = &self.top
            && !work
        {
            shelf.check().await?;
        }
        self.look_again(ROOT).await
    }

    /// Whether the base may have something new under a free name.
    pub(super) fn may_appear(&self, tree: &Tree, parent: u64, name: &[u8]) -> bool {
        self.top.is_shelf(parent)
            && !tree.has_left(name)
            && tree.entry(parent, name).is_ok_and(|entry| entry.is_none())
    }

    /// Whether what is not in `folder` now may be there later without a program putting it there.
    pub(in crate::mount) fn is_growing(&self, folder: u64) -> bool {
        self.top.is_shelf(folder)
    }

    /// Lets appear what the base has got since it was listed. What cannot be listed now is as it was.
    pub(super) async fn look_again(&self, number: u64) -> Answer<()> {
        if !self.top.is_shelf(number) {
            return Ok(());
        }
        let Ok(listed) = self.in_time("list the tags", self.base.list()).await else { return Ok(()) };
        let mut tree = self.tree();
        for (name, node) in listed.iter() {
            if self.may_appear(&tree, number, name) {
                tree.appear(number, name, node)?;
            }
        }
        Ok(())
    }
}
