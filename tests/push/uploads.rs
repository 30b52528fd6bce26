//! Blobs and manifests on their way to registries that misbehave (registry.md §6, rows 22–31, 37, 38, 44).

use artifs::ErrorKind;
use artifs::artifact::pack::LayerPart;
use artifs::oci::{Descriptor, Name, media_type};
use artifs::ops::{self, PushOptions};
use artifs::store::{Body, Source as _, SourceExt as _, Target as _};
use bytes::Bytes;
use support::Big;
use support::registry::{End, Fault, On, Referrers, Registry, Uploads};

use crate::{draft, lines, part, repository};

/// A blob larger than the first chunk size, on disk.
struct Large {
    content: Bytes,
    descriptor: Descriptor,
    body: Body,
    _folder: tempfile::TempDir,
}

impl Large {
    fn new(size: u64) -> Self {
        let content = Big::new(size, 3).read(0..size);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("large");
        std::fs::write(&path, &content).unwrap();
        Self { descriptor: Descriptor::of("a/b", &content), content, body: Body::File(path), _folder: folder }
    }

    async fn push(&self, registry: &Registry) -> artifs::Result<()> {
        repository(registry).push(&self.descriptor, &self.body).await
    }

    async fn expect_there(&self, registry: &Registry) {
        let there = repository(registry).fetch_all(&self.descriptor, 1 << 30).await.unwrap();
        assert!(there == self.content);
    }
}

fn taking(uploads: Uploads) -> Registry {
    Registry::with(|behaviour| behaviour.uploads = uploads)
}

fn patches(registry: &Registry) -> usize {
    registry.count(|request| request.method == "PATCH")
}

#[tokio::test]
async fn a_large_blob_is_two_requests() {
    let registry = Registry::start();
    let large = Large::new(20 << 20);
    large.push(&registry).await.unwrap();
    assert_eq!(lines(&registry), ["POST Upload", "PUT Upload"]);
    let put = &registry.requests()[1];
    assert_eq!(put.header("content-length"), Some((20u64 << 20).to_string().as_str()));
    assert_eq!(put.header("content-type"), Some("application/octet-stream"));
    assert_eq!(registry.requests()[0].header("content-length"), Some("0"));
    large.expect_there(&registry).await;
}

#[tokio::test]
async fn an_upload_goes_on_wherever_the_registry_says() {
    let signed = Uploads { state: true, ..Uploads::default() };
    let host = "http://HOST{}";
    for location in [None, Some("{number}"), Some("{}"), Some(host)] {
        let registry = taking(signed.clone());
        let here = registry.host().to_string();
        registry.behave(|behaviour| {
            behaviour.uploads.location = location.map(|location| location.replace("HOST", &here));
        });
        let blob = Bytes::from_static(b"content");
        let descriptor = Descriptor::of("a/b", &blob);
        repository(&registry).push(&descriptor, &Body::Bytes(blob)).await.unwrap();
        assert!(registry.has_blob("r", &descriptor.digest), "{location:?}");
        let put = registry.requests().pop().unwrap();
        assert_eq!(put.query, format!("_state=0%2F%2B%3D&digest={}", descriptor.digest));
    }
}

#[tokio::test]
async fn too_large_for_one_request_goes_in_chunks() {
    let large = Large::new(20 << 20);
    for (uploads, chunks) in [
        (Uploads { largest: Some(10 << 20), ..Uploads::default() }, 3),
        (Uploads { largest: Some(3 << 20), state: true, ..Uploads::default() }, 10),
        (Uploads { largest: Some(10 << 20), created: true, ..Uploads::default() }, 3),
        (Uploads { largest: Some(18 << 20), smallest_chunk: Some(9 << 20), ..Uploads::default() }, 3),
        (Uploads { largest: Some(10 << 20), slams: true, ..Uploads::default() }, 3),
        (Uploads { largest: Some(10 << 20), largest_chunk: Some(4 << 20), ..Uploads::default() }, 5),
    ] {
        let registry = taking(uploads.clone());
        large.push(&registry).await.unwrap();
        large.expect_there(&registry).await;
        let done = registry.count(|request| request.method == "PATCH" && request.status() < 300);
        assert_eq!(done, chunks, "{uploads:?}");
    }
}

