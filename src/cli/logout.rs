//! `artifs logout`: forget a credential.

use std::path::PathBuf;

use artifs::location::RegistrySettings;
use artifs::registry::credentials;
use clap::Args;

use super::failure::Result;
use super::login::registry;
use super::options::Debug;

/// Log out from a remote registry
#[derive(Args)]
#[command(override_usage = "artifs logout [flags] <registry>")]
#[command(after_help = "\
Example - Log out:
  artifs logout localhost:5000")]
pub(crate) struct Logout {
    /// the registry you want to log out
    #[arg(value_name = "registry")]
    registry: String,
    #[command(flatten)]
    pub(crate) debug: Debug,
    /// path of the authentication file
    #[arg(long, value_name = "path")]
    registry_config: Vec<PathBuf>,
}

impl Logout {
    pub(crate) async fn run(self) -> Result<()> {
        let host = registry(&self.registry)?;
        let settings = RegistrySettings { registry_configs: self.registry_config, ..Default::default() };
        Ok(credentials::erase(&host, &settings).await?)
    }
}
