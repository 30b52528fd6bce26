//! The tree of inodes, and what each record of the journal does to it.
//!
//! [`Tree::apply`] is the only way names and attributes change, while a mount runs and when its journal is
//! replayed: what was written down is what happened. It needs the folders it names to have been entered.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use super::inode::{Directory, Inode, Origin, What};
use super::order::Leaving;
use super::refusal::{Answer, Refusal};
use crate::artifact::tree::{Attributes, Entries, FileName, Folder, Node, stable_id};
use crate::error::{Error, ErrorKind};
use crate::mount::inodes::ROOT;
use crate::mount::staging::{Contents, Data, Made, Record, Shape, Time};

/// Numbers of the base's entries have this bit; new things are counted from below.
const OF_BASE: u64 = 1 << 63;

pub(super) struct Tree {
    pub(super) inodes: HashMap<u64, Inode>,
    /// Whether a journal is being replayed: what it speaks of may have lost its name and been open then.
    pub(super) replaying: bool,
    /// The number of the next new thing.
    pub(super) next: u64,
    /// Entries of the base the journal knows.
    named: HashSet<u64>,
    /// Tags of which the journal says what they were.
    pinned: HashSet<FileName>,
    /// Where the base had what is forgotten by now.
    graves: HashMap<u64, Vec<Origin>>,
    /// Whose everything is that says nothing else.
    pub(super) owner: (u32, u32),
    /// How many folders lie above an artifact's own root.
    depth: u32,
    /// Names that were taken from things at the root.
    left: HashSet<FileName>,
    /// Removed files whose bytes are still there.
    pub(super) leaving: Leaving,
    data: Arc<Data>,
}

/// What the artifact says of itself: reachable at its root, not listed.
const META: &[u8] = b".oci";

impl Tree {
    /// The tree before any change.
    pub(super) fn new(base: Arc<dyn Folder>, owner: (u32, u32), depth: u32, data: Arc<Data>) -> Self {
        let mut root = Inode::of(&Node::Folder(base), ROOT, b"", owner, false);
        root.origins.clear();
        let inodes = HashMap::from([(ROOT, root)]);
        Self {
            inodes,
            replaying: true,
            next: ROOT + 1,
            named: HashSet::from([ROOT]),
            pinned: HashSet::new(),
            graves: HashMap::new(),
            leaving: Leaving::default(),
            owner,
            depth,
            left: HashSet::new(),
            data,
        }
    }

    pub(super) fn inode(&self, number: u64) -> Answer<&Inode> {
        self.inodes.get(&number).ok_or(Refusal::NotFound)
    }

    pub(super) fn inode_mut(&mut self, number: u64) -> Answer<&mut Inode> {
        self.inodes.get_mut(&number).ok_or(Refusal::NotFound)
    }

    /// What `name` is in a folder that was entered.
    pub(super) fn entry(&self, parent: u64, name: &[u8]) -> Answer<Option<u64>> {
        Ok(self.inode(parent)?.directory()?.entries.get(name).copied())
    }

    /// The base of a folder nobody entered yet.
    pub(super) fn unentered(&self, number: u64) -> Answer<Option<Arc<dyn Folder>>> {
        let directory = self.inode(number)?.directory()?;
        Ok(directory.base.as_ref().filter(|_| !directory.entered).map(Arc::clone))
    }

    /// Whether `name` in `parent` is what an artifact says of itself.
    pub(super) fn is_meta(&self, parent: u64, name: &[u8]) -> bool {
        name == META && self.is_artifact(parent)
    }

    /// Whether `number` is of what an artifact of the base says of itself.
    pub(super) fn is_said(&self, number: u64) -> bool {
        let mut at = number;
        while let Some(Origin { parent, name }) = self.origin(at) {
            let in_artifact = match self.depth {
                0 => *parent == ROOT,
                _ => self.origin(*parent).is_some_and(|above| above.parent == ROOT),
            };
            if name == META && in_artifact {
                return true;
            }
            at = *parent;
        }
        false
    }

    /// Whether the journal knows `number` of the base and not yet what the tag `name` was, which it came from.
    pub(super) fn lacks_pin(&self, number: u64, name: &[u8]) -> bool {
        self.named.contains(&number) && !self.pinned.contains(name)
    }

