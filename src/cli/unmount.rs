//! `artifs unmount`: take mounts away.

use std::path::PathBuf;

use clap::Args;

use super::failure::Result;
use super::options::Debug;

/// Unmount what was mounted by artifs
#[derive(Args)]
#[command(visible_alias = "umount", override_usage = "artifs unmount [flags] <folder>...")]
#[command(after_help = "\
Example - Unmount, and wait until it is gone:
  artifs unmount /mnt

Example - Unmount though somebody is still in it; it goes when the last one leaves:
  artifs unmount --lazy /mnt")]
pub(crate) struct Unmount {
    /// where it is mounted
    #[arg(value_name = "folder", required = true)]
    mountpoints: Vec<PathBuf>,
    /// detach it now, and end it when nobody uses it any more
    #[arg(short, long)]
    lazy: bool,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

impl Unmount {
    pub(crate) async fn run(self) -> Result<()> {
        for mountpoint in &self.mountpoints {
            artifs::mount::unmount(mountpoint, self.lazy).await?;
        }
        Ok(())
    }
}
