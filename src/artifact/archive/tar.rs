//! Where the members of a tar lie, read from a stream of its bytes.
//!
//! Field formats come from the `tar` crate; the walk is our own because the bytes come in pieces, most
//! of them are not looked at, and memory has to stay bounded whatever the archive says.

use std::sync::Arc;

use ::tar::{EntryType, Header};

use crate::artifact::attributes::is_told;
use crate::artifact::go_tar::{HARD_LINK, XATTR};
use crate::artifact::tree::Xattrs;
use crate::error::{Error, ErrorKind, Result};

const BLOCK: usize = 512;
/// So many members and no more in one layer: `ImageNet`'s training set has 1.3 million.
const MAX_MEMBERS: usize = 2_000_000;
/// All names of one layer together.
const MAX_NAMES: usize = 256 << 20;
/// One extended header; names are at most 4096 bytes long.
const MAX_EXTENSION: u64 = 1 << 20;

/// One member, as the archive has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::artifact) struct Member {
    /// The whole path, not cleaned.
    pub(in crate::artifact) path: Vec<u8>,
    pub(in crate::artifact) kind: Kind,
    pub(in crate::artifact) mode: u32,
    pub(in crate::artifact) modified: (i64, u32),
    /// User and group.
    pub(in crate::artifact) owner: (u32, u32),
    pub(in crate::artifact) xattrs: Option<Arc<Xattrs>>,
    /// Where its bytes are in the tar.
    pub(in crate::artifact) offset: u64,
    pub(in crate::artifact) size: u64,
}

/// What a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::artifact) enum Kind {
    Folder,
    File,
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    /// A type that is not shown.
    Other(u8),
}

/// A walk through a tar.
pub(super) struct Walk {
    state: State,
    /// The next byte's place in the tar.
    at: u64,
    /// A block or an extended header that is not whole yet.
    partial: Vec<u8>,
    extended: Extended,
    members: Vec<Member>,
    names: usize,
    is_tar: bool,
}

enum State {
    Header,
    /// The body of an extended header of this type.
    Extension(EntryType, usize),
    /// More blocks of an old GNU sparse map, then so many bytes.
    Sparse(u64),
    Skip(u64),
    End,
}

