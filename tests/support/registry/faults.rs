//! What can go wrong on the way, and when.

use std::time::Duration;

use artifs::oci::Digest;

use super::record::Endpoint;

/// One thing that goes wrong with an answer. Several may apply to the same one.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This answer instead: status, headers, body.
    Answer(u16, Vec<(String, String)>, String),
    /// No answer at all; the connection stays open.
    Silent,
    /// The connection is reset before any answer.
    Hangup,
    /// The body ends after so many bytes.
    Cut { after: u64, end: End },
    /// One bit of the byte at this offset of the content is wrong, whenever it is part of the answer.
    Flip { at: u64 },
    /// The body stops after so many bytes, and nothing ever happens again.
    Stall { after: u64 },
    /// The body comes in pieces of so many bytes, with a pause before each.
    Drip { piece: u64, pause: Duration },
    /// So many bytes more than there are, and Content-Length counts them.
    Extra(u64),
    /// The range asked for is ignored: 200 with everything.
    IgnoreRange,
    /// At most so many bytes of the range, and Content-Range says so.
    ShortRange(u64),
    /// 206 for a range that begins so many bytes later, and Content-Range says so.
    OtherRange(u64),
    /// The bytes of a range that begins so many bytes later, and Content-Range says nothing of it.
    WrongBytes(u64),
    /// The range as the only part of a `multipart/byteranges`.
    Multipart,
    /// The body compressed on the way, Content-Encoding: gzip.
    Gzip,
    /// This header is set to this value.
    Header(&'static str, String),
    /// It is done, and answered with this status all the same.
    Done(u16),
    /// Only so many bytes of the request's body arrive; then the connection is reset.
    Received(u64),
    /// This header is left out. Without Content-Length the body comes chunked.
    NoHeader(&'static str),
}

/// How a body that is cut ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The connection is closed although Content-Length promised more.
    Close,
    /// The connection is reset.
    Reset,
    /// As if that were all: chunked, properly ended.
    Clean,
    /// As if that were all: Content-Length agrees.
    Short,
}

impl Fault {
    /// An error status with the body registries give it.
    pub fn status(code: u16) -> Self {
        let body = format!(r#"{{"errors":[{{"code":"UNKNOWN","message":"made to fail with {code}"}}]}}"#);
        Self::Answer(code, vec![("content-type".into(), "application/json".into())], body)
    }

    /// 429, with a Retry-After or without.
    pub fn too_many(retry_after: Option<&str>) -> Self {
        let header = retry_after.map(|value| ("retry-after".to_owned(), value.to_owned()));
        let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"slow down"}]}"#;
        Self::Answer(429, header.into_iter().collect(), body.into())
    }

    /// What captive portals say to everything.
    pub fn html() -> Self {
        let header = ("content-type".to_owned(), "text/html; charset=utf-8".to_owned());
        Self::Answer(200, vec![header], "<html><body>Please log in to the Wi-Fi</body></html>".into())
    }

    /// ECR's way to say that the password is twelve hours old.
    pub fn ecr_expired() -> Self {
        let body = r#"{"errors":[{"code":"DENIED","message":"Your authorization token has expired. Reauthenticate and try again."}]}"#;
        Self::Answer(403, vec![("content-type".into(), "application/json".into())], body.into())
    }

    /// A redirect to this place.
    pub fn redirect(location: &str) -> Self {
        Self::Answer(307, vec![("location".into(), location.into())], String::new())
    }
}

/// Which requests a fault is for.
#[derive(Clone, Debug)]
pub struct On {
    endpoint: Option<Endpoint>,
    method: Option<&'static str>,
    contains: String,
    after: u32,
    times: Option<u32>,
}

impl On {
    fn endpoint(endpoint: Endpoint) -> Self {
        Self { endpoint: Some(endpoint), ..Self::any() }
    }

    /// Every request.
    pub fn any() -> Self {
        Self { endpoint: None, method: None, contains: String::new(), after: 0, times: None }
    }

    /// Blobs, at the registry itself (where a redirect may be the answer).
    pub fn blobs() -> Self {
        Self::endpoint(Endpoint::Blob)
    }

    /// One blob, at the registry itself.
    pub fn blob(digest: &Digest) -> Self {
        Self { contains: digest.to_string(), ..Self::blobs() }
    }

    /// The host that redirects lead to.
    pub fn storage() -> Self {
        Self::endpoint(Endpoint::Storage)
    }

    /// Uploads of blobs.
    pub fn uploads() -> Self {
        Self::endpoint(Endpoint::Upload)
    }

    /// Manifests.
    pub fn manifests() -> Self {
        Self::endpoint(Endpoint::Manifest)
    }

    /// Tag lists.
    pub fn tags() -> Self {
        Self::endpoint(Endpoint::Tags)
    }

    /// The catalog.
    pub fn catalog() -> Self {
        Self::endpoint(Endpoint::Catalog)
    }

    /// Referrers.
    pub fn referrers() -> Self {
        Self::endpoint(Endpoint::Referrers)
    }

    /// The token endpoint.
    pub fn tokens() -> Self {
        Self::endpoint(Endpoint::Token)
    }

    /// `GET /v2/`.
    pub fn ping() -> Self {
        Self::endpoint(Endpoint::Ping)
    }

    /// Only requests of this method.
    pub fn method(mut self, method: &'static str) -> Self {
        self.method = Some(method);
        self
    }

    /// Only requests whose path contains this.
    pub fn path(mut self, text: impl Into<String>) -> Self {
        self.contains = text.into();
        self
    }

    /// Not the first `count` of them.
    pub fn after(mut self, count: u32) -> Self {
        self.after = count;
        self
    }

    /// Only so many of them; without this, always.
    pub fn times(mut self, count: u32) -> Self {
        self.times = Some(count);
        self
    }

    /// Whether this request is meant; counts it.
    pub(super) fn takes(&mut self, endpoint: Endpoint, method: &str, path: &str) -> bool {
        if self.endpoint.is_some_and(|wanted| wanted != endpoint)
            || self.method.is_some_and(|wanted| wanted != method)
            || !path.contains(&self.contains)
        {
            return false;
        }
        if self.after > 0 {
            self.after -= 1;
            return false;
        }
        match &mut self.times {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }
}
