//! From a request to its answer.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use artifs::oci::{Descriptor, Digest, Manifest, media_type};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::json;

use super::body::{Outgoing, Payload, body, plain};
use super::faults::Fault;
use super::record::{Endpoint, Request};
use super::{Behaviour, Links, Referrers, Signed, State, lock};
use crate::content::Content;

type Headers = Vec<(String, String)>;

/// An answer before faults are applied to its way out.
pub(super) struct Reply {
    pub(super) status: u16,
    headers: Headers,
    payload: Payload,
}

impl Reply {
    pub(super) fn new(status: u16, content: impl Into<Content>) -> Self {
        let content = content.into();
        let range = 0..content.size();
        Self { status, headers: Vec::new(), payload: Payload { content, range } }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn json(status: u16, value: &serde_json::Value) -> Self {
        Self::new(status, value.to_string()).with("content-type", "application/json")
    }

    pub(super) fn error(status: u16, code: &str) -> Self {
        let message = code.to_lowercase().replace('_', " ");
        Self::json(status, &json!({"errors": [{"code": code, "message": message}]}))
    }
}

/// Answers one request. An error here ends the connection.
pub(super) async fn answer(
    state: Arc<State>,
    reset: Arc<AtomicBool>,
    at_storage: bool,
    request: hyper::Request<Incoming>,
) -> io::Result<hyper::Response<Outgoing>> {
    let (head, incoming) = request.into_parts();
    let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let endpoint = if at_storage { Endpoint::Storage } else { endpoint(head.uri.path()) };
    let announced: Option<u64> =
        head.headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
    let uploads = lock(&state.behaviour).uploads.clone();
    let too_large = endpoint == Endpoint::Upload
        && announced.is_some_and(|length| uploads.largest.is_some_and(|largest| length > largest));
    let mut sent_body = if !too_large {
        incoming.collect().await.map_err(io::Error::other)?.to_bytes()
    } else {
        // The answer comes before the body was read. What still comes is let past, as nginx does it, or
        // the connection is closed on it.
        if !uploads.slams {
            tokio::spawn(incoming.collect());
        }
        Bytes::new()
    };
    let shown_body =
        if endpoint == Endpoint::Token { String::from_utf8_lossy(&sent_body).into() } else { String::new() };
    let record = Request {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        endpoint,
        headers: head.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
        body: shown_body,
        status: Arc::new(AtomicU64::new(0)),
        sent: Arc::new(AtomicU64::new(0)),
    };
    lock(&state.requests).push(record.clone());
    let behaviour = lock(&state.behaviour).clone();
    let faults: Vec<Fault> = lock(&state.faults)
        .iter_mut()
        .filter_map(|(on, fault)| on.takes(endpoint, &record.method, &record.path).then(|| fault.clone()))
        .collect();
    if !behaviour.latency.is_zero() {
        tokio::time::sleep(behaviour.latency).await;
    }

    for fault in &faults {
        match fault {
            Fault::Silent => std::future::pending().await,
            Fault::Hangup => {
                reset.store(true, Ordering::SeqCst);
                return Err(io::Error::other("hung up, as asked"));
            }
            Fault::Answer(status, headers, text) => {
                record.status.store(u64::from(*status), Ordering::SeqCst);
                return respond(*status, headers, plain(text.clone()), Some(text.len() as u64));
            }
            _ => {}
        }
    }
    let received = faults.iter().find_map(|fault| match fault {
        Fault::Received(bytes) => Some(*bytes as usize),
        _ => None,
    });
    sent_body.truncate(received.unwrap_or(usize::MAX));
    let asked =
        Asked { state: &state, behaviour: &behaviour, record: &record, faults: &faults, body: &sent_body };
    let mut reply = asked.reply();
    if received.is_some() {
        reset.store(true, Ordering::SeqCst);
        return Err(io::Error::other("cut on the way here, as asked"));
    }
    for fault in &faults {
        if let Fault::Done(status) = fault {
            reply = Reply::error(*status, "UNKNOWN");
        }
    }
    for fault in &faults {
        let name = match fault {
            Fault::Header(name, _) | Fault::NoHeader(name) => name,
            Fault::Gzip => &"content-encoding",
            _ => continue,
        };
        reply.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        match fault {
            Fault::Header(_, value) => reply.headers.push(((*name).to_owned(), value.clone())),
            Fault::Gzip => reply.headers.push(((*name).to_owned(), "gzip".into())),
            _ => {}
        }
    }
    record.status.store(u64::from(reply.status), Ordering::SeqCst);
    let lied = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let (body, length) = body(reply.payload, &faults, behaviour.bandwidth, Arc::clone(&record.sent), reset);
    respond(reply.status, &reply.headers, body, length.filter(|_| !lied))
}

fn respond(
    status: u16,
    headers: &[(String, String)],
    body: Outgoing,
    length: Option<u64>,
) -> io::Result<hyper::Response<Outgoing>> {
    let mut response =
        hyper::Response::builder().status(status).header("docker-distribution-api-version", "registry/2.0");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    if let Some(length) = length {
        response = response.header("content-length", length);
    }
    response.body(body).map_err(io::Error::other)
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/v2" | "/v2/" => Endpoint::Ping,
        "/v2/_catalog" => Endpoint::Catalog,
        "/token" => Endpoint::Token,
        _ if path.ends_with("/tags/list") => Endpoint::Tags,
        _ if path.contains("/blobs/uploads/") => Endpoint::Upload,
        _ if path.contains("/blobs/") => Endpoint::Blob,
        _ if path.contains("/manifests/") => Endpoint::Manifest,
        _ if path.contains("/referrers/") => Endpoint::Referrers,
        _ => Endpoint::Other,
    }
}

