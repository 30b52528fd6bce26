//! Tags, repositories, referrers.

use artifs::error::ErrorKind;
use artifs::oci::reference::Host;
use artifs::registry;
use artifs::store::Source as _;
use support::registry::{Endpoint, Fault, Links, On, Referrers, Registry};
use support::seed::Artifact;
use support::seed::Destination;
use support::server::Server;

use crate::{lines, name, repository, settings};

const TAGS: [&str; 5] = ["a", "b", "c", "d", "e"];

fn with_tags() -> Registry {
    let registry = Registry::start();
    let mut artifact = Artifact::new();
    for tag in TAGS {
        artifact = artifact.tag(tag);
    }
    artifact.push(&registry, "r");
    registry
}

fn texts(tags: &[artifs::oci::Tag]) -> Vec<&str> {
    tags.iter().map(artifs::oci::Tag::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_followed_however_they_are_linked() {
    for (links, expected) in [
        (Links::Proper, 5),
        (Links::Absolute, 5),
        (Links::Bare, 5),
        // Registries behind proxies get their own host wrong; the path is asked for where the list came from.
        (Links::Elsewhere, 5),
        (Links::Loop, 2),
    ] {
        let registry = with_tags();
        registry.behave(|behaviour| (behaviour.page, behaviour.links) = (Some(2), links));
        let tags = repository(&registry).tags().await.unwrap();
        assert_eq!(texts(&tags), TAGS[..expected], "{links:?}");
        assert!(lines(&registry).len() <= 3, "{links:?}");
        assert_eq!(registry.count(|request| request.endpoint == Endpoint::Storage), 0, "{links:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_begin_after_what_is_known() {
    let registry = with_tags();
    assert_eq!(texts(&repository(&registry).tags_after(Some("b")).await.unwrap()), ["c", "d", "e"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn null_is_an_empty_list() {
    let registry = with_tags();
    registry.behave(|behaviour| behaviour.null_tags = true);
    assert!(repository(&registry).tags().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_listed_or_it_is_said_why_not() {
    let registry = with_tags();
    Artifact::new().tag("x").push(&registry, "ns/other");
    let client = || registry::Registry::new(&registry.host(), &settings()).unwrap();
    registry.behave(|behaviour| behaviour.page = Some(1));
    assert_eq!(client().repositories(None).await.unwrap(), ["ns/other", "r"]);
    for (status, kind) in [
        (401, ErrorKind::Denied),
        (403, ErrorKind::Denied),
        (404, ErrorKind::Unsupported),
        (405, ErrorKind::Unsupported),
    ] {
        registry.heal();
        registry.fault(On::catalog(), Fault::status(status));
        let error = client().repositories(None).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{status}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn referrers_come_from_the_api_and_from_the_tag() {
    for (way, page) in [
        (Referrers::Api, None),
        (Referrers::Api, Some(1)),
        (Referrers::Missing, None),
        (Referrers::Html, None),
    ] {
        // One is pushed while there is no API, two while it is what it is.
        let registry = Registry::with(|behaviour| behaviour.referrers = Referrers::Missing);
        let subject = Artifact::new().file("a", "a").tag("v1").push(&registry, "r");
        let old = Artifact::new().kind("a/old").about(&subject).annotation("k", "v").push(&registry, "r");
        registry.behave(|behaviour| (behaviour.referrers, behaviour.page) = (way, page));
        let new = Artifact::new().kind("a/new").about(&subject).push(&registry, "r");
        let other = Artifact::new().kind("a/other").about(&subject).push(&registry, "r");
        let repository = repository(&registry);
        let mut found: Vec<_> = repository.referrers(&subject, None).await.unwrap();
        found.sort_by_key(|referrer| referrer.artifact_type.clone());
        let found: Vec<_> =
            found.iter().map(|referrer| (referrer.artifact_type.as_deref(), &referrer.digest)).collect();
        assert_eq!(
            found,
            [(Some("a/new"), &new.digest), (Some("a/old"), &old.digest), (Some("a/other"), &other.digest)],
            "{way:?}"
        );
        for filters in [true, false] {
            registry.behave(|behaviour| behaviour.filters = filters);
            let found = repository.referrers(&subject, Some("a/old")).await.unwrap();
            assert_eq!(found.len(), 1, "{way:?} {filters}");
            assert_eq!(found[0].annotation("k"), Some("v"));
        }
        let nobody = repository.referrers(&new, None).await.unwrap();
        assert!(nobody.is_empty(), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trouble_is_not_taken_for_no_referrers() {
    let registry = Registry::start();
    let subject = Artifact::new().tag("v1").push(&registry, "r");
    registry.fault(On::referrers(), Fault::status(403));
    let error = repository(&registry).referrers(&subject, None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_registry_is_read_in_all_ways() {
    let Some(distribution) = Server::distribution() else { return };
    let registry = read_in_all_ways(distribution.host(), &distribution).await;
    let error = registry.repository("absent").unwrap().tags().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(
        error.to_string().ends_with("name unknown: repository name not known to registry: map[name:absent]"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn zot_is_read_in_all_ways() {
    let Some(zot) = Server::zot() else { return };
    read_in_all_ways(zot.host(), &zot).await;
}

async fn read_in_all_ways(host: Host, destination: &impl Destination) -> registry::Registry {
    let content = support::Big::new(3_000_000, 5);
    let artifact = Artifact::new().file("big", content.clone());
    let blob = artifact.layers().next().unwrap().clone();
    let subject = artifact.tag("v1").tag("v2").push(destination, "r");
    let about = Artifact::new().kind("a/sig").about(&subject).push(destination, "r");
    // Its address is 127.0.0.1, so this also finds out that it speaks plain HTTP.
    let settings = artifs::registry::Settings { plain_http: None, ..settings() };
    let registry = registry::Registry::new(&host, &settings).unwrap();
    registry.ping().await.unwrap();
    assert_eq!(registry.repositories(None).await.unwrap(), ["r"]);
    let repository = registry.repository("r").unwrap();
    assert_eq!(repository.resolve(&name("v1")).await.unwrap().digest, subject.digest);
    let tags = repository.tags().await.unwrap();
    assert!(["v1", "v2"].iter().all(|tag| texts(&tags).contains(tag)), "{tags:?}");
    for range in [0..1, 1_000_000..2_000_001, 2_999_999..3_000_000, 0..3_000_000] {
        assert_eq!(crate::read(&repository, &blob, range.clone()).await.unwrap(), content.read(range));
    }
    let found = repository.referrers(&subject, None).await.unwrap();
    assert_eq!(found.iter().map(|found| &found.digest).collect::<Vec<_>>(), [&about.digest]);
    registry
}
