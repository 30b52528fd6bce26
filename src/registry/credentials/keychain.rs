//! Programs that keep credentials: `docker-credential-<name>`.

use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::Credential;
use crate::error::{Error, ErrorKind, Result};

/// Long enough for one that asks a cloud, or a person.
const TIMEOUT: Duration = Duration::from_secs(60);

/// How such programs say that there is nothing: by these words on standard output.
const NOTHING: [&str; 3] =
    ["credentials not found in native keychain", "no credentials server URL", "no credentials username"];

/// The name that marks a secret as a refresh token.
const TOKEN: &str = "<token>";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(default, rename = "ServerURL")]
    server_url: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// One credential program.
pub(super) struct Keychain<'a>(pub(super) &'a str);

impl Keychain<'_> {
    /// The program's name.
    pub(super) fn program(&self) -> String {
        format!("docker-credential-{}", self.0)
    }

    /// What it has for `server`.
    pub(super) async fn get(&self, server: &str) -> Result<Option<Credential>> {
        let Some(output) = self.run("get", server.as_bytes()).await? else { return Ok(None) };
        let entry: Entry = serde_json::from_slice(&output).map_err(|_| {
            Error::new(ErrorKind::Invalid, format!("{} did not answer with a credential", self.program()))
        })?;
        Ok(match entry {
            Entry { username, secret, .. } if username == TOKEN => Some(Credential::IdentityToken(secret)),
            Entry { username, secret, .. } if username.is_empty() && secret.is_empty() => None,
            Entry { username, secret, .. } => Some(Credential::Password { username, password: secret }),
        })
    }

    /// Gives it a credential to keep.
    pub(super) async fn store(&self, server: &str, credential: &Credential) -> Result<()> {
        let (username, secret) = match credential {
            Credential::Password { username, password } => (username.as_str(), password),
            Credential::IdentityToken(token) => (TOKEN, token),
            Credential::AccessToken(_) => {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{} cannot keep an access token", self.program()),
                ));
            }
        };
        let entry = Entry { server_url: server.into(), username: username.into(), secret: secret.clone() };
        let entry = serde_json::to_vec(&entry)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, "write the credential", error))?;
        self.run("store", &entry).await?;
        Ok(())
    }

    /// Has it forget a credential.
    pub(super) async fn erase(&self, server: &str) -> Result<()> {
        self.run("erase", server.as_bytes()).await?;
        Ok(())
    }

    /// What the program writes; `None` when it says that there is nothing.
    async fn run(&self, what: &str, input: &[u8]) -> Result<Option<Vec<u8>>> {
        let program = self.program();
        let good = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        if self.0.is_empty() || !self.0.bytes().all(good) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{:?} cannot be the name of a credential program", self.0),
            ));
        }
        let failed = |error: std::io::Error| {
            let hint = if error.kind() == std::io::ErrorKind::NotFound {
                "; install it, or take it out of the credential file"
            } else {
                ""
            };
            Error::new(ErrorKind::Io, format!("cannot run {program}: {error}{hint}"))
        };
        let mut child = Command::new(&program)
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdin = child.stdin.take();
        let work = async {
            if let Some(mut stdin) = stdin {
                // A program that does not read what it is told may still answer.
                let _ = stdin.write_all(input).await;
            }
            child.wait_with_output().await
        };
        let output = tokio::time::timeout(TIMEOUT, work)
            .await
            .map_err(|_| {
                let why = format!("{program} has not answered for {} s", TIMEOUT.as_secs());
                Error::new(ErrorKind::Io, why)
            })?
            .map_err(failed)?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if NOTHING.iter().any(|nothing| said.contains(nothing)) {
            return Ok(None);
        }
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        let said: String = [said, complaint]
            .iter()
            .filter(|text| !text.is_empty())
            .map(String::as_str)
            .collect::<Vec<_>>()
            .join(": ")
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(400)
            .collect();
        Err(Error::new(ErrorKind::Io, format!("{program} {what} failed: {said}")))
    }
}
