//! Blobs on their way into a repository, whatever the registry makes of uploads.
//!
//! One request with everything first: every registry takes that, up to some size. Where it is too large for
//! the registry or something in front of it, or breaks off twice, the blob goes in chunks, which can be taken up
//! where they broke off. What has been sent is only believed to be there once the registry says so: after a
//! last request that was answered badly the blob is looked for before it is sent again (registry.md §4.2–§4.4).

use futures_util::StreamExt as _;
use url::Url;

use super::auth::Scope;
use super::client::Ask;
use super::http::{Answer, HeaderName, Method, StatusCode, header, host_of};
use super::manifests::Shelf;
use super::outgoing::Sending;
use super::redirect;
use super::retry::{Again, Failure, Patience};
use super::wire_error::Complaint;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{self, Descriptor, Digest, Name};
use crate::store::{Body, expect_digest};

/// The first size tried where one request is too large: ECR wants at least 5 MiB, ACR at most 16 (registry.md §4.3).
const CHUNK: u64 = 8 << 20;
/// A limit below this is no upload limit, but a mistake in somebody's configuration.
const SMALLEST_CHUNK: u64 = 64 << 10;
/// A host that asks for larger chunks than this cannot mean it.
const LARGEST_CHUNK: u64 = 1 << 30;
/// Sessions begun anew because the registry lost one.
pub(super) const MOST_LOST: u32 = 3;
/// Breaks of one large request before chunks are tried.
const MOST_BREAKS: u32 = 2;

impl Shelf {
    /// Whether a blob is here. A registry that does not say so is asked to take it.
    pub(super) async fn has_blob(&self, blob: &Descriptor) -> Result<bool> {
        let path = self.path(&format!("blobs/{}", blob.digest));
        let scope = self.push_scope();
        let ask = Ask { method: Method::HEAD, ..Ask::get(&path, &scope) };
        let mut patience = self.client().patience();
        match self.client().send(&ask, &mut patience).await {
            // Storage that only lets GET look (a signed address): the registry would not have sent us there in vain.
            Ok(answer)
                if !answer.is_from_registry() && matches!(answer.status().as_u16(), 400..=403 | 405) =>
            {
                Ok(true)
            }
            Ok(answer) => {
                let length = answer.length().filter(|length| *length > 0);
                Ok(answer.status() == StatusCode::OK && length.is_none_or(|length| length == blob.size))
            }
            // Not allowed to look is not forbidden to push (ECR Public, GHCR; registry.md §4.1).
            Err(error) if matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied) => Ok(false),
            Err(error) => Err(error.context(format!("look for {}", self.blob_name(blob)))),
        }
    }

    /// Uploads a blob.
    pub(super) async fn push_blob(&self, blob: &Descriptor, body: &Body) -> Result<()> {
        check_bytes(blob, body)?;
        Uploading::new(self, blob, body).run(None).await.doing(|| format!("push {}", self.blob_name(blob)))
    }

    /// Takes a blob from another repository of the same registry; uploads it where that is not possible.
    /// Whether nothing had to be sent.
    pub(super) async fn mount_blob(
        &self,
        blob: &Descriptor,
        home: &oci::Repository,
        body: &Body,
    ) -> Result<bool> {
        check_bytes(blob, body)?;
        let mut uploading = Uploading::new(self, blob, body);
        let session = match uploading.mount(home).await {
            Ok(None) => return Ok(true),
            Ok(Some(session)) => Some(session),
            Err(error) if error.is_retryable() => return Err(error),
            Err(_) => None,
        };
        uploading.run(session).await.doing(|| format!("push {}", self.blob_name(blob)))?;
        Ok(false)
    }

    pub(super) fn push_scope(&self) -> Scope {
        Scope::Push(self.name().path.as_str().into())
    }

    fn blob_name(&self, blob: &Descriptor) -> String {
        self.full_name(&Name::Digest(blob.digest.clone()))
    }

    /// What a refusal to take something means, and what to do about it.
    pub(super) fn explain(&self, error: Error) -> Error {
        if !matches!(error.kind(), ErrorKind::Denied | ErrorKind::RateLimited) {
            return error;
        }
        let repository = self.name();
        let host = &repository.host;
        let said = error.to_string().to_ascii_lowercase();
        let why = if said.contains("quota") || said.contains("storage limit") {
            format!(
                "{repository} is full: its quota is used up. Delete what is not needed there or ask for more, then push again; \
                 what has been uploaded so far is not sent twice"
            )
        } else if error.kind() == ErrorKind::Denied {
            format!(
                "{host} does not let you push to {repository} (or its quota is used up); \
                 log in as somebody who may with \"artifs login {host}\", or push elsewhere"
            )
        } else {
            return error;
        };
        error.context(why)
    }
}

