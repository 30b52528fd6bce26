//! The members of an archive, put where they are shown (formats.md R8, R9, R11, R12).

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::archive::Archive;
use super::archive::tar::{Kind, Member};
use super::directory::{Directory, shown};
use super::draft::{Clash, Draft, Found};
use super::folder::whole_blob;
use super::names;
use super::tree::{Content, File, FileName, Link, Node, stable_id};

/// What a directory layer holds: a draft whose leaves are numbers of members.
pub(super) struct Members {
    pub(super) draft: Draft<u32>,
    list: Vec<Member>,
    /// How many names each has that has more than one.
    links: HashMap<u32, u32>,
    archive: Arc<Archive>,
}

impl Members {
    /// Puts the members below the directory's title. What cannot be shown becomes a warning.
    pub(super) fn place(directory: &Directory, archive: &Arc<Archive>, list: Option<Vec<Member>>) -> Self {
        let Some(list) = list else { return Self::raw(directory, archive) };
        let mut placing = Placing { directory, draft: Draft::new(), list: &list, names: HashMap::new() };
        for (number, member) in list.iter().enumerate() {
            placing.member(number as u32, member);
        }
        let (mut draft, mut links) = (placing.draft, placing.names);
        links.retain(|_, names| *names > 1);
        hide_escaping(&mut draft, &list, directory);
        Self { draft, list, links, archive: Arc::clone(archive) }
    }

    /// An unpack annotation on something that is no tar: the layer itself is what there is to see (R7).
    fn raw(directory: &Directory, archive: &Arc<Archive>) -> Self {
        directory.warnings.add(
            "R7",
            directory.shown(),
            "it should be unpacked but is no tar; shown as it is",
        );
        let mut draft = Draft::new();
        draft.put(&[names::of_digest(&directory.layer.digest)], u32::MAX, &mut Vec::new());
        Self { draft, list: Vec::new(), links: HashMap::new(), archive: Arc::clone(archive) }
    }

    /// What a leaf is shown as.
    pub(super) fn node(&self, directory: &Directory, number: u32) -> Node {
        let Some(member) = self.list.get(number as usize) else {
            let attributes = directory.attributes(0o644, (0, 0));
            return Node::File(Arc::new(whole_blob(&directory.source, &directory.layer, attributes)));
        };
        let mut attributes = directory.attributes(member.mode | 0o400, member.modified);
        attributes.owner = directory.owner(member);
        let id = stable_id(&[
            b"member",
            directory.layer.digest.as_str().as_bytes(),
            &number.to_le_bytes(),
            &attributes.mode.to_le_bytes(),
            &attributes.modified.0.to_le_bytes(),
        ]);
        if let Kind::Symlink(target) = &member.kind {
            attributes.mode = 0o777;
            return Node::Link(Arc::new(Link { attributes, id, target: target.clone() }));
        }
        Node::File(Arc::new(File {
            attributes,
            id,
            size: member.size,
            links: self.links.get(&number).copied().unwrap_or(1),
            xattrs: member.xattrs.clone(),
            content: self.content(directory, member),
            layer: Some(Arc::clone(&directory.layer)),
        }))
    }

    fn content(&self, directory: &Directory, member: &Member) -> Content {
        if member.size == 0 {
            Content::Inline(Bytes::new())
        } else if self.archive.is_plain() {
            Content::Blob {
                source: Arc::clone(&directory.source),
                blob: Arc::clone(&directory.layer),
                offset: member.offset,
            }
        } else {
            Content::Packed { archive: Arc::clone(&self.archive), offset: member.offset }
        }
    }
}

struct Placing<'a> {
    directory: &'a Directory,
    draft: Draft<u32>,
    list: &'a [Member],
    /// How many names each member has.
    names: HashMap<u32, u32>,
}

