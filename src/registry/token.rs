//! Access tokens: asked for at the service a Bearer challenge names, kept until shortly before they expire.

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::Deserialize;
use url::Url;

use super::client::Client;
use super::credentials::Credential;
use super::http::{HeaderValue, StatusCode};
use super::redirect;
use super::retry::{Failure, Patience};
use super::wire_error::Complaint;
use crate::error::{Error, ErrorKind};

/// Tokens are opaque and short; this is for answers that are not.
const LONGEST: u64 = 1 << 20;
/// What a service that names no life means (distribution's token specification), and the least it can mean.
const SHORTEST_LIFE: u64 = 60;
/// Renewed so long before the end, so that none expires on its way.
const MARGIN: Duration = Duration::from_secs(10);
/// Names this program to token services, which want a name.
const CLIENT_ID: &str = "artifs";

/// A value of `Authorization`, and until when it is good.
#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) header: HeaderValue,
    pub(super) until: Instant,
}

/// Where tokens are had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<f64>,
    issued_at: Option<String>,
}

/// The service a challenge names, if it is one that may see our credentials.
///
/// The challenge comes from the network: it must not lead our credentials off TLS, nor us to services of the
/// machine or network we run in that the registry itself is not part of.
pub(super) fn service(
    asked: &Url,
    realm: &str,
    service: Option<String>,
    insecure: bool,
) -> Result<Service, Error> {
    let host = super::http::host_of(asked);
    let refuse = |why: &str| {
        Error::new(
            ErrorKind::Denied,
            format!("{host} sends us to {realm:?} for a token, which {why}; refusing"),
        )
    };
    let mut realm_url = asked.join(realm).map_err(|_| refuse("is not an address"))?;
    if !matches!(realm_url.scheme(), "http" | "https") {
        return Err(refuse("is not a web address"));
    }
    let same_host = realm_url.host() == asked.host();
    if asked.scheme() == "https" && realm_url.scheme() == "http" {
        if same_host {
            let port = realm_url.port().or(asked.port());
            let _ = realm_url.set_scheme("https");
            let _ = realm_url.set_port(port);
        } else if !insecure {
            return Err(refuse("is not protected by TLS"));
        }
    }
    if !same_host && redirect::is_link_local(&realm_url) {
        return Err(refuse("is a link-local address"));
    }
    if !same_host && redirect::is_private(&realm_url) && !redirect::is_private(asked) {
        return Err(refuse("is a private address"));
    }
    let _ = realm_url.set_username("");
    let _ = realm_url.set_password(None);
    Ok(Service { realm: realm_url, service })
}

/// The `Authorization` of a name and a password.
pub(super) fn basic(username: &str, password: &str) -> Result<HeaderValue, Error> {
    let encoded = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
    secret(&format!("Basic {encoded}"))
}

/// The `Authorization` of an access token.
pub(super) fn bearer(token: &str) -> Result<HeaderValue, Error> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Error::new(ErrorKind::Invalid, "the credential has characters that cannot be sent"))?;
    value.set_sensitive(true);
    Ok(value)
}

impl Client {
    /// A new token for `scopes`. With an identity token by POST, as `OAuth2` wants it; otherwise by GET, which every
    /// token service understands, with the password if there is one.
    pub(super) async fn token(
        &self,
        service: &Service,
        scopes: &[&str],
        credential: Option<&Credential>,
        patience: &mut Patience,
    ) -> Result<Token, Failure> {
        let answer = match credential {
            Some(Credential::AccessToken(token)) => {
                let until = Instant::now() + Duration::from_secs(24 * 3600);
                return Ok(Token { header: bearer(token)?, until });
            }
            Some(Credential::IdentityToken(secret)) => {
                match self.token_by_post(service, scopes, secret, patience).await? {
                    Ok(answer) => Ok(answer),
                    // Not an OAuth2 service: such take the token as the password of a nobody.
                    Err(complaint)
                        if matches!(
                            complaint.status,
                            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED
                        ) =>
                    {
                        let header = basic("<token>", secret)?;
                        self.token_by_get(service, scopes, Some((header, None)), patience).await?
                    }
                    Err(complaint) => Err(complaint),
                }
            }
            Some(Credential::Password { username, password }) => {
                let header = basic(username, password)?;
                self.token_by_get(service, scopes, Some((header, Some(username))), patience).await?
            }
            None => self.token_by_get(service, scopes, None, patience).await?,
        };
        match answer {
            Ok(body) => Ok(self.read_token(service, &body)?),
            Err(complaint) => {
                Err(Failure::last(self.token_refused(service, credential.is_some(), complaint)))
            }
        }
    }