/// Bytes in memory are checked before anybody is asked; files and other stores' content by the registry.
fn check_bytes(blob: &Descriptor, body: &Body) -> Result<()> {
    let mut hasher = blob.digest.hasher()?;
    if let Body::Bytes(bytes) = body {
        hasher.update(bytes);
        expect_digest(hasher, &blob.digest)?;
    }
    Ok(())
}

/// One upload session.
pub(super) struct Session {
    pub(super) url: Url,
    /// What the registry wants chunks to be at least and at most.
    pub(super) smallest: u64,
    pub(super) largest: Option<u64>,
}

/// What became of a session.
pub(super) enum Outcome {
    Stored,
    /// It is of no more use; why.
    Over(Error),
}

pub(super) struct Uploading<'a> {
    pub(super) shelf: &'a Shelf,
    pub(super) blob: &'a Descriptor,
    pub(super) body: &'a Body,
    pub(super) scope: Scope,
    pub(super) patience: Patience,
    /// In chunks of this size; in one piece if `None`.
    pub(super) chunk: Option<u64>,
    breaks: u32,
    pub(super) lost: u32,
    mismatches: u32,
}

impl<'a> Uploading<'a> {
    fn new(shelf: &'a Shelf, blob: &'a Descriptor, body: &'a Body) -> Self {
        let in_chunks = shelf.client().profile.whole_uploads.known() == Some(false) && blob.size > CHUNK;
        Self {
            shelf,
            blob,
            body,
            scope: shelf.push_scope(),
            patience: shelf.client().patience(),
            chunk: in_chunks.then_some(CHUNK),
            breaks: 0,
            lost: 0,
            mismatches: 0,
        }
    }

    async fn run(&mut self, mut session: Option<Session>) -> Result<()> {
        loop {
            let session = match session.take() {
                Some(session) => session,
                None => self.begin().await?,
            };
            let outcome = match self.chunk {
                None => self.in_one_piece(&session).await?,
                Some(chunk) => self.in_chunks(session, chunk).await?,
            };
            match outcome {
                Outcome::Stored => return Ok(()),
                Outcome::Over(error) => tracing::debug!(%error, "beginning the upload anew"),
            }
        }
    }

    async fn begin(&mut self) -> Result<Session> {
        let mut path = self.shelf.path("blobs/uploads/");
        if self.blob.digest.algorithm() != "sha256" {
            path = format!("{path}?digest-algorithm={}", self.blob.digest.algorithm());
        }
        let ask =
            Ask { method: Method::POST, sending: Some(Sending::nothing()), ..Ask::get(&path, &self.scope) };
        let client = self.shelf.client();
        let answer =
            client.send(&ask, &mut self.patience).await.map_err(|error| self.shelf.explain(error))?;
        if !matches!(answer.status().as_u16(), 200..=202) {
            return Err(self.refused(answer).await);
        }
        self.session(&answer)
    }

    /// Asks for the blob of another repository: `None` if it is here now, else a session to upload it in.
    async fn mount(&mut self, home: &oci::Repository) -> Result<Option<Session>> {
        let path = self.shelf.path("blobs/uploads/");
        let path = format!("{path}?mount={}&from={}", self.blob.digest, home.path);
        let scope = Scope::Mount(self.shelf.name().path.as_str().into(), home.path.as_str().into());
        let ask = Ask { method: Method::POST, sending: Some(Sending::nothing()), ..Ask::get(&path, &scope) };
        let answer = self.shelf.client().send(&ask, &mut self.patience).await?;
        match answer.status().as_u16() {
            201 => Ok(None),
            202 => self.session(&answer).map(Some),
            _ => Err(self.refused(answer).await),
        }
    }

