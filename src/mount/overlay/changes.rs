//! Changes: what differs from the base, for people.

use std::collections::{BTreeMap, HashSet};

use super::Overlay;
use super::inode::{Inode, Origin, What};
use super::tree::Tree;
use crate::mount::inodes::ROOT;

/// One thing that differs from the base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Change {
    /// Where it is now; where it was, if it is gone. From the root, without a `/` in front.
    pub path: String,
    /// How it differs.
    pub difference: Difference,
}

/// How a thing differs from the base.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// It is not in the base.
    Added,
    /// The base has other bytes under this name.
    Modified,
    /// It is not there any more.
    Deleted,
    /// It had another name or was in another folder; `modified` if its bytes changed as well.
    Renamed {
        /// Where the base has it.
        from: String,
        /// Whether its bytes changed as well.
        modified: bool,
    },
    /// Only its mode, owner, times or extended attributes were set.
    Attributes,
}

impl Overlay {
    /// Everything that differs from the base, by path.
    pub(in crate::mount) fn changes(&self) -> Vec<Change> {
        let tree = self.tree();
        let places = tree.places();
        let mut left = lost(&tree, &places);
        let mut found = BTreeMap::new();
        for (path, origin, number) in &places {
            let Ok(inode) = tree.inode(*number) else { continue };
            let modified = matches!(&inode.what, What::File(contents) if contents.is_staged());
            let difference = if inode.origins.contains(origin) {
                let attributes = inode.touched.then_some(Difference::Attributes);
                if modified { Some(Difference::Modified) } else { attributes }
            } else if let Some(from) = left.get_mut(number).and_then(Vec::pop) {
                Some(Difference::Renamed { from: shown(&tree.original(&from)), modified })
            } else {
                Some(Difference::Added)
            };
            if let Some(difference) = difference {
                found.insert(path.clone(), difference);
            }
        }
        for origin in left.into_values().flatten() {
            // Something else under the same name: what editors do that save beside and rename over.
            found
                .entry(tree.original(&origin))
                .and_modify(|difference| {
                    if *difference == Difference::Added {
                        *difference = Difference::Modified;
                    }
                })
                .or_insert(Difference::Deleted);
        }
        found.into_iter().map(|(path, difference)| Change { path: shown(&path), difference }).collect()
    }
}

/// The places of the base that mean something else by now, or nothing, by what they meant.
fn lost(tree: &Tree, places: &[(Vec<u8>, Origin, u64)]) -> BTreeMap<u64, Vec<Origin>> {
    let there: HashSet<(&Origin, u64)> = places.iter().map(|(_, origin, number)| (origin, *number)).collect();
    let mut lost = BTreeMap::<u64, Vec<Origin>>::new();
    for (origin, number) in tree.origins() {
        if !there.contains(&(origin, number)) {
            lost.entry(number).or_default().push(origin.clone());
        }
    }
    lost
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

impl Tree {
    /// Every name there is: its path, its place, and what it means. Folders nobody entered are as the base has
    /// them, and not looked into.
    pub(super) fn places(&self) -> Vec<(Vec<u8>, Origin, u64)> {
        let mut found = Vec::new();
        let mut folders = vec![(Vec::new(), ROOT)];
        while let Some((path, parent)) = folders.pop() {
            let Some(What::Folder(directory)) = self.inodes.get(&parent).map(|inode| &inode.what) else {
                continue;
            };
            for (name, number) in &directory.entries {
                let path = join(&path, name);
                if self.inodes.get(number).is_some_and(Inode::is_folder) {
                    folders.push((path.clone(), *number));
                }
                found.push((path, Origin { parent, name: name.clone() }, *number));
            }
        }
        found.sort();
        found
    }

    /// Where the base has a thing.
    pub(super) fn original(&self, origin: &Origin) -> Vec<u8> {
        let mut names = vec![origin.name.clone()];
        let mut at = origin.parent;
        while let Some(Origin { parent, name }) = self.origin(at) {
            names.push(name.clone());
            at = *parent;
        }
        names.reverse();
        names.join(&b'/')
    }
}

pub(super) fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}
