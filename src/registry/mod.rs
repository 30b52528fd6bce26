//! A store over HTTP: an OCI registry's client.
//!
//! [`Registry`] is one host with its connections and tokens, [`Repository`] one repository of it. A request goes
//! through `client` (credentials, redirects, retries) to `http` (the wire). What this registry turned out to
//! be able to do is remembered in `profile`.
//!
//! - `origin`, `tls`, `settings`: where and how a host is reached · `redirect`, `retry`: what happens on the way
//! - `challenge`, `auth`, `token`, [`credentials`]: who asks, and what shows it · `wire_error`: what a refusal says
//! - `manifests`, `blobs`, `tags`, `referrers`, `paging`: what is read
//! - `uploads`, `chunks`, `outgoing`: blobs that are sent · `publish`, `relations`, `delete`: manifests that come and go

mod auth;
mod blobs;
mod challenge;
mod chunks;
mod client;
pub mod credentials;
mod delete;
mod http;
mod manifests;
mod origin;
mod outgoing;
mod paging;
mod profile;
mod publish;
mod redirect;
mod referrers;
mod relations;
mod retry;
mod settings;
mod tags;
mod tls;
mod token;
mod uploads;
mod wire_error;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

use crate::error::{ErrorKind, Result};
use crate::oci::reference::Host;
use crate::oci::{self, Descriptor, Name, Tag};
use crate::store::{Blob, Body, ByteStream, Catalog, Direct, Source, Target};

pub use settings::{Resolve, Settings};

use client::Client;

/// One registry: its connections, its tokens, what it can do. Cloning is cheap and shares all of it.
#[derive(Clone)]
pub struct Registry {
    client: Arc<Client>,
}

impl Registry {
    /// The registry at `host`. Reads the files the settings name; asks no network.
    pub fn new(host: &Host, settings: &Settings) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::new(host, settings)?) })
    }

    /// One repository of it. Asks no network.
    pub fn repository(&self, path: &str) -> Result<Repository> {
        // Docker Hub's own images live below `library/`, which people leave out.
        let whole = if self.client.host().is_docker_hub() && !path.contains('/') {
            format!("library/{path}")
        } else {
            path.to_owned()
        };
        let named = oci::Repository::new(self.client.host().clone(), &whole)?;
        Ok(Repository(Arc::new(manifests::Shelf::new(self.client.clone(), named))))
    }

    /// Asks whether this is a registry and whether it accepts our credentials: what `login` checks.
    pub async fn ping(&self) -> Result<()> {
        self.client.ping().await
    }

    /// All repositories the registry lists, those after `last` if it is given.
    pub async fn repositories(&self, last: Option<&str>) -> Result<Vec<String>> {
        tags::repositories(&self.client, last).await
    }
}

#[async_trait]
impl Catalog for Registry {
    async fn repositories(&self) -> Result<Vec<String>> {
        self.repositories(None).await
    }

    fn repository(&self, path: &str) -> Result<Arc<dyn Source>> {
        Ok(Arc::new(self.repository(path)?))
    }
}

/// One repository of a registry. Cloning is cheap.
#[derive(Clone)]
pub struct Repository(Arc<manifests::Shelf>);

impl Repository {
    /// The tags after `last`, or all, in the registry's order.
    pub async fn tags_after(&self, last: Option<&str>) -> Result<Vec<Tag>> {
        self.0.tags(last).await
    }
}

#[async_trait]
impl Source for Repository {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        self.0.resolve(name).await
    }

    async fn manifest(&self, name: &Name, limit: u64) -> Result<(Descriptor, Bytes)> {
        self.0.manifest(name, limit).await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        if descriptor.is_manifest() {
            return self.0.fetch_manifest(descriptor, range).await;
        }
        blobs::fetch(self.0.clone(), descriptor, range).await
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        self.0.tags(None).await
    }

    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        self.0.referrers(subject, artifact_type).await
    }
}

#[async_trait]
impl Target for Repository {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        if !descriptor.is_manifest() {
            return self.0.has_blob(descriptor).await;
        }
        match self.0.resolve(&Name::Digest(descriptor.digest.clone())).await {
            Ok(found) => Ok(found.size == descriptor.size),
            // Nobody has been there yet, or nobody may look.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Denied
                ) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn push(&self, descriptor: &Descriptor, body: &Body) -> Result<()> {
        if descriptor.is_manifest() {
            return self.0.push_manifest(descriptor, body, None).await;
        }
        self.0.push_blob(descriptor, body).await
    }

    async fn tag(&self, descriptor: &Descriptor, tag: &Tag) -> Result<()> {
        self.0.tag(descriptor, tag).await
    }

    async fn publish(&self, manifest: &Descriptor, body: &Body, tag: &Tag) -> Result<()> {
        self.0.push_manifest(manifest, body, Some(tag)).await
    }

    async fn adopt(&self, blob: &Descriptor, home: &oci::Repository, body: &Body) -> Result<bool> {
        if home.host != self.0.name().host || home.path == self.0.name().path {
            self.0.push_blob(blob, body).await?;
            return Ok(false);
        }
        self.0.mount_blob(blob, home, body).await
    }

    async fn untag(&self, tag: &Tag) -> Result<()> {
        self.0.delete_tag(tag).await
    }

    async fn delete(&self, descriptor: &Descriptor) -> Result<()> {
        self.0.delete_content(descriptor).await
    }
}