    /// Whether `number` is the root of an artifact.
    fn is_artifact(&self, number: u64) -> bool {
        let above = |number| self.inode(number).and_then(Inode::directory).map(|directory| directory.parent);
        match self.depth {
            0 => number == ROOT,
            _ => number != ROOT && above(number).is_ok_and(|parent| parent == ROOT),
        }
    }

    /// The base's folder at the root that `number` came from, where each is an artifact.
    pub(super) fn artifact_of(&self, number: u64) -> Option<u64> {
        let mut at = number;
        let mut origin = self.origin(at).filter(|_| self.depth > 0)?;
        while origin.parent != ROOT {
            at = origin.parent;
            origin = self.origin(at)?;
        }
        Some(at)
    }

    /// Enters a folder: `listed` is what the base has in it. `fixed` if nobody is to change that.
    pub(super) fn enter(&mut self, number: u64, listed: &Entries, fixed: bool) -> Answer<()> {
        if self.unentered(number)?.is_none() {
            return Ok(());
        }
        if fixed {
            self.inode_mut(number)?.fixed = true;
        }
        let mut entries = BTreeMap::new();
        let mut folders = 0;
        for (name, node) in listed {
            entries.insert(name.clone(), self.adopt(number, name, node)?);
            folders += u32::from(matches!(node, Node::Folder(_)));
        }
        let directory = self.inode_mut(number)?.directory_mut()?;
        (directory.entries, directory.folders, directory.entered) = (entries, folders, true);
        Ok(())
    }

    /// Gives an entry of the base its number, which is the same in every mount of that base.
    pub(super) fn adopt(&mut self, parent: u64, name: &[u8], node: &Node) -> Answer<u64> {
        let fixed = self.inode(parent)?.fixed || self.is_meta(parent, name);
        let linked = match node {
            Node::File(file) => (file.links > 1).then_some(file.id),
            _ => None,
        };
        let number = OF_BASE
            | match linked {
                // Names of one file inside an archive, which may be in several artifacts.
                Some(id) => {
                    let artifact = self.artifact_of(parent).unwrap_or(ROOT);
                    stable_id(&[b"linked", &artifact.to_le_bytes(), &id.to_le_bytes()])
                }
                None => stable_id(&[b"entry", &parent.to_le_bytes(), name]),
            };
        if let Some(known) = self.inodes.get_mut(&number) {
            let origin = Origin { parent, name: name.to_vec() };
            let same = known.origins.contains(&origin);
            if linked.is_some() && !same {
                known.origins.push(origin);
            }
            if linked.is_some() || same {
                return Ok(number);
            }
            // One in 2⁶³ for each pair.
            return Err(wrong("two entries of the base want the same inode number"));
        }
        self.inodes.insert(number, Inode::of(node, parent, name, self.owner, fixed));
        Ok(number)
    }

    /// Whether anything has left the root that was called `name`.
    pub(super) fn has_left(&self, name: &[u8]) -> bool {
        self.left.contains(name)
    }

    /// Puts a thing the base has got since into a folder that was entered.
    pub(super) fn appear(&mut self, parent: u64, name: &[u8], node: &Node) -> Answer<u64> {
        let number = self.adopt(parent, name, node)?;
        let directory = self.inode_mut(parent)?.directory_mut()?;
        directory.entries.insert(name.to_vec(), number);
        directory.folders += u32::from(matches!(node, Node::Folder(_)));
        Ok(number)
    }

    /// What the journal must say before it can speak of `number`: outermost first.
    pub(super) fn introductions(&self, number: u64) -> Vec<Record> {
        let mut records = Vec::new();
        let mut at = number;
        while at & OF_BASE != 0 && !self.named.contains(&at) {
            let Some(Origin { parent, name }) = self.origin(at).cloned() else { break };
            records.push(Record::Base { inode: at, parent, name });
            at = parent;
        }
        records.reverse();
        records
    }