pub(super) struct Asked<'a> {
    pub(super) state: &'a State,
    pub(super) behaviour: &'a Behaviour,
    pub(super) record: &'a Request,
    faults: &'a [Fault],
    pub(super) body: &'a Bytes,
}

impl Asked<'_> {
    fn reply(&self) -> Reply {
        let record = self.record;
        match record.endpoint {
            Endpoint::Storage => return self.storage(),
            Endpoint::Token => return self.token(),
            _ => {}
        }
        let (repository, last) = parts(record);
        if let Some(auth) = &self.behaviour.auth {
            let write = !matches!(record.method.as_str(), "GET" | "HEAD");
            let scope = match record.endpoint {
                Endpoint::Ping => String::new(),
                Endpoint::Catalog => "registry:catalog:*".into(),
                _ if record.method == "DELETE" => format!("repository:{repository}:delete"),
                _ if write => match query(record, "from") {
                    Some(from) => format!("repository:{repository}:pull,push repository:{from}:pull"),
                    None => format!("repository:{repository}:pull,push"),
                },
                _ => format!("repository:{repository}:pull"),
            };
            let host = self.state.address.to_string();
            let checked = lock(&self.state.tokens).check(auth, &host, record.header("authorization"), &scope);
            if let Err(challenges) = checked {
                let refused = Reply::error(401, "UNAUTHORIZED");
                return challenges
                    .into_iter()
                    .fold(refused, |reply, line| reply.with("www-authenticate", line));
            }
        }
        match record.endpoint {
            Endpoint::Ping => Reply::json(200, &json!({})),
            Endpoint::Catalog if self.behaviour.no_catalog => Reply::error(401, "DENIED"),
            Endpoint::Catalog => {
                let all: Vec<String> = lock(&self.state.repositories).keys().cloned().collect();
                self.page(all, |page| json!({ "repositories": page }))
            }
            Endpoint::Upload => self.upload(&repository),
            Endpoint::Manifest if record.method == "PUT" => self.put_manifest(&repository, &last),
            Endpoint::Manifest | Endpoint::Blob if record.method == "DELETE" => {
                self.delete(&repository, &last)
            }
            _ if !lock(&self.state.repositories).contains_key(&repository) => {
                Reply::error(404, "NAME_UNKNOWN")
            }
            Endpoint::Tags => {
                let tags = lock(&self.state.repositories)[&repository].tags.keys().cloned().collect();
                let null = self.behaviour.null_tags;
                self.page(
                    tags,
                    |page| json!({ "name": repository, "tags": if null { None } else { Some(page) } }),
                )
            }
            Endpoint::Manifest => self.manifest(&repository, &last),
            Endpoint::Blob => self.blob(&repository, &last),
            Endpoint::Referrers => self.referrers(&repository, &last),
            _ => Reply::new(404, "404 page not found\n").with("content-type", "text/plain"),
        }
    }

    fn token(&self) -> Reply {
        let Some(auth) = &self.behaviour.auth else { return Reply::error(404, "NO_TOKENS_HERE") };
        let form = if self.record.method == "POST" { &self.record.body } else { &self.record.query };
        let parameters: Vec<(String, String)> =
            url::form_urlencoded::parse(form.as_bytes()).into_owned().collect();
        let authorization = self.record.header("authorization");
        let (status, body) =
            lock(&self.state.tokens).give(auth, &self.record.method, authorization, &parameters);
        Reply::new(status, body).with("content-type", "application/json")
    }

    /// One page of a list, from `last` on, with a link to the next.
    fn page(&self, all: Vec<String>, show: impl Fn(&[String]) -> serde_json::Value) -> Reply {
        let parameter = |name: &str| query(self.record, name);
        let last = parameter("last").unwrap_or_default();
        let wanted = parameter("n").and_then(|n| n.parse().ok());
        let size = wanted.into_iter().chain(self.behaviour.page).min().unwrap_or(usize::MAX);
        let rest: Vec<String> = all.into_iter().filter(|name| *name > last).collect();
        let page = &rest[..rest.len().min(size)];
        let reply = Reply::json(200, &show(page));
        match page.last() {
            Some(last) if page.len() < rest.len() || self.behaviour.links == Links::Loop => {
                let next = format!("{}?last={last}&n={size}", self.record.path);
                reply.with("link", self.link(&next))
            }
            _ => reply,
        }
    }

    fn link(&self, next: &str) -> String {
        match self.behaviour.links {
            Links::Proper => format!("<{next}>; rel=\"next\""),
            Links::Absolute => format!("<http://{}{next}>; rel=\"next\"", self.state.address),
            Links::Bare => format!("{next}; rel=next"),
            Links::Loop => format!("<{}>; rel=\"next\"", self.record.path),
            Links::Elsewhere => format!("<http://{}{next}>; rel=\"next\"", self.state.storage),
        }
    }

    fn manifest(&self, repository: &str, name: &str) -> Reply {
        if self.record.method == "HEAD" && self.behaviour.no_head {
            return Reply::error(405, "UNSUPPORTED");
        }
        let found = {
            let repositories = lock(&self.state.repositories);
            let stored = &repositories[repository];
            let digest = stored.tags.get(name).cloned().or_else(|| name.parse::<Digest>().ok());
            digest.and_then(|digest| stored.manifests.get(&digest).map(|found| (digest, found.clone())))
        };
        let Some((digest, (kind, bytes))) = found else { return Reply::error(404, "MANIFEST_UNKNOWN") };
        // As distribution: who does not say that it can read this does not get it.
        if !self.record.header("accept").is_some_and(|accept| accept.contains(&kind))
            && media_type::is_manifest(&kind)
        {
            return Reply::error(404, "MANIFEST_UNKNOWN");
        }
        Reply::new(200, bytes)
            .with("content-type", kind)
            .with("docker-content-digest", digest.as_str())
            .with("etag", format!("\"{digest}\""))
    }

    fn blob(&self, repository: &str, digest: &str) -> Reply {
        let content = digest
            .parse::<Digest>()
            .ok()
            .and_then(|digest| lock(&self.state.repositories)[repository].blobs.get(&digest).cloned());
        let Some(content) = content else { return Reply::error(404, "BLOB_UNKNOWN") };
        let head = self.record.method == "HEAD";
        if let Some(redirect) = self.behaviour.redirect.as_ref().filter(|redirect| !head || redirect.head) {
            let mut signed = lock(&self.state.signed);
            let number = signed.len() as u64 + 1;
            let until = redirect.life.map(|life| Instant::now() + life);
            signed.insert(number, Signed { left: redirect.uses, until });
            let place = format!("http://{}/{repository}/{digest}?signature={number}", self.state.storage);
            return Reply::new(redirect.status, "").with("location", place);
        }
        self.bytes(content).with("docker-content-digest", digest)
    }

    fn storage(&self) -> Reply {
        let refuse = |status, code: &str| {
            let text = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>");
            Reply::new(status, text).with("content-type", "application/xml")
        };
        if self.record.header("authorization").is_some() {
            return refuse(400, "InvalidArgument: Only one auth mechanism allowed");
        }
        if self.record.method != "GET" {
            return refuse(403, "SignatureDoesNotMatch");
        }
        let number = query(self.record, "signature").and_then(|number| number.parse::<u64>().ok());
        let valid = number.is_some_and(|number| {
            lock(&self.state.signed).get_mut(&number).is_some_and(|signed| {
                let in_time = signed.until.is_none_or(|until| Instant::now() < until);
                let left = signed.left.is_none_or(|left| left > 0);
                signed.left = signed.left.map(|left| left.saturating_sub(1));
                in_time && left
            })
        });
        if !valid {
            let status = self.behaviour.redirect.as_ref().map_or(403, |redirect| redirect.expired);
            return refuse(status, "AccessDenied: Request has expired");
        }
        let found =
            self.record.path.trim_start_matches('/').rsplit_once('/').and_then(|(repository, digest)| {
                let digest: Digest = digest.parse().ok()?;
                lock(&self.state.repositories).get(repository)?.blobs.get(&digest).cloned()
            });
        found.map_or_else(|| refuse(404, "NoSuchKey"), |content| self.bytes(content))
    }

    /// A blob's bytes, in part if a part was asked for.
    fn bytes(&self, content: Content) -> Reply {
        let size = content.size();
        let kind = media_type::OCTET_STREAM;
        let whole =
            |content| Reply::new(200, content).with("content-type", kind).with("accept-ranges", "bytes");
        let Some(asked) = self.record.range() else { return whole(content) };
        if self.faults.iter().any(|fault| matches!(fault, Fault::IgnoreRange)) {
            return whole(content);
        }
        let Some(mut said) = part(asked, size, self.behaviour.strict_end) else {
            return Reply::error(416, "RANGE_INVALID").with("content-range", format!("bytes */{size}"));
        };
        let (mut off, mut multipart) = (0, false);
        for fault in self.faults {
            match fault {
                Fault::ShortRange(most) => said.end = said.end.min(said.start + most),
                Fault::OtherRange(shift) => said = shifted(&said, *shift, size),
                Fault::WrongBytes(shift) => off = *shift,
                Fault::Multipart => multipart = true,
                _ => {}
            }
        }
        let shown = content_range(&said, size);
        if multipart {
            let header = format!("--edge\r\nContent-Type: {kind}\r\nContent-Range: {shown}\r\n\r\n");
            let text = [header.as_bytes(), &content.read(said), b"\r\n--edge--\r\n"].concat();
            return Reply::new(206, text).with("content-type", "multipart/byteranges; boundary=edge");
        }
        let fits = said.end + off <= size;
        let move_by = |at: u64| if fits { at + off } else { at.saturating_sub(off) };
        let range = move_by(said.start)..move_by(said.end);
        Reply { status: 206, headers: Vec::new(), payload: Payload { content, range } }
            .with("content-type", kind)
            .with("content-range", shown)
    }

    fn referrers(&self, repository: &str, subject: &str) -> Reply {
        match self.behaviour.referrers {
            Referrers::Api => {}
            Referrers::Missing => {
                return Reply::new(404, "404 page not found\n").with("content-type", "text/plain");
            }
            Referrers::Html => {
                return Reply::new(200, "<html>hello</html>").with("content-type", "text/html");
            }
        }
        let Ok(subject) = subject.parse::<Digest>() else { return Reply::error(400, "DIGEST_INVALID") };
        let wanted = query(self.record, "artifactType").filter(|_| self.behaviour.filters);
        let last = query(self.record, "last").unwrap_or_default();
        let mut found: Vec<Descriptor> = lock(&self.state.repositories)[repository]
            .manifests
            .iter()
            .filter_map(|(digest, (kind, bytes))| {
                let manifest = Manifest::parse(bytes.clone(), Some(kind)).ok()?;
                let mut referrer = Descriptor::new(kind, digest.clone(), bytes.len() as u64);
                referrer.artifact_type = manifest.artifact_type().map(str::to_owned);
                referrer.annotations.clone_from(manifest.annotations());
                (manifest.subject()?.digest == subject && digest.as_str() > last.as_str()).then_some(referrer)
            })
            .filter(|referrer| wanted.is_none() || referrer.artifact_type == wanted)
            .collect();
        let more = self.behaviour.page.is_some_and(|page| found.len() > page);
        found.truncate(self.behaviour.page.unwrap_or(usize::MAX));
        let index = json!({"schemaVersion": 2, "mediaType": media_type::IMAGE_INDEX, "manifests": found});
        let mut reply = Reply::new(200, index.to_string()).with("content-type", media_type::IMAGE_INDEX);
        if wanted.is_some() {
            reply = reply.with("oci-filters-applied", "artifactType");
        }
        if let Some(last) = found.last().filter(|_| more || self.behaviour.links == Links::Loop) {
            let filter = wanted.map_or(String::new(), |wanted| format!("&artifactType={wanted}"));
            reply =
                reply.with("link", self.link(&format!("{}?last={}{filter}", self.record.path, last.digest)));
        }
        reply
    }
}

