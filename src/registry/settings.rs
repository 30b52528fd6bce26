//! What a person may say about how a registry is reached.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

/// How to reach a registry, and as whom.
#[derive(Clone)]
pub struct Settings {
    /// Who we are, with `password`; goes before every credential file.
    pub username: Option<String>,
    /// The password of `username`; without one it is an identity token, as in ORAS.
    pub password: Option<String>,
    /// A refresh token to be exchanged for access tokens.
    pub identity_token: Option<String>,
    /// Credential files to use instead of the usual ones, searched in order.
    pub registry_configs: Vec<PathBuf>,
    /// Plain HTTP or not, whatever the host. Unsaid: `localhost` speaks HTTP, other loopback addresses if
    /// they do not answer TLS, everybody else HTTPS.
    pub plain_http: Option<bool>,
    /// Accept any certificate.
    pub insecure: bool,
    /// CAs to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The client certificate, with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// The key of `cert_file`.
    pub key_file: Option<PathBuf>,
    /// More headers, for the registry's own origin only. Values go out as they are.
    pub headers: Vec<(String, String)>,
    /// Addresses to use instead of asking DNS.
    pub resolve: Vec<Resolve>,
    /// Whether the registry itself lists referrers; found out if it is not said.
    pub referrers_api: Option<bool>,
    /// How long a request may go on, retries included, without getting anywhere.
    pub deadline: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            identity_token: None,
            registry_configs: Vec::new(),
            plain_http: None,
            insecure: false,
            ca_file: None,
            cert_file: None,
            key_file: None,
            headers: Vec::new(),
            resolve: Vec::new(),
            referrers_api: None,
            deadline: Duration::from_secs(60),
        }
    }
}

/// One `--resolve host:port:address[:address_port]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The host as references name it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Where it is.
    pub address: SocketAddr,
}

impl FromStr for Resolve {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: &str| {
            Error::new(ErrorKind::Invalid, format!("failed to parse resolve flag {text:?}: {why}"))
        };
        let shape = "expecting host:port:address[:address_port]";
        let (host, rest) = text.split_once(':').ok_or_else(|| bad(shape))?;
        let (port, rest) = rest.split_once(':').ok_or_else(|| bad(shape))?;
        let port: u16 = port.parse().map_err(|_| bad("expecting uint64 host port"))?;
        // An IPv6 address may come bare or in brackets; only in brackets can it have a port.
        let (address, address_port) =
            if let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
                (inside, after.strip_prefix(':'))
            } else if rest.parse::<IpAddr>().is_ok() {
                (rest, None)
            } else {
                rest.split_once(':').map_or((rest, None), |(address, port)| (address, Some(port)))
            };
        let address: IpAddr = address.parse().map_err(|_| bad("invalid IP address"))?;
        let address_port = match address_port {
            Some(text) => text.parse().map_err(|_| bad("expecting uint64 address port"))?,
            None => port,
        };
        if host.is_empty() {
            return Err(bad(shape));
        }
        Ok(Self { host: host.to_ascii_lowercase(), port, address: SocketAddr::new(address, address_port) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_flags_read_as_in_oras() {
        let flag: Resolve = "Reg.example:5000:127.0.0.1".parse().unwrap();
        assert_eq!((flag.host.as_str(), flag.port), ("reg.example", 5000));
        assert_eq!(flag.address.to_string(), "127.0.0.1:5000");
        assert_eq!("h:1:127.0.0.1:9".parse::<Resolve>().unwrap().address.port(), 9);
        assert_eq!("h:1:[::1]:9".parse::<Resolve>().unwrap().address.to_string(), "[::1]:9");
        for (text, why) in [
            ("x", "expecting host:port:address[:address_port]"),
            ("h:x:1.2.3.4", "expecting uint64 host port"),
            ("h:1:nowhere", "invalid IP address"),
            ("h:1:1.2.3.4:x", "expecting uint64 address port"),
        ] {
            let error = text.parse::<Resolve>().unwrap_err().to_string();
            assert_eq!(error, format!("failed to parse resolve flag {text:?}: {why}"));
        }
    }
}