    fn session(&self, answer: &Answer) -> Result<Session> {
        let number = |name| answer.header(HeaderName::from_static(name))?.trim().parse::<u64>().ok();
        let location = answer.header(header::LOCATION).ok_or_else(|| {
            Error::new(
                ErrorKind::Unavailable,
                format!("{} does not say where to upload to (no Location)", host_of(answer.url())),
            )
        })?;
        Ok(Session {
            url: upload_address(answer.url(), location, self.shelf.client().insecure)?,
            smallest: number("oci-chunk-min-length").unwrap_or(0).min(LARGEST_CHUNK),
            largest: number("oci-chunk-max-length").filter(|largest| *largest > 0),
        })
    }

    async fn in_one_piece(&mut self, session: &Session) -> Result<Outcome> {
        let url = with_digest(&session.url, &self.blob.digest);
        let ask = Ask {
            method: Method::PUT,
            at: Some(&url),
            sending: Some(Sending::blob(self.body, self.blob.size)),
            ..Ask::get("", &self.scope)
        };
        match self.shelf.client().attempt(&ask, &mut self.patience).await {
            Ok(answer) => self.after_put(answer, session).await,
            Err(failure) => {
                let broken = matches!(failure.error.kind(), ErrorKind::Unavailable);
                if let Some(outcome) = self.after_failure(failure).await? {
                    return Ok(outcome);
                }
                self.breaks += u32::from(broken);
                if self.breaks >= MOST_BREAKS && self.blob.size > CHUNK {
                    self.chunk = Some(CHUNK);
                }
                Ok(Outcome::Over(Error::new(ErrorKind::Unavailable, "the upload broke off")))
            }
        }
    }

    /// After a last request without a good answer: the blob may be there all the same. `None`: it is not, and it is
    /// time for another try.
    pub(super) async fn after_failure(&mut self, failure: Failure) -> Result<Option<Outcome>> {
        if failure.again == Again::No {
            return Err(self.shelf.explain(failure.error));
        }
        if self.shelf.has_blob(self.blob).await? {
            return Ok(Some(Outcome::Stored));
        }
        self.patience.pause(failure).await.map_err(|error| self.shelf.explain(error))?;
        Ok(None)
    }

    /// The answer to the last request of a session.
    pub(super) async fn after_put(&mut self, answer: Answer, session: &Session) -> Result<Outcome> {
        match answer.status().as_u16() {
            201 | 204 => return Ok(Outcome::Stored),
            200 | 202 => {
                if self.shelf.has_blob(self.blob).await? {
                    return Ok(Outcome::Stored);
                }
                let host = host_of(answer.url());
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!(
                        "{host} says that it took the blob, and does not have it; is a proxy or login page in between?"
                    ),
                ));
            }
            413 => return self.too_large(answer, session).await,
            _ => {}
        }
        let complaint = Complaint::read(answer, &mut self.patience).await;
        if complaint.has_code("DIGEST_INVALID") || complaint.has_code("SIZE_INVALID") {
            return self.mismatch(complaint).await;
        }
        self.over_or_refused(complaint)
    }

    /// A session the registry knows nothing of is begun anew, a few times; anything else is final.
    pub(super) fn over_or_refused(&mut self, complaint: Complaint) -> Result<Outcome> {
        let over = matches!(complaint.status.as_u16(), 404 | 410 | 416)
            && !complaint.has_code("NAME_UNKNOWN")
            && !complaint.has_code("NAME_INVALID")
            || ["BLOB_UPLOAD_UNKNOWN", "BLOB_UPLOAD_INVALID", "RANGE_INVALID"]
                .iter()
                .any(|code| complaint.has_code(code));
        let error = self.shelf.explain(complaint.into_error());
        if !over {
            return Err(error);
        }
        self.lost += 1;
        if self.lost > MOST_LOST {
            let host = &self.shelf.name().host;
            return Err(error.context(format!("{host} has lost the upload {} times; giving up", self.lost)));
        }
        Ok(Outcome::Over(error))
    }

    async fn refused(&mut self, answer: Answer) -> Error {
        let complaint = Complaint::read(answer, &mut self.patience).await;
        let unknown = complaint.has_code("NAME_UNKNOWN");
        let error = self.shelf.explain(complaint.into_error());
        if unknown {
            return error.context(format!(
                "{} does not exist and {} does not make it by itself; make it there first",
                self.shelf.name(),
                self.shelf.name().host
            ));
        }
        error
    }

    /// What arrived is not what was announced. Either it was damaged on the way, or our own content is not
    /// what it was when it was hashed.
    async fn mismatch(&mut self, complaint: Complaint) -> Result<Outcome> {
        let mut hasher = self.blob.digest.hasher()?;
        let mut pieces = self.body.open().await?;
        while let Some(piece) = pieces.next().await {
            hasher.update(&piece?);
        }
        expect_digest(hasher, &self.blob.digest).doing(|| "it changed while it was being pushed")?;
        self.mismatches += 1;
        let error = complaint.into_error();
        if self.mismatches > 1 {
            let why = format!("{} received something else than was sent, twice", self.shelf.name().host);
            return Err(Error::with_source(ErrorKind::Corrupt, why, error));
        }
        Ok(Outcome::Over(error))
    }

    /// Too much for one request: smaller ones, as long as there is a smaller size.
    pub(super) async fn too_large(&mut self, answer: Answer, session: &Session) -> Result<Outcome> {
        let host = host_of(answer.url());
        let error = Complaint::read(answer, &mut self.patience).await.into_error();
        let sent = self.chunk.unwrap_or(self.blob.size);
        if self.chunk.is_none() && self.blob.size > CHUNK {
            self.shelf.client().profile.whole_uploads.seen(false);
        }
        let next = (sent / 2).min(CHUNK).next_power_of_two();
        let next = if next >= sent { next / 2 } else { next }.max(session.smallest);
        if next < SMALLEST_CHUNK || next >= sent {
            return Err(error.context(format!(
                "{host}, or a proxy in front of it, takes no request of {sent} bytes (413); raise its limit \
                 (nginx: client_max_body_size) and push again"
            )));
        }
        self.chunk = Some(next);
        Ok(Outcome::Over(error))
    }
}

