//! Paths being put together, before they become folders.
//!
//! Titles of a manifest and members of an archive arrive as whole paths in any order, with parents
//! missing and places taken twice. A [`Draft`] settles that by one rule for both (formats.md R11): the later
//! one wins, folders merge, and a file where a folder is needed stays beside it under another name.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::names;
use super::tree::{Attributes, FileName, Xattrs};

/// The folder everything hangs from.
pub(super) const ROOT: usize = 0;

/// Folders by number; leaves of type `L` in them.
pub(super) struct Draft<L> {
    folders: Vec<DraftFolder<L>>,
}

/// One folder of a [`Draft`].
pub(super) struct DraftFolder<L> {
    /// What an explicit entry said of it.
    pub(super) attributes: Option<Attributes>,
    pub(super) xattrs: Option<Arc<Xattrs>>,
    /// What is in it.
    pub(super) children: BTreeMap<FileName, Child<L>>,
}

/// What is under a name.
pub(super) enum Child<L> {
    /// The folder of this number.
    Folder(usize),
    /// Something that is not a folder.
    Leaf(L),
}

/// What had to give way.
pub(super) enum Clash<L> {
    /// An earlier leaf, now gone.
    Replaced(L),
    /// A leaf whose place a folder has: it is there under this name.
    Moved(FileName),
}

impl<L> Draft<L> {
    /// Nothing but the root.
    pub(super) fn new() -> Self {
        Self { folders: vec![DraftFolder { attributes: None, xattrs: None, children: BTreeMap::new() }] }
    }

    /// The folder of this number, which must be one this draft gave out.
    pub(super) fn folder(&self, number: usize) -> &DraftFolder<L> {
        &self.folders[number]
    }

    /// Says what an explicit entry says of a folder.
    pub(super) fn describe(&mut self, number: usize, attributes: Attributes) {
        self.folders[number].attributes = Some(attributes);
    }

    /// Says what extended attributes a folder has.
    pub(super) fn mark(&mut self, number: usize, xattrs: Arc<Xattrs>) {
        self.folders[number].xattrs = Some(xattrs);
    }

    /// What is at `path`: `None` if nothing is. The empty path is the root.
    pub(super) fn find(&self, path: &[FileName]) -> Option<Found<'_, L>> {
        let mut at = ROOT;
        for (i, name) in path.iter().enumerate() {
            match self.folders[at].children.get(name)? {
                Child::Folder(next) => at = *next,
                Child::Leaf(leaf) => return (i + 1 == path.len()).then_some(Found::Leaf(leaf)),
            }
        }
        Some(Found::Folder(at))
    }

    /// The folder at `path`, made with its parents where it is missing. A leaf in the way is moved beside it.
    pub(super) fn make(&mut self, path: &[FileName], clashes: &mut Vec<Clash<L>>) -> usize {
        let mut at = ROOT;
        for name in path {
            if let Some(Child::Folder(next)) = self.folders[at].children.get(name) {
                at = *next;
                continue;
            }
            let new = self.folders.len();
            self.folders.push(DraftFolder { attributes: None, xattrs: None, children: BTreeMap::new() });
            if let Some(Child::Leaf(leaf)) =
                self.folders[at].children.insert(name.clone(), Child::Folder(new))
            {
                self.move_beside(at, name, leaf, clashes);
            }
            at = new;
        }
        at
    }

    /// Puts a leaf at `path`, which must not be empty.
    pub(super) fn put(&mut self, path: &[FileName], leaf: L, clashes: &mut Vec<Clash<L>>) {
        let Some((name, parents)) = path.split_last() else { return };
        let at = self.make(parents, clashes);
        if let Some(Child::Folder(_)) = self.folders[at].children.get(name) {
            self.move_beside(at, name, leaf, clashes);
            return;
        }
        if let Some(Child::Leaf(old)) = self.folders[at].children.insert(name.clone(), Child::Leaf(leaf)) {
            clashes.push(Clash::Replaced(old));
        }
    }

    /// Where the leaves are that `wanted` accepts: the folder's path and the name in it.
    pub(super) fn leaves(&self, wanted: impl Fn(&L) -> bool) -> Vec<(Vec<FileName>, FileName)> {
        let mut found = Vec::new();
        let mut open = vec![(Vec::new(), ROOT)];
        while let Some((path, at)) = open.pop() {
            for (name, child) in &self.folders[at].children {
                match child {
                    Child::Folder(below) => {
                        open.push(([path.as_slice(), std::slice::from_ref(name)].concat(), *below));
                    }
                    Child::Leaf(leaf) if wanted(leaf) => found.push((path.clone(), name.clone())),
                    Child::Leaf(_) => {}
                }
            }
        }
        found
    }

    /// Takes the leaf `name` out of the folder at `path`.
    pub(super) fn remove(&mut self, path: &[FileName], name: &FileName) {
        if let Some(Found::Folder(at)) = self.find(path)
            && let Some(Child::Leaf(_)) = self.folders[at].children.get(name)
        {
            self.folders[at].children.remove(name);
        }
    }

    fn move_beside(&mut self, at: usize, name: &FileName, leaf: L, clashes: &mut Vec<Clash<L>>) {
        let children = &mut self.folders[at].children;
        let mut other = names::beside(name, name);
        // A folder of that name as well: hostile, but finite.
        while matches!(children.get(&other), Some(Child::Folder(_))) {
            other = names::beside(name, &other);
        }
        clashes.push(Clash::Moved(other.clone()));
        if let Some(Child::Leaf(old)) = children.insert(other, Child::Leaf(leaf)) {
            clashes.push(Clash::Replaced(old));
        }
    }
}

/// What [`Draft::find`] found.
pub(super) enum Found<'a, L> {
    /// The folder of this number.
    Folder(usize),
    /// A leaf.
    Leaf(&'a L),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Vec<FileName> {
        names::clean(text.as_bytes()).unwrap().components
    }

    #[test]
    fn the_later_leaf_wins_and_folders_merge() {
        let mut draft = Draft::new();
        let mut clashes = Vec::new();
        draft.put(&path("d/a"), 1, &mut clashes);
        draft.put(&path("d/b"), 2, &mut clashes);
        assert!(clashes.is_empty());
        draft.put(&path("d/a"), 3, &mut clashes);
        assert!(matches!(clashes.as_slice(), [Clash::Replaced(1)]));
        assert!(matches!(draft.find(&path("d/a")), Some(Found::Leaf(3))));
        assert!(matches!(draft.find(&path("d/b")), Some(Found::Leaf(2))));
        assert!(draft.find(&path("d/a/x")).is_none());
    }

    #[test]
    fn a_folder_wins_over_a_file_whichever_comes_first() {
        for order in [["x", "x/y"], ["x/y", "x"]] {
            let mut draft = Draft::new();
            let mut clashes = Vec::new();
            for (i, text) in order.iter().enumerate() {
                draft.put(&path(text), i, &mut clashes);
            }
            assert!(matches!(draft.find(&path("x")), Some(Found::Folder(_))));
            let [Clash::Moved(name)] = clashes.as_slice() else { panic!("one clash") };
            assert!(matches!(draft.find(std::slice::from_ref(name)), Some(Found::Leaf(_))));
        }
    }
}