#[tokio::test]
async fn a_registry_known_to_refuse_large_requests_is_not_sent_one_again() {
    let registry = taking(Uploads { largest: Some(10 << 20), ..Uploads::default() });
    let repository = repository(&registry);
    for size in [20 << 20, 21 << 20] {
        let large = Large::new(size);
        repository.push(&large.descriptor, &large.body).await.unwrap();
    }
    assert_eq!(registry.count(|request| request.status() == 413), 1);
}

#[tokio::test]
async fn what_takes_no_size_says_which_limit_to_raise() {
    let registry = taking(Uploads { largest: Some(1000), ..Uploads::default() });
    let error = Large::new(1 << 20).push(&registry).await.unwrap_err().to_string();
    assert!(error.contains("413") && error.contains("client_max_body_size"), "{error}");
}

#[tokio::test]
async fn a_chunk_that_broke_off_is_taken_up_where_it_ended() {
    let large = Large::new(20 << 20);
    let chunked = Uploads { largest: Some(10 << 20), state: true, ..Uploads::default() };
    // One in one piece, one in chunks; and another one where what is said to have arrived cannot be.
    for (uploads, begun) in [(chunked.clone(), 2), (Uploads { off_by_one: true, ..chunked }, 3)] {
        let registry = taking(uploads);
        registry.fault(On::uploads().method("PATCH").after(1).times(1), Fault::Received(1 << 20));
        large.push(&registry).await.unwrap();
        large.expect_there(&registry).await;
        assert_eq!(registry.count(|request| request.method == "POST"), begun);
        assert!(begun > 2 || patches(&registry) == 4);
    }
}

#[tokio::test]
async fn an_upload_the_registry_forgot_begins_anew() {
    let large = Large::new(20 << 20);
    let registry = taking(Uploads { largest: Some(10 << 20), forgets: true, ..Uploads::default() });
    registry.fault(On::uploads().method("PATCH").after(1).times(1), Fault::Received(1 << 20));
    large.push(&registry).await.unwrap();
    large.expect_there(&registry).await;
    let lost = taking(Uploads::default());
    lost.fault(On::uploads().method("PUT").times(2), Fault::Answer(404, vec![], String::new()));
    large.push(&lost).await.unwrap();
    assert_eq!(lost.count(|request| request.method == "POST"), 3);
    lost.fault(On::uploads().method("PUT"), Fault::Answer(404, vec![], String::new()));
    let blob = Bytes::from_static(b"never");
    let never = repository(&lost).push(&Descriptor::of("a/b", &blob), &Body::Bytes(blob)).await;
    assert!(never.unwrap_err().to_string().contains("lost the upload"));
}

#[tokio::test]
async fn a_last_request_answered_badly_is_looked_after_before_it_is_sent_again() {
    for chunked in [false, true] {
        let largest = chunked.then_some(10 << 20);
        let registry = taking(Uploads { largest, ..Uploads::default() });
        let after = u32::from(chunked);
        registry.fault(On::uploads().method("PUT").after(after).times(1), Fault::Done(504));
        let large = Large::new(12 << 20);
        large.push(&registry).await.unwrap();
        large.expect_there(&registry).await;
        assert_eq!(registry.count(|request| request.method == "PUT"), 1 + after as usize);
    }
}

#[tokio::test]
async fn large_requests_that_keep_breaking_off_become_small_ones() {
    let registry = Registry::start();
    registry.fault(On::uploads().method("PUT").times(2), Fault::Received(1 << 20));
    let large = Large::new(20 << 20);
    large.push(&registry).await.unwrap();
    large.expect_there(&registry).await;
    assert_eq!(patches(&registry), 3);
}

