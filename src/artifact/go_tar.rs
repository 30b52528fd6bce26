//! Tar archives as Go's `archive/tar` writes them, to the byte.
//!
//! What ORAS makes of a folder has a digest (`io.deis.oras.content.digest`), so the header of every member is
//! Go's: ustar where the member fits, else a PAX header in front (only what does not fit in it), times in
//! whole seconds, owners zero and without names.

use std::collections::BTreeMap;
use std::io::{self, Write};

use super::tree::Xattrs;

/// In front of the name of an extended attribute, as other tars have it.
pub(super) const XATTR: &str = "SCHILY.xattr.";
/// The path of an earlier member this one is one more name of. It has its bytes all the same: ORAS takes a real
/// hard link's target for a path from the folder it runs in, and others that know nothing of this get a copy.
pub(super) const HARD_LINK: &str = "ARTIFS.hardlink";

const BLOCK: usize = 512;
const NAME: usize = 100;
const PREFIX: usize = 155;

/// What a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A symbolic link.
    Link,
    /// A character device.
    Character,
    /// A block device.
    Block,
    /// A folder.
    Folder,
    /// A FIFO.
    Fifo,
}

impl Kind {
    fn flag(self) -> u8 {
        match self {
            Self::File => b'0',
            Self::Link => b'2',
            Self::Character => b'3',
            Self::Block => b'4',
            Self::Folder => b'5',
            Self::Fifo => b'6',
        }
    }
}

/// One member, before its content.
#[derive(Clone, Debug)]
pub struct Member<'a> {
    /// Its whole path in the archive, as it is to be written.
    pub path: &'a [u8],
    /// What it is.
    pub kind: Kind,
    /// Permissions, with setuid, setgid and sticky.
    pub mode: u32,
    /// How many bytes of content follow.
    pub size: u64,
    /// When it was changed, in seconds since 1970.
    pub modified: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Its extended attributes.
    pub xattrs: Option<&'a Xattrs>,
    /// Of which earlier member it is one more name.
    pub twin: Option<&'a [u8]>,
    /// What a link leads to.
    pub target: &'a [u8],
    /// Major and minor number of a device.
    pub device: (u32, u32),
}

/// Writes the headers of one member. Its content follows, then [`pad`].
pub fn write_header(out: &mut impl Write, member: &Member<'_>) -> io::Result<()> {
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut fits = true;
    if !is_ascii(member.path) || member.path.len() > NAME {
        fits &= split(member.path).is_some();
        records.insert(b"path".into(), member.path.to_vec());
    }
    if !is_ascii(member.target) || member.target.len() > NAME {
        fits = false;
        records.insert(b"linkpath".into(), member.target.to_vec());
    }
    if !fits_octal(12, i64::try_from(member.size).unwrap_or(i64::MAX)) {
        fits = false;
        records.insert(b"size".into(), member.size.to_string().into_bytes());
    }
    if !fits_octal(12, member.modified) || member.nanoseconds != 0 {
        fits = false;
        records.insert(b"mtime".into(), time(member.modified, member.nanoseconds).into_bytes());
    }
    for (key, number) in [("uid", member.owner.0), ("gid", member.owner.1)] {
        if !fits_octal(8, i64::from(number)) {
            fits = false;
            records.insert(key.into(), number.to_string().into_bytes());
        }
    }
    for (name, value) in member.xattrs.into_iter().flatten() {
        fits = false;
        records.insert([XATTR.as_bytes(), name].concat(), value.clone());
    }
    if let Some(twin) = member.twin {
        fits = false;
        records.insert(HARD_LINK.into(), twin.to_vec());
    }
    if fits {
        let (prefix, name) = split(member.path).unwrap_or((b"", member.path));
        let mut block = template(member, name);
        text(&mut block[345..345 + PREFIX], prefix);
        return out.write_all(&sealed(block));
    }
    write_records(out, member.path, &records)?;
    out.write_all(&sealed(template(member, &ascii(member.path))))
}

