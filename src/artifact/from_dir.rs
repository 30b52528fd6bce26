//! Files and folders on disk as layers, packed as ORAS packs them.
//!
//! A file is a layer as it is, its mode and time not told. A folder is a gzipped tar, written to a temporary file
//! first and never held in memory: names begin with the title, folders have no slash at their end, owners are zero,
//! times whole seconds, hard links files of their own.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, BufWriter, Read as _, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};

use super::go_tar::{self, Kind, Member};
use super::pack::{LayerPart, TITLE};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Hasher, media_type};
use crate::store::Body;

/// The digest of a folder's tar before it was compressed.
pub const CONTENT_DIGEST: &str = "io.deis.oras.content.digest";
/// Whether a layer is a folder, to be unpacked.
pub const CONTENT_UNPACK: &str = "io.deis.oras.content.unpack";

/// What files are read by.
const STRIDE: usize = 1 << 20;

/// A file or folder as it is named on the command line: `<file>[:<type>]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileArgument {
    /// Where it is.
    pub path: PathBuf,
    /// The media type, if one was given.
    pub media_type: Option<String>,
}

impl FileArgument {
    /// Parted at the last colon, as in ORAS: `a:b:` is the file `a:b`.
    pub fn parse(text: &str) -> Result<Self> {
        let (path, kind) = text.rsplit_once(':').unwrap_or((text, ""));
        if path.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, format!("found empty file path in {text:?}")));
        }
        Ok(Self { path: path.into(), media_type: Some(kind.to_owned()).filter(|kind| !kind.is_empty()) })
    }

    /// The layer's title: the path, cleaned. One that leads outside is kept as it is.
    pub fn title(&self) -> String {
        clean(&self.path.to_string_lossy())
    }
}

/// A path as Go's `filepath.Clean` leaves it.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".into(),
        (false, false) => parts.join("/"),
    }
}

/// The layer a file or folder makes. A folder's archive goes to a new file in `scratch`.
pub async fn layer(file: &FileArgument, title: &str, scratch: &Path) -> Result<LayerPart> {
    let (file, title, scratch) = (file.clone(), title.to_owned(), scratch.to_owned());
    tokio::task::spawn_blocking(move || make(&file, &title, &scratch))
        .await
        .map_err(|error| Error::with_source(ErrorKind::Io, "packing ended early", error))?
}

fn make(file: &FileArgument, title: &str, scratch: &Path) -> Result<LayerPart> {
    let absolute = std::path::absolute(&file.path).unwrap_or_else(|_| file.path.clone());
    let metadata = fs::metadata(&file.path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NotFound, format!("stat {}: no such file or directory", absolute.display()))
        }
        _ => Error::io(format!("stat {}", absolute.display()), error),
    })?;
    let kind = |default: &str| file.media_type.clone().unwrap_or_else(|| default.to_owned());
    if metadata.is_dir() {
        let (path, archive) = tempfile::Builder::new()
            .prefix("artifs-")
            .tempfile_in(scratch)
            .and_then(|file| file.keep().map_err(|error| error.error).map(|(file, path)| (path, file)))
            .doing(|| format!("make a temporary file in {}", scratch.display()))?;
        let packed = pack(&file.path, title, archive)?;
        let mut descriptor = Descriptor::new(kind(media_type::IMAGE_LAYER_GZIP), packed.digest, packed.size);
        descriptor.annotations.insert(CONTENT_DIGEST.into(), packed.content.to_string());
        descriptor.annotations.insert(CONTENT_UNPACK.into(), "true".into());
        descriptor.annotations.insert(TITLE.into(), title.to_owned());
        return Ok(LayerPart::New { descriptor, body: Body::File(path) });
    }
    if !metadata.is_file() {
        let why = format!("{} is neither a file nor a folder", file.path.display());
        return Err(Error::new(ErrorKind::Unsupported, why));
    }
    let (digest, size) = hash(&file.path)?;
    let mut descriptor = Descriptor::new(kind(media_type::IMAGE_LAYER), digest, size);
    descriptor.annotations.insert(TITLE.into(), title.to_owned());
    Ok(LayerPart::New { descriptor, body: Body::File(file.path.clone()) })
}

/// A file's digest and size.
pub fn hash(path: &Path) -> Result<(Digest, u64)> {
    let doing = || format!("read {}", path.display());
    let mut file = File::open(path).doing(doing)?;
    let mut hasher = Hasher::for_algorithm("sha256")?;
    let mut buffer = vec![0; STRIDE];
    let mut size = 0;
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((hasher.finish(), size)),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(doing(), error)),
        }
    }
}

/// A folder's archive, written.
#[derive(Clone, Debug)]
pub struct FolderLayer {
    /// The digest of the archive as it is stored: compressed.
    pub digest: Digest,
    /// How long that is.
    pub size: u64,
    /// The digest of the tar in it.
    pub content: Digest,
}

/// Writes a folder's layer member by member: Go's tar, gzipped, both hashed on the way.
pub struct FolderWriter<W: Write> {
    packed: GzEncoder<Hashed<W>>,
    content: Hasher,
    /// Bytes of content the last member has and still lacks.
    size: u64,
    due: u64,
}

impl<W: Write> FolderWriter<W> {
    /// A layer written to `out`.
    pub fn new(out: W) -> Result<Self> {
        let hashed = Hashed { out, hasher: Hasher::for_algorithm("sha256")?, size: 0 };
        // As Go's gzip begins: no time, no name, an unknown system.
        let packed = GzBuilder::new().mtime(0).operating_system(255).write(hashed, Compression::new(6));
        Ok(Self { packed, content: Hasher::for_algorithm("sha256")?, size: 0, due: 0 })
    }

