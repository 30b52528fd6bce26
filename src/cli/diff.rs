//! `artifs diff`: what changed in a mount since it was published.

use std::io;
use std::path::PathBuf;

use artifs::mount;
use clap::Args;
use serde_json::json;

use super::commit::{list, mounted};
use super::failure::Result;
use super::options::{Debug, Format};

/// Show what changed in a mount since it was published
#[derive(Args)]
#[command(override_usage = "artifs diff [flags] [<folder>]")]
#[command(after_help = "\
Example - Show what a commit would publish:
  artifs diff /mnt")]
pub(crate) struct Diff {
    /// where it is mounted; the mount the current folder is in if nothing is said
    #[arg(value_name = "folder")]
    mountpoint: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

impl Diff {
    pub(crate) async fn run(self) -> Result<()> {
        let shape = self.format.shape()?;
        let changes = mount::diff(&mounted(self.mountpoint.as_deref()).await?).await?;
        if !shape.is_text() {
            return shape.print(&json!({ "changes": changes }));
        }
        Ok(list(&mut io::stdout().lock(), &changes)?)
    }
}
