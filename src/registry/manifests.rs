//! Manifests of one repository: resolved, fetched whole, remembered for a moment.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use lru::LruCache;

use super::auth::Scope;
use super::blobs::Addresses;
use super::client::{Ask, Client};
use super::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{self, Descriptor, Digest, Name, media_type};
use crate::store::{ByteStream, MANIFEST_LIMIT};

/// How many manifests are remembered, and how long each may be: 8 MiB at most, for what a walk over a
/// repository asks for twice.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(32).unwrap();
const LONGEST_REMEMBERED: usize = 256 << 10;

/// One repository and what was learnt about it.
pub(super) struct Shelf {
    client: Arc<Client>,
    repository: oci::Repository,
    scope: Scope,
    remembered: Mutex<LruCache<Digest, (String, Bytes)>>,
    pub(super) addresses: Addresses,
    /// Held while a stand-in list of referrers is changed.
    pub(super) relations: tokio::sync::Mutex<()>,
}

impl Shelf {
    pub(super) fn new(client: Arc<Client>, repository: oci::Repository) -> Self {
        Self {
            client,
            scope: Scope::Pull(repository.path.as_str().into()),
            repository,
            remembered: Mutex::new(LruCache::new(REMEMBERED)),
            addresses: Addresses::default(),
            relations: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What reading this repository takes.
    pub(super) fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The repository as people name it.
    pub(super) fn name(&self) -> &oci::Repository {
        &self.repository
    }

    /// `/v2/<repository>/<what>`.
    pub(super) fn path(&self, what: &str) -> String {
        format!("/v2/{}/{what}", self.repository.path)
    }

    /// `host/repository:tag` or `host/repository@digest`.
    pub(super) fn full_name(&self, name: &Name) -> String {
        let separator = if matches!(name, Name::Tag(_)) { ':' } else { '@' };
        format!("{}{separator}{name}", self.repository)
    }

    fn not_found(&self, name: &Name) -> Error {
        Error::new(ErrorKind::NotFound, format!("{}: not found", self.full_name(name)))
    }

    /// What `name` points at, by HEAD, which no registry bills; by GET where HEAD does not say enough.
    pub(super) async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        if let Some((descriptor, _)) = self.recall(name) {
            return Ok(descriptor);
        }
        let path = self.path(&format!("manifests/{name}"));
        let ask = Ask {
            method: Method::HEAD,
            accept: Some(media_type::ACCEPT_MANIFESTS),
            ..Ask::get(&path, &self.scope)
        };
        let mut patience = self.client.patience();
        let answer = match self.client.send(&ask, &mut patience).await {
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Err(self.not_found(name)),
            Ok(answer) => {
                Some(answer).filter(|answer| answer.status() == StatusCode::OK && answer.encoding().is_none())
            }
            // HEAD says no more than the status; GET answers with a body that says why.
            Err(error) if matches!(error.kind(), ErrorKind::Unauthorized | ErrorKind::Denied) => None,
            Err(error) => return Err(error.context(format!("resolve {}", self.full_name(name)))),
        };
        if let Some(answer) = answer
            && let Some(size) = answer.length()
            && let Some(media_type) = manifest_type(answer.headers())
            && let Some(digest) = match name {
                Name::Digest(digest) => Some(digest.clone()),
                Name::Tag(_) => digest_header(answer.headers()),
            }
        {
            return Ok(Descriptor::new(media_type, digest, size));
        }
        Ok(self.manifest(name, MANIFEST_LIMIT).await?.0)
    }

    /// The manifest `name` points at. Its digest is the hash of the body; what the header says is advice.
    pub(super) async fn manifest(&self, name: &Name, limit: u64) -> Result<(Descriptor, Bytes)> {
        if let Some(known) = self.recall(name).filter(|(descriptor, _)| descriptor.size <= limit) {
            return Ok(known);
        }
        self.get(name, limit).await.doing(|| format!("fetch the manifest {}", self.full_name(name)))
    }

    async fn get(&self, name: &Name, limit: u64) -> Result<(Descriptor, Bytes)> {
        let path = self.path(&format!("manifests/{name}"));
        let ask = Ask { accept: Some(media_type::ACCEPT_MANIFESTS), ..Ask::get(&path, &self.scope) };
        let mut patience = self.client.patience();
        let (headers, body) = match self.client.send_for_body(&ask, limit, &mut patience).await? {
            Ok(answer) => answer,
            Err(complaint) if complaint.status == StatusCode::NOT_FOUND => return Err(self.not_found(name)),
            Err(complaint) => return Err(self.client.advise(complaint)),
        };
        let digest = match name {
            Name::Digest(digest) => {
                digest.hasher()?;
                if !digest.matches(&body) {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("what {} sent does not match its digest", self.repository.host),
                    ));
                }
                digest.clone()
            }
            Name::Tag(_) => {
                let advised = digest_header(&headers);
                match advised {
                    Some(advised) if advised.matches(&body) => advised,
                    advised => {
                        if let Some(advised) = advised {
                            tracing::debug!(%advised, "the registry's Docker-Content-Digest does not match the body; trusting the body");
                        }
                        Digest::of(&body)
                    }
                }
            }
        };
        let media_type = type_of(&headers, &body, &self.repository)?;
        let descriptor = Descriptor::new(media_type, digest, body.len() as u64);
        self.remember(&descriptor, &body);
        Ok((descriptor, body))
    }

    /// The bytes `range` of a manifest named by a descriptor.
    pub(super) async fn fetch_manifest(
        &self,
        descriptor: &Descriptor,
        range: Range<u64>,
    ) -> Result<ByteStream> {
        let name = Name::Digest(descriptor.digest.clone());
        let (found, body) = self.manifest(&name, descriptor.size).await?;
        if found.size != descriptor.size || range.end > found.size || range.start > range.end {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} is {} bytes long, not {}", self.full_name(&name), found.size, descriptor.size),
            ));
        }
        let piece = body.slice(range.start as usize..range.end as usize);
        Ok(Box::pin(futures_util::stream::iter([Ok(piece)])))
    }

    fn recall(&self, name: &Name) -> Option<(Descriptor, Bytes)> {
        let Name::Digest(digest) = name else { return None };
        let mut remembered = self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (media_type, body) = remembered.get(digest)?;
        Some((Descriptor::new(media_type.as_str(), digest.clone(), body.len() as u64), body.clone()))
    }

    pub(super) fn forget(&self, digest: &Digest) {
        self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop(digest);
    }

    pub(super) fn remember(&self, descriptor: &Descriptor, body: &Bytes) {
        if body.len() <= LONGEST_REMEMBERED {
            let mut remembered = self.remembered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            remembered.put(descriptor.digest.clone(), (descriptor.media_type.clone(), body.clone()));
        }
    }
}

