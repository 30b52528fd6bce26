//! Pushing: to registries that behave, registries that do not, and layouts; from the library and as a person does.

mod interleaved;
mod races;
mod uploads;
mod verbs;

use std::sync::Arc;
use std::time::Duration;

use artifs::artifact::pack::{Draft, LayerPart};
use artifs::oci::Descriptor;
use artifs::registry::{self, Settings};
use artifs::store::Body;
use bytes::Bytes;
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
fn repository(of: &Registry) -> Arc<registry::Repository> {
    Arc::new(registry::Registry::new(&of.host(), &settings()).unwrap().repository("r").unwrap())
}

fn part(content: &Bytes) -> LayerPart {
    LayerPart::New { descriptor: Descriptor::of("a/b", content), body: Body::Bytes(content.clone()) }
}

/// An artifact of one layer.
fn draft(text: &str) -> Draft {
    Draft { layers: vec![part(&Bytes::copy_from_slice(text.as_bytes()))], ..Draft::default() }
}

/// `METHOD endpoint` of every request so far, in words that do not depend on the day.
fn lines(registry: &Registry) -> Vec<String> {
    registry.requests().iter().map(|request| format!("{} {:?}", request.method, request.endpoint)).collect()
}
