//! The registry's client against registries that behave, and registries that do not.

mod auth;
mod blobs;
mod credentials;
mod encryption;
mod lists;
mod manifests;

use std::time::Duration;

use artifs::error::Result;
use artifs::oci::{Descriptor, Name};
use artifs::registry::{self, Settings};
use artifs::store::Source as _;
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use support::registry::Registry;

/// No credentials but those a test gives, and patience that outlasts every retry.
fn settings() -> Settings {
    Settings {
        plain_http: Some(true),
        registry_configs: vec!["/nonexistent/config.json".into()],
        deadline: Duration::from_secs(30),
        ..Settings::default()
    }
}

/// The repository `r` of a registry.
fn repository(of: &Registry) -> registry::Repository {
    repository_with(of, &settings())
}

fn repository_with(of: &Registry, settings: &Settings) -> registry::Repository {
    registry::Registry::new(&of.host(), settings).unwrap().repository("r").unwrap()
}

async fn read(
    repository: &registry::Repository,
    blob: &Descriptor,
    range: std::ops::Range<u64>,
) -> Result<Bytes> {
    let stream = repository.fetch(blob, range).await?;
    let whole: BytesMut = stream
        .try_fold(BytesMut::new(), |mut whole, piece| async move {
            whole.extend_from_slice(&piece);
            Ok(whole)
        })
        .await?;
    Ok(whole.freeze())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// `METHOD path` of every request so far.
fn lines(registry: &Registry) -> Vec<String> {
    registry.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}
