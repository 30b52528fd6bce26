//! A mount's tree by artifacts: one of an artifact, one for each folder at the root of a repository.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use crate::artifact::tree::{Folder, Node};
use crate::error::Result;
use crate::mount::overlay::{Change, Difference, Frozen, FrozenContent, FrozenEntry};

/// What belongs to one artifact.
pub(super) struct Piece {
    /// The folder's name; empty for a mounted artifact.
    pub(super) name: String,
    /// What the base calls the artifact the folder came from, if it came from one.
    pub(super) origin: Option<String>,
    /// The tree, with paths and origins as the mount has them; `None` if the folder is gone.
    pub(super) frozen: Option<Frozen>,
    /// What differs in it from the base, with paths from the artifact's root.
    pub(super) changes: Vec<Change>,
}

impl Piece {
    /// The whole mount is one artifact.
    pub(super) fn whole(frozen: Frozen, changes: Vec<Change>) -> Self {
        Self { name: String::new(), origin: Some(String::new()), frozen: Some(frozen), changes }
    }

    /// An artifact whose folder was removed.
    pub(super) fn gone(name: &str) -> Self {
        let name = name.to_owned();
        Self { origin: Some(name.clone()), name, frozen: None, changes: Vec::new() }
    }

    /// Whether it is the artifact the base has under this name.
    pub(super) fn is_own(&self) -> bool {
        self.origin.as_ref() == Some(&self.name)
    }
}

/// The artifacts of a repository in which anything differs from the base, or that were `published` (or deleted, where it
/// says so) since, by name.
pub(super) fn of_repository(
    frozen: &Frozen,
    changes: &[Change],
    published: &HashMap<String, bool>,
) -> Vec<Piece> {
    let mut by_artifact: HashMap<&[u8], Vec<&FrozenEntry>> = HashMap::new();
    let mut by_path: HashMap<&[u8], &FrozenEntry> = HashMap::new();
    for entry in &frozen.entries {
        by_artifact.entry(first(&entry.path)).or_default().push(entry);
        by_path.insert(&entry.path, entry);
    }
    let mut concerns: HashMap<&[u8], Vec<&Change>> = HashMap::new();
    for change in changes {
        let here = first(change.path.as_bytes());
        concerns.entry(here).or_default().push(change);
        if let Difference::Renamed { from, .. } = &change.difference
            && first(from.as_bytes()) != here
        {
            concerns.entry(first(from.as_bytes())).or_default().push(change);
        }
    }
    let mut pieces = BTreeMap::new();
    let mut there = HashSet::new();
    for entry in frozen.entries.iter().filter(|entry| !entry.path.contains(&b'/')) {
        let name = text(&entry.path);
        there.insert(name.clone());
        let origin = entry.origin.as_deref().filter(|origin| !origin.contains(&b'/')).map(text);
        let changes = part(concerns.get(name.as_bytes()).map_or(&[], Vec::as_slice), &name);
        let is_own = origin.as_ref() == Some(&name);
        if is_own && changes.is_empty() && !published.contains_key(&name) {
            continue;
        }
        let modified = entry.attributes.modified;
        let entries = if let FrozenContent::Untouched(folder) = &entry.content {
            let content = FrozenContent::Untouched(Arc::clone(folder));
            vec![FrozenEntry { path: Vec::new(), content, ..entry.clone() }]
        } else {
            let all = by_artifact.get(entry.path.as_slice()).into_iter().flatten();
            all.filter_map(|other| inside(other, &name, &by_path)).collect()
        };
        let tree = Frozen { entries, modified, owner: frozen.owner };
        pieces.insert(name.clone(), Piece { changes, origin, frozen: Some(tree), name });
    }
    for change in changes.iter().filter(|change| !change.path.contains('/')) {
        let gone = match &change.difference {
            Difference::Deleted => &change.path,
            Difference::Renamed { from, .. } if !from.contains('/') => from,
            _ => continue,
        };
        if !there.contains(gone) {
            pieces.entry(gone.clone()).or_insert_with(|| Piece::gone(gone));
        }
    }
    // Published by this mount, and removed since.
    for (name, _) in published.iter().filter(|(name, deleted)| !**deleted && !there.contains(*name)) {
        pieces.entry(name.clone()).or_insert_with(|| Piece::gone(name));
    }
    pieces.into_values().collect()
}

/// The name at the root a path begins with.
fn first(path: &[u8]) -> &[u8] {
    path.split(|byte| *byte == b'/').next().unwrap_or_default()
}

/// An entry of the folder `name`, by its path in there.
fn inside(entry: &FrozenEntry, name: &str, by_path: &HashMap<&[u8], &FrozenEntry>) -> Option<FrozenEntry> {
    let below = |path: &[u8]| path.strip_prefix(name.as_bytes())?.strip_prefix(b"/").map(<[u8]>::to_vec);
    let path = below(&entry.path)?;
    let content = match &entry.content {
        // The first name may be in another artifact: then this one has the bytes itself.
        FrozenContent::HardLink(first) => match (below(first), by_path.get(first.as_slice())) {
            (None, Some(first)) => first.content.clone(),
            (inside, _) => FrozenContent::HardLink(inside.unwrap_or_else(|| first.clone())),
        },
        content => content.clone(),
    };
    Some(FrozenEntry { path, content, ..entry.clone() })
}

