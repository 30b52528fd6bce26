//! What changed since the last commit of a mount that goes on.
//!
//! The overlay tells what differs from its base. What was published since looks the same as it did when it was frozen
//! to be published: the same bytes of the base, the same local file with the same times, the same attributes.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::artifact::tree::stable_id;
use crate::mount::overlay::{Change, Difference, Frozen, FrozenContent, FrozenEntry};

/// A tree that was published.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Since {
    changes: HashMap<String, Change>,
    looks: HashMap<String, u64>,
}

impl Since {
    pub(super) fn new(frozen: &Frozen, changes: &[Change]) -> Self {
        let changes: HashMap<String, Change> =
            changes.iter().map(|change| (change.path.clone(), change.clone())).collect();
        let mut looks = looks(frozen);
        looks.retain(|path, _| HashMap::contains_key(&changes, path));
        Self { changes, looks }
    }

    /// What changed since, given what differs from the base now.
    pub(super) fn changes(&self, now: &[Change], frozen: &Frozen) -> Vec<Change> {
        let looks = looks(frozen);
        let mut found = Vec::new();
        for change in now {
            let Some(before) = self.changes.get(&change.path) else {
                found.push(change.clone());
                continue;
            };
            let same = before.difference == change.difference
                && self.looks.get(&change.path) == looks.get(&change.path);
            if !same {
                let difference = match (&before.difference, &change.difference) {
                    (Difference::Deleted, _) => Difference::Added,
                    (_, Difference::Deleted) => Difference::Deleted,
                    _ => Difference::Modified,
                };
                found.push(Change { path: change.path.clone(), difference });
            }
        }
        let now: HashSet<&str> = now.iter().map(|change| change.path.as_str()).collect();
        for (path, before) in self.changes.iter().filter(|(path, _)| !now.contains(path.as_str())) {
            let difference = match before.difference {
                Difference::Deleted => Difference::Added,
                Difference::Attributes | Difference::Modified => Difference::Modified,
                Difference::Added | Difference::Renamed { .. } => Difference::Deleted,
            };
            found.push(Change { path: path.clone(), difference });
        }
        found.sort();
        found
    }
}

/// Every path `changes` speak of.
pub(super) fn paths(changes: &[Change]) -> BTreeSet<Vec<u8>> {
    let from = changes.iter().filter_map(|change| match &change.difference {
        Difference::Renamed { from, .. } => Some(from),
        _ => None,
    });
    changes.iter().map(|change| &change.path).chain(from).map(|path| path.clone().into_bytes()).collect()
}

fn looks(frozen: &Frozen) -> HashMap<String, u64> {
    let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    frozen.entries.iter().map(|entry| (path(&entry.path), look(entry))).collect()
}

/// What a thing looks like as long as nobody changes it.
fn look(entry: &FrozenEntry) -> u64 {
    let number = |bytes: &mut Vec<u8>, number: u64| bytes.extend_from_slice(&number.to_le_bytes());
    let (mut numbers, mut texts): (Vec<u8>, Vec<&[u8]>) = (Vec::new(), Vec::new());
    let attributes = &entry.attributes;
    let (uid, gid) = attributes.owner.unwrap_or_default();
    for said in [attributes.mode, uid, gid] {
        number(&mut numbers, u64::from(said));
    }
    if !matches!(entry.content, FrozenContent::Folder | FrozenContent::Untouched(_)) {
        number(&mut numbers, attributes.modified.0 as u64);
        number(&mut numbers, u64::from(attributes.modified.1));
    }
    match &entry.content {
        FrozenContent::Staged { local, base } => {
            local.look().into_iter().for_each(|part| number(&mut numbers, part));
            number(&mut numbers, base.as_ref().map_or(0, |base| base.id));
        }
        FrozenContent::Base(file) => {
            number(&mut numbers, file.id);
            texts.extend(entry.origin.as_deref());
        }
        FrozenContent::Link(target) | FrozenContent::HardLink(target) => texts.push(target),
        FrozenContent::Folder | FrozenContent::Untouched(_) | FrozenContent::Special(_) => {}
    }
    texts.extend(entry.xattrs.iter().flat_map(|(name, value)| [name.as_slice(), value]));
    texts.push(&numbers);
    stable_id(&texts)
}