impl Placing<'_> {
    fn member(&mut self, number: u32, member: &Member) {
        let Some(path) = self.inside(&member.path) else { return };
        match &member.kind {
            Kind::Folder => {
                let mut clashes = Vec::new();
                let folder = self.draft.make(&path, &mut clashes);
                let mut attributes = self.directory.attributes(member.mode | 0o500, member.modified);
                attributes.owner = self.directory.owner(member);
                self.draft.describe(folder, attributes);
                if let Some(xattrs) = &member.xattrs {
                    self.draft.mark(folder, Arc::clone(xattrs));
                }
                self.warn_of(clashes, &path);
            }
            Kind::File | Kind::Symlink(_) => self.put(&path, number),
            Kind::Hardlink(target) => match self.target(target) {
                Some(target) => self.put(&path, target),
                None => self.warn("R9", &path, "a hard link to nothing in this folder; not shown"),
            },
            Kind::Other(kind) => {
                let kind = char::from(*kind);
                self.warn("R9", &path, &format!("a member of type {kind:?}; not shown"));
            }
        }
    }

    fn put(&mut self, path: &[FileName], number: u32) {
        if path.is_empty() {
            self.warn("R8", path, "the archive holds a file where its folder should be; not shown");
            return;
        }
        let mut clashes = Vec::new();
        self.draft.put(path, number, &mut clashes);
        *self.names.entry(number).or_default() += 1;
        self.warn_of(clashes, path);
    }

    /// The member a hard link means: an earlier one.
    fn target(&self, target: &[u8]) -> Option<u32> {
        let path = self.strip(names::clean(target).ok()?.components)?;
        match self.draft.find(&path)? {
            Found::Leaf(number) => Some(*number),
            Found::Folder(_) => None,
        }
    }

    /// A member's path below the title; what lies elsewhere is not this folder's.
    fn inside(&self, raw: &[u8]) -> Option<Vec<FileName>> {
        let clean = match names::clean(raw) {
            Ok(clean) => clean,
            Err(why) => {
                self.warn("R10", &[raw.to_vec()], &format!("{why}; not shown"));
                return None;
            }
        };
        if let Some(change) = clean.change {
            self.warn("R10", &clean.components, change);
        }
        let Some(path) = self.strip(clean.components) else {
            self.warn(
                "R8",
                &[raw.to_vec()],
                "a member outside the folder its layer is named after; not shown",
            );
            return None;
        };
        if path.len() + self.directory.title.len() > names::MAX_DEPTH {
            self.warn("R20", &path, "deeper than 256 folders; not shown");
            return None;
        }
        Some(path)
    }

    fn strip(&self, mut path: Vec<FileName>) -> Option<Vec<FileName>> {
        let title = &self.directory.title;
        path.starts_with(title).then(|| path.split_off(title.len()))
    }

    fn warn_of(&mut self, clashes: Vec<Clash<u32>>, path: &[FileName]) {
        for clash in clashes {
            match clash {
                Clash::Replaced(old) => {
                    if let Some(names) = self.names.get_mut(&old) {
                        *names = names.saturating_sub(1);
                    }
                    if self.list.get(old as usize).is_some_and(|old| matches!(old.kind, Kind::File)) {
                        self.warn("R11", path, "two members have this name; the later one is shown");
                    }
                }
                Clash::Moved(name) => {
                    let name = String::from_utf8_lossy(&name).into_owned();
                    let message = format!("a folder and a file have this name; the file is {name:?}");
                    self.warn("R11", path, &message);
                }
            }
        }
    }

    fn warn(&self, rule: &'static str, path: &[FileName], message: &str) {
        self.directory.warnings.add(rule, format!("{}: {}", self.directory.shown(), shown(path)), message);
    }
}

/// Takes out symbolic links that lead outside the artifact (R9).
fn hide_escaping(draft: &mut Draft<u32>, list: &[Member], directory: &Directory) {
    let target_of = |number: &u32| match list.get(*number as usize).map(|member| &member.kind) {
        Some(Kind::Symlink(target)) => Some(target.as_slice()),
        _ => None,
    };
    for (path, name) in draft.leaves(|number| target_of(number).is_some()) {
        let whole = [path.as_slice(), std::slice::from_ref(&name)].concat();
        let Some(Found::Leaf(number)) = draft.find(&whole) else { continue };
        let target = target_of(number).unwrap_or_default();
        if stays_inside(draft, directory.title.len(), &path, target) {
            continue;
        }
        let subject = format!("{}: {}", directory.shown(), shown(&whole));
        let target = String::from_utf8_lossy(target);
        directory.warnings.add(
            "R9",
            subject,
            format!("a link to {target:?}, outside the artifact; not shown"),
        );
        draft.remove(&path, &name);
    }
}

/// Whether a link in the folder `path` of the draft, which itself is `depth` deep, leads nowhere outside.
///
/// Leading `..` climb real folders, so they can be counted. A `..` further on is only taken back from a
/// real folder: after another link, or something unknown, where it leads cannot be told from the text.
fn stays_inside(draft: &Draft<u32>, depth: usize, path: &[FileName], target: &[u8]) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    // Where it is: so far above the layer's folder, or at this path below it, or somewhere inside unknown.
    let (mut above, mut at, mut unknown) = (0, path.to_vec(), false);
    let mut entered = false;
    for part in target.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if entered && (unknown || !matches!(draft.find(&at), Some(Found::Folder(_)))) {
                    return false;
                }
                if at.pop().is_none() {
                    above += 1;
                }
                if above > depth {
                    return false;
                }
            }
            name => {
                entered = true;
                unknown |= above > 0;
                at.push(name.to_vec());
            }
        }
    }
    true
}