/// `/v2/<repository>/<what>/<last>`, where `what` decides how much follows it.
fn parts(record: &Request) -> (String, String) {
    let path = record.path.strip_prefix("/v2/").unwrap_or_default();
    let before =
        |what: &str| path.rfind(what).map(|at| (path[..at].to_owned(), path[at + what.len()..].to_owned()));
    match record.endpoint {
        Endpoint::Tags => before("/tags/list"),
        Endpoint::Manifest => before("/manifests/"),
        Endpoint::Upload => before("/blobs/uploads/"),
        Endpoint::Blob => before("/blobs/"),
        Endpoint::Referrers => before("/referrers/"),
        _ => None,
    }
    .unwrap_or_default()
}

pub(super) fn query(record: &Request, name: &str) -> Option<String> {
    url::form_urlencoded::parse(record.query.as_bytes())
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end.saturating_sub(1))
}

fn shifted(range: &Range<u64>, shift: u64, size: u64) -> Range<u64> {
    let start = (range.start + shift).min(size.saturating_sub(1));
    start..(range.end + shift).min(size)
}

/// One range of a Range header. `None` if it cannot be satisfied (416).
fn part(header: &str, size: u64, strict_end: bool) -> Option<Range<u64>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    let range = match (first.trim(), last.trim()) {
        ("", suffix) => size.saturating_sub(suffix.parse().ok()?)..size,
        (first, "") => first.parse().ok()?..size,
        (first, last) => first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?,
    };
    if strict_end && range.end > size {
        return None;
    }
    (range.start < range.end.min(size)).then(|| range.start..range.end.min(size))
}
