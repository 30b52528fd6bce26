//! Requests and answers on the wire: the only file that knows which HTTP library carries them.
//!
//! Two clients: one for the registry's own origin, which holds the client certificate and the registry's
//! own CAs, and one for every other host (storage, token services), which holds neither. HTTP/1.1 only:
//! ranges of one blob travel side by side on connections of their own, where HTTP/2 would squeeze them
//! through one connection and one flow-control window (limits.md §9: h2 0.6–0.75 of the speed), and no
//! proxy's stream limit can reset them.

use std::error::Error as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use reqwest::Client;
pub(super) use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
pub(super) use reqwest::{Method, StatusCode};
use url::Url;

use super::outgoing::Meter;
use super::redirect;
use super::retry::{Again, Failure, Patience};
use super::tls::Tls;
use crate::error::{Error, ErrorKind, Result};
use crate::store::ByteStream;

/// A server that has not answered the handshake by then is down or filtered away.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest silence inside an answer; a retry reaches a healthy server sooner than waiting on.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// Error pages are drained up to here, so that their connection can be used again.
const ERROR_LIMIT: u64 = 64 << 10;

/// Which of the two clients a request goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    /// The registry's own origin.
    Registry,
    /// Any other host.
    Elsewhere,
}

/// One request to one address; redirects are answers like any other.
pub(super) struct Call<'a> {
    pub(super) to: To,
    pub(super) method: Method,
    pub(super) url: &'a Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload<'a>,
}

/// What a request carries.
pub(super) enum Payload<'a> {
    Nothing,
    /// Sent as `application/x-www-form-urlencoded`.
    Form(&'a [(&'a str, &'a str)]),
    Bytes(Bytes),
    /// As long as the meter says.
    Stream(ByteStream, Arc<Meter>),
}

/// The two clients, each made when it is first needed: reading the system's CAs takes milliseconds.
pub(super) struct Http {
    tls: Tls,
    /// Domain → addresses, from `--resolve`.
    resolve: Vec<(String, SocketAddr)>,
    registry: Mutex<Option<Client>>,
    elsewhere: Mutex<Option<Client>>,
    /// Elsewhere, but on this machine.
    here: Mutex<Option<Client>>,
}

impl Http {
    pub(super) fn new(tls: Tls, resolve: Vec<(String, SocketAddr)>) -> Self {
        install_crypto();
        Self { tls, resolve, registry: Mutex::default(), elsewhere: Mutex::default(), here: Mutex::default() }
    }

    fn client(&self, to: To, url: &Url) -> Result<Client> {
        let local = redirect::is_loopback(url);
        let slot = match to {
            To::Registry => &self.registry,
            To::Elsewhere if local => &self.here,
            To::Elsewhere => &self.elsewhere,
        };
        let mut slot = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = self.build(to, url.scheme() == "https", local)?;
        *slot = Some(client.clone());
        Ok(client)
    }

    fn build(&self, to: To, secure: bool, local: bool) -> Result<Client> {
        // The registry's client speaks to one origin; where that is plain HTTP there is nothing to trust.
        let trust_nothing = to == To::Registry && !secure;
        let failed =
            |error: reqwest::Error| Error::new(ErrorKind::Io, format!("set up TLS: {}", innermost(&error)));
        let build = |trust_nothing| {
            let builder = self.builder(to, trust_nothing)?;
            // No proxy stands between this machine and itself, whatever the environment says; Go holds it the same.
            Ok(if local { builder.no_proxy() } else { builder }.build())
        };
        match build(trust_nothing)? {
            Ok(client) => Ok(client),
            // A machine without any CA certificates can still speak plain HTTP; TLS then says what is missing.
            Err(_) if self.tls.only.is_none() => build(true)?.map_err(failed),
            Err(error) => Err(failed(error)),
        }
    }

