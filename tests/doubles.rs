//! The test doubles do what they say; otherwise the tests built on them would prove nothing.

use artifs::oci::{Digest, media_type};
use artifs::store::{Layout, Memory, Source as _};
use support::http::{Client, Response};
use support::registry::{Auth, End, Fault, On, Redirect, Referrers, Registry};
use support::seed::{Artifact, Destination, Folder, Index};
use support::server::Server;
use support::{Big, Content};

const ACCEPT: (&str, &str) = ("Accept", media_type::ACCEPT_MANIFESTS);

fn get(registry: &Registry, path: &str, headers: &[(&str, &str)]) -> std::io::Result<Response> {
    Client::new(registry.host()).request("GET", path, headers, &"".into())
}

fn blob(digest: &Digest) -> String {
    format!("/v2/a/blobs/{digest}")
}

#[test]
fn what_is_pushed_can_be_had_from_every_destination() {
    let registry = Registry::start();
    let artifact = || {
        Artifact::new()
            .file("a.txt", "a")
            .folder("d", Folder::new().file("x/y", 0o600, "y").link("l", "x/y"))
            .tag("v1")
            .tag("v2")
    };
    let direct = artifact().push(&registry, "direct/a");
    let posted = artifact().push(&Client::new(registry.host()), "posted/a");
    assert_eq!(direct, posted);
    let layout_folder = tempfile::tempdir().unwrap();
    assert_eq!(artifact().push(&Layout::create(layout_folder.path()).unwrap(), ""), direct);
    assert_eq!(artifact().push(&Memory::new(), ""), direct);
    for repository in ["direct/a", "posted/a"] {
        let answer = get(&registry, &format!("/v2/{repository}/manifests/v2"), &[ACCEPT]).unwrap();
        assert_eq!(Digest::of(&answer.body), direct.digest);
        assert_eq!(answer.header("docker-content-digest"), Some(direct.digest.as_str()));
        for layer in artifact().layers() {
            let answer = get(&registry, &format!("/v2/{repository}/blobs/{}", layer.digest), &[]).unwrap();
            assert_eq!(Digest::of(&answer.body), layer.digest);
        }
    }
    if let Some(distribution) = Server::distribution() {
        let image = Index::new().image("linux/amd64", artifact()).tag("i").push(&distribution, "b");
        let client = distribution.client();
        let answer = client.request("GET", "/v2/b/manifests/i", &[ACCEPT], &"".into()).unwrap();
        assert_eq!(Digest::of(&answer.body), image.digest);
        Artifact::new().kind("a/sig").about(&image).push(&distribution, "b");
        let tag = image.digest.to_string().replace(':', "-");
        let list = client.request("GET", &format!("/v2/b/manifests/{tag}"), &[ACCEPT], &"".into()).unwrap();
        assert!(String::from_utf8_lossy(&list.body).contains("a/sig"), "{list:?}");
    }
}

#[test]
fn ranges_are_served_and_counted() {
    let registry = Registry::start();
    let big = Big::new(5 << 30, 3);
    let descriptor = registry.put_blob("a", Content::Bytes(big.read(0..1 << 20)));
    let path = blob(&descriptor.digest);
    let answer = get(&registry, &path, &[("Range", "bytes=100-199")]).unwrap();
    assert_eq!((answer.status, answer.header("content-range")), (206, Some("bytes 100-199/1048576")));
    assert_eq!(answer.body, big.read(100..200));
    assert_eq!(get(&registry, &path, &[("Range", "bytes=1048576-")]).unwrap().status, 416);
    assert_eq!(get(&registry, &path, &[("Range", "bytes=-5")]).unwrap().body.len(), 5);
    assert_eq!(registry.blob_bytes() - 100 - 5, registry.requests()[1].sent());
    assert_eq!(registry.requests()[0].range(), Some("bytes=100-199"));
}

#[test]
fn faults_do_what_they_say_and_only_as_often() {
    let registry = Registry::start();
    let content = Big::new(1 << 20, 3).read(0..1 << 20);
    let descriptor = registry.put_blob("a", content.clone());
    let path = blob(&descriptor.digest);
    let range = [("Range", "bytes=1000-200999")];
    let right = content.slice(1000..201_000);
    let fetch = || get(&registry, &path, &range);
    let once = |fault: Fault| {
        registry.fault(On::blobs().times(1), fault);
        let answer = fetch();
        assert_eq!(fetch().unwrap().body, right, "it was to happen once");
        registry.heal();
        answer
    };
    assert_eq!(once(Fault::status(503)).unwrap().status, 503);
    assert_eq!(once(Fault::too_many(Some("1"))).unwrap().header("retry-after"), Some("1"));
    assert_eq!(once(Fault::html()).unwrap().header("content-type"), Some("text/html; charset=utf-8"));
    assert!(once(Fault::Hangup).is_err());
    assert!(once(Fault::Cut { after: 70_000, end: End::Reset }).is_err());
    assert_eq!(once(Fault::Cut { after: 70_000, end: End::Close }).unwrap().body, right.slice(..70_000));
    let clean = once(Fault::Cut { after: 70_000, end: End::Clean }).unwrap();
    assert_eq!(
        (clean.body, clean.headers.iter().any(|(name, _)| name == "content-length")),
        (right.slice(..70_000), false)
    );
    let short = once(Fault::Cut { after: 70_000, end: End::Short }).unwrap();
    assert_eq!(short.header("content-length"), Some("70000"));
    let flipped = once(Fault::Flip { at: 5000 }).unwrap().body;
    assert_eq!(flipped.iter().zip(&right).filter(|(one, other)| one != other).count(), 1);
    assert_ne!(flipped[4000], right[4000]);
    let extra = once(Fault::Extra(10)).unwrap();
    assert_eq!((extra.body.len(), extra.header("content-length")), (200_010, Some("200010")));
    assert_eq!(once(Fault::IgnoreRange).unwrap().body, content);
    let short = once(Fault::ShortRange(10)).unwrap();
    assert_eq!((short.body.len(), short.header("content-range")), (10, Some("bytes 1000-1009/1048576")));
    assert_eq!(
        once(Fault::OtherRange(7)).unwrap().header("content-range"),
        Some("bytes 1007-201006/1048576")
    );
    let wrong = once(Fault::WrongBytes(7)).unwrap();
    assert_eq!(wrong.header("content-range"), Some("bytes 1000-200999/1048576"));
    assert_eq!(wrong.body, content.slice(1007..201_007));
    assert!(once(Fault::Multipart).unwrap().header("content-type").unwrap().starts_with("multipart/"));
    assert_eq!(once(Fault::Gzip).unwrap().header("content-encoding"), Some("gzip"));
    assert_eq!(once(Fault::NoHeader("content-range")).unwrap().header("content-range"), None);
    assert_eq!(
        once(Fault::Header("content-type", "a/b".into())).unwrap().header("content-type"),
        Some("a/b")
    );
    let lie = Fault::Header("docker-content-digest", Digest::ZERO.into());
    assert_eq!(once(lie).unwrap().header("docker-content-digest"), Some(Digest::ZERO));

    registry.down();
    assert!(fetch().is_err());
    registry.up();
    assert_eq!(fetch().unwrap().body, right);
}

