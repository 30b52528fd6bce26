//! What the journal says: one record for each change of names and attributes.
//!
//! A record is a tag byte and its fields. Integers are little endian (u32 or u64), byte strings have a u32
//! length in front, lists a u32 count, what may be absent a byte 0 or 1 in front. A tag keeps its meaning for
//! ever; a new one needs a new version of the journal.

/// Seconds and nanoseconds since the epoch.
pub(in crate::mount) type Time = (i64, u32);

/// A change. Inodes are numbers; numbers of the base's entries mean something after a [`Record::Base`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Record {
    /// The base's entry `name` of its folder `parent` is called `inode` from here on.
    Base { inode: u64, parent: u64, name: Vec<u8> },
    /// A new thing.
    Make { inode: u64, parent: u64, name: Vec<u8>, what: Made, mode: u32, uid: u32, gid: u32, at: Time },
    /// One more name for a file.
    Link { inode: u64, parent: u64, name: Vec<u8>, at: Time },
    /// A name is gone; an empty folder with it.
    Remove { parent: u64, name: Vec<u8>, at: Time },
    /// A name moved over whatever was there, or the two changed places.
    Rename { parent: u64, name: Vec<u8>, to: u64, new_name: Vec<u8>, exchange: bool, at: Time },
    /// Attributes; `None` stays as it is. Size and modification time of a staged file are its local file's.
    Attributes {
        inode: u64,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        accessed: Option<Time>,
        modified: Option<Time>,
        at: Time,
    },
    /// An extended attribute; `None` is its removal.
    Xattr { inode: u64, name: Vec<u8>, value: Option<Vec<u8>>, at: Time },
    /// A file of the base has a local file from here on; of the base's bytes the first `keep` still show.
    Stage { inode: u64, keep: u64 },
    /// The ranges of a staged file that still come from the base.
    Ranges { inode: u64, from_base: Vec<(u64, u64)> },
    /// What the root folder's entry `name` was when its folder was entered: the digest of a manifest.
    Pin { name: Vec<u8>, digest: String },
    /// A staged file shows what the base has in the file `from`, in these ranges.
    Copy { inode: u64, from: u64, ranges: Vec<(u64, u64)> },
}

/// What a new thing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::mount) enum Made {
    /// An empty file.
    File,
    /// An empty folder.
    Folder,
    /// A symbolic link.
    Link(Vec<u8>),
    /// A fifo, socket or device: the type bits of its mode, and the device number.
    Special { kind: u32, device: u32 },
}

impl Record {
    /// The record as the journal has it.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Out(Vec::with_capacity(64));
        match self {
            Self::Base { inode, parent, name } => out.tag(1).u64(*inode).u64(*parent).bytes(name),
            Self::Make { inode, parent, name, what, mode, uid, gid, at } => {
                out.tag(2).u64(*inode).u64(*parent).bytes(name).u32(*mode).u32(*uid).u32(*gid).time(*at);
                match what {
                    Made::File => out.tag(0),
                    Made::Folder => out.tag(1),
                    Made::Link(target) => out.tag(2).bytes(target),
                    Made::Special { kind, device } => out.tag(3).u32(*kind).u32(*device),
                }
            }
            Self::Link { inode, parent, name, at } => {
                out.tag(3).u64(*inode).u64(*parent).bytes(name).time(*at)
            }
            Self::Remove { parent, name, at } => out.tag(4).u64(*parent).bytes(name).time(*at),
            Self::Rename { parent, name, to, new_name, exchange, at } => {
                out.tag(5).u64(*parent).bytes(name).u64(*to).bytes(new_name);
                out.tag(u8::from(*exchange)).time(*at)
            }
            Self::Attributes { inode, mode, uid, gid, accessed, modified, at } => {
                out.tag(6).u64(*inode);
                for number in [mode, uid, gid] {
                    out.maybe(number.as_ref(), |out, number| {
                        out.u32(*number);
                    });
                }
                for time in [accessed, modified] {
                    out.maybe(time.as_ref(), |out, time| {
                        out.time(*time);
                    });
                }
                out.time(*at)
            }
            Self::Xattr { inode, name, value, at } => {
                out.tag(7).u64(*inode).bytes(name);
                out.maybe(value.as_ref(), |out, value| {
                    out.bytes(value);
                })
                .time(*at)
            }
            Self::Stage { inode, keep } => out.tag(8).u64(*inode).u64(*keep),
            Self::Ranges { inode, from_base } => out.tag(9).u64(*inode).ranges(from_base),
            Self::Pin { name, digest } => out.tag(10).bytes(name).bytes(digest.as_bytes()),
            Self::Copy { inode, from, ranges } => out.tag(11).u64(*inode).u64(*from).ranges(ranges),
        };
        out.0
    }

    /// The record `bytes` are, if they are one and nothing else.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = From(bytes);
        let record = match from.tag()? {
            1 => Self::Base { inode: from.u64()?, parent: from.u64()?, name: from.bytes()? },
            2 => {
                let (inode, parent, name) = (from.u64()?, from.u64()?, from.bytes()?);
                let (mode, uid, gid, at) = (from.u32()?, from.u32()?, from.u32()?, from.time()?);
                let what = match from.tag()? {
                    0 => Made::File,
                    1 => Made::Folder,
                    2 => Made::Link(from.bytes()?),
                    3 => Made::Special { kind: from.u32()?, device: from.u32()? },
                    _ => return None,
                };
                Self::Make { inode, parent, name, what, mode, uid, gid, at }
            }
            3 => {
                let (inode, parent, name) = (from.u64()?, from.u64()?, from.bytes()?);
                Self::Link { inode, parent, name, at: from.time()? }
            }
            4 => Self::Remove { parent: from.u64()?, name: from.bytes()?, at: from.time()? },
            5 => {
                let (parent, name, to, new_name) = (from.u64()?, from.bytes()?, from.u64()?, from.bytes()?);
                Self::Rename { parent, name, to, new_name, exchange: from.tag()? != 0, at: from.time()? }
            }
            6 => {
                let inode = from.u64()?;
                let (mode, uid, gid) =
                    (from.maybe(From::u32)?, from.maybe(From::u32)?, from.maybe(From::u32)?);
                let (accessed, modified) = (from.maybe(From::time)?, from.maybe(From::time)?);
                Self::Attributes { inode, mode, uid, gid, accessed, modified, at: from.time()? }
            }
            7 => {
                let (inode, name) = (from.u64()?, from.bytes()?);
                Self::Xattr { inode, name, value: from.maybe(From::bytes)?, at: from.time()? }
            }
            8 => Self::Stage { inode: from.u64()?, keep: from.u64()? },
            9 => Self::Ranges { inode: from.u64()?, from_base: from.ranges()? },
            10 => Self::Pin { name: from.bytes()?, digest: String::from_utf8(from.bytes()?).ok()? },
            11 => Self::Copy { inode: from.u64()?, from: from.u64()?, ranges: from.ranges()? },
            _ => return None,
        };
        from.0.is_empty().then_some(record)
    }
}