fn digest_header(headers: &HeaderMap) -> Option<Digest> {
    let digest: Digest =
        headers.get(HeaderName::from_static("docker-content-digest"))?.to_str().ok()?.trim().parse().ok()?;
    digest.hasher().is_ok().then_some(digest)
}

/// The header's type, if it is that of a manifest.
fn manifest_type(headers: &HeaderMap) -> Option<String> {
    let told = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    media_type::is_manifest(told).then(|| media_type::essence(told).to_owned())
}

/// The header's type, else what the body says it is, else what its shape says. Proxies answer with pages of their
/// own: what is not JSON of a manifest's kind is an error that shows how it begins.
fn type_of(headers: &HeaderMap, body: &Bytes, repository: &oci::Repository) -> Result<String> {
    if let Some(told) = manifest_type(headers) {
        return Ok(told);
    }
    let told = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match oci::Manifest::parse(body.clone(), None) {
        Ok(manifest) => Ok(manifest.media_type().to_owned()),
        // Types we do not read can still be copied and shown.
        Err(error) if error.kind() == ErrorKind::Unsupported && !told.is_empty() => {
            Ok(media_type::essence(told).to_owned())
        }
        Err(error) => Err(error.context(format!(
            "{} did not answer with a manifest (Content-Type {told:?}); is a proxy or login page in between?",
            repository.host
        ))),
    }
}
