//! Where a redirect may lead.

use std::net::{IpAddr, Ipv6Addr};

use url::{Host, Url};

use super::http::host_of;
use crate::error::{Error, ErrorKind, Result};

/// As many as browsers and every client of the field follow.
pub(super) const MOST_HOPS: u32 = 10;

/// The address `location` means when `from` answers with it.
///
/// HTTPS never turns into plain HTTP. A server behind a proxy that ends TLS often writes `http://` and
/// its own name; that is read as the HTTPS it must mean.
pub(super) fn follow(from: &Url, location: &str, insecure: bool) -> Result<Url> {
    let refuse = |why: &str| {
        Error::new(ErrorKind::Unavailable, format!("refusing a redirect of {}: {why}", host_of(from)))
    };
    let mut to = from.join(location).map_err(|_| refuse("it is not an address"))?;
    if !matches!(to.scheme(), "http" | "https") {
        return Err(refuse(&format!("it leads to {:?}", to.scheme())));
    }
    if from.scheme() == "https" && to.scheme() == "http" {
        if to.host() == from.host() {
            let port = to.port().or(from.port());
            let _ = to.set_scheme("https");
            let _ = to.set_port(port);
        } else if !insecure {
            return Err(refuse(&format!("it leads from HTTPS to plain HTTP at {}", host_of(&to))));
        }
    }
    if is_link_local(&to) && to.host() != from.host() {
        return Err(refuse(&format!("it leads to the link-local address {}", host_of(&to))));
    }
    // A name and password in the address would be sent as credentials.
    let _ = to.set_username("");
    let _ = to.set_password(None);
    to.set_fragment(None);
    Ok(to)
}

fn address(url: &Url) -> Option<IpAddr> {
    match url.host()? {
        Host::Ipv4(address) => Some(address.into()),
        Host::Ipv6(address) => Some(IpAddr::from(address).to_canonical()),
        Host::Domain(_) => None,
    }
}

/// Where clouds keep their machines' secrets.
pub(super) fn is_link_local(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(address)) => address.is_link_local(),
        Some(IpAddr::V6(address)) => address.is_unicast_link_local() || is_cloud_metadata(address),
        None => false,
    }
}

/// AWS's metadata service over IPv6 is a unique local address.
fn is_cloud_metadata(address: Ipv6Addr) -> bool {
    address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)
}

/// Whether this is the machine itself.
pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || address(url).is_some_and(|address| address.is_loopback())
}

/// Whether this is an address of the machine itself or of a private network.
pub(super) fn is_private(url: &Url) -> bool {
    if is_loopback(url) {
        return true;
    }
    match address(url) {
        Some(IpAddr::V4(address)) => address.is_private() || address.is_unspecified(),
        Some(IpAddr::V6(address)) => address.is_unique_local() || address.is_unspecified(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(from: &str, location: &str) -> Option<String> {
        follow(&Url::parse(from).unwrap(), location, false).ok().map(String::from)
    }

    #[test]
    fn redirects_lead_where_they_may() {
        let from = "https://reg.example:8443/v2/a/blobs/x";
        assert_eq!(to(from, "/b?c=d").as_deref(), Some("https://reg.example:8443/b?c=d"));
        assert_eq!(to(from, "http://reg.example/b").as_deref(), Some("https://reg.example:8443/b"));
        assert_eq!(to(from, "https://cdn.example/b").as_deref(), Some("https://cdn.example/b"));
        assert_eq!(to(from, "https://u:p@cdn.example/b#f").as_deref(), Some("https://cdn.example/b"));
        for refused in [
            "http://cdn.example/b",
            "ftp://cdn.example/b",
            "file:///etc/passwd",
            "https://169.254.169.254/latest/meta-data",
            "https://[fe80::1]/",
            "https://[::ffff:169.254.169.254]/",
            "https://[fd00:ec2::254]/",
            "https://",
        ] {
            assert_eq!(to(from, refused), None, "{refused}");
        }
        assert_eq!(to("http://a/", "http://b/").as_deref(), Some("http://b/"));
    }
}
