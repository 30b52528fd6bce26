//! `artifs unmount`: take mounts away.

use std::path::PathBuf;

use artifs::mount::unmount_watched;
use clap::Args;

use super::failure::Result;
use super::options::{Debug, Terminal};
use super::{commit, progress};

/// Unmount what was mounted by artifs
#[derive(Args)]
#[command(visible_alias = "umount", override_usage = "artifs unmount [flags] <folder>...")]
#[command(after_help = "\
Example - Unmount, and wait until it is gone; what was changed is published first:
  artifs unmount /mnt

Example - Throw away what was changed:
  artifs unmount --discard /mnt

Example - Unmount though somebody is still in it; it goes when the last one leaves:
  artifs unmount --lazy /mnt")]
pub(crate) struct Unmount {
    /// where it is mounted
    #[arg(value_name = "folder", required = true)]
    mountpoints: Vec<PathBuf>,
    /// detach it now, and end it when nobody uses it any more
    #[arg(short, long)]
    lazy: bool,
    /// throw away what was changed and not published
    #[arg(long, conflicts_with = "lazy")]
    discard: bool,
    #[command(flatten)]
    terminal: Terminal,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

impl Unmount {
    pub(crate) async fn run(self) -> Result<()> {
        for mountpoint in &self.mountpoints {
            let watcher = progress::pushing(self.debug.said(true), self.terminal.draws(&self.debug), false);
            let became = unmount_watched(mountpoint, self.lazy, self.discard, watcher.as_ref()).await?;
            drop(watcher);
            if let Some(became) = became {
                commit::ended(&became, mountpoint)?;
            }
        }
        Ok(())
    }
}
