//! `artifs status`: what is mounted, cached, fetched and failing.

use std::io::{self, Write as _};
use std::path::PathBuf;

use artifs::mount::{Status as Mounted, diff, mounts};
use clap::Args;
use serde_json::json;

use super::failure::{Failure, Result};
use super::options::{Debug, Format};
use super::{commit, display, recover};

/// Show what is mounted, what was fetched for it, and what is failing
#[derive(Args)]
#[command(override_usage = "artifs status [flags] [<folder>]")]
#[command(after_help = "\
Example - Show all mounts:
  artifs status

Example - Show one, for a program to read:
  artifs status --format json /mnt")]
pub(crate) struct Status {
    /// where it is mounted
    #[arg(value_name = "folder")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

impl Status {
    pub(crate) async fn run(self) -> Result<()> {
        let shape = self.format.shape()?;
        let mut found = mounts().await;
        if let Some(wanted) = &self.mountpoint {
            let path = wanted.canonicalize().unwrap_or_else(|_| wanted.clone());
            found.retain(|mounted| mounted.mountpoint == path);
            if found.is_empty() {
                let message = format!("nothing is mounted by artifs at {}", wanted.display());
                return Err(Failure::new(message));
            }
        }
        if !shape.is_text() {
            return shape.print(&json!({ "mounts": found }));
        }
        for mounted in &found {
            show(mounted)?;
            if mounted.staged.is_some_and(|staged| staged.changes > 0) {
                let changes = diff(&mounted.mountpoint).await?;
                let mut out = io::stdout().lock();
                writeln!(out, "  changes to be published (by: artifs commit, or artifs unmount)")?;
                commit::list(&mut out, &changes)?;
            }
        }
        if self.mountpoint.is_none() {
            for work in recover::orphans()? {
                recover::show(&mut io::stdout().lock(), &work)?;
            }
        }
        Ok(())
    }
}

fn show(mounted: &Mounted) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} at {} (pid {})", mounted.reference, mounted.mountpoint.display(), mounted.pid)?;
    if let Some(digest) = &mounted.digest {
        writeln!(out, "  digest   {digest}")?;
    }
    writeln!(
        out,
        "  reading  {} open, {} of {} opens read by the kernel itself, {} asked for in {} reads",
        mounted.open_files,
        mounted.passed_through,
        mounted.opens,
        display::size(mounted.read_bytes),
        mounted.reads
    )?;
    if let Some(cache) = &mounted.cache {
        let (fetched, served) = (display::size(cache.fetched), display::size(cache.served));
        writeln!(out, "  network  {fetched} fetched in {} requests, {served} served", cache.requests)?;
    }
    if let Some(staged) = &mounted.staged {
        let (changes, bytes) = (staged.changes, display::size(staged.bytes));
        writeln!(out, "  staged   {changes} changes, {bytes}")?;
    }
    let failures = mounted.failures + mounted.cache.as_ref().map_or(0, |cache| cache.failures);
    let last = mounted
        .last_failure
        .as_ref()
        .or_else(|| mounted.cache.as_ref().and_then(|cache| cache.last_failure.as_ref()));
    if let Some(last) = last {
        writeln!(out, "  failing  {failures} times, at last: {last}")?;
    }
    if let Some(log) = &mounted.log {
        writeln!(out, "  log      {}", log.display())?;
    }
    Ok(())
}
