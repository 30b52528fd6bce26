//! An index as bytes, to be kept beside its layer.
//!
//! ```text
//! "artifs tar index\n" · version u8 · checksum of what follows u64 · zstd of:
//!   layer digest, layer size · packing · length · digests · checkpoints · is a tar · members
//! ```
//! Numbers are LEB128, texts and lists are preceded by their length. Whatever does not parse, or is not
//! about this very layer, is as good as absent: the index is built again.

use std::io::Read as _;
use std::sync::Arc;

use bytes::Bytes;

use super::codec::{Packing, Resume};
use super::tar::{Kind, Member};
use super::{Checkpoint, Index};
use crate::artifact::tree::Xattrs;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest};

/// What this kind of knowledge is called in a store.
pub(super) const KIND: &str = "tar-index";

const MAGIC: &[u8] = b"artifs tar index\n";
/// Goes up with every change of what is below; an index of another version is built again.
const VERSION: u8 = 2;
/// Larger than any index the limits of a scan allow.
const MAX_LENGTH: u64 = 1 << 30;

pub(super) fn serialize(index: &Index, layer: &Descriptor) -> Result<Bytes> {
    let mut out = Writer(Vec::new());
    out.text(layer.digest.as_str().as_bytes());
    out.number(layer.size);
    out.number(match index.packing {
        Packing::Plain => 0,
        Packing::Gzip => 1,
        Packing::Zstd => 2,
    });
    out.number(index.length);
    out.number(index.digests.len() as u64);
    for digest in &index.digests {
        out.text(digest.as_str().as_bytes());
    }
    out.number(index.checkpoints.len() as u64);
    for checkpoint in &index.checkpoints {
        out.number(checkpoint.input);
        out.number(checkpoint.output);
        match &checkpoint.resume {
            Resume::Fresh => out.number(0),
            Resume::Block { bits, held, window } => {
                out.number(1);
                out.number(u64::from(*bits));
                out.number(u64::from(*held));
                out.text(window);
            }
        }
    }
    out.number(u64::from(index.members.is_some()));
    let members = index.members.as_deref().unwrap_or_default();
    out.number(members.len() as u64);
    for member in members {
        out.member(member);
    }
    let packed = ::zstd::bulk::compress(&out.0, 3).doing(|| "pack a layer's index")?;
    let sum = xxhash_rust::xxh3::xxh3_64(&packed).to_le_bytes();
    Ok([MAGIC, &[VERSION], &sum, &packed].concat().into())
}

pub(super) fn parse(bytes: &[u8], layer: &Descriptor) -> Result<Index> {
    let rest = bytes.strip_prefix(MAGIC).and_then(|rest| rest.strip_prefix(&[VERSION]));
    let (sum, packed) = rest.and_then(|rest| rest.split_first_chunk::<8>()).ok_or_else(garbage)?;
    if xxhash_rust::xxh3::xxh3_64(packed).to_le_bytes() != *sum {
        return Err(garbage());
    }
    let mut whole = Vec::new();
    let decoder = ::zstd::stream::read::Decoder::with_buffer(packed).map_err(|_| garbage())?;
    decoder.take(MAX_LENGTH).read_to_end(&mut whole).map_err(|_| garbage())?;
    let mut from = Reader(&whole);
    let index = from.index(layer).ok_or_else(garbage)?;
    if from.0.is_empty() { Ok(index) } else { Err(garbage()) }
}