    fn builder(&self, to: To, trust_nothing: bool) -> Result<reqwest::ClientBuilder> {
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .user_agent(concat!("artifs/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .referer(false)
            .tcp_nodelay(true)
            .tcp_keepalive(Duration::from_secs(30))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(60));
        for (domain, address) in &self.resolve {
            builder = builder.resolve(domain, *address);
        }
        if self.tls.insecure {
            builder = builder.tls_danger_accept_invalid_certs(true);
        }
        if trust_nothing {
            return Ok(builder.tls_certs_only([]));
        }
        let certificates = |pem: &[u8], from: &str| {
            reqwest::Certificate::from_pem_bundle(pem).map_err(|error| {
                Error::new(ErrorKind::Invalid, format!("{from} holds no certificates: {}", innermost(&error)))
            })
        };
        if let Some((pem, from)) = &self.tls.only {
            let certificates = certificates(pem, from)?;
            builder = match to {
                To::Registry => builder.tls_certs_only(certificates),
                To::Elsewhere => builder.tls_certs_merge(certificates),
            };
        }
        if to == To::Registry {
            for (pem, from) in &self.tls.more {
                builder = builder.tls_certs_merge(certificates(pem, from)?);
            }
            if let Some((pem, from)) = &self.tls.identity {
                let identity = reqwest::Identity::from_pem(pem).map_err(|error| {
                    Error::new(
                        ErrorKind::Invalid,
                        format!("{from} is not a client certificate with its key: {}", innermost(&error)),
                    )
                })?;
                builder = builder.identity(identity);
            }
        }
        Ok(builder)
    }

    /// Sends one request and waits for the head of its answer.
    pub(super) async fn call(&self, call: Call<'_>, patience: &mut Patience) -> Result<Answer, Failure> {
        let host = host_of(call.url);
        let client = self.client(call.to, call.url).map_err(Failure::last)?;
        let mut request = client.request(call.method.clone(), call.url.clone()).headers(call.headers);
        let mut meter = None;
        match call.payload {
            Payload::Nothing => {}
            Payload::Form(form) => request = request.form(form),
            Payload::Bytes(bytes) => request = request.body(bytes),
            Payload::Stream(pieces, counts) => {
                request = request
                    .header(header::CONTENT_LENGTH, counts.length())
                    .body(reqwest::Body::wrap_stream(pieces));
                meter = Some(counts);
            }
        }
        let sent = async { request.send().await.map_err(|error| self.failed(&error, call.url)) };
        let response = match meter {
            None => patience.during(READ_TIMEOUT, &host, sent).await?,
            Some(meter) => meter.watch(sent, READ_TIMEOUT, &host, patience).await?,
        };
        tracing::debug!(method = %call.method, host, path = call.url.path(), status = response.status().as_u16(), "answered");
        Ok(Answer { method: call.method, url: call.url.clone(), host, to: call.to, response })
    }

    /// What a failure to send means: whether to try again, and what a person can do about it.
    fn failed(&self, error: &reqwest::Error, url: &Url) -> Failure {
        let host = host_of(url);
        if let Some(tls) = tls_error(error) {
            return Failure::last(self.tls.explain(&host, &tls));
        }
        let why = innermost(error);
        if error.is_builder() || error.is_request() && why.contains("invalid URL") {
            return Failure::last(Error::new(ErrorKind::Invalid, format!("cannot ask {host}: {why}")));
        }
        let proxy = if why.contains("tunnel") || why.contains("proxy") {
            " (through the proxy of HTTP_PROXY, HTTPS_PROXY or ALL_PROXY; NO_PROXY names hosts to reach without it)"
        } else {
            ""
        };
        let error_ = Error::new(ErrorKind::Unavailable, format!("cannot reach {host}: {why}{proxy}"));
        let again = if error.is_connect() {
            if why.contains("timed out") { Again::later() } else { Again::Soon }
        } else {
            // Most likely a kept connection that the server had closed: the next one is fresh.
            Again::Now
        };
        Failure { error: error_, again }
    }
}

/// The head of an answer, its body still on the wire.
pub(super) struct Answer {
    method: Method,
    url: Url,
    host: String,
    to: To,
    response: reqwest::Response,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header as text; one that is not text counts as absent.
    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The length the server announces. `Response::content_length` would not know it for HEAD.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.trim().parse().ok()
    }

    /// The address that answered.
    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    /// Whether the registry itself answered, not a host it redirected to.
    pub(super) fn is_from_registry(&self) -> bool {
        self.to == To::Registry
    }

    /// Whether the body is compressed for the journey, which we never ask for.
    pub(super) fn encoding(&self) -> Option<&str> {
        self.header(header::CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity"))
    }

    /// The next piece of the body as it arrived, without copying; `None` at its end.
    pub(super) async fn piece(&mut self, patience: &mut Patience) -> Result<Option<Bytes>, Failure> {
        let host = &self.host;
        let piece = async {
            self.response.chunk().await.map_err(|error| Failure {
                error: Error::new(
                    ErrorKind::Unavailable,
                    format!("{host} broke off in the middle of its answer: {}", innermost(&error)),
                ),
                again: Again::later(),
            })
        };
        let piece = patience.during(READ_TIMEOUT, host, piece).await?;
        if let Some(piece) = &piece {
            patience.gained(piece.len() as u64);
        }
        Ok(piece)
    }

    /// The whole body, at most `limit` bytes.
    pub(super) async fn body(mut self, limit: u64, patience: &mut Patience) -> Result<Bytes, Failure> {
        let host = self.host.clone();
        let too_large = |found: u64| {
            let why = format!("the answer of {host} has {found} bytes or more; the limit is {limit}");
            Failure::last(Error::new(ErrorKind::TooLarge, why))
        };
        if let Some(announced) = self.length().filter(|length| *length > limit) {
            return Err(too_large(announced));
        }
        let mut whole = BytesMut::new();
        while let Some(piece) = self.piece(patience).await? {
            let found = (whole.len() + piece.len()) as u64;
            if found > limit {
                return Err(too_large(found));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// What an error page says; empty when it cannot be read or is too long. Its connection is kept for the next
    /// request. It buys no patience: an answer that is not wanted is no progress.
    pub(super) async fn complaint(self, patience: &mut Patience) -> Bytes {
        if self.method == Method::HEAD {
            return Bytes::new();
        }
        let mut own = patience.without_progress();
        let said = self.body(ERROR_LIMIT, &mut own).await.unwrap_or_default();
        patience.spend(&own);
        said
    }
}

/// `host[:port]` of an address, for messages: never its path or query, which may be signed.
pub(super) fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or("?");
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// rustls wants to be told once per process which cryptography to use.
fn install_crypto() {
    static ONCE: Once = Once::new();
    // Somebody else who embeds us may have chosen already; theirs is as good.
    ONCE.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
}

/// The last cause of a chain: what actually happened. Never an address: those may carry signatures.
fn innermost(error: &reqwest::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    if last.downcast_ref::<reqwest::Error>().is_some() {
        return "the request failed".into();
    }
    last.to_string()
}

fn tls_error(error: &reqwest::Error) -> Option<Arc<rustls::Error>> {
    let mut next = error.source();
    while let Some(cause) = next {
        let inside = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        let found = cause
            .downcast_ref::<rustls::Error>()
            .or_else(|| inside.and_then(|inside| inside.downcast_ref::<rustls::Error>()));
        if let Some(found) = found {
            return Some(Arc::new(found.clone()));
        }
        next = inside.map(|inside| inside as &dyn std::error::Error).or_else(|| cause.source());
    }
    None
}