/// What extended headers say about the member that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    modified: Option<(i64, u32)>,
    uid: Option<u64>,
    gid: Option<u64>,
    xattrs: Xattrs,
    /// Of which earlier member this is one more name, though it has its bytes.
    twin: Option<Vec<u8>>,
    sparse: bool,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self {
            state: State::Header,
            at: 0,
            partial: Vec::new(),
            extended: Extended::default(),
            members: Vec::new(),
            names: 0,
            is_tar: true,
        }
    }

    /// Takes the next bytes in.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::End => return Ok(()),
                State::Skip(left) => {
                    let taken = (bytes.len() as u64).min(*left);
                    *left -= taken;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                    taken as usize
                }
                State::Header | State::Sparse(_) => self.collect(bytes, BLOCK),
                State::Extension(_, length) => {
                    let length = *length;
                    self.collect(bytes, length)
                }
            };
            self.at += taken as u64;
            bytes = &bytes[taken..];
            self.advance()?;
        }
        Ok(())
    }

    /// How many of the next bytes nobody looks at; they count as taken in.
    pub(super) fn jump(&mut self) -> u64 {
        let State::Skip(left) = self.state else { return 0 };
        self.at += left;
        self.state = State::Header;
        left
    }

    /// Whether everything of interest has been seen.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The members; `None` if this is no tar at all.
    pub(super) fn finish(self) -> Result<Option<Vec<Member>>> {
        if !self.is_tar {
            return Ok(None);
        }
        let whole = match self.state {
            State::End => true,
            // Some writers leave out the blocks that mark the end.
            State::Header => self.partial.is_empty(),
            _ => false,
        };
        if self.members.is_empty() && !self.partial.is_empty() && matches!(self.state, State::Header) {
            return Ok(None);
        }
        if !whole {
            return Err(corrupt(self.at, "it ends in the middle of a member"));
        }
        Ok(Some(self.members))
    }

    fn collect(&mut self, bytes: &[u8], length: usize) -> usize {
        let taken = bytes.len().min(length - self.partial.len());
        self.partial.extend_from_slice(&bytes[..taken]);
        taken
    }

    /// Acts on a block or extension that is whole now.
    fn advance(&mut self) -> Result<()> {
        match self.state {
            State::Header if self.partial.len() == BLOCK => {
                let block = std::mem::take(&mut self.partial);
                self.header(&block)
            }
            State::Sparse(left) if self.partial.len() == BLOCK => {
                let more = self.partial.get(504).is_some_and(|flag| *flag != 0);
                self.partial.clear();
                if !more {
                    self.skip(left);
                }
                Ok(())
            }
            State::Extension(kind, length) if self.partial.len() == length => {
                let body = std::mem::take(&mut self.partial);
                self.extension(kind, body)?;
                self.skip(padding(length as u64));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn skip(&mut self, length: u64) {
        self.state = if length == 0 { State::Header } else { State::Skip(length) };
    }

    fn header(&mut self, block: &[u8]) -> Result<()> {
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(());
        }
        let header = Header::from_byte_slice(block);
        if !checksum_matches(header) {
            if self.at == BLOCK as u64 {
                self.is_tar = false;
                self.state = State::End;
                return Ok(());
            }
            return Err(corrupt(self.at, "a header's checksum does not match"));
        }
        let kind = header.entry_type();
        let said = header.entry_size().map_err(|_| corrupt(self.at, "a size is not a number"))?;
        if kind.is_pax_local_extensions() || kind.is_gnu_longname() || kind.is_gnu_longlink() {
            if said > MAX_EXTENSION {
                return Err(corrupt(self.at, "an extended header is longer than 1 MiB"));
            }
            self.state = if said == 0 { State::Header } else { State::Extension(kind, said as usize) };
            return Ok(());
        }
        if kind.is_pax_global_extensions() {
            self.skip(self.padded(said)?);
            return Ok(());
        }
        let extended = std::mem::take(&mut self.extended);
        self.member(header, kind, said, extended)
    }

    fn member(&mut self, header: &Header, kind: EntryType, said: u64, extended: Extended) -> Result<()> {
        let path = extended.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let target =
            || extended.link.clone().or_else(|| header.link_name_bytes().map(std::borrow::Cow::into_owned));
        // Types that are only a header have no data, whatever their size field says.
        let (shown, has_data) = match kind {
            EntryType::Regular | EntryType::Continuous if path.ends_with(b"/") => (Kind::Folder, false),
            EntryType::Regular | EntryType::Continuous if extended.sparse => (Kind::Other(b'S'), true),
            EntryType::Regular | EntryType::Continuous => match extended.twin {
                Some(twin) => (Kind::Hardlink(twin), true),
                None => (Kind::File, true),
            },
            EntryType::Directory => (Kind::Folder, false),
            EntryType::Symlink => (Kind::Symlink(target().unwrap_or_default()), false),
            EntryType::Link => (Kind::Hardlink(target().unwrap_or_default()), false),
            EntryType::Char | EntryType::Block | EntryType::Fifo => (Kind::Other(kind.as_byte()), false),
            _ => (Kind::Other(kind.as_byte()), true),
        };
        let size = if has_data { extended.size.unwrap_or(said) } else { 0 };
        let padded = self.padded(size)?;
        let link_length = match &shown {
            Kind::Symlink(target) | Kind::Hardlink(target) => target.len(),
            _ => 0,
        };
        let xattrs = extended.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        self.names += path.len() + link_length + xattrs;
        if self.members.len() >= MAX_MEMBERS || self.names > MAX_NAMES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("the archive has more than {MAX_MEMBERS} members, or more names than fit in memory"),
            ));
        }
        self.members.push(Member {
            path,
            mode: header.mode().unwrap_or(0) & 0o7777,
            modified: extended.modified.unwrap_or((header.mtime().unwrap_or(0).min(MAX_TIME) as i64, 0)),
            owner: (id(extended.uid.or(header.uid().ok())), id(extended.gid.or(header.gid().ok()))),
            xattrs: (!extended.xattrs.is_empty()).then(|| Arc::new(extended.xattrs)),
            offset: self.at,
            size,
            kind: shown,
        });
        let more_map = kind == EntryType::GNUSparse && header.as_bytes()[482] != 0;
        if more_map {
            self.state = State::Sparse(padded);
        } else {
            self.skip(padded);
        }
        Ok(())
    }

    fn extension(&mut self, kind: EntryType, mut body: Vec<u8>) -> Result<()> {
        if kind.is_pax_local_extensions() {
            return self.pax(&body);
        }
        if let Some(end) = body.iter().position(|byte| *byte == 0) {
            body.truncate(end);
        }
        if kind.is_gnu_longname() {
            self.extended.path = Some(body);
        } else {
            self.extended.link = Some(body);
        }
        Ok(())
    }

    /// Records `LENGTH KEY=VALUE\n`, where the length counts the whole record.
    fn pax(&mut self, mut body: &[u8]) -> Result<()> {
        let bad = || corrupt(self.at, "a PAX record is malformed");
        while !body.is_empty() && body[0] != 0 {
            let space = body.iter().position(|byte| *byte == b' ').ok_or_else(bad)?;
            let length: usize = number(&body[..space]).ok_or_else(bad)? as usize;
            if length <= space + 1 {
                return Err(bad());
            }
            let record = body.get(space + 1..length).ok_or_else(bad)?;
            let record = record.strip_suffix(b"\n").ok_or_else(bad)?;
            let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(bad)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            match key {
                b"path" => self.extended.path = Some(value.to_vec()),
                b"linkpath" => self.extended.link = Some(value.to_vec()),
                b"size" => self.extended.size = Some(number(value).ok_or_else(bad)?),
                b"mtime" => self.extended.modified = time(value),
                b"uid" => self.extended.uid = number(value),
                b"gid" => self.extended.gid = number(value),
                key if key == HARD_LINK.as_bytes() => self.extended.twin = Some(value.to_vec()),
                key if key.starts_with(XATTR.as_bytes()) => {
                    let name = &key[XATTR.len()..];
                    if is_told(name) {
                        self.extended.xattrs.insert(name.to_vec(), value.to_vec());
                    }
                }
                key if key.starts_with(b"GNU.sparse.") => self.extended.sparse = true,
                _ => {}
            }
            body = &body[length..];
        }
        Ok(())
    }

    fn padded(&self, size: u64) -> Result<u64> {
        size.checked_add(padding(size))
            .filter(|padded| self.at.checked_add(*padded).is_some_and(|end| i64::try_from(end).is_ok()))
            .ok_or_else(|| corrupt(self.at, "a member's size cannot be real"))
    }
}

/// Times beyond year 9999 confuse more programs than they help.
const MAX_TIME: u64 = 253_402_300_799;

fn padding(size: u64) -> u64 {
    (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64
}

fn id(number: Option<u64>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// `seconds[.fraction]`, possibly negative.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    let digits: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    Some((seconds.clamp(0, MAX_TIME as i64), digits.parse().ok()?))
}

/// Both ways the checksum was ever computed are accepted.
fn checksum_matches(header: &Header) -> bool {
    let Ok(said) = header.cksum() else { return false };
    let bytes = header.as_bytes();
    let others = || bytes[..148].iter().chain(&bytes[156..]);
    let unsigned: u32 = others().map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    let signed: i64 = others().map(|byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
    said == unsigned || i64::from(said) == signed
}

fn corrupt(at: u64, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("not a sound tar archive (at byte {at}): {why}"))
}
