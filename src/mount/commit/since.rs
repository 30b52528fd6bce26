//! What changed since the last commit of a mount that goes on.
//!
//! The overlay tells what differs from its base. What was published since looks the same as it did then: the same
//! local file with the same times, the same mode.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;

use serde::{Deserialize, Serialize};

use crate::mount::overlay::{Change, Difference, Frozen, FrozenContent};

/// A tree that was published.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Since {
    changes: HashMap<String, Change>,
    looks: HashMap<String, Look>,
}

/// What a thing looks like as long as nobody changes it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Look {
    mode: u32,
    modified: (i64, u32),
    local: Option<(u64, u64, i64, i64)>,
    target: Vec<u8>,
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
        for (path, before) in &self.changes {
            if now.iter().any(|change| change.path == *path) {
                continue;
            }
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

fn looks(frozen: &Frozen) -> HashMap<String, Look> {
    let look = |entry: &crate::mount::overlay::FrozenEntry| {
        let folder = matches!(entry.content, FrozenContent::Folder | FrozenContent::Untouched(_));
        let local = match &entry.content {
            FrozenContent::Staged { local, .. } => local
                .open()
                .ok()
                .and_then(|file| file.metadata().ok())
                .map(|now| (now.ino(), now.size(), now.ctime(), now.ctime_nsec())),
            _ => None,
        };
        let target = match &entry.content {
            FrozenContent::Link(target) | FrozenContent::HardLink(target) => target.clone(),
            _ => Vec::new(),
        };
        let modified = if folder { (0, 0) } else { entry.attributes.modified };
        Look { mode: entry.attributes.mode, modified, local, target }
    };
    let path = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    frozen.entries.iter().map(|entry| (path(&entry.path), look(entry))).collect()
}
