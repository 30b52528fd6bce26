//! Extended attributes: a person's own under `user.`, and the artifact's under `user.oci.`.

use super::inode::{Inode, What};
use super::refusal::{Answer, Refusal};
use super::{Overlay, now};
use crate::artifact::tree::Node;
use crate::mount::names;
use crate::mount::staging::Record;

/// What the artifact says of the things in it; not to be changed.
const OURS: &[u8] = b"user.oci.";

/// The kernel's own limit.
const LONGEST: usize = 64 << 10;

/// When an attribute may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Set {
    Always,
    IfNew,
    IfThere,
}

impl Overlay {
    /// The value of an attribute.
    pub(in crate::mount) fn xattr(&self, number: u64, name: &[u8]) -> Answer<Vec<u8>> {
        // Said once, `ls -l` asks no more; "no such attribute" it would hear for every file.
        if !name.starts_with(b"user.") {
            return Err(Refusal::Unsupported);
        }
        let tree = self.tree();
        let inode = tree.inode(number)?;
        if name.starts_with(OURS) {
            let Some(node) = unchanged(inode) else { return Err(Refusal::NoAttribute) };
            return names::told_of(&node, name)?.ok_or(Refusal::NoAttribute);
        }
        inode.xattrs.get(name).cloned().ok_or(Refusal::NoAttribute)
    }

    /// The names of all attributes.
    pub(in crate::mount) fn xattrs(&self, number: u64) -> Answer<Vec<Vec<u8>>> {
        let tree = self.tree();
        let inode = tree.inode(number)?;
        let ours = unchanged(inode).map(|node| names::all_told_of(&node)).unwrap_or_default();
        let ours = ours.into_iter().map(|name| name.as_bytes().to_vec());
        Ok(inode.xattrs.keys().cloned().chain(ours).collect())
    }

    /// Sets an attribute.
    pub(in crate::mount) fn set_xattr(&self, number: u64, name: &[u8], value: &[u8], set: Set) -> Answer<()> {
        may_change(name)?;
        if value.len() > LONGEST {
            return Err(Refusal::Invalid);
        }
        let mut tree = self.tree();
        let inode = tree.inode(number)?;
        if inode.fixed {
            return Err(Refusal::ReadOnly);
        }
        match (set, inode.xattrs.contains_key(name)) {
            (Set::IfNew, true) => return Err(Refusal::Exists),
            (Set::IfThere, false) => return Err(Refusal::NoAttribute),
            _ => {}
        }
        let value = Some(value.to_vec());
        self.change(&mut tree, &Record::Xattr { inode: number, name: name.to_vec(), value, at: now() }, None)
    }

    /// Removes an attribute.
    pub(in crate::mount) fn remove_xattr(&self, number: u64, name: &[u8]) -> Answer<()> {
        may_change(name)?;
        let mut tree = self.tree();
        let inode = tree.inode(number)?;
        if !inode.xattrs.contains_key(name) {
            return Err(Refusal::NoAttribute);
        }
        let record = Record::Xattr { inode: number, name: name.to_vec(), value: None, at: now() };
        self.change(&mut tree, &record, None)
    }
}

fn may_change(name: &[u8]) -> Answer<()> {
    if name.starts_with(OURS) {
        return Err(Refusal::NotPermitted);
    }
    if name.starts_with(b"user.") { Ok(()) } else { Err(Refusal::Unsupported) }
}

/// The base's node, of which the artifact's words still hold: a file whose bytes changed is not that blob.
fn unchanged(inode: &Inode) -> Option<Node> {
    match &inode.what {
        What::File(contents) if !contents.is_staged() => {
            contents.base().map(|base| Node::File(std::sync::Arc::clone(base)))
        }
        What::Folder(directory) => {
            directory.base.as_ref().map(|base| Node::Folder(std::sync::Arc::clone(base)))
        }
        _ => None,
    }
}