/// The address an upload goes on at. A server behind a proxy often leaves out scheme or port of its own name.
pub(super) fn upload_address(from: &Url, location: &str, insecure: bool) -> Result<Url> {
    let mut to = redirect::follow(from, location, insecure).doing(|| "find out where to upload to")?;
    if to.host() == from.host() && to.scheme() == from.scheme() && to.port().is_none() {
        let _ = to.set_port(from.port());
    }
    Ok(to)
}

/// The address with the digest behind what is there: registries sign their own part of it, byte for byte.
pub(super) fn with_digest(url: &Url, digest: &Digest) -> Url {
    let mut url = url.clone();
    let query = match url.query() {
        Some(query) if !query.is_empty() => format!("{query}&digest={digest}"),
        _ => format!("digest={digest}"),
    };
    url.set_query(Some(&query));
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_goes_on_where_the_registry_means() {
        let to = |from: &str, location: &str| {
            upload_address(&Url::parse(from).unwrap(), location, false).map(String::from).ok()
        };
        let from = "https://reg.example:8443/v2/a/blobs/uploads/";
        assert_eq!(
            to(from, "/v2/x?_state=a%2Fb%3D%3D").unwrap(),
            "https://reg.example:8443/v2/x?_state=a%2Fb%3D%3D"
        );
        assert_eq!(to(from, "x").unwrap(), "https://reg.example:8443/v2/a/blobs/uploads/x");
        assert_eq!(to(from, "http://reg.example/x").unwrap(), "https://reg.example:8443/x");
        assert_eq!(to(from, "https://reg.example/x").unwrap(), "https://reg.example:8443/x");
        assert_eq!(to(from, "https://up.example/x").unwrap(), "https://up.example/x");
        assert_eq!(to(from, "http://up.example/x"), None);
    }

    #[test]
    fn the_digest_goes_behind_what_is_there() {
        let digest: Digest = Digest::ZERO.parse().unwrap();
        let with = |text: &str| with_digest(&Url::parse(text).unwrap(), &digest).to_string();
        assert_eq!(
            with("http://h/u?_state=a%2Fb%3D%3D+"),
            format!("http://h/u?_state=a%2Fb%3D%3D+&digest={digest}")
        );
        assert_eq!(with("http://h/u"), format!("http://h/u?digest={digest}"));
    }
}
