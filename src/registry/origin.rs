//! Which scheme, host and port the registry's API is at.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use url::Url;

use super::retry::{Again, Failure};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::reference::Host;

/// Plenty for a handshake on the machine itself.
const LOOPBACK_TIMEOUT: Duration = Duration::from_secs(2);

/// Where requests go. For loopback addresses the scheme is found out once, before the first request.
pub(super) struct Origin {
    host: Host,
    known: OnceCell<Url>,
}

impl Origin {
    /// `plain_http` is what the person said, if anything.
    pub(super) fn new(host: &Host, plain_http: Option<bool>) -> Result<Self> {
        let is_address = host.name().parse::<IpAddr>().is_ok();
        let plain = match plain_http {
            Some(said) => Some(said),
            None if host.name() == "localhost" => Some(true),
            None if host.is_loopback() && is_address => None,
            None => Some(false),
        };
        let known = OnceCell::new();
        if let Some(plain) = plain {
            let _ = known.set(base(host, plain)?);
        }
        Ok(Self { host: host.clone(), known })
    }

    /// Scheme, host and port, with the path `/`.
    pub(super) async fn url(&self) -> Result<&Url, Failure> {
        self.known
            .get_or_try_init(|| async {
                let plain = !answers_tls(&self.host).await?;
                tracing::debug!(host = %self.host, plain, "loopback address: found out how it speaks");
                Ok(base(&self.host, plain)?)
            })
            .await
    }
}

fn base(host: &Host, plain: bool) -> Result<Url> {
    // Docker Hub's API lives under another name than people use (registry.md §0).
    let authority = if host.is_docker_hub() { "registry-1.docker.io" } else { host.as_str() };
    let scheme = if plain { "http" } else { "https" };
    Url::parse(&format!("{scheme}://{authority}/")).map_err(|error| {
        Error::with_source(ErrorKind::Invalid, format!("invalid registry {authority:?}"), error)
    })
}

/// Whether the far end answers the first message of a TLS handshake as TLS does. Sends nothing else.
async fn answers_tls(host: &Host) -> Result<bool, Failure> {
    let port = host
        .as_str()
        .rsplit_once("]:")
        .or_else(|| host.as_str().split_once(':').filter(|(_, port)| !port.contains(':')));
    let port: Option<u16> = port.and_then(|(_, port)| port.parse().ok());
    let connecting = TcpStream::connect((host.name(), port.unwrap_or(443)));
    let mut stream = match tokio::time::timeout(LOOPBACK_TIMEOUT, connecting).await {
        Ok(Ok(stream)) => stream,
        // Nobody at the HTTPS port: the HTTP port is the other one it can be.
        _ if port.is_none() => return Ok(false),
        Ok(Err(error)) => {
            let error = Error::new(ErrorKind::Unavailable, format!("cannot reach {host}: {error}"));
            return Err(Failure { error, again: Again::Soon });
        }
        Err(_) => {
            let error =
                Error::new(ErrorKind::Unavailable, format!("cannot reach {host}: it does not answer"));
            return Err(Failure { error, again: Again::later() });
        }
    };
    let hello = client_hello(host)?;
    let exchange = async {
        stream.write_all(&hello).await?;
        let mut first = [0; 2];
        stream.read_exact(&mut first).await?;
        std::io::Result::Ok(first)
    };
    // A TLS record: a handshake (22) or an alert (21), major version 3.
    Ok(matches!(tokio::time::timeout(LOOPBACK_TIMEOUT, exchange).await, Ok(Ok([21 | 22, 3]))))
}

fn client_hello(host: &Host) -> Result<Vec<u8>> {
    let failed = |error: &dyn std::fmt::Display| Error::new(ErrorKind::Io, format!("set up TLS: {error}"));
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let name = host.name().to_owned().try_into().map_err(|error| failed(&error))?;
    let mut session =
        rustls::ClientConnection::new(Arc::new(config), name).map_err(|error| failed(&error))?;
    let mut hello = Vec::new();
    session.write_tls(&mut hello).map_err(|error| failed(&error))?;
    Ok(hello)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn scheme(host: &str, plain: Option<bool>) -> String {
        let origin = Origin::new(&host.parse().unwrap(), plain).unwrap();
        origin.url().await.unwrap().to_string()
    }

    #[tokio::test]
    async fn only_loopback_is_ever_plain_unasked() {
        assert_eq!(scheme("localhost:5000", None).await, "http://localhost:5000/");
        assert_eq!(scheme("localhost:5000", Some(false)).await, "https://localhost:5000/");
        assert_eq!(scheme("reg.example", None).await, "https://reg.example/");
        assert_eq!(scheme("reg.example:80", Some(true)).await, "http://reg.example/");
        assert_eq!(scheme("docker.io", None).await, "https://registry-1.docker.io/");
    }

    /// A listener that answers every connection with `answer` once it has heard something.
    async fn listener(answer: &'static [u8]) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut heard = [0; 512];
                let _ = stream.read(&mut heard).await;
                let _ = stream.write_all(answer).await;
            }
        });
        host
    }

    #[tokio::test]
    async fn a_loopback_address_is_asked_for_tls_first() {
        let tls = listener(&[21, 3, 3, 0, 2, 2, 40]).await;
        assert_eq!(scheme(&tls, None).await, format!("https://{tls}/"));
        let http = listener(b"HTTP/1.0 400 Bad Request\r\n\r\n").await;
        assert_eq!(scheme(&http, None).await, format!("http://{http}/"));
        let mute = listener(b"").await;
        assert_eq!(scheme(&mute, None).await, format!("http://{mute}/"));
    }
}
