//! Inode numbers: which node a number means, for as long as the kernel remembers it.
//!
//! A file's number is its [`Node::id`], so the same blob under five tags is one inode and one page-cache
//! copy. A folder's number also holds its place (parent and name): the kernel knows one place per folder,
//! and would move a process out of `v1` when somebody enters the same folder as `latest`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::artifact::tree::{Content, File, Node, stable_id};

/// The number of the mount's root.
pub(super) const ROOT: u64 = 1;

/// A number with the generation that makes it unique over the mount's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub(super) number: u64,
    /// Not 0 only for a number that two different nodes wanted.
    pub(super) generation: u64,
}

#[derive(Default)]
pub(super) struct Inodes {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    known: HashMap<u64, Known>,
    displaced: u64,
}

struct Known {
    node: Node,
    parent: u64,
    generation: u64,
    /// How often the kernel was told this number and has not forgotten it.
    lookups: u64,
}

impl Inodes {
    /// The number of `node`, found as `name` in `parent`, counted as told to the kernel once more.
    pub(super) fn tell(&self, parent: u64, name: &[u8], node: &Node) -> Inode {
        let mut table = self.table();
        let wanted = number(parent, name, node);
        let mut number = wanted;
        while let Some(known) = table.known.get_mut(&number) {
            if same(known, parent, node) {
                known.lookups += 1;
                return Inode { number, generation: known.generation };
            }
            number = number.wrapping_add(1).max(ROOT + 1);
        }
        let generation = if number == wanted {
            0
        } else {
            table.displaced += 1;
            table.displaced
        };
        table.known.insert(number, Known { node: node.clone(), parent, generation, lookups: 1 });
        Inode { number, generation }
    }

    /// The node behind a number the kernel was told.
    pub(super) fn node(&self, number: u64) -> Option<Node> {
        self.table().known.get(&number).map(|known| known.node.clone())
    }

    /// The folder a folder was found in.
    pub(super) fn parent(&self, number: u64) -> u64 {
        self.table().known.get(&number).map_or(ROOT, |known| known.parent)
    }

    /// The kernel forgot a number `times` times. Its last time frees what the number meant.
    pub(super) fn forget(&self, number: u64, times: u64) {
        let mut table = self.table();
        let Some(known) = table.known.get_mut(&number) else { return };
        known.lookups = known.lookups.saturating_sub(times);
        let freed = if known.lookups == 0 { table.known.remove(&number) } else { None };
        drop(table);
        drop(freed);
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number `node` has, unless another node has it.
pub(super) fn number(parent: u64, name: &[u8], node: &Node) -> u64 {
    match node {
        Node::Folder(folder) => {
            stable_id(&[b"place", &parent.to_le_bytes(), name, &folder.id().to_le_bytes()])
        }
        Node::File(_) | Node::Link(_) => node.id().max(ROOT + 1),
    }
}

/// Whether `node` is what the number already means. Ids are hashes without a key, so names chosen with bad
/// intent can make two of them meet: what is shown under a number is compared by what it is, not by its id.
fn same(known: &Known, parent: u64, node: &Node) -> bool {
    match (&known.node, node) {
        (Node::Folder(one), Node::Folder(other)) => known.parent == parent && one.id() == other.id(),
        (Node::File(one), Node::File(other)) => same_file(one, other),
        (Node::Link(one), Node::Link(other)) => {
            one.attributes == other.attributes && one.target == other.target
        }
        _ => false,
    }
}

fn same_file(one: &Arc<File>, other: &Arc<File>) -> bool {
    // A member of a packed layer is told apart by its layer: whoever made the layer made all of its names.
    let same_layer = || match (&one.layer, &other.layer) {
        (Some(one), Some(other)) => one.digest == other.digest,
        _ => false,
    };
    let same_bytes = || match (&one.content, &other.content) {
        (Content::Inline(one), Content::Inline(other)) => one == other,
        (
            Content::Blob { blob: one, offset: from, .. },
            Content::Blob { blob: other, offset: other_from, .. },
        ) => one.digest == other.digest && from == other_from,
        _ => same_layer(),
    };
    Arc::ptr_eq(one, other)
        || (one.id == other.id
            && one.size == other.size
            && one.attributes == other.attributes
            && one.links == other.links
            && same_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::tree::{Attributes, Entries, Plain};

    fn file(id: u64, bytes: &'static [u8]) -> Node {
        Node::File(Arc::new(File {
            attributes: Attributes::FILE,
            id,
            size: bytes.len() as u64,
            links: 1,
            xattrs: None,
            content: Content::Inline(bytes.into()),
            layer: None,
        }))
    }

    #[test]
    fn one_file_under_many_names_is_one_inode_until_the_last_is_forgotten() {
        let inodes = Inodes::default();
        let first = inodes.tell(10, b"a", &file(7, b"x"));
        assert_eq!(inodes.tell(11, b"b", &file(7, b"x")), first);
        inodes.forget(first.number, 1);
        assert!(inodes.node(first.number).is_some());
        inodes.forget(first.number, 1);
        assert!(inodes.node(first.number).is_none());
    }

    #[test]
    fn two_files_with_one_id_are_two_inodes() {
        let inodes = Inodes::default();
        let first = inodes.tell(10, b"a", &file(7, b"x"));
        let second = inodes.tell(10, b"b", &file(7, b"y"));
        assert_ne!(first.number, second.number);
        assert_ne!(first.generation, second.generation);
        assert_eq!(inodes.tell(10, b"b", &file(7, b"y")), second);
    }

    #[test]
    fn one_folder_at_two_places_is_two_inodes() {
        let folder: Node = Node::Folder(Arc::new(Plain {
            attributes: Attributes::FOLDER,
            id: 9,
            entries: Arc::new(Entries::new()),
        }));
        let inodes = Inodes::default();
        let here = inodes.tell(10, b"v1", &folder);
        assert_ne!(inodes.tell(10, b"latest", &folder).number, here.number);
        assert_eq!(inodes.tell(10, b"v1", &folder), here);
        assert_eq!(inodes.parent(here.number), 10);
    }
}