#[tokio::test]
async fn busy_registries_are_waited_for() {
    let registry = Registry::start();
    for method in ["POST", "PUT"] {
        registry.fault(On::uploads().method(method).times(1), Fault::status(503));
        registry.fault(On::uploads().method(method).times(1), Fault::too_many(Some("0")));
        registry.fault(On::uploads().method(method).times(1), Fault::Hangup);
    }
    registry.fault(On::manifests().method("PUT").times(1), Fault::status(502));
    let target = repository(&registry);
    let pushed = ops::push(draft("x"), target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap();
    let name = Name::Digest(pushed.descriptor.digest);
    assert_eq!(repository(&registry).resolve(&name).await.unwrap().size, pushed.bytes.len() as u64);
}

#[tokio::test]
async fn damage_on_the_way_is_sent_again_and_a_changed_file_is_not() {
    let registry = Registry::start();
    let refused =
        || Fault::Answer(400, vec![], r#"{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}"#.into());
    registry.fault(On::uploads().method("PUT").times(1), refused());
    let large = Large::new(1 << 20);
    large.push(&registry).await.unwrap();
    large.expect_there(&registry).await;
    registry.fault(On::uploads().method("PUT"), refused());
    let other = Large::new((1 << 20) + 1);
    let error = other.push(&registry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("twice"), "{error}");
    registry.heal();
    let Body::File(path) = &other.body else { unreachable!() };
    std::fs::write(path, vec![7; (1 << 20) + 1]).unwrap();
    let error = other.push(&registry).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("changed while it was being pushed"), "{error}");
    std::fs::write(path, vec![7; 1 << 20]).unwrap();
    assert_eq!(other.push(&registry).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn blobs_of_a_neighbour_are_not_sent() {
    let registry = Registry::start();
    let blob = registry.put_blob("other/r", "shared");
    let home: artifs::oci::Reference = format!("{}/other/r", registry.host()).parse().unwrap();
    let body = || Body::Bytes("shared".into());
    assert!(repository(&registry).adopt(&blob, &home.repository, &body()).await.unwrap());
    assert_eq!(lines(&registry), ["POST Upload"]);
    assert!(registry.has_blob("r", &blob.digest));

    let registry = taking(Uploads { no_mounts: true, ..Uploads::default() });
    let here: artifs::oci::Reference = format!("{}/other/r", registry.host()).parse().unwrap();
    registry.forget_requests();
    registry.delete("r", &blob.digest);
    assert!(!repository(&registry).adopt(&blob, &here.repository, &body()).await.unwrap());
    assert_eq!(lines(&registry), ["POST Upload", "PUT Upload"], "the upload that began is used");
    registry.fault(On::uploads().method("POST").times(1), Fault::status(400));
    registry.delete("r", &blob.digest);
    assert!(!repository(&registry).adopt(&blob, &here.repository, &body()).await.unwrap());
    assert!(registry.has_blob("r", &blob.digest));
}

#[tokio::test]
async fn tags_that_must_not_move_stay_and_say_so() {
    for (status, code) in [(412, "PRECONDITION"), (400, "TAG_INVALID"), (409, "TAG_IMMUTABLE")] {
        let registry = taking(Uploads { immutable: Some((status, code)), ..Uploads::default() });
        let tag = ["v1".parse().unwrap()];
        let target = repository(&registry);
        let options = PushOptions::default();
        for _ in 0..2 {
            ops::push(draft("one"), target.as_ref(), &tag, &options, &()).await.unwrap();
        }
        let first = target.resolve(&"v1".parse().unwrap()).await.unwrap();
        let error = ops::push(draft("two"), target.as_ref(), &tag, &options, &()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Exists, "{error}");
        assert!(error.to_string().contains("another tag"), "{error}");
        assert_eq!(target.resolve(&"v1".parse().unwrap()).await.unwrap(), first);
    }
}

#[tokio::test]
async fn refusals_name_their_cause_and_what_to_do() {
    let denied = |message: &str| {
        Fault::Answer(403, vec![], format!(r#"{{"errors":[{{"code":"DENIED","message":"{message}"}}]}}"#))
    };
    for (said, expected) in [
        (
            "adding 1 MiB of storage resource, which when updated will exceed the configured quota",
            "quota is used up",
        ),
        ("requested access to the resource is denied", "artifs login"),
    ] {
        let registry = Registry::start();
        registry.fault(On::uploads().method("POST"), denied(said));
        let target = repository(&registry);
        let error =
            ops::push(draft("x"), target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert!(error.to_string().contains(expected) && error.to_string().contains(said), "{error}");
    }
}

#[tokio::test]
async fn a_portal_that_says_yes_to_everything_has_taken_nothing() {
    let registry = Registry::start();
    registry.fault(On::uploads().method("PUT"), Fault::html());
    let target = repository(&registry);
    let error = ops::push(draft("x"), target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap_err();
    assert!(error.to_string().contains("login page"), "{error}");
    registry.heal();
    registry.fault(On::manifests().method("PUT"), Fault::html());
    let error = ops::push(draft("x"), target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap_err();
    assert!(error.to_string().contains("login page"), "{error}");
}

#[tokio::test]
async fn what_the_registry_lost_meanwhile_is_sent_again() {
    let registry = taking(Uploads { checks: true, ..Uploads::default() });
    let unknown =
        Fault::Answer(400, vec![], r#"{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"no"}]}"#.into());
    // A registry of several machines that know of the blob one after the other.
    registry.fault(On::manifests().method("PUT").times(2), unknown);
    let target = repository(&registry);
    ops::push(draft("x"), target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap();
    assert_eq!(registry.count(|request| request.method == "POST"), 2);
    // One that has really lost it: HEAD said it was there.
    let draft = draft("y");
    let blob = draft.layers[0].descriptor().clone();
    registry.fault(
        On::blob(&blob.digest).method("HEAD").times(1),
        Fault::Answer(200, vec![("content-length".into(), "0".into())], String::new()),
    );
    ops::push(draft, target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap();
    assert!(registry.has_blob("r", &blob.digest));
}

#[tokio::test]
async fn only_what_is_new_is_sent() {
    let registry = Registry::start();
    let target = repository(&registry);
    let contents: Vec<Bytes> = (0..20).map(|n| Bytes::from(format!("content {n}"))).collect();
    let all = |contents: &[Bytes]| artifs::artifact::pack::Draft {
        layers: contents.iter().map(part).collect(),
        ..Default::default()
    };
    let tag = ["v1".parse().unwrap()];
    let options = PushOptions::default();
    ops::push(all(&contents), target.as_ref(), &tag, &options, &()).await.unwrap();
    registry.forget_requests();
    let mut changed = contents.clone();
    changed[7] = Bytes::from_static(b"changed");
    ops::push(all(&changed), target.as_ref(), &tag, &options, &()).await.unwrap();
    let sent = |kind: &str| lines(&registry).iter().filter(|line| *line == kind).count();
    assert_eq!((sent("PUT Upload"), sent("PUT Manifest")), (1, 1));
    registry.forget_requests();
    ops::push(all(&changed), target.as_ref(), &tag, &options, &()).await.unwrap();
    assert_eq!((sent("PUT Upload"), sent("POST Upload"), sent("PUT Manifest")), (0, 0, 1));
}

#[tokio::test]
async fn referrers_are_listed_where_the_registry_does_not_list_them() {
    for referrers in [Referrers::Missing, Referrers::Html, Referrers::Api] {
        let registry = Registry::with(|behaviour| behaviour.referrers = referrers);
        let target = repository(&registry);
        let options = PushOptions::default();
        let subject =
            ops::push(draft("subject"), target.as_ref(), &[], &options, &()).await.unwrap().descriptor;
        let plain = Descriptor::new(media_type::IMAGE_MANIFEST, subject.digest.clone(), subject.size);
        let pushes = (0..6).map(|number| {
            let (target, subject) = (repository(&registry), plain.clone());
            tokio::spawn(async move {
                let mut about = draft(&format!("about {number}"));
                about.subject = Some(subject);
                about.artifact_type = Some("a/sig".into());
                about.annotations.insert("n".into(), number.to_string());
                ops::push(about, target.as_ref(), &[], &PushOptions::default(), &()).await.unwrap();
            })
        });
        for push in pushes.collect::<Vec<_>>() {
            push.await.unwrap();
        }
        let found = repository(&registry).referrers(&plain, Some("a/sig")).await.unwrap();
        let mut numbers: Vec<&str> = found.iter().filter_map(|referrer| referrer.annotation("n")).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, ["0", "1", "2", "3", "4", "5"], "{referrers:?}");
        let stand_in = registry.manifest_at("r", &plain.digest.as_str().replace(':', "-"));
        assert_eq!(stand_in.is_some(), referrers != Referrers::Api);
        target.delete(&found[0]).await.unwrap();
        assert_eq!(target.referrers(&plain, None).await.unwrap().len(), 5, "{referrers:?}");
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_at_its_source_is_not_the_registrys_fault() {
    let from = Registry::start();
    let large = Large::new(3 << 20);
    let blob = from.put_blob("r", large.content.clone());
    from.fault(On::blob(&blob.digest).method("GET"), Fault::Cut { after: 1000, end: End::Close });
    let to = Registry::start();
    let settings =
        artifs::registry::Settings { deadline: std::time::Duration::from_secs(2), ..crate::settings() };
    let source = artifs::registry::Registry::new(&from.host(), &settings).unwrap().repository("r").unwrap();
    let body = Body::Source(std::sync::Arc::new(source), blob.clone());
    let error = repository(&to).push(&blob, &body).await.unwrap_err().to_string();
    assert!(error.contains(from.host().as_str()), "{error}");
    assert!(!to.has_blob("r", &blob.digest));
    from.heal();
    repository(&to).push(&blob, &body).await.unwrap();
    assert!(to.has_blob("r", &blob.digest));
}

#[tokio::test]
async fn credentials_stay_with_the_registry() {
    let registry = Registry::with(|behaviour| behaviour.auth = Some(support::registry::Auth::bearer()));
    let elsewhere = Registry::start();
    let there = elsewhere.host();
    registry.behave(|behaviour| behaviour.uploads.location = Some(format!("http://{there}{{}}")));
    let settings = artifs::registry::Settings {
        username: Some("user".into()),
        password: Some("secret".into()),
        ..crate::settings()
    };
    let target =
        artifs::registry::Registry::new(&registry.host(), &settings).unwrap().repository("r").unwrap();
    let blob = Bytes::from_static(b"content");
    let refused = target.push(&Descriptor::of("a/b", &blob), &Body::Bytes(blob)).await;
    assert!(refused.is_err(), "nobody there knows of the upload");
    assert!(elsewhere.count(|_| true) > 0);
    assert_eq!(elsewhere.count(|request| request.header("authorization").is_some()), 0);
}

#[tokio::test]
async fn a_draft_may_take_blobs_from_a_neighbour() {
    #[derive(Default)]
    struct Seen(std::sync::Mutex<Vec<String>>);
    impl ops::Progress for Seen {
        fn mounted(&self, _: &Descriptor, name: &str) {
            self.0.lock().unwrap().push(name.to_owned());
        }
    }
    let registry = Registry::start();
    let content = Bytes::from_static(b"shared");
    registry.put_blob("other/r", content.clone());
    let home: artifs::oci::Reference = format!("{}/other/r", registry.host()).parse().unwrap();
    let mut draft = draft("new");
    draft.layers.push(LayerPart::Elsewhere {
        descriptor: Descriptor::of("x/y", &content),
        home: home.repository,
        source: repository(&registry),
    });
    let (target, seen) = (repository(&registry), Seen::default());
    let tag = ["v1".parse().unwrap()];
    ops::push(draft, target.as_ref(), &tag, &PushOptions::default(), &seen).await.unwrap();
    assert_eq!(*seen.0.lock().unwrap(), ["x/y"]);
    assert_eq!(
        registry.count(|request| request.method == "PUT"),
        3,
        "the new layer, the config, the manifest"
    );
    let (_, manifest) = target.fetch_manifest(&"v1".parse().unwrap()).await.unwrap();
    for part in manifest.successors() {
        target.fetch_all(part, 100).await.unwrap();
    }
}

#[tokio::test]
async fn progress_adds_up_however_often_it_is_tried() {
    #[derive(Default)]
    struct Sum(std::sync::atomic::AtomicU64);
    impl ops::Progress for Sum {
        fn advanced(&self, what: &Descriptor, bytes: u64) {
            if what.media_type == "a/b" {
                self.0.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            }
        }
    }
    let registry = taking(Uploads { largest: Some(10 << 20), ..Uploads::default() });
    registry.fault(On::uploads().method("PATCH").after(1).times(1), Fault::Received(1 << 20));
    let (large, target, sum) = (Large::new(20 << 20), repository(&registry), Sum::default());
    let layer = LayerPart::New { descriptor: large.descriptor.clone(), body: large.body.clone() };
    let draft = artifs::artifact::pack::Draft { layers: vec![layer], ..Default::default() };
    ops::push(draft, target.as_ref(), &[], &PushOptions::default(), &sum).await.unwrap();
    assert_eq!(sum.0.into_inner(), 20 << 20);
}