    /// Applies a record to inodes that are known and folders that were entered. `made` is the data file that
    /// was made for a new file; a replay finds it instead.
    pub(super) fn apply(&mut self, record: &Record, made: Option<(File, Shape)>) -> Answer<()> {
        match record {
            Record::Base { inode, .. } => {
                self.named.insert(*inode);
                Ok(())
            }
            Record::Make { inode, parent, name, what, mode, uid, gid, at } => {
                let what = match what {
                    Made::File => What::File(Arc::new(match made {
                        Some(made) => Contents::new(&self.data, *inode, made),
                        None => Contents::found(&self.data, *inode)?,
                    })),
                    Made::Folder => What::Folder(Directory::new(*parent)),
                    Made::Link(target) => What::Link(target.clone()),
                    Made::Special { kind, device } => What::Special { kind: *kind, device: *device },
                };
                let made = Inode {
                    what,
                    mode: *mode,
                    uid: *uid,
                    gid: *gid,
                    accessed: *at,
                    modified: *at,
                    changed: *at,
                    links: 0,
                    xattrs: BTreeMap::new(),
                    origins: Vec::new(),
                    fixed: false,
                    touched: true,
                    lookups: 0,
                    opens: 0,
                    backing: None,
                };
                self.inodes.insert(*inode, made);
                self.next = self.next.max(inode + 1);
                self.attach(*parent, name, *inode, *at)
            }
            Record::Link { inode, parent, name, at } => self.attach(*parent, name, *inode, *at),
            Record::Remove { parent, name, at } => self.detach(*parent, name, *at).map(drop),
            Record::Rename { parent, name, to, new_name, exchange, at } => {
                self.rename((*parent, name), (*to, new_name), *exchange, *at)
            }
            Record::Attributes { inode, mode, uid, gid, accessed, modified, at } => {
                let inode = self.inode_mut(*inode)?;
                inode.mode = mode.unwrap_or(inode.mode);
                inode.uid = uid.unwrap_or(inode.uid);
                inode.gid = gid.unwrap_or(inode.gid);
                inode.accessed = accessed.unwrap_or(inode.accessed);
                inode.modified = modified.unwrap_or(inode.modified);
                (inode.changed, inode.touched) = (*at, true);
                Ok(())
            }
            Record::Xattr { inode, name, value, at } => {
                let inode = self.inode_mut(*inode)?;
                match value {
                    Some(value) => inode.xattrs.insert(name.clone(), value.clone()),
                    None => inode.xattrs.remove(name),
                };
                (inode.changed, inode.touched) = (*at, true);
                Ok(())
            }
            Record::Stage { inode, keep } => {
                let contents = Arc::clone(self.inode(*inode)?.contents()?);
                // While the mount runs the local part is there before the record is.
                if contents.is_staged() {
                    Ok(())
                } else {
                    Ok(contents.stage(&self.data, *inode, *keep, None)?)
                }
            }
            Record::Ranges { inode, from_base } => {
                self.inode(*inode)?.contents()?.set_from_base(from_base);
                Ok(())
            }
            Record::Copy { inode, from, ranges } => {
                let base = self.inode(*from)?.contents()?.base().cloned();
                let base = base.ok_or_else(|| wrong("a copy of what is not in the base"))?;
                Ok(self.inode(*inode)?.contents()?.show(&base, *from, ranges)?)
            }
            // Seen to before the first folder was entered.
            Record::Pin { name, .. } => {
                self.pinned.insert(name.clone());
                Ok(())
            }
        }
    }

    /// Puts `number` under a free name.
    fn attach(&mut self, parent: u64, name: &[u8], number: u64, at: Time) -> Answer<()> {
        let child = self.inode_mut(number)?;
        child.links += 1;
        child.changed = child.changed.max(at);
        let is_folder = match &mut child.what {
            What::Folder(directory) => {
                directory.parent = parent;
                true
            }
            _ => false,
        };
        let folder = self.inode_mut(parent)?;
        (folder.modified, folder.changed) = (at, at);
        let directory = folder.directory_mut()?;
        directory.folders += u32::from(is_folder);
        match directory.entries.insert(name.to_vec(), number) {
            None => Ok(()),
            Some(_) => Err(wrong("a name was given away twice")),
        }
    }