    /// Begins a member. What the one before promised must have been written.
    pub fn member(&mut self, member: &Member<'_>) -> io::Result<()> {
        self.end_member()?;
        let mut header = Vec::with_capacity(1536);
        go_tar::write_header(&mut header, member)?;
        self.put(&header)?;
        (self.size, self.due) = (member.size, member.size);
        Ok(())
    }

    /// Content of the last member.
    pub fn content(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.due = self
            .due
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| io::Error::other("it has grown while it was being packed"))?;
        self.put(bytes)
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<(FolderLayer, W)> {
        self.end_member()?;
        let mut end = Vec::new();
        go_tar::finish(&mut end)?;
        self.put(&end)?;
        let Hashed { out, hasher, size } = self.packed.finish()?;
        Ok((FolderLayer { digest: hasher.finish(), size, content: self.content.finish() }, out))
    }

    fn end_member(&mut self) -> io::Result<()> {
        if self.due > 0 {
            return Err(io::Error::other("it has shrunk while it was being packed"));
        }
        let mut padding = Vec::new();
        go_tar::pad(&mut padding, std::mem::take(&mut self.size))?;
        self.put(&padding)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.content.update(bytes);
        self.packed.write_all(bytes)
    }
}

/// Counts and hashes what goes through.
struct Hashed<W> {
    out: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.size += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn pack(folder: &Path, title: &str, archive: File) -> Result<FolderLayer> {
    let mut writer = FolderWriter::new(BufWriter::with_capacity(STRIDE, archive))?;
    let mut buffer = vec![0; STRIDE];
    // A link to a folder is packed as the folder: a layer that is nothing but a link helps nobody.
    let metadata = fs::metadata(folder).doing(|| format!("stat {}", folder.display()))?;
    walk(&mut writer, folder, title.as_bytes(), &metadata, &mut buffer)?;
    let (layer, out) = writer.finish().doing(|| format!("pack {}", folder.display()))?;
    out.into_inner().map_err(|error| Error::io(format!("pack {}", folder.display()), error.into_error()))?;
    Ok(layer)
}

fn walk(
    writer: &mut FolderWriter<impl Write>,
    path: &Path,
    name: &[u8],
    metadata: &Metadata,
    buffer: &mut [u8],
) -> Result<()> {
    let doing = || format!("pack {}", path.display());
    let kind = kind_of(metadata).ok_or_else(|| {
        Error::new(ErrorKind::Unsupported, format!("{}: archive/tar: sockets not supported", path.display()))
    })?;
    let target = if kind == Kind::Link { fs::read_link(path).doing(doing)? } else { PathBuf::new() };
    let device = match kind {
        Kind::Character | Kind::Block => {
            (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()))
        }
        _ => (0, 0),
    };
    let member = Member {
        path: name,
        kind,
        mode: metadata.mode() & 0o7777,
        size: if kind == Kind::File { metadata.len() } else { 0 },
        // To the nearest second, as Go rounds.
        modified: metadata.mtime() + i64::from(metadata.mtime_nsec() >= 500_000_000),
        nanoseconds: 0,
        owner: (0, 0),
        xattrs: None,
        twin: None,
        target: target.as_os_str().as_bytes(),
        device,
    };
    writer.member(&member).doing(doing)?;
    match kind {
        Kind::File => copy(writer, path, buffer).doing(doing),
        Kind::Folder => {
            let mut names = fs::read_dir(path)
                .and_then(|entries| {
                    entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<Vec<_>>>()
                })
                .doing(doing)?;
            names.sort();
            for child in names {
                let below = path.join(&child);
                let metadata = fs::symlink_metadata(&below).doing(|| format!("stat {}", below.display()))?;
                let name = match name {
                    b"." => child.as_bytes().to_vec(),
                    b"/" => [b"/", child.as_bytes()].concat(),
                    name => [name, b"/", child.as_bytes()].concat(),
                };
                walk(writer, &below, &name, &metadata, buffer)?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn copy(writer: &mut FolderWriter<impl Write>, path: &Path, buffer: &mut [u8]) -> io::Result<()> {
    // What was a file a moment ago must not lead elsewhere or hang now.
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => writer.content(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn kind_of(metadata: &Metadata) -> Option<Kind> {
    let kind = metadata.file_type();
    if kind.is_socket() {
        return None;
    }
    Some(if kind.is_dir() {
        Kind::Folder
    } else if kind.is_symlink() {
        Kind::Link
    } else if kind.is_fifo() {
        Kind::Fifo
    } else if kind.is_block_device() {
        Kind::Block
    } else if kind.is_char_device() {
        Kind::Character
    } else {
        Kind::File
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_parted_at_their_last_colon() {
        let parse = |text: &str| {
            let file = FileArgument::parse(text).unwrap();
            (file.path.to_str().unwrap().to_owned(), file.media_type)
        };
        assert_eq!(parse("hi.txt"), ("hi.txt".into(), None));
        assert_eq!(parse("hi.txt:a/b"), ("hi.txt".into(), Some("a/b".into())));
        assert_eq!(parse("hi:txt:"), ("hi:txt".into(), None));
        for text in ["", ":a/b"] {
            let error = FileArgument::parse(text).unwrap_err().to_string();
            assert_eq!(error, format!("found empty file path in {text:?}"));
        }
    }

    #[test]
    fn titles_are_clean_paths() {
        for (path, title) in [
            ("./hi.txt", "hi.txt"),
            ("./cc/", "cc"),
            ("cc/../hi.txt", "hi.txt"),
            ("../hi.txt", "../hi.txt"),
            ("a/../../b", "../b"),
            ("/a/../../b", "/b"),
            (".", "."),
            ("a//b", "a/b"),
        ] {
            assert_eq!(clean(path), title, "{path}");
        }
    }
}
