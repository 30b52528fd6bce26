//! How registries are reached: credentials, TLS, headers, addresses. ORAS's flags.

use std::io::Read as _;
use std::path::PathBuf;

use artifs::location::{RegistrySettings, Resolve};
use clap::Args;

use crate::cli::failure::{Failure, Result};

/// The flags of verbs that may speak to a registry.
#[derive(Args, Clone, Default)]
#[command(next_help_heading = "Registry")]
pub(crate) struct Remote {
    /// registry username
    #[arg(short, long, value_name = "name")]
    pub(crate) username: Option<String>,
    /// registry password or identity token
    #[arg(short, long, value_name = "secret", conflicts_with = "identity_token")]
    password: Option<String>,
    /// read password from stdin
    #[arg(long, conflicts_with_all = ["password", "identity_token", "identity_token_stdin"])]
    password_stdin: bool,
    /// registry identity token
    #[arg(long, value_name = "secret", conflicts_with = "username")]
    identity_token: Option<String>,
    /// read identity token from stdin
    #[arg(long, conflicts_with_all = ["password", "identity_token", "username"])]
    identity_token_stdin: bool,
    /// path of the authentication file, may be repeated
    #[arg(long, value_name = "path")]
    pub(crate) registry_config: Vec<PathBuf>,
    /// allow connections to registry without SSL check
    #[arg(long)]
    insecure: bool,
    /// connect over plain HTTP [default: for localhost only]
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool", hide_possible_values = true)]
    plain_http: Option<bool>,
    /// server certificate authority file for the remote registry
    #[arg(long, value_name = "path")]
    ca_file: Option<PathBuf>,
    /// client certificate file for the remote registry
    #[arg(long, value_name = "path")]
    cert_file: Option<PathBuf>,
    /// client private key file for the remote registry
    #[arg(long, value_name = "path")]
    key_file: Option<PathBuf>,
    /// customized DNS for remote registry, may be repeated
    #[arg(long, value_name = "host:port:address[:address_port]")]
    resolve: Vec<String>,
    /// add custom headers to requests, may be repeated
    #[arg(short = 'H', long, value_name = "name: value")]
    pub(crate) header: Vec<String>,
}

impl Remote {
    /// The settings these flags come to. Reads a secret from stdin if that was asked for.
    pub(crate) fn settings(&self) -> Result<RegistrySettings> {
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(Failure::new("--cert-file must be used in conjunction with --key-file"));
        }
        Ok(RegistrySettings {
            username: self.username.clone(),
            password: Self::secret(self.password.as_ref(), self.password_stdin, "--password")?,
            identity_token: Self::secret(
                self.identity_token.as_ref(),
                self.identity_token_stdin,
                "--identity-token",
            )?,
            registry_configs: self.registry_config.clone(),
            plain_http: self.plain_http,
            insecure: self.insecure,
            ca_file: self.ca_file.clone(),
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            headers: self.headers()?,
            resolve: self.addresses()?,
            ..RegistrySettings::default()
        })
    }

    fn secret(given: Option<&String>, stdin: bool, flag: &str) -> Result<Option<String>> {
        if given.is_some() {
            eprintln!("WARNING! Using {flag} via the CLI is insecure. Use {flag}-stdin.");
        }
        if !stdin {
            return Ok(given.cloned());
        }
        let mut secret = String::new();
        // No secret is longer; what is piped in by mistake may be.
        std::io::stdin().lock().take(1 << 20).read_to_string(&mut secret)?;
        let line = secret.strip_suffix('\n').unwrap_or(&secret);
        Ok(Some(line.strip_suffix('\r').unwrap_or(line).to_owned()))
    }

    /// The value is everything behind the colon, a leading space included, as in ORAS.
    fn headers(&self) -> Result<Vec<(String, String)>> {
        let pair = |header: &String| {
            let (name, value) = header.split_once(':')?;
            (!name.trim().is_empty()).then(|| (name.to_owned(), value.to_owned()))
        };
        let invalid = |header: &String| Failure::new(format!("invalid header: {header:?}"));
        self.header.iter().map(|header| pair(header).ok_or_else(|| invalid(header))).collect()
    }

    fn addresses(&self) -> Result<Vec<Resolve>> {
        self.resolve.iter().map(|flag| flag.parse().map_err(Failure::from)).collect()
    }
}
