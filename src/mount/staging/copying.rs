//! Copies that move no bytes: a file shows what another file of the base holds.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::contents::{Beneath, Contents, read_at};
use crate::artifact::tree;

/// What is copied of local bytes at once.
const STRIDE: u64 = 1 << 20;

const MODIFIED_NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

/// What of a file can be shown in a copy of it, and where else its bytes are.
struct Shown {
    /// What shows, and the inode that has it.
    beneath: Option<(Arc<Beneath>, u64)>,
    /// The range in pieces that are shown (`true`) or copied from the data file.
    pieces: Vec<(Range<u64>, bool)>,
    file: Option<Arc<File>>,
}

impl Contents {
    /// Makes `range` of a file with a local part the same as `range` of `from`, as far as `from` reaches; bytes of the
    /// base, which the inode `source` has, are shown, local ones copied. `append` writes down in which ranges they show
    /// then. Says how many bytes were copied; `None` if it cannot be done: this file shows something else already, or
    /// nothing of the base is in the range.
    pub(in crate::mount) fn copy_from(
        &self,
        (from, inode): (&Self, u64),
        source: u64,
        range: Range<u64>,
        append: impl FnOnce(Vec<(u64, u64)>) -> io::Result<()>,
    ) -> io::Result<Option<u64>> {
        let Shown { beneath, pieces, file } = from.shown(inode, range.clone())?;
        let Some((beneath, _)) = beneath.filter(|(_, inode)| *inode == source) else { return Ok(None) };
        let Some(end) = pieces.last().map(|(piece, _)| piece.end) else { return Ok(Some(0)) };
        let mut copied = None;
        self.with_local(|local, own| {
            let shows_other = local.beneath.as_ref().is_some_and(|(_, inode)| *inode != Some(source));
            if shows_other && !local.from_base.is_empty() {
                return Ok(());
            }
            if own.metadata()?.len() < end {
                own.set_len(end)?;
            }
            let mut from_base = local.from_base.clone();
            for (piece, shown) in pieces {
                if shown {
                    from_base.add(piece);
                } else if let Some(file) = &file {
                    copy(file, own, piece.clone())?;
                    from_base.remove(piece);
                }
            }
            // Also what moved no bytes is a change, and one made now.
            rustix::fs::futimens(own, &MODIFIED_NOW)?;
            append(from_base.pairs().collect())?;
            (local.from_base, local.beneath) = (from_base, Some((beneath, Some(source))));
            local.changed += 1;
            local.told = local.changed;
            copied = Some(end - range.start);
            Ok(())
        })?;
        Ok(copied)
    }

    fn shown(&self, inode: u64, range: Range<u64>) -> io::Result<Shown> {
        if let Some(layout) = self.layout(range.clone())? {
            let any = layout.pieces.iter().any(|(_, shown)| *shown);
            let beneath = layout.beneath.filter(|_| any);
            let beneath = beneath.map(|(beneath, copied)| (beneath, copied.unwrap_or(inode)));
            return Ok(Shown { beneath, pieces: layout.pieces, file: Some(layout.file) });
        }
        let size = self.base().map_or(0, |base| base.size);
        let piece = range.start.min(size)..range.end.min(size);
        let pieces = if piece.is_empty() { Vec::new() } else { vec![(piece, true)] };
        Ok(Shown { beneath: self.beneath().map(|beneath| (beneath, inode)), pieces, file: None })
    }

    /// What the journal says of a copy: the bytes of `file`, which `inode` has, show in these ranges.
    pub(in crate::mount) fn show(
        &self,
        file: &Arc<tree::File>,
        inode: u64,
        ranges: &[(u64, u64)],
    ) -> io::Result<()> {
        self.with_local(|local, _| {
            local.beneath = Some((Beneath::new(Arc::clone(file)), Some(inode)));
            Ok(())
        })?;
        self.set_from_base(ranges);
        Ok(())
    }
}

fn copy(from: &File, to: &File, range: Range<u64>) -> io::Result<()> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; (range.end - range.start).min(STRIDE) as usize];
    let mut at = range.start;
    while at < range.end {
        let wanted = ((range.end - at) as usize).min(bytes.len());
        let read = read_at(from, &mut bytes[..wanted], at)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        to.write_all_at(&bytes[..read], at)?;
        at += read as u64;
    }
    Ok(())
}
