//! Manifests: what is asked, what is believed.

use artifs::error::ErrorKind;
use artifs::oci::{Digest, media_type};
use artifs::store::{MANIFEST_LIMIT, Source as _, SourceExt as _};
use support::registry::{Fault, On, Registry};
use support::seed::Artifact;

use crate::{lines, name, repository};

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_is_one_request_and_its_digest_the_hash_of_the_body() {
    let registry = Registry::start();
    let pushed = Artifact::new().file("a", "a").tag("v1").push(&registry, "r");
    let repository = repository(&registry);
    let (descriptor, body) = repository.manifest(&name("v1"), MANIFEST_LIMIT).await.unwrap();
    assert_eq!((descriptor.digest.clone(), descriptor.size), (pushed.digest.clone(), pushed.size));
    assert_eq!(Digest::of(&body), pushed.digest);
    assert_eq!(lines(&registry), ["GET /v2/r/manifests/v1"]);
    assert_eq!(registry.requests()[0].header("accept"), Some(media_type::ACCEPT_MANIFESTS));
    // Once known by its digest it is not asked for again.
    assert_eq!(repository.fetch_all(&descriptor, MANIFEST_LIMIT).await.unwrap(), body);
    repository.resolve(&name(pushed.digest.as_str())).await.unwrap();
    assert_eq!(lines(&registry).len(), 1);

    registry.fault(On::manifests(), Fault::Header("docker-content-digest", Digest::ZERO.into()));
    assert_eq!(repository.manifest(&name("v1"), MANIFEST_LIMIT).await.unwrap().0.digest, pushed.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn resolving_is_a_head_and_a_get_where_head_does_not_say_enough() {
    let whole = [
        ("all there", None, 1),
        ("no digest", Some(Fault::NoHeader("docker-content-digest")), 2),
        ("no length", Some(Fault::NoHeader("content-length")), 2),
        ("no type", Some(Fault::Header("content-type", "text/plain".into())), 2),
        ("not allowed", Some(Fault::status(405)), 2),
        ("forbidden", Some(Fault::status(403)), 2),
    ];
    for (what, fault, requests) in whole {
        let registry = Registry::start();
        let pushed = Artifact::new().file("a", "a").tag("v1").push(&registry, "r");
        if let Some(fault) = fault {
            registry.fault(On::manifests().method("HEAD"), fault);
        }
        let found = repository(&registry).resolve(&name("v1")).await;
        assert!(
            found.as_ref().is_ok_and(|found| found.digest == pushed.digest && found.size == pushed.size),
            "{what}: {found:?}"
        );
        assert_eq!(lines(&registry).len(), requests, "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_not_found() {
    let registry = Registry::start();
    Artifact::new().tag("v1").push(&registry, "r");
    let repository = repository(&registry);
    for error in [
        repository.resolve(&name("nope")).await.unwrap_err(),
        repository.manifest(&name("nope"), MANIFEST_LIMIT).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().ends_with(&format!("{}/r:nope: not found", registry.host())), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_the_manifest_is_an_error() {
    let registry = Registry::start();
    let pushed = Artifact::new().file("a", "a").tag("v1").push(&registry, "r");
    let by_tag = name("v1");
    let by_digest = name(pushed.digest.as_str());
    for (what, fault, name, limit, kind) in [
        ("a login page", Fault::html(), &by_tag, MANIFEST_LIMIT, ErrorKind::Invalid),
        ("a login page", Fault::html(), &by_digest, MANIFEST_LIMIT, ErrorKind::Corrupt),
        ("a wrong byte", Fault::Flip { at: 30 }, &by_digest, MANIFEST_LIMIT, ErrorKind::Corrupt),
        ("too long", Fault::NoHeader("x"), &by_tag, 10, ErrorKind::TooLarge),
        ("too long, unannounced", Fault::NoHeader("content-length"), &by_tag, 10, ErrorKind::TooLarge),
        ("Harbor's policy", Fault::status(412), &by_tag, MANIFEST_LIMIT, ErrorKind::Denied),
    ] {
        registry.heal();
        registry.fault(On::manifests(), fault);
        let error = repository(&registry).manifest(name, limit).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(error.to_string().contains(registry.host().as_str()), "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_trouble_passes() {
    for fault in [
        Fault::status(500),
        Fault::status(503),
        Fault::too_many(None),
        Fault::too_many(Some("0")),
        Fault::Hangup,
    ] {
        let registry = Registry::start();
        Artifact::new().tag("v1").push(&registry, "r");
        registry.fault(On::manifests().times(2), fault.clone());
        let found = repository(&registry).manifest(&name("v1"), MANIFEST_LIMIT).await;
        assert!(found.is_ok(), "{fault:?} {found:?}");
        assert_eq!(lines(&registry).len(), 3, "{fault:?}");
    }
}
