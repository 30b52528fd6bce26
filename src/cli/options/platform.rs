//! `--platform`: what to choose from an index.

use artifs::oci::Platform;
use clap::Args;

/// The flag of verbs that look into indexes.
#[derive(Args, Clone)]
pub(crate) struct PlatformOption {
    /// request platform in the form of `os[/arch][/variant][:os_version]`
    #[arg(long, value_name = "os[/arch][/variant][:os_version]", value_parser = parse)]
    pub(crate) platform: Option<Platform>,
}

fn parse(text: &str) -> Result<Platform, artifs::Error> {
    text.parse()
}
