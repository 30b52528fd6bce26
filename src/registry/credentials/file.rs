//! One credential file: docker's `config.json`, podman's `auth.json`.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::keychain::Keychain;
use super::{Credential, Found};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::reference::Host;

/// What docker calls its own registry in credential files and programs.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// A file's content, kept whole, so that what is written back loses nothing. A missing file is an empty one.
pub(super) struct File {
    path: PathBuf,
    content: Map<String, Value>,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Self::parse(path, &bytes),
            // A place we may not look into is as good as empty; one that was named is not missing by accident,
            // but ORAS treats it so, and login creates it.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(Self { path: path.to_owned(), content: Map::new() })
            }
            Err(error) => Err(Error::io(format!("read the credential file {}", path.display()), error)),
        }
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self> {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self { path: path.to_owned(), content: Map::new() });
        }
        let content = serde_json::from_slice(bytes).map_err(|error| {
            // serde's message gives the place, never the text.
            Error::new(
                ErrorKind::Invalid,
                format!("the credential file {} is damaged: {error}", path.display()),
            )
        })?;
        Ok(Self { path: path.to_owned(), content })
    }

    /// `~/.dockercfg`: what is `auths` today, without the rest around it.
    pub(super) fn read_ancient(path: &Path) -> Result<Self> {
        let file = Self::read(path)?;
        let content = Map::from_iter([("auths".to_owned(), Value::Object(file.content))]);
        Ok(Self { path: file.path, content })
    }

    /// The credential for `host`, or for the longest part of `path` that has one: from the program named for this
    /// registry, from the file itself, from the program for all.
    pub(super) async fn find(&self, host: &Host, path: Option<&str>) -> Result<Option<Found>> {
        if let Some(program) = self.program_for(host) {
            return ask(program, host).await;
        }
        if let Some(credential) = self.entry(host, path)? {
            return Ok(Some(Found { credential, place: self.path.display().to_string() }));
        }
        match self.text("credsStore") {
            Some(program) => ask(program, host).await,
            None => Ok(None),
        }
    }

    /// Whether `auths` has keys below this host.
    pub(super) fn has_namespaces(&self, host: &Host) -> bool {
        self.auths()
            .any(|(key, _)| split(key).is_some_and(|(found, path)| is(&found, host) && path.is_some()))
    }

    pub(super) async fn store(mut self, host: &Host, credential: &Credential) -> Result<String> {
        if let Some(program) = self.program_for(host).or(self.text("credsStore")) {
            let keychain = Keychain(program);
            keychain.store(server(host), credential).await?;
            return Ok(keychain.program());
        }
        let entry = match credential {
            Credential::Password { username, password } => {
                serde_json::json!({ "auth": STANDARD.encode(format!("{username}:{password}")) })
            }
            Credential::IdentityToken(token) => serde_json::json!({ "auth": "", "identitytoken": token }),
            Credential::AccessToken(token) => serde_json::json!({ "registrytoken": token }),
        };
        let auths = self.content.entry("auths").or_insert_with(|| Value::Object(Map::new()));
        if !auths.is_object() {
            *auths = Value::Object(Map::new());
        }
        if let Some(auths) = auths.as_object_mut() {
            auths.retain(|key, _| !names(key, host));
            auths.insert(server(host).to_owned(), entry);
        }
        self.write()?;
        Ok(self.path.display().to_string())
    }

    pub(super) async fn erase(mut self, host: &Host) -> Result<()> {
        if let Some(program) = self.program_for(host).or(self.text("credsStore")) {
            Keychain(program).erase(server(host)).await?;
        }
        let Some(auths) = self.content.get_mut("auths").and_then(Value::as_object_mut) else { return Ok(()) };
        let before = auths.len();
        auths.retain(|key, _| !names(key, host));
        if auths.len() == before { Ok(()) } else { self.write() }
    }

    fn auths(&self) -> impl Iterator<Item = (&str, &Value)> {
        let auths = self.content.get("auths").and_then(Value::as_object);
        auths.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.content.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    fn program_for(&self, host: &Host) -> Option<&str> {
        let programs = self.content.get("credHelpers")?.as_object()?;
        let found = programs.iter().find(|(key, _)| names(key, host))?;
        found.1.as_str().filter(|name| !name.is_empty())
    }

    /// The entry of the longest matching key that holds something: docker leaves empty ones behind as markers
    /// for its credential program.
    fn entry(&self, host: &Host, path: Option<&str>) -> Result<Option<Credential>> {
        let mut matching: Vec<(usize, &Value)> = self
            .auths()
            .filter_map(|(key, value)| {
                let (found, namespace) = split(key)?;
                let fits = is(&found, host)
                    && match (&namespace, path) {
                        (None, _) => true,
                        (Some(namespace), Some(path)) => path
                            .strip_prefix(namespace.as_str())
                            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/')),
                        (Some(_), None) => false,
                    };
                fits.then(|| (namespace.map_or(0, |namespace| namespace.len()), value))
            })
            .collect();
        matching.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
        for (_, value) in matching {
            if let Some(credential) = self.read_entry(host, value)? {
                return Ok(Some(credential));
            }
        }
        Ok(None)
    }

    fn read_entry(&self, host: &Host, value: &Value) -> Result<Option<Credential>> {
        let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(token) = text("identitytoken") {
            return Ok(Some(Credential::IdentityToken(token.into())));
        }
        if let Some(token) = text("registrytoken") {
            return Ok(Some(Credential::AccessToken(token.into())));
        }
        if let Some(auth) = text("auth") {
            return decode(auth).map(Some).ok_or_else(|| {
                Error::new(
                    ErrorKind::Invalid,
                    format!(
                        "the entry for {host} in {} is damaged; log in again with \"artifs login {host}\"",
                        self.path.display()
                    ),
                )
            });
        }
        Ok(text("username").map(|username| Credential::Password {
            username: username.into(),
            password: text("password").unwrap_or_default().into(),
        }))
    }

    /// Replaces the file in one step; nobody else may read it. A link stays a link.
    fn write(&self) -> Result<()> {
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let doing = || format!("write the credential file {}", target.display());
        let folder =
            target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.exists() {
            use std::os::unix::fs::DirBuilderExt as _;
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).doing(doing)?;
        }
        let mut text = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut text, formatter);
        serde::Serialize::serialize(&self.content, &mut serializer)
            .map_err(|error| Error::with_source(ErrorKind::Invalid, doing(), error))?;
        text.push(b'\n');
        // A temporary file is made with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(folder).doing(doing)?;
        file.write_all(&text).doing(doing)?;
        file.as_file().sync_all().doing(doing)?;
        file.persist(&target).map_err(|error| Error::io(doing(), error.error))?;
        Ok(())
    }
}