struct Out(Vec<u8>);

impl Out {
    fn tag(&mut self, tag: u8) -> &mut Self {
        self.0.push(tag);
        self
    }

    fn u32(&mut self, number: u32) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn u64(&mut self, number: u64) -> &mut Self {
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    fn time(&mut self, (seconds, nanoseconds): Time) -> &mut Self {
        self.u64(seconds as u64).u32(nanoseconds)
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.u32(bytes.len() as u32).0.extend_from_slice(bytes);
        self
    }

    fn ranges(&mut self, ranges: &[(u64, u64)]) -> &mut Self {
        self.u32(ranges.len() as u32);
        for (start, end) in ranges {
            self.u64(*start).u64(*end);
        }
        self
    }

    fn maybe<T>(&mut self, value: Option<&T>, put: impl FnOnce(&mut Self, &T)) -> &mut Self {
        self.tag(u8::from(value.is_some()));
        if let Some(value) = value {
            put(self, value);
        }
        self
    }
}

struct From<'a>(&'a [u8]);

impl From<'_> {
    fn tag(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u32(&mut self) -> Option<u32> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u32::from_le_bytes(*first))
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*first))
    }

    fn time(&mut self) -> Option<Time> {
        Some((self.u64()? as i64, self.u32()?))
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.u32()? as usize;
        let (bytes, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(bytes.to_vec())
    }

    fn ranges(&mut self) -> Option<Vec<(u64, u64)>> {
        let count = self.u32()?;
        (0..count).map(|_| Some((self.u64()?, self.u64()?))).collect()
    }

    #[allow(clippy::option_option)] // not there, and torn
    fn maybe<T>(&mut self, take: impl Fn(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.tag()? {
            0 => Some(None),
            _ => take(self).map(Some),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each.
    fn all() -> Vec<Record> {
        let (name, at) = (b"n\xff".to_vec(), (-1, 999_999_999));
        let make = |what| Record::Make {
            inode: 7,
            parent: 1,
            name: b"x".to_vec(),
            what,
            mode: 0o644,
            uid: 1,
            gid: 2,
            at,
        };
        vec![
            Record::Base { inode: 1 << 63, parent: 1, name: name.clone() },
            make(Made::File),
            make(Made::Folder),
            make(Made::Link(b"../y".to_vec())),
            make(Made::Special { kind: libc::S_IFIFO, device: 5 }),
            Record::Link { inode: 7, parent: 1, name: name.clone(), at },
            Record::Remove { parent: 1, name: name.clone(), at },
            Record::Rename {
                parent: 1,
                name: name.clone(),
                to: 2,
                new_name: b"z".to_vec(),
                exchange: true,
                at,
            },
            Record::Attributes {
                inode: 7,
                mode: Some(0o7777),
                uid: None,
                gid: Some(3),
                accessed: Some((5, 6)),
                modified: None,
                at,
            },
            Record::Xattr { inode: 7, name: b"user.a".to_vec(), value: Some(Vec::new()), at },
            Record::Xattr { inode: 7, name: b"user.a".to_vec(), value: None, at },
            Record::Stage { inode: 7, keep: 1 << 40 },
            Record::Ranges { inode: 7, from_base: vec![(0, 4096), (8192, 8193)] },
            Record::Pin { name: b"v1".to_vec(), digest: "sha256:00".into() },
            Record::Copy { inode: 7, from: 1 << 63, ranges: vec![(0, 4096)] },
        ]
    }

    #[test]
    fn every_record_reads_back_as_it_was_and_none_of_its_parts_does() {
        for record in all() {
            let bytes = record.encode();
            assert_eq!(Record::decode(&bytes).as_ref(), Some(&record));
            for cut in 0..bytes.len() {
                assert_eq!(Record::decode(&bytes[..cut]), None, "{record:?} cut at {cut}");
            }
            assert_eq!(Record::decode(&[bytes, vec![0]].concat()), None, "{record:?} and more");
        }
    }
}
