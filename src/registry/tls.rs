//! Whom to trust over TLS, and who we are: files a person named, and `certs.d` folders.

use std::path::{Path, PathBuf};

use super::Settings;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::reference::Host;

/// PEM text and the file it came from.
type Pem = (Vec<u8>, String);

/// What the clients are made of.
#[derive(Default)]
pub(super) struct Tls {
    /// Nobody is checked (`--insecure`).
    pub(super) insecure: bool,
    /// Instead of the system's CAs (`--ca-file`).
    pub(super) only: Option<Pem>,
    /// Beside the system's CAs, for the registry alone (`certs.d/HOST/*.crt`).
    pub(super) more: Vec<Pem>,
    /// Certificate and key to show to the registry, and to nobody else.
    pub(super) identity: Option<Pem>,
}

impl Tls {
    /// What the settings and the first `certs.d` folder of this host say.
    pub(super) fn load(host: &Host, settings: &Settings) -> Result<Self> {
        let mut tls = Self { insecure: settings.insecure, ..Self::default() };
        if let Some(path) = &settings.ca_file {
            tls.only = Some((read(path)?, path.display().to_string()));
        }
        match (&settings.cert_file, &settings.key_file) {
            (Some(cert), Some(key)) => tls.identity = Some(pair(cert, key)?),
            (None, None) => {}
            _ => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "--cert-file must be used in conjunction with --key-file",
                ));
            }
        }
        if let Some(folder) =
            certs_d().into_iter().map(|root| root.join(host.as_str())).find(|path| path.is_dir())
        {
            tls.add_folder(&folder)?;
        }
        Ok(tls)
    }

    /// `*.crt` are CAs; `X.cert` and `X.key` are who we are, and neither comes alone (containers-certs.d(5)).
    fn add_folder(&mut self, folder: &Path) -> Result<()> {
        let entries = std::fs::read_dir(folder).doing(|| format!("read {}", folder.display()))?;
        let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        paths.sort();
        for path in &paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => self.more.push((read(path)?, path.display().to_string())),
                Some("cert") if self.identity.is_none() => {
                    self.identity = Some(pair(path, &path.with_extension("key"))?);
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(Error::new(
                        ErrorKind::Invalid,
                        format!(
                            "{} has no certificate beside it; put it at {}",
                            path.display(),
                            path.with_extension("cert").display()
                        ),
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// A handshake that failed, and what a person can do about it.
    #[allow(clippy::unused_self)]
    pub(super) fn explain(&self, host: &str, error: &rustls::Error) -> Error {
        use rustls::{CertificateError, Error as Tls};
        match error {
            Tls::InvalidMessage(_) | Tls::PeerMisbehaved(_) | Tls::InappropriateMessage { .. } => Error::new(
                ErrorKind::Unavailable,
                format!("{host} does not speak TLS ({error}); if it speaks plain HTTP, use --plain-http"),
            ),
            Tls::InvalidCertificate(CertificateError::UnknownIssuer) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the certificate of {host} is signed by nobody this machine trusts; install ca-certificates for public \
                     registries; for others put the CA into \
                     /etc/containers/certs.d/{host}/ca.crt, or name it with --ca-file, or use --insecure"
                ),
            ),
            Tls::InvalidCertificate(_) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "the certificate of {host} is not valid: {error}; --insecure accepts it all the same"
                ),
            ),
            Tls::AlertReceived(alert) => Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{host} ended the TLS handshake ({alert:?}); if it wants a client certificate, use --cert-file \
                     and --key-file or /etc/containers/certs.d/{host}/client.cert and client.key"
                ),
            ),
            _ => Error::new(ErrorKind::Unavailable, format!("TLS with {host} failed: {error}")),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).doing(|| format!("read {}", path.display()))
}

fn pair(cert: &Path, key: &Path) -> Result<Pem> {
    let mut pem = read(cert)?;
    pem.push(b'\n');
    pem.extend(read(key).doing(|| format!("the key of {}", cert.display()))?);
    Ok((pem, cert.display().to_string()))
}

/// Where hosts' own certificates are looked for; the first folder that has the host wins.
fn certs_d() -> Vec<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/containers/certs.d"));
    home.into_iter().chain(["/etc/containers/certs.d".into(), "/etc/docker/certs.d".into()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[&str]) -> Result<Tls> {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let mut tls = Tls::default();
        tls.add_folder(folder.path()).map(|()| tls)
    }

    #[test]
    fn a_folder_holds_cas_and_one_pair() {
        let tls = folder(&["b.crt", "a.crt", "me.cert", "me.key", "README"]).unwrap();
        let cas: Vec<&[u8]> = tls.more.iter().map(|(pem, _)| pem.as_slice()).collect();
        assert_eq!(cas, [b"a.crt", b"b.crt"]);
        assert_eq!(tls.identity.unwrap().0, b"me.cert\nme.key");
        assert!(folder(&["me.cert"]).err().unwrap().to_string().contains("me.key"));
        assert!(folder(&["me.key"]).err().unwrap().to_string().contains("me.cert"));
    }
}
