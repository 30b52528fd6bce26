//! Manifests on their way into a repository, and the names they get.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use super::client::Ask;
use super::http::{HeaderMap, HeaderName, Method};
use super::manifests::Shelf;
use super::outgoing::Sending;
use super::wire_error::Complaint;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Manifest, Name, Tag};
use crate::store::{Body, MANIFEST_LIMIT, expect_digest};

/// A registry of several machines may not know at once what it has just been given (registry.md §6, row 29).
const MOST_UNKNOWN: u32 = 3;
const UNTIL_KNOWN: Duration = Duration::from_millis(500);

impl Shelf {
    /// Puts a manifest in, under its digest or a tag, and makes it known as a referrer of its subject.
    pub(super) async fn push_manifest(
        &self,
        manifest: &Descriptor,
        body: &Body,
        tag: Option<&Tag>,
    ) -> Result<()> {
        let bytes = whole(manifest, body).await?;
        let headers = match tag {
            None => {
                let name = Name::Digest(manifest.digest.clone());
                let doing = || format!("push the manifest {}", self.full_name(&name));
                Some(self.put(&name, manifest, &bytes).await.doing(doing)?)
            }
            Some(tag) => self.put_under(tag, manifest, &bytes).await?,
        };
        self.remember(manifest, &bytes);
        let Ok(parsed) = Manifest::parse(bytes, Some(&manifest.media_type)) else { return Ok(()) };
        let Some(subject) = parsed.subject() else { return Ok(()) };
        let said = HeaderName::from_static("oci-subject");
        if headers.is_some_and(|headers| headers.contains_key(said)) {
            self.client().profile.referrers.seen(true);
            return Ok(());
        }
        self.list_as_referrer(&subject.digest, manifest, &parsed)
            .await
            .doing(|| format!("list {} among the referrers of {}", manifest.digest, subject.digest))
    }

    /// Points a tag at a manifest that is here.
    pub(super) async fn tag(&self, manifest: &Descriptor, tag: &Tag) -> Result<()> {
        let name = Name::Digest(manifest.digest.clone());
        let (found, bytes) = self
            .manifest(&name, MANIFEST_LIMIT)
            .await
            .doing(|| format!("tag {} as {tag}", manifest.digest))?;
        self.put_under(tag, &found, &bytes).await.map(drop)
    }

    /// `None`: the tag, which may not be moved, is where it should be already.
    async fn put_under(&self, tag: &Tag, manifest: &Descriptor, bytes: &Bytes) -> Result<Option<HeaderMap>> {
        let name = Name::Tag(tag.clone());
        let error = match self.put(&name, manifest, bytes).await {
            Ok(headers) => return Ok(Some(headers)),
            Err(error) => error,
        };
        // How a registry says that a tag must not move differs from one to the next (registry.md §4.6).
        let refused = matches!(
            error.kind(),
            ErrorKind::Denied | ErrorKind::Conflict | ErrorKind::Invalid | ErrorKind::Unsupported
        );
        let there = if refused { self.resolve(&name).await.ok() } else { None };
        let name = self.full_name(&name);
        match there {
            Some(there) if there.digest == manifest.digest => Ok(None),
            Some(there) if says_immutable(&error) => {
                let why = format!(
                    "{name} must not be moved: it is {} and the registry keeps it so; push under another tag",
                    there.digest
                );
                Err(Error::with_source(ErrorKind::Exists, why, error))
            }
            _ => Err(error.context(format!("push the manifest {name}"))),
        }
    }

    async fn put(&self, name: &Name, manifest: &Descriptor, bytes: &Bytes) -> Result<HeaderMap> {
        let path = self.path(&format!("manifests/{name}"));
        let scope = self.push_scope();
        let mut patience = self.client().patience();
        let mut unknown = 0;
        loop {
            let sending = Sending::bytes(&manifest.media_type, bytes.clone());
            let ask = Ask { method: Method::PUT, sending: Some(sending), ..Ask::get(&path, &scope) };
            let answer =
                self.client().send(&ask, &mut patience).await.map_err(|error| self.explain(error))?;
            let status = answer.status().as_u16();
            if matches!(status, 201 | 204) || matches!(status, 200 | 202) && self.is_at(name, manifest).await
            {
                return Ok(answer.headers().clone());
            }
            let complaint = Complaint::read(answer, &mut patience).await;
            if complaint.has_code("MANIFEST_BLOB_UNKNOWN") || complaint.has_code("BLOB_UNKNOWN") {
                unknown += 1;
                if unknown <= MOST_UNKNOWN {
                    patience.rest(UNTIL_KNOWN * unknown).await;
                    continue;
                }
                let why = format!("{} does not have everything the manifest names", self.name());
                return Err(Error::with_source(ErrorKind::NotFound, why, complaint.into_error()));
            }
            return Err(self.refused_manifest(complaint, manifest));
        }
    }

    /// Whether the registry has the manifest, for answers that only sound as if it had.
    async fn is_at(&self, name: &Name, manifest: &Descriptor) -> bool {
        self.resolve(name).await.is_ok_and(|found| found.digest == manifest.digest)
    }

    fn refused_manifest(&self, complaint: Complaint, manifest: &Descriptor) -> Error {
        let status = complaint.status.as_u16();
        let host = &self.name().host;
        let error = self.explain(complaint.into_error());
        match status {
            413 => error.context(format!(
                "the manifest has {} bytes, more than {host} takes (most take 4 MiB); push fewer files at once, or folders",
                manifest.size
            )),
            415 => error.context(format!("{host} does not take manifests of the type {}", manifest.media_type)),
            200..=299 => error.context(format!(
                "{host} says that it took the manifest, and does not have it; is a proxy or login page in between?"
            )),
            _ => error,
        }
    }
}

fn says_immutable(error: &Error) -> bool {
    let said = error.to_string().to_ascii_lowercase();
    error.kind() == ErrorKind::Conflict
        || ["immutable", "tag invalid", "412", "precondition", "already exist", "protected", "locked"]
            .iter()
            .any(|word| said.contains(word))
}

/// A manifest's bytes, checked.
async fn whole(manifest: &Descriptor, body: &Body) -> Result<Bytes> {
    let mut hasher = manifest.digest.hasher()?;
    let mut bytes = BytesMut::new();
    let mut pieces = body.open().await?;
    while let Some(piece) = pieces.next().await {
        let piece = piece?;
        hasher.update(&piece);
        bytes.extend_from_slice(&piece);
        if bytes.len() as u64 > manifest.size {
            break;
        }
    }
    expect_digest(hasher, &manifest.digest)?;
    Ok(bytes.freeze())
}