/// The changes in the folder `name`. What came from elsewhere is new there, and what went elsewhere is gone.
fn part(changes: &[&Change], name: &str) -> Vec<Change> {
    let below = |path: &str| path.strip_prefix(name)?.strip_prefix('/').map(str::to_owned);
    let mut found = BTreeMap::new();
    let mut gone = BTreeSet::new();
    for change in changes {
        let from = match &change.difference {
            Difference::Renamed { from, .. } => below(from),
            _ => None,
        };
        let Some(path) = below(&change.path) else {
            gone.extend(from);
            continue;
        };
        let difference = match (&change.difference, from) {
            (Difference::Renamed { modified, .. }, Some(from)) => {
                Difference::Renamed { from, modified: *modified }
            }
            (Difference::Renamed { .. }, None) => Difference::Added,
            (difference, _) => difference.clone(),
        };
        found.insert(path, difference);
    }
    for path in gone {
        found.entry(path).or_insert(Difference::Deleted);
    }
    found.into_iter().map(|(path, difference)| Change { path, difference }).collect()
}

/// The one artifact of the base that all files came from that came from any, if it is one.
pub(super) fn donor(piece: &Piece) -> Option<String> {
    if let Some(origin) = &piece.origin {
        return Some(origin.clone());
    }
    let frozen = piece.frozen.as_ref()?;
    let origins = frozen.entries.iter().filter_map(|entry| entry.origin.as_deref());
    let donors: BTreeSet<String> = origins.map(|origin| text(first(origin))).collect();
    let mut donors = donors.into_iter();
    donors.next().filter(|_| donors.next().is_none())
}

/// The tree with origins as the artifact `donor` calls them; what came from elsewhere came from nowhere.
pub(super) fn seen_from(frozen: &Frozen, donor: &str) -> Frozen {
    let below = |origin: &Vec<u8>| match origin.strip_prefix(donor.as_bytes())? {
        b"" => Some(Vec::new()),
        rest => rest.strip_prefix(b"/").map(<[u8]>::to_vec),
    };
    let entries = frozen
        .entries
        .iter()
        .map(|entry| FrozenEntry { origin: entry.origin.as_ref().and_then(below), ..entry.clone() });
    Frozen { entries: entries.collect(), modified: frozen.modified, owner: frozen.owner }
}

/// The tree of an artifact that is not made from another.
pub(super) fn seen_from_nowhere(frozen: &Frozen) -> Frozen {
    let entries = frozen.entries.iter().map(|entry| FrozenEntry { origin: None, ..entry.clone() });
    Frozen { entries: entries.collect(), modified: frozen.modified, owner: frozen.owner }
}

/// What differs between `frozen`, seen from it, and the artifact `root`. A copy is the same whenever it was made.
pub(super) async fn changes_from(frozen: &Frozen, root: &Arc<dyn Folder>) -> Result<Vec<Change>> {
    let mut there: BTreeMap<&[u8], &FrozenEntry> = BTreeMap::new();
    for entry in &frozen.entries {
        there.insert(&entry.path, entry);
    }
    let mut found = Vec::new();
    let mut say = |path: &[u8], difference| found.push(Change { path: text(path), difference });
    let mut folders = vec![(Vec::new(), Arc::clone(root))];
    // Only the mount's own root, when nobody entered it.
    if there.get(&b""[..]).is_some_and(|entry| is_kept(entry)) {
        folders.clear();
    }
    while let Some((above, folder)) = folders.pop() {
        for (name, node) in folder.list().await?.iter() {
            let path = if above.is_empty() { name.clone() } else { [&above[..], b"/", name].concat() };
            let Some(entry) = there.remove(path.as_slice()) else {
                say(&path, Difference::Deleted);
                continue;
            };
            let attributes = node.attributes();
            let same_mode = entry.attributes.mode & 0o7777 == attributes.mode & 0o7777;
            let same = match (&entry.content, node) {
                (FrozenContent::Untouched(_), Node::Folder(_)) if is_kept(entry) => true,
                (FrozenContent::Folder, Node::Folder(folder)) => {
                    folders.push((path.clone(), Arc::clone(folder)));
                    true
                }
                (FrozenContent::Base(_), Node::File(_)) => entry.origin.as_ref() == Some(&path),
                (FrozenContent::Link(target), Node::Link(link)) => *target == link.target,
                _ => false,
            };
            match (same, same_mode) {
                (true, true) => {}
                (true, false) => say(&path, Difference::Attributes),
                (false, _) => say(&path, Difference::Modified),
            }
        }
    }
    for path in there.into_keys().filter(|path| !path.is_empty()) {
        say(path, Difference::Added);
    }
    found.sort();
    Ok(found)
}

/// Whether a folder is where and as the base has it.
fn is_kept(entry: &FrozenEntry) -> bool {
    matches!(entry.content, FrozenContent::Untouched(_)) && entry.origin.as_ref() == Some(&entry.path)
}

fn text(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}
