//! `artifs man`: the manual pages, for packagers.

use std::path::PathBuf;

use clap::Args;

use super::failure::{Failure, Result};

/// Write the manual pages into a folder.
#[derive(Args)]
#[command(hide = true)]
pub(crate) struct Man {
    /// the folder to write the pages into
    #[arg(value_name = "dir")]
    folder: PathBuf,
}

impl Man {
    pub(crate) fn run(&self) -> Result<()> {
        clap_mangen::generate_to(super::command(), &self.folder)
            .map_err(|error| Failure::from(error).doing(&format!("write {}", self.folder.display())))
    }
}