/// Seconds with as much of a fraction as there is.
fn time(seconds: i64, nanoseconds: u32) -> String {
    // A fraction counts away from zero.
    let (sign, seconds, nanoseconds) = match (seconds < 0, nanoseconds) {
        (true, 1..) => ("-", -(seconds + 1), 1_000_000_000 - nanoseconds),
        (true, 0) => ("-", -seconds, 0),
        (false, _) => ("", seconds, nanoseconds),
    };
    let text = format!("{sign}{seconds}.{nanoseconds:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What follows content of this size up to the next member.
pub fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { Ok(()) } else { out.write_all(&[0; BLOCK][over..]) }
}

/// The end of an archive.
pub fn finish(out: &mut impl Write) -> io::Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

fn write_records(out: &mut impl Write, path: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>) -> io::Result<()> {
    let mut data = Vec::new();
    for (key, value) in records {
        // The length counts itself.
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        write!(data, "{length} ")?;
        data.extend_from_slice(key);
        data.push(b'=');
        data.extend_from_slice(value);
        data.push(b'\n');
    }
    let mut name = ascii(&beside(path));
    name.truncate(NAME);
    while name.last() == Some(&b'/') {
        name.pop();
    }
    let mut block = [0; BLOCK];
    text(&mut block[..NAME], &name);
    for field in [100..108, 108..116, 116..124, 136..148] {
        octal(&mut block[field], 0);
    }
    octal(&mut block[124..136], data.len() as i64);
    block[156] = b'x';
    out.write_all(&sealed(block))?;
    out.write_all(&data)?;
    pad(out, data.len() as u64)
}

/// `dir/PaxHeaders.0/file`, the path cleaned as Go's `path.Join` does.
fn beside(path: &[u8]) -> Vec<u8> {
    let cut = path.iter().rposition(|byte| *byte == b'/').map_or(0, |at| at + 1);
    let (folder, file) = path.split_at(cut);
    let mut parts: Vec<&[u8]> = Vec::new();
    let rooted = folder.first() == Some(&b'/');
    for part in folder.split(|byte| *byte == b'/').chain([b"PaxHeaders.0".as_slice(), file]) {
        match part {
            b"" | b"." => {}
            b".." if parts.last().is_some_and(|last| *last != b"..") => drop(parts.pop()),
            b".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join(&b'/');
    if rooted { [b"/".as_slice(), &joined].concat() } else { joined }
}

fn template(member: &Member<'_>, name: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    text(&mut block[..NAME], name);
    text(&mut block[157..257], &ascii(member.target));
    octal(&mut block[100..108], i64::from(member.mode & 0o7777));
    octal(&mut block[108..116], i64::from(member.owner.0));
    octal(&mut block[116..124], i64::from(member.owner.1));
    octal(&mut block[124..136], i64::try_from(member.size).unwrap_or(i64::MAX));
    octal(&mut block[136..148], member.modified);
    block[156] = member.kind.flag();
    octal(&mut block[329..337], i64::from(member.device.0));
    octal(&mut block[337..345], i64::from(member.device.1));
    block
}

fn sealed(mut block: [u8; BLOCK]) -> [u8; BLOCK] {
    block[257..265].copy_from_slice(b"ustar\x0000");
    block[148..156].fill(b' ');
    let sum: i64 = block.iter().map(|byte| i64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
    block
}

/// As much as there is room for, and a NUL if there is room for it.
fn text(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
    if let Some(end) = field.get_mut(length) {
        *end = 0;
    }
    // Some readers take a slash at the end of the field for a folder.
    if value.len() > field.len() && field.last() == Some(&b'/') {
        let kept = field.iter().rposition(|byte| *byte != b'/').map_or(0, |at| at + 1);
        if let Some(end) = field.get_mut(kept) {
            *end = 0;
        }
    }
}

/// Zero where the number does not fit: a PAX record has it then.
fn octal(field: &mut [u8], number: i64) {
    let number = if fits_octal(field.len(), number) { number } else { 0 };
    let digits = format!("{number:0width$o}", width = field.len() - 1);
    text(field, digits.as_bytes());
}

fn fits_octal(width: usize, number: i64) -> bool {
    number >= 0 && number < 1 << ((width - 1) * 3)
}

fn is_ascii(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte < 0x80 && *byte != 0)
}

fn ascii(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().filter(|byte| *byte < 0x80 && *byte != 0).collect()
}

/// A long path in the two fields ustar has for it.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME || !is_ascii(path) {
        return None;
    }
    let mut length = path.len();
    if length > PREFIX + 1 {
        length = PREFIX + 1;
    } else if path.last() == Some(&b'/') {
        length -= 1;
    }
    let at = path[..length].iter().rposition(|byte| *byte == b'/')?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (at > 0 && !name.is_empty() && name.len() <= NAME && at <= PREFIX).then_some((prefix, name))
}
