//! `--platform`: what to choose from an index.

use artifs::oci::Platform;
use clap::Args;

use crate::cli::failure::Result;

/// The flag of verbs that look into indexes.
#[derive(Args, Clone)]
pub(crate) struct PlatformOption {
    /// request platform in the form of `os[/arch][/variant][:os_version]`
    #[arg(long, value_name = "platform")]
    platform: Option<String>,
}

impl PlatformOption {
    /// The platform that was asked for.
    pub(crate) fn wanted(&self) -> Result<Option<Platform>> {
        Ok(self.platform.as_deref().map(str::parse).transpose()?)
    }
}