#[test]
fn signed_urls_expire_and_take_no_credentials() {
    let registry = Registry::with(|behaviour| {
        behaviour.redirect = Some(Redirect { uses: Some(2), ..Redirect::default() });
    });
    let descriptor = registry.put_blob("a", "content");
    let answer = get(&registry, &blob(&descriptor.digest), &[]).unwrap();
    assert_eq!(answer.status, 307);
    let place = answer.header("location").unwrap();
    let path = place.strip_prefix(&format!("http://{}", registry.storage_host())).unwrap();
    let storage = Client::new(registry.storage_host());
    let ask =
        |method: &str, headers: &[(&str, &str)]| storage.request(method, path, headers, &"".into()).unwrap();
    assert_eq!(ask("GET", &[("Authorization", "Basic x")]).status, 400);
    assert_eq!(ask("HEAD", &[]).status, 403);
    assert_eq!(ask("GET", &[]).body, "content");
    assert_eq!(ask("GET", &[("Range", "bytes=1-2")]).body, "on");
    assert_eq!(ask("GET", &[]).status, 403);
}

#[test]
fn tokens_are_asked_for_given_and_taken_back() {
    let registry = Registry::with(|behaviour| {
        behaviour.auth = Some(Auth { harbor: true, before: vec!["Negotiate".into()], ..Auth::bearer() });
    });
    Artifact::new().tag("v1").push(&registry, "a");
    let refused = get(&registry, "/v2/a/tags/list", &[]).unwrap();
    let challenges: Vec<_> = refused
        .headers
        .iter()
        .filter(|(name, _)| name == "www-authenticate")
        .map(|(_, line)| line.clone())
        .collect();
    assert_eq!((refused.status, challenges.len()), (401, 2));
    assert!(challenges[1].contains("scope=\"repository:a:pull\""), "{challenges:?}");
    let basic = ("Authorization", "Basic dXNlcjpzZWNyZXQ=");
    let answer = get(&registry, "/token?scope=repository:a:pull&service=x", &[basic]).unwrap();
    let token: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let bearer = format!("Bearer {}", token["token"].as_str().unwrap());
    let tags = || get(&registry, "/v2/a/tags/list", &[("Authorization", &bearer)]).unwrap();
    assert_eq!(tags().status, 200);
    assert_eq!(get(&registry, "/v2/b/tags/list", &[("Authorization", &bearer)]).unwrap().status, 401);
    registry.expire_tokens();
    assert_eq!(tags().status, 401);
    assert!(tags().header("www-authenticate").is_some());
}

#[test]
fn referrers_are_listed_filtered_and_paged() {
    let registry = Registry::with(|behaviour| behaviour.page = Some(2));
    let subject = Artifact::new().tag("v1").push(&registry, "a");
    for number in 0..5 {
        let kind = if number == 0 { "a/other" } else { "a/sig" };
        Artifact::new().kind(kind).annotation("n", &number.to_string()).about(&subject).push(&registry, "a");
    }
    let path = format!("/v2/a/referrers/{}", subject.digest);
    let answer = get(&registry, &format!("{path}?artifactType=a/sig"), &[]).unwrap();
    assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    assert!(answer.header("link").unwrap().contains("rel=\"next\""));
    let index: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);

    registry.behave(|behaviour| behaviour.referrers = Referrers::Missing);
    assert_eq!(get(&registry, &path, &[]).unwrap().status, 404);
    Artifact::new().kind("a/late").about(&subject).push(&registry, "a");
    let fallback = registry.manifest_at("a", &subject.digest.to_string().replace(':', "-")).unwrap();
    assert!(String::from_utf8_lossy(&fallback).contains("a/late"));
}

#[tokio::test]
async fn seeding_works_from_within_a_runtime() {
    let memory = Memory::new();
    memory.blob("", &Content::from("x").descriptor("a/b"), &"x".into());
    let pushed = Artifact::new().file("f", "x").tag("v1").push(&memory, "");
    assert_eq!(memory.resolve(&"v1".parse().unwrap()).await.unwrap(), pushed);
}