    async fn token_by_get(
        &self,
        service: &Service,
        scopes: &[&str],
        who: Option<(HeaderValue, Option<&String>)>,
        patience: &mut Patience,
    ) -> Result<Result<bytes::Bytes, Complaint>, Failure> {
        let mut url = service.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = &service.service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
            query.append_pair("client_id", CLIENT_ID);
            if let Some((_, Some(username))) = &who {
                query.append_pair("account", username);
            }
        }
        self.ask_service(url, who.map(|(header, _)| header), None, patience).await
    }

    async fn token_by_post(
        &self,
        service: &Service,
        scopes: &[&str],
        secret: &str,
        patience: &mut Patience,
    ) -> Result<Result<bytes::Bytes, Complaint>, Failure> {
        let scope = scopes.join(" ");
        let mut form =
            vec![("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", secret)];
        if let Some(service) = &service.service {
            form.push(("service", service));
        }
        if !scope.is_empty() {
            form.push(("scope", &scope));
        }
        self.ask_service(service.realm.clone(), None, Some(&form), patience).await
    }

    async fn ask_service(
        &self,
        url: Url,
        authorization: Option<HeaderValue>,
        form: Option<&[(&str, &str)]>,
        patience: &mut Patience,
    ) -> Result<Result<bytes::Bytes, Complaint>, Failure> {
        let answer = self.ask_token_service(url, authorization, form, patience).await?;
        if answer.status().is_success() {
            return Ok(Ok(answer.body(LONGEST, patience).await?));
        }
        Ok(Err(Complaint::read(answer, patience).await))
    }

    fn read_token(&self, service: &Service, body: &[u8]) -> Result<Token, Error> {
        let useless = || {
            let from = super::http::host_of(&service.realm);
            Error::new(
                ErrorKind::Invalid,
                format!("{from}, where {} sends us for a token, gave none", self.host()),
            )
        };
        let answer: Answer = serde_json::from_slice(body).map_err(|_| useless())?;
        let text = [answer.token, answer.access_token].into_iter().flatten().find(|text| !text.is_empty());
        let header = bearer(&text.ok_or_else(useless)?)?;
        let life =
            Duration::from_secs((answer.expires_in.unwrap_or(0.0).clamp(0.0, 1e9) as u64).max(SHORTEST_LIFE));
        // Some hand out one token again and again; then its life began earlier. A date that cannot be is a skewed clock.
        let age = answer
            .issued_at
            .and_then(|text| text.parse::<jiff::Timestamp>().ok())
            .and_then(|issued| u64::try_from(jiff::Timestamp::now().as_second() - issued.as_second()).ok())
            .map(Duration::from_secs)
            .filter(|age| *age < life)
            .unwrap_or_default();
        Ok(Token { header, until: Instant::now() + life.saturating_sub(age).saturating_sub(MARGIN) })
    }

    fn token_refused(&self, service: &Service, with_credential: bool, complaint: Complaint) -> Error {
        let from = super::http::host_of(&service.realm);
        let host = self.host();
        let error = complaint.into_error();
        match error.kind() {
            ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Invalid if with_credential => {
                Error::with_source(
                    ErrorKind::Unauthorized,
                    format!("{from} refuses our credential for {host}"),
                    error,
                )
            }
            ErrorKind::Unauthorized | ErrorKind::Denied => Error::with_source(
                ErrorKind::Unauthorized,
                format!("{host} lets nobody in without a login"),
                error,
            ),
            _ => error.context(format!("get a token for {host} from {from}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn realm(asked: &str, realm: &str) -> Option<String> {
        service(&Url::parse(asked).unwrap(), realm, None, false).ok().map(|service| service.realm.into())
    }

    #[test]
    fn a_challenge_cannot_lead_credentials_astray() {
        let asked = "https://reg.example:8443/v2/";
        assert_eq!(realm(asked, "https://auth.example/t").as_deref(), Some("https://auth.example/t"));
        assert_eq!(realm(asked, "/token").as_deref(), Some("https://reg.example:8443/token"));
        assert_eq!(realm(asked, "http://reg.example/t").as_deref(), Some("https://reg.example:8443/t"));
        for refused in [
            "http://auth.example/t",
            "https://127.0.0.1/t",
            "https://10.1.2.3/t",
            "https://[::1]/t",
            "https://localhost/t",
            "https://169.254.169.254/t",
            "file:///etc/passwd",
            "https://",
        ] {
            assert_eq!(realm(asked, refused), None, "{refused}");
        }
        assert!(realm("http://127.0.0.1:5000/v2/", "http://127.0.0.1:5001/t").is_some());
        assert!(realm("http://127.0.0.1:5000/v2/", "http://169.254.169.254/t").is_none());
    }
}
