//! Who we are to a registry: found in the places docker, podman and ORAS keep credentials, kept there by login.
//!
//! What the person says on the command line goes first. Then come the files: those named by
//! `--registry-config` alone, else `DOCKER_AUTH_CONFIG` (content, as GitLab gives it), `REGISTRY_AUTH_FILE`,
//! docker's `config.json`, podman's two `auth.json`, docker's ancient `~/.dockercfg`. Docker's file stands before
//! podman's because [`store`] writes to it, and the newest login should count. The first that knows the
//! registry wins.

mod file;
mod keychain;

use std::fmt;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::reference::Host;
use file::File;

/// A secret, and how it is used. Shown by `Debug` without the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Credential {
    /// A name and a password, or a token in place of one.
    Password {
        /// Who.
        username: String,
        /// The secret.
        password: String,
    },
    /// A refresh token, exchanged for access tokens.
    IdentityToken(String),
    /// An access token, sent as it is.
    AccessToken(String),
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { username, .. } => write!(f, "Password({username:?})"),
            Self::IdentityToken(_) => f.write_str("IdentityToken"),
            Self::AccessToken(_) => f.write_str("AccessToken"),
        }
    }
}

/// A credential and where it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The credential.
    pub credential: Credential,
    /// For messages: a file, a credential program, the command line.
    pub place: String,
}

/// The credential for `host`, or for the repository `path` of it where a file has one of its own.
pub async fn find(host: &Host, path: Option<&str>, settings: &Settings) -> Result<Option<Found>> {
    if let Some(credential) = given(settings) {
        return Ok(Some(Found { credential, place: "the command line".into() }));
    }
    for file in files(settings)? {
        if let Some(found) = file.find(host, path).await? {
            tracing::debug!(%host, place = found.place, "found a credential");
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Whether some file has credentials for single repositories or namespaces of `host`.
pub(super) fn are_per_repository(host: &Host, settings: &Settings) -> Result<bool> {
    Ok(given(settings).is_none() && files(settings)?.iter().any(|file| file.has_namespaces(host)))
}

/// Keeps `credential` for `host`, in the file's credential program if it has one. Says where.
pub async fn store(host: &Host, credential: &Credential, settings: &Settings) -> Result<String> {
    let path = written(settings)?;
    File::read(&path)?.store(host, credential).await.doing(|| format!("keep the credential for {host}"))
}

/// Forgets the credential for `host`. One that is not there is no error.
pub async fn erase(host: &Host, settings: &Settings) -> Result<()> {
    let path = written(settings)?;
    File::read(&path)?.erase(host).await.doing(|| format!("forget the credential for {host}"))
}

/// The file that login writes and that errors about credentials name.
pub fn written(settings: &Settings) -> Result<PathBuf> {
    if let Some(path) = settings.registry_configs.first() {
        return Ok(path.clone());
    }
    if let Some(path) = variable("REGISTRY_AUTH_FILE") {
        return Ok(path.into());
    }
    docker_config().ok_or_else(|| {
        Error::new(
            ErrorKind::Invalid,
            "neither HOME nor DOCKER_CONFIG is set; name a file with --registry-config",
        )
    })
}

/// What the command line says. A password without a name is an identity token, as in ORAS.
fn given(settings: &Settings) -> Option<Credential> {
    if let Some(token) = &settings.identity_token {
        return Some(Credential::IdentityToken(token.clone()));
    }
    match (&settings.username, &settings.password) {
        (Some(username), password) if !username.is_empty() => Some(Credential::Password {
            username: username.clone(),
            password: password.clone().unwrap_or_default(),
        }),
        (_, Some(password)) if !password.is_empty() => Some(Credential::IdentityToken(password.clone())),
        _ => None,
    }
}

fn files(settings: &Settings) -> Result<Vec<File>> {
    if !settings.registry_configs.is_empty() {
        return settings.registry_configs.iter().map(|path| File::read(path)).collect();
    }
    let mut files = Vec::new();
    if let Some(content) = std::env::var_os("DOCKER_AUTH_CONFIG").filter(|content| !content.is_empty()) {
        files.push(File::parse(Path::new("$DOCKER_AUTH_CONFIG"), content.as_encoded_bytes())?);
    }
    let home = variable("HOME").map(PathBuf::from);
    let runtime = variable("XDG_RUNTIME_DIR").map_or_else(
        || format!("/run/containers/{}/auth.json", rustix::process::getuid().as_raw()).into(),
        |folder| Path::new(&folder).join("containers/auth.json"),
    );
    let config = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(home.as_ref()?.join(".config")))
        .map(|folder| folder.join("containers/auth.json"));
    let places = [variable("REGISTRY_AUTH_FILE").map(PathBuf::from), docker_config(), Some(runtime), config];
    for path in places.into_iter().flatten() {
        files.push(File::read(&path)?);
    }
    if let Some(home) = home {
        files.push(File::read_ancient(&home.join(".dockercfg"))?);
    }
    Ok(files)
}

fn docker_config() -> Option<PathBuf> {
    variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| Some(Path::new(&variable("HOME")?).join(".docker")))
        .map(|folder| folder.join("config.json"))
}

fn variable(name: &str) -> Option<std::ffi::OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}
