//! `artifs login`: check a credential with the registry, then keep it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use artifs::error::ErrorKind;
use artifs::location::{self, Location, RegistrySettings};
use artifs::oci::reference::Host;
use artifs::registry::Registry;
use artifs::registry::credentials::{self, Credential};
use clap::Args;

use super::failure::{Failure, Result};
use super::options::{Debug, Remote};

/// Log in to a remote registry
#[derive(Args)]
#[command(override_usage = "artifs login [flags] <registry>")]
#[command(after_help = "\
Example - Log in with username and password from command line flags:
  artifs login -u username -p password localhost:5000

Example - Log in with username and password from stdin:
  artifs login -u username --password-stdin localhost:5000

Example - Log in with identity token from stdin:
  artifs login --identity-token-stdin localhost:5000

Example - Log in with username and password in an interactive terminal:
  artifs login localhost:5000")]
pub(crate) struct Login {
    /// the registry to log in to
    #[arg(value_name = "registry")]
    registry: String,
    #[command(flatten)]
    pub(crate) debug: Debug,
    #[command(flatten)]
    remote: Remote,
}

impl Login {
    pub(crate) async fn run(self) -> Result<()> {
        let host = registry(&self.registry)?;
        let mut settings = self.remote.settings()?;
        let credential = credential(&mut settings)?;
        let checked = Registry::new(&host, &settings)?.ping().await;
        checked.map_err(|error| {
            let refused = matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied);
            let failure = if refused { Failure::answered(error.to_string()) } else { Failure::from(error) };
            failure.doing(&format!("failed to validate the credentials for {host}"))
        })?;
        // A file that is written is named to nobody by default: login is run in scripts, too.
        let kept = credentials::store(&host, &credential, &settings).await?;
        tracing::debug!(kept, "kept the credential");
        Ok(writeln!(io::stdout(), "Login Succeeded")?)
    }
}

/// The registry's host; a slash at its end does no harm.
pub(super) fn registry(text: &str) -> Result<Host> {
    match location::parse(text, false)? {
        Location::Registry { host, namespace: None } => Ok(host),
        _ => Err(Failure::new(format!("{text:?}: invalid reference: invalid registry {text:?}"))),
    }
}

/// What the flags say, and what is missing asked for.
fn credential(settings: &mut RegistrySettings) -> Result<Credential> {
    if settings.identity_token.is_none() && settings.password.is_none() {
        if settings.username.is_none() {
            settings.username = Some(ask("Username: ")?);
        }
        if settings.username.as_deref() == Some("") {
            settings.username = None;
            settings.identity_token = Some(required(ask_secret("Token: ")?, "token required")?);
        } else {
            settings.password = Some(required(ask_secret("Password: ")?, "password required")?);
        }
    }
    let username = settings.username.clone().filter(|name| !name.is_empty());
    match (username, settings.password.clone(), settings.identity_token.clone()) {
        (Some(username), Some(password), None) => Ok(Credential::Password { username, password }),
        // A password without a name is an identity token.
        (_, _, Some(token)) | (None, Some(token), None) => {
            Ok(Credential::IdentityToken(required(token, "token required")?))
        }
        (_, None, None) => Err(Failure::new("password required")),
    }
}

fn required(text: String, or: &str) -> Result<String> {
    if text.is_empty() { Err(Failure::new(or)) } else { Ok(text) }
}

fn ask(prompt: &str) -> Result<String> {
    let mut out = io::stdout().lock();
    write!(out, "{prompt}")?;
    out.flush()?;
    line()
}

/// Without an echo, where there is a terminal to ask at.
fn ask_secret(prompt: &str) -> Result<String> {
    if io::stdin().is_terminal() { Ok(rpassword::prompt_password(prompt)?) } else { ask(prompt) }
}

fn line() -> Result<String> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