    /// Takes a name away. What it meant stays until nothing leads to it.
    fn detach(&mut self, parent: u64, name: &[u8], at: Time) -> Answer<u64> {
        let folder = self.inode_mut(parent)?;
        (folder.modified, folder.changed) = (at, at);
        let number = folder.directory_mut()?.entries.remove(name).ok_or(Refusal::NotFound)?;
        if parent == ROOT && self.depth > 0 {
            self.left.insert(name.to_vec());
        }
        let child = self.inode_mut(number)?;
        child.links = child.links.saturating_sub(1);
        child.changed = child.changed.max(at);
        if child.is_folder() {
            let directory = self.inode_mut(parent)?.directory_mut()?;
            directory.folders = directory.folders.saturating_sub(1);
        }
        self.reap(number);
        Ok(number)
    }

    fn rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), exchange: bool, at: Time) -> Answer<()> {
        let there = self.entry(to.0, to.1)?;
        // Held, so that nothing is reaped between losing one name and getting the other.
        let here = self.entry(from.0, from.1)?.ok_or(Refusal::NotFound)?;
        for number in [Some(here), there.filter(|_| exchange)].into_iter().flatten() {
            self.inode_mut(number)?.opens += 1;
        }
        if there.is_some() {
            self.detach(to.0, to.1, at)?;
        }
        self.detach(from.0, from.1, at)?;
        self.attach(to.0, to.1, here, at)?;
        if let Some(there) = there.filter(|_| exchange) {
            self.attach(from.0, from.1, there, at)?;
        }
        for number in [Some(here), there.filter(|_| exchange)].into_iter().flatten() {
            self.inode_mut(number)?.opens -= 1;
        }
        Ok(())
    }

    /// Forgets `number` and its bytes if nothing leads to it any more.
    pub(super) fn reap(&mut self, number: u64) {
        if self.replaying || !self.inodes.get(&number).is_some_and(Inode::is_gone) {
            return;
        }
        let Some(gone) = self.inodes.remove(&number) else { return };
        if !gone.origins.is_empty() {
            self.graves.insert(number, gone.origins);
        }
        if let What::File(contents) = gone.what
            && contents.is_staged()
        {
            self.leaving.add(number, &contents);
        }
    }

    /// Where the base has, or had, `number` first.
    pub(super) fn origin(&self, number: u64) -> Option<&Origin> {
        match self.inodes.get(&number) {
            Some(inode) => inode.origins.first(),
            None => self.graves.get(&number).and_then(|origins| origins.first()),
        }
    }

    /// Every place of the base that was entered, with what it meant there.
    pub(super) fn origins(&self) -> impl Iterator<Item = (&Origin, u64)> {
        let alive = self.inodes.iter().filter(|(_, inode)| !inode.fixed);
        let alive = alive.map(|(number, inode)| (*number, &inode.origins));
        let all = alive.chain(self.graves.iter().map(|(number, origins)| (*number, origins)));
        all.flat_map(|(number, origins)| origins.iter().map(move |origin| (origin, number)))
    }
}

/// The folders that must have been entered before `record` can be applied.
pub(super) fn folders(record: &Record) -> [Option<u64>; 2] {
    match record {
        Record::Base { parent, .. }
        | Record::Make { parent, .. }
        | Record::Link { parent, .. }
        | Record::Remove { parent, .. } => [Some(*parent), None],
        Record::Rename { parent, to, .. } => [Some(*parent), Some(*to)],
        _ => [None, None],
    }
}

/// The inodes `record` speaks of that may be the base's.
pub(super) fn mentions(record: &Record) -> [Option<u64>; 2] {
    match record {
        Record::Base { .. } | Record::Pin { .. } => [None, None],
        Record::Copy { inode, from, .. } => [Some(*inode), Some(*from)],
        Record::Make { parent, .. } | Record::Remove { parent, .. } => [Some(*parent), None],
        Record::Link { inode, parent, .. } => [Some(*inode), Some(*parent)],
        Record::Rename { parent, to, .. } => [Some(*parent), Some(*to)],
        Record::Attributes { inode, .. }
        | Record::Xattr { inode, .. }
        | Record::Stage { inode, .. }
        | Record::Ranges { inode, .. } => [Some(*inode), None],
    }
}

fn wrong(what: &str) -> Refusal {
    Refusal::Failed(Error::new(ErrorKind::Corrupt, what))
}

/// Attributes as the artifact would have them.
pub(super) fn attributes(inode: &Inode, modified: Time) -> Attributes {
    Attributes { mode: inode.mode, modified, owner: Some((inode.uid, inode.gid)) }
}