fn garbage() -> Error {
    Error::new(ErrorKind::Corrupt, "the layer's index is of another version or damaged")
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text);
    }

    fn member(&mut self, member: &Member) {
        self.text(&member.path);
        match &member.kind {
            Kind::Folder => self.number(0),
            Kind::File => self.number(1),
            Kind::Symlink(target) => {
                self.number(2);
                self.text(target);
            }
            Kind::Hardlink(target) => {
                self.number(3);
                self.text(target);
            }
            Kind::Other(kind) => {
                self.number(4);
                self.number(u64::from(*kind));
            }
        }
        self.number(u64::from(member.mode));
        self.number(member.modified.0.max(0).unsigned_abs());
        self.number(u64::from(member.modified.1));
        self.number(u64::from(member.owner.0));
        self.number(u64::from(member.owner.1));
        let xattrs = member.xattrs.as_deref();
        self.number(xattrs.map_or(0, Xattrs::len) as u64);
        for (name, value) in xattrs.into_iter().flatten() {
            self.text(name);
            self.text(value);
        }
        self.number(member.offset);
        self.number(member.size);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }

    fn small<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.small()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(text)
    }

    fn digest(&mut self) -> Option<Digest> {
        std::str::from_utf8(self.text()?).ok()?.parse().ok()
    }

    /// As many as a number says; a number that lies runs out of bytes before it fills memory.
    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let length = self.number()?;
        (0..length).map(|_| one(self)).collect()
    }

    fn index(&mut self, layer: &Descriptor) -> Option<Index> {
        if self.digest()? != layer.digest || self.number()? != layer.size {
            return None;
        }
        let packing = match self.number()? {
            0 => Packing::Plain,
            1 => Packing::Gzip,
            2 => Packing::Zstd,
            _ => return None,
        };
        let length = self.number()?;
        let digests = self.list(Self::digest)?;
        let checkpoints = self.list(Self::checkpoint)?;
        let ordered = checkpoints.windows(2).all(|pair| pair[0].output <= pair[1].output);
        let starts = packing == Packing::Plain || checkpoints.first().is_some_and(|first| first.output == 0);
        let inside = |checkpoint: &Checkpoint| checkpoint.input <= layer.size && checkpoint.output <= length;
        if !ordered || !starts || !checkpoints.iter().all(inside) {
            return None;
        }
        let is_tar = self.number()? == 1;
        let members = self.list(Self::member)?;
        let inside =
            |member: &Member| member.offset.checked_add(member.size).is_some_and(|end| end <= length);
        if !members.iter().all(inside) {
            return None;
        }
        Some(Index { packing, length, checkpoints, digests, members: is_tar.then_some(members) })
    }

    fn checkpoint(&mut self) -> Option<Checkpoint> {
        let (input, output) = (self.number()?, self.number()?);
        let resume = match self.number()? {
            0 => Resume::Fresh,
            1 => Resume::Block {
                bits: self.small().filter(|bits| *bits < 8)?,
                held: self.small()?,
                window: self.text()?.to_vec(),
            },
            _ => return None,
        };
        Some(Checkpoint { input, output, resume })
    }

    fn member(&mut self) -> Option<Member> {
        let path = self.text()?.to_vec();
        let kind = match self.number()? {
            0 => Kind::Folder,
            1 => Kind::File,
            2 => Kind::Symlink(self.text()?.to_vec()),
            3 => Kind::Hardlink(self.text()?.to_vec()),
            4 => Kind::Other(self.small()?),
            _ => return None,
        };
        Some(Member {
            path,
            kind,
            mode: self.small()?,
            modified: (self.small()?, self.small().filter(|nanos| *nanos < 1_000_000_000)?),
            owner: (self.small()?, self.small()?),
            xattrs: {
                let told = self.list(|from| Some((from.text()?.to_vec(), from.text()?.to_vec())))?;
                (!told.is_empty()).then(|| Arc::new(told.into_iter().collect()))
            },
            offset: self.number()?,
            size: self.number()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn example(layer: &Descriptor) -> Index {
        let member = |path: &str, kind, offset, size| Member {
            path: path.into(),
            kind,
            mode: 0o644,
            modified: (1_700_000_000, 5),
            owner: (1000, 100),
            xattrs: path.ends_with('a').then(|| Arc::new(Xattrs::from([(b"user.a".into(), b"1".into())]))),
            offset,
            size,
        };
        let window = vec![7; 300];
        Index {
            packing: Packing::Gzip,
            length: 10_000,
            checkpoints: vec![
                Checkpoint { input: 0, output: 0, resume: Resume::Fresh },
                Checkpoint { input: 40, output: 5000, resume: Resume::Block { bits: 3, held: 5, window } },
            ],
            digests: vec![layer.digest.clone()],
            members: Some(vec![
                member("d", Kind::Folder, 512, 0),
                member("d/a", Kind::File, 1024, 4000),
                member("d/l", Kind::Symlink(b"a".to_vec()), 5632, 0),
                member("d/h", Kind::Hardlink(b"d/a".to_vec()), 6144, 0),
                member("d/f", Kind::Other(b'6'), 6656, 0),
            ]),
        }
    }

    #[test]
    fn an_index_comes_back_as_it_was() {
        let layer = Descriptor::of("a/b", &[1; 100]);
        let index = example(&layer);
        let back = parse(&serialize(&index, &layer).unwrap(), &layer).unwrap();
        assert_eq!(back.members, index.members);
        assert_eq!(back.checkpoints, index.checkpoints);
        assert_eq!((back.packing, back.length, back.digests), (index.packing, index.length, index.digests));
    }

    #[test]
    fn an_index_of_another_layer_or_version_is_none() {
        let layer = Descriptor::of("a/b", &[1; 100]);
        let bytes = serialize(&example(&layer), &layer).unwrap();
        assert!(parse(&bytes, &Descriptor::of("a/b", &[2; 100])).is_err());
        let mut newer = bytes.to_vec();
        newer[MAGIC.len()] += 1;
        assert!(parse(&newer, &layer).is_err());
        for length in 0..bytes.len() {
            assert!(parse(&bytes[..length], &layer).is_err(), "{length}");
        }
    }

    proptest! {
        /// What got past the checksum is still not trusted.
        #[test]
        fn no_bytes_make_the_parser_fall_over(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let layer = Descriptor::of("a/b", &[1; 100]);
            let mut out = Writer(Vec::new());
            out.text(layer.digest.as_str().as_bytes());
            out.number(layer.size);
            out.0.extend_from_slice(&bytes);
            let _ = Reader(&out.0).index(&layer);
            let _ = Reader(&bytes).index(&layer);
        }
    }
}
