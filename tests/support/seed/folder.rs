//! Folders as ORAS tars them.

use std::collections::BTreeMap;
use std::io::Write as _;

use bytes::Bytes;
use tar::{EntryType, Header};

/// A folder to be packed. Parents come by themselves (0755); entries are in the order Go walks them.
#[derive(Clone)]
pub struct Folder {
    mode: u32,
    modified: u64,
    entries: BTreeMap<Vec<String>, Entry>,
    raw: Vec<(Header, Bytes)>,
}

#[derive(Clone)]
enum Entry {
    Folder(u32),
    File(u32, Bytes),
    Link(String),
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}

impl Folder {
    /// An empty folder (0755), everything in it modified at 2020-01-01.
    pub fn new() -> Self {
        Self { mode: 0o755, modified: 1_577_836_800, entries: BTreeMap::new(), raw: Vec::new() }
    }

    /// Its own permission bits.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// When everything in it was modified.
    pub fn modified(mut self, seconds: u64) -> Self {
        self.modified = seconds;
        self
    }

    /// A file.
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entry(path, Entry::File(mode, content.into().into()))
    }

    /// A folder.
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, Entry::Folder(mode))
    }

    /// A symbolic link.
    pub fn link(self, path: &str, target: &str) -> Self {
        self.entry(path, Entry::Link(target.into()))
    }

    /// An entry as it is given, at the end, whatever it says: hard links, devices, hostile names. The name is
    /// not put below the title and is cut at 100 bytes.
    pub fn raw(mut self, name: &[u8], kind: EntryType, link: &[u8], content: impl Into<Vec<u8>>) -> Self {
        let content: Vec<u8> = content.into();
        let mut header = header(kind, 0o644, content.len() as u64, self.modified);
        put(&mut header.as_old_mut().name, name);
        put(&mut header.as_old_mut().linkname, link);
        header.set_cksum();
        self.raw.push((header, content.into()));
        self
    }

    fn entry(mut self, path: &str, entry: Entry) -> Self {
        let path: Vec<String> = path.split('/').map(str::to_owned).collect();
        for length in 1..path.len() {
            self.entries.entry(path[..length].to_vec()).or_insert(Entry::Folder(0o755));
        }
        self.entries.insert(path, entry);
        self
    }

    /// The uncompressed tar, entries below `title`.
    pub fn tar(&self, title: &str) -> Vec<u8> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut append = |path: &str, entry: &Entry| {
            let (kind, mode, content, link) = match entry {
                Entry::Folder(mode) => (EntryType::Directory, *mode, &[][..], ""),
                Entry::File(mode, content) => (EntryType::Regular, *mode, &content[..], ""),
                Entry::Link(target) => (EntryType::Symlink, 0o777, &[][..], target.as_str()),
            };
            let mut header = header(kind, mode, content.len() as u64, self.modified);
            let long = [("path", path), ("linkpath", link)];
            let long =
                long.iter().filter(|(_, text)| text.len() > 100).map(|(key, text)| (*key, text.as_bytes()));
            let long: Vec<_> = long.collect();
            if !long.is_empty() {
                tar.append_pax_extensions(long).expect("memory takes it");
            }
            put(&mut header.as_old_mut().name, path.as_bytes());
            put(&mut header.as_old_mut().linkname, link.as_bytes());
            header.set_cksum();
            tar.append(&header, content).expect("memory takes it");
        };
        append(title, &Entry::Folder(self.mode));
        for (path, entry) in &self.entries {
            append(&format!("{title}/{}", path.join("/")), entry);
        }
        for (header, content) in &self.raw {
            tar.append(header, &content[..]).expect("memory takes it");
        }
        tar.into_inner().expect("memory takes it")
    }
}

fn header(kind: EntryType, mode: u32, size: u64, modified: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(modified);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn put(field: &mut [u8], text: &[u8]) {
    let length = text.len().min(field.len());
    field[..length].copy_from_slice(&text[..length]);
}

/// gzip with the header Go writes: no time, no name, unknown system.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let encoder = flate2::GzBuilder::new().mtime(0).operating_system(255);
    let mut encoder = encoder.write(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes it")
}