/// What a credential program or file calls this registry.
fn server(host: &Host) -> &str {
    if host.is_docker_hub() { DOCKER_HUB } else { host.as_str() }
}

async fn ask(program: &str, host: &Host) -> Result<Option<Found>> {
    let keychain = Keychain(program);
    let mut credential = keychain.get(server(host)).await?;
    if credential.is_none() && host.is_docker_hub() {
        credential = keychain.get("docker.io").await?;
    }
    Ok(credential.map(|credential| Found { credential, place: keychain.program() }))
}

/// Host and namespace of a key: `host`, `https://host/v1/`, `host/namespace/repository`.
fn split(key: &str) -> Option<(Host, Option<String>)> {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    let path = path.trim_end_matches('/');
    let path = (!matches!(path, "" | "v1" | "v2")).then(|| path.to_owned());
    Some((host.parse().ok()?, path))
}

/// Whether a key of a credential file means this registry as a whole.
fn names(key: &str, host: &Host) -> bool {
    split(key).is_some_and(|(found, path)| path.is_none() && is(&found, host))
}

fn is(found: &Host, host: &Host) -> bool {
    found == host || (found.is_docker_hub() && host.is_docker_hub())
}

/// `auth`: base64, padded or not, of `name:password`; some writers leave a NUL at the end.
fn decode(auth: &str) -> Option<Credential> {
    let lenient = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(lenient.decode(auth.trim()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    let password = password.trim_end_matches('\0');
    // ACR's way of saying "this is a refresh token" is a field of its own; a bare name is of no use.
    Some(Credential::Password { username: username.into(), password: password.into() })
}
