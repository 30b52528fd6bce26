//! `artifs commit`: what changed in a mount becomes a new manifest.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use artifs::ErrorKind;
use artifs::mount::{self, Change, CommitOptions, Committed, Difference, Ended, mounts};
use clap::Args;

use super::display::printable;
use super::failure::{Failure, Result};
use super::options::{Debug, Terminal};
use super::progress;

/// Publish what changed in a mount as a new manifest
#[derive(Args)]
#[command(override_usage = "artifs commit [flags] [<folder>]")]
#[command(after_help = "\
Example - Publish what changed in the mount this folder is in, under the tag that was mounted:
  artifs commit -m 'new weights'

Example - Show what would be published:
  artifs commit --dry-run /mnt

Example - Publish under another tag, and leave the mounted one where it is:
  artifs commit --tag v2 /mnt

Example - Publish one artifact of the repository that is mounted at /mnt:
  artifs commit /mnt/v2")]
pub(crate) struct Commit {
    /// where it is mounted; the mount the current folder is in if nothing is said; in a repository, one artifact's folder
    #[arg(value_name = "folder")]
    mountpoint: Option<PathBuf>,
    /// why, kept in the manifest's annotation land.artifs.message
    #[arg(short, long)]
    message: Option<String>,
    /// publish under this tag instead of the mounted one, may be repeated
    #[arg(long = "tag", value_name = "tag")]
    tags: Vec<String>,
    /// manifest annotations, may be repeated
    #[arg(short, long, value_name = "key=value")]
    annotation: Vec<String>,
    /// artifact type
    #[arg(long, value_name = "type")]
    artifact_type: Option<String>,
    /// make each new folder one layer, a gzipped tar as `oras push` makes it, instead of a layer for each of its files
    #[arg(long)]
    pack: bool,
    /// publish owners and times as well
    #[arg(long)]
    preserve: bool,
    /// move the tag though somebody else moved it meanwhile: what they published is under its digest only then
    #[arg(long)]
    force: bool,
    /// publish nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

impl Commit {
    pub(crate) async fn run(self) -> Result<()> {
        let folder = mounted(self.mountpoint.as_deref()).await?;
        let mut annotations = BTreeMap::new();
        for pair in &self.annotation {
            let (key, value) = pair.split_once('=').ok_or_else(|| {
                Failure::new(format!("{pair:?}: an annotation is given as --annotation \"key=value\""))
            })?;
            annotations.insert(key.to_owned(), value.to_owned());
        }
        let options = CommitOptions {
            message: self.message,
            tags: self.tags,
            within: within(self.mountpoint.as_deref(), &folder)?,
            annotations,
            artifact_type: self.artifact_type,
            force: self.force,
            dry_run: self.dry_run,
            pack: self.pack,
            preserve: self.preserve,
            ..CommitOptions::from_environment()
        };
        let watcher = progress::pushing(self.debug.said(true), self.terminal.draws(&self.debug), false);
        let done = mount::commit(&folder, &options, watcher.as_ref()).await.map_err(|error| {
            not_published(&error.to_string(), error.kind() == ErrorKind::Conflict, &folder)
        })?;
        drop(watcher);
        report(&done, self.dry_run)
    }
}

/// The mount that is meant: at `given`, or the one the current folder is in, or the only one.
pub(super) async fn mounted(given: Option<&Path>) -> Result<PathBuf> {
    let all = mounts().await;
    let here = match given {
        // What is dead cannot be looked into, and still has a path.
        Some(given) => given.canonicalize().or_else(|_| std::path::absolute(given))?,
        None => std::env::current_dir()?,
    };
    let around = all.iter().filter(|mounted| here.starts_with(&mounted.mountpoint));
    if let Some(found) = around.max_by_key(|mounted| mounted.mountpoint.as_os_str().len()) {
        return Ok(found.mountpoint.clone());
    }
    if let Some(given) = given {
        return Ok(given.to_owned());
    }
    let mut writable = all.into_iter().filter(|mounted| mounted.staged.is_some());
    match (writable.next(), writable.next()) {
        (Some(only), None) => Ok(only.mountpoint),
        (None, _) => Err(Failure::new("nothing is mounted for writing; see: artifs mount --rw --help")),
        _ => {
            Err(Failure::new("several are mounted for writing; say which by its folder (see: artifs status)"))
        }
    }
}

/// Where in the mount at `mountpoint` a person pointed at, if not at all of it.
fn within(given: Option<&Path>, mountpoint: &Path) -> Result<Option<String>> {
    let Some(given) = given else { return Ok(None) };
    let path = given.canonicalize().or_else(|_| std::path::absolute(given))?;
    let inside = path.strip_prefix(mountpoint).ok().filter(|inside| !inside.as_os_str().is_empty());
    Ok(inside.map(|inside| inside.to_string_lossy().into_owned()))
}

/// A failure to publish: what is to be done next.
pub(super) fn not_published(why: &str, conflict: bool, folder: &Path) -> Failure {
    let folder = folder.display();
    let failure = Failure::new(why).help("Nothing is lost: what you changed stays staged.");
    if conflict {
        return failure
            .help(format!("To publish it beside the other: artifs commit --tag OTHER {folder}"))
            .help(format!("To publish it in place of the other: artifs commit --force {folder}"));
    }
    failure.help(format!("To try again: artifs commit {folder}"))
}

/// Says what was published.
pub(super) fn report(all: &[Committed], dry_run: bool) -> Result<()> {
    if all.is_empty() {
        writeln!(io::stdout(), "Nothing to publish")?;
    }
    all.iter().try_for_each(|done| report_one(done, dry_run))
}

fn report_one(done: &Committed, dry_run: bool) -> Result<()> {
    let mut out = io::stdout().lock();
    for left_out in &done.left_out {
        writeln!(io::stderr(), "Warning: not published: {}", printable(left_out))?;
    }
    if !done.changed {
        writeln!(out, "Nothing to publish: {} is as {}", done.reference, done.digest)?;
        return Ok(());
    }
    if done.deleted {
        let word = if dry_run { "Would delete" } else { "Deleted" };
        return Ok(writeln!(out, "{word} {} (it was {})", done.reference, done.digest)?);
    }
    list(&mut out, &done.changes)?;
    let word = if dry_run { "Would publish" } else { "Published" };
    writeln!(out, "{word} {} ({})", done.reference, done.tags.join(", "))?;
    writeln!(out, "Digest: {}", done.digest)?;
    match &done.parent {
        Some(parent) if *parent != done.digest => Ok(writeln!(out, "Parent: {parent}")?),
        _ => Ok(()),
    }
}

/// Changes as git lists them.
pub(super) fn list(out: &mut impl io::Write, changes: &[Change]) -> io::Result<()> {
    // An artifact of a repository that is new as a whole has no path in itself.
    for change in changes.iter().filter(|change| !change.path.is_empty()) {
        let path = printable(&change.path);
        match &change.difference {
            Difference::Added => writeln!(out, "  new file:   {path}")?,
            Difference::Modified => writeln!(out, "  modified:   {path}")?,
            Difference::Deleted => writeln!(out, "  deleted:    {path}")?,
            Difference::Renamed { from, modified } => {
                let also = if *modified { " (modified)" } else { "" };
                writeln!(out, "  renamed:    {} -> {path}{also}", printable(from))?;
            }
            Difference::Attributes => writeln!(out, "  attributes: {path}")?,
        }
    }
    Ok(())
}

/// Says what became of a mount's changes; a failure if they were not published.
pub(super) fn ended(ended: &Ended, folder: &Path) -> Result<()> {
    match ended {
        Ended::Clean => Ok(()),
        Ended::Published(done) => report(done, false),
        Ended::Discarded => Ok(writeln!(io::stdout(), "Thrown away, as asked for")?),
        Ended::Staged { reference, why, conflict } => {
            let folder = folder.display();
            let failure = Failure::new(format!("unmounted, but not published: {why}"))
                .help("Nothing is lost: what you changed stays staged.")
                .help(format!("To go on with it: artifs mount --rw {reference} {folder}"));
            Err(if *conflict {
                failure.help(format!(
                    "and then: artifs commit --tag OTHER {folder}, or artifs commit --force {folder}"
                ))
            } else {
                failure.help(format!("To throw it away: artifs discard {reference}"))
            })
        }
    }
}
