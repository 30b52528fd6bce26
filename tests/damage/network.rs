//! The faults of a registry and of the way to it, through the cache. Numbers are those of the project's
//! list of faults a client must survive.

use std::sync::Arc;
use std::time::Duration;

use artifs::ErrorKind;
use artifs::oci::{Descriptor, Digest, Name, media_type};
use artifs::store::{Blob, MANIFEST_LIMIT, Source};
use support::Big;
use support::registry::{Auth, Behaviour, End, Fault, Links, On, Redirect, Registry};
use support::seed::Artifact;

use crate::{REPOSITORY, cache, client};

/// What must come of a fault while it lasts.
enum Then {
    /// Everything reads right.
    Right,
    /// Nothing reads; this is why.
    Fails(ErrorKind),
    /// The same, and the client is bound by what the registry said also when the registry has changed its mind.
    FailsFor(ErrorKind),
    /// Either, but never wrong bytes.
    RightOrFails,
    /// The content is not what its digest says, which shows once all of it is here.
    Corrupt,
}

impl Then {
    /// How long a client waits: where things must go right, long enough for every wait the fault asks for on
    /// a busy machine; where they fail by waiting, short enough to test.
    fn deadline(&self) -> Duration {
        match self {
            Self::Right | Self::Corrupt => Duration::from_secs(15),
            Self::Fails(_) | Self::FailsFor(_) | Self::RightOrFails => Duration::from_secs(2),
        }
    }
}

/// Beyond this a read counts as hung. The deadline is for each request; a read may need several.
const HUNG: Duration = Duration::from_secs(60);

const SIZE: u64 = (2 << 20) + 77;

struct Scene {
    server: Registry,
    source: Arc<dyn Source>,
    content: Big,
    blob: Descriptor,
    _folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        Self::with(Duration::from_secs(5))
    }

    fn with(deadline: Duration) -> Self {
        let (server, folder) = (Registry::start(), tempfile::tempdir().unwrap());
        let content = Big::new(SIZE, 5);
        let blob = server.put_blob(REPOSITORY, content.clone());
        let source = cache(folder.path()).in_front_of(Some(client(&server, deadline)), REPOSITORY);
        Self { server, source, content, blob, _folder: folder }
    }

    fn open(&self) -> Arc<dyn Blob> {
        Arc::clone(&self.source).open(&self.blob).unwrap()
    }

    /// Reads here and there, then all of it, and gives what failed. Wrong bytes end the test.
    async fn read(&self, wrong_allowed: bool) -> Vec<ErrorKind> {
        let mut failed = Vec::new();
        let reader = self.open();
        for range in [1_100_000..1_400_000, 0..1000, SIZE - 10..SIZE, 0..SIZE] {
            let read = tokio::time::timeout(HUNG, reader.read(range.clone())).await;
            match read
                .unwrap_or_else(|_| panic!("reading {range:?} hangs: {:?}", self.server.requests().last()))
            {
                Ok(bytes) => {
                    assert_eq!(bytes.len() as u64, range.end - range.start);
                    assert!(
                        wrong_allowed || bytes == self.content.read(range.clone()),
                        "wrong bytes in {range:?}"
                    );
                }
                Err(error) => {
                    failed.push(error.kind());
                    break;
                }
            }
        }
        match tokio::time::timeout(HUNG, reader.complete()).await.expect("checking hangs") {
            Ok(()) => assert!(failed.is_empty() || !wrong_allowed),
            Err(error) => failed.push(error.kind()),
        }
        failed
    }
}

async fn survives(then: Then, arrange: impl FnOnce(&Registry, &Descriptor)) {
    let scene = Scene::with(then.deadline());
    arrange(&scene.server, &scene.blob);
    let failed = scene.read(matches!(then, Then::Corrupt)).await;
    match then {
        Then::Right => assert_eq!(failed, [], "{:#?}", requests(&scene.server)),
        Then::Fails(kind) => assert_eq!(failed, [kind, kind]),
        Then::FailsFor(kind) => {
            assert_eq!(failed, [kind, kind]);
            return;
        }
        Then::Corrupt => assert_eq!(failed.last(), Some(&ErrorKind::Corrupt)),
        Then::RightOrFails => {}
    }
    scene.server.heal();
    scene.server.behave(|behaviour| {
        let auth = behaviour.auth.take();
        let sane = auth.map(|auth| if auth.bearer { Auth::bearer() } else { Auth::basic() });
        *behaviour = Behaviour { auth: sane, ..Behaviour::default() };
    });
    scene.server.up();
    // What was read ahead while it was ill may still come back to the first who reads.
    let mut failed = scene.read(false).await;
    for _ in 0..4 {
        if failed.is_empty() {
            break;
        }
        failed = scene.read(false).await;
    }
    assert_eq!(failed, [], "it is well again, and does not read");
}

fn requests(server: &Registry) -> Vec<String> {
    server.requests().iter().rev().take(10).map(ToString::to_string).collect()
}

/// A test for every row: its number in the list, a name, what must come of it, how it is arranged.
macro_rules! faults {
    ($($name:ident: $then:expr, |$server:ident, $blob:ident| $arrange:expr;)+) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            survives($then, |$server: &Registry, $blob: &Descriptor| {
                let _ = $blob;
                $arrange;
            })
            .await;
        }
    )+ };
}

fn redirecting(server: &Registry, redirect: Redirect) {
    server.behave(|behaviour| behaviour.redirect = Some(redirect));
}

fn guarded(server: &Registry, auth: Auth) {
    server.behave(|behaviour| behaviour.auth = Some(auth));
}

faults! {
    row_01_closed_too_early_twice: Then::Right, |server, blob|
        server.fault(On::blobs().times(2), Fault::Cut { after: 50_000, end: End::Close });
    row_01_closed_too_early_always: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::Cut { after: 100_000, end: End::Close });
    row_01_ended_too_early_as_if_that_were_all: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::Cut { after: 100_000, end: End::Clean });
    row_01_shorter_and_the_length_agrees: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::Cut { after: 100_000, end: End::Short });
    row_01_nothing_ever_comes: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.fault(On::blobs(), Fault::Cut { after: 0, end: End::Close });
    row_02_a_bit_is_wrong: Then::Corrupt, |server, blob|
        server.fault(On::blobs(), Fault::Flip { at: 1_200_000 });
    row_02_a_bit_is_wrong_behind_a_redirect: Then::Corrupt, |server, blob| {
        redirecting(server, Redirect::default());
        server.fault(On::storage(), Fault::Flip { at: 3 });
    };
    row_02_the_whole_blob_is_another: Then::Corrupt, |server, blob| {
        server.fault(On::blobs(), Fault::WrongBytes(1));
    };
    row_03_more_than_asked_for: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::Extra(1000));
    row_03_more_than_asked_for_and_nobody_counts: Then::RightOrFails, |server, blob| {
        server.fault(On::blobs(), Fault::Extra(1000));
        server.fault(On::blobs(), Fault::NoHeader("content-length"));
    };
    row_03_more_than_asked_for_once: Then::Right, |server, blob|
        server.fault(On::blobs().times(1), Fault::Extra(1000));
    row_04_ranges_are_ignored: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::IgnoreRange);
    row_04_ranges_are_ignored_and_it_breaks_off: Then::Right, |server, blob| {
        server.fault(On::blobs(), Fault::IgnoreRange);
        server.fault(On::blobs().times(2), Fault::Cut { after: 1_150_000, end: End::Reset });
    };
    row_04_the_first_answer_is_whole: Then::Right, |server, blob|
        server.fault(On::blobs().times(1), Fault::IgnoreRange);
    row_05_no_content_range: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::NoHeader("content-range"));
    row_05_another_content_range: Then::Right, |server, blob|
        server.fault(On::blobs().times(2), Fault::OtherRange(1000));
    row_05_always_another_range: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::OtherRange(1000));
    row_05_a_content_range_of_another_blob: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::Header("content-range", "bytes 0-9/10".into()));
    row_05_a_content_range_without_unit: Then::RightOrFails, |server, blob|
        server.fault(On::blobs().times(1), Fault::Header("content-range", "junk".into()));
    row_05_multipart: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::Multipart);
    row_05_short_parts: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::ShortRange(100_000));
    row_06_the_end_is_not_forgiven: Then::Right, |server, blob|
        server.behave(|behaviour| behaviour.strict_end = true);
    row_06_416_always: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::status(416));
    row_07_it_stalls_once: Then::RightOrFails, |server, blob|
        server.fault(On::blobs().times(1), Fault::Stall { after: 10_000 });
    row_07_it_stalls_always: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.fault(On::blobs(), Fault::Stall { after: 0 });
    row_07_it_never_answers: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.fault(On::blobs(), Fault::Silent);
    row_07_it_drips: Then::RightOrFails, |server, blob|
        server.fault(On::blobs().times(3), Fault::Drip { piece: 10, pause: Duration::from_millis(500) });
    row_08_reset_in_the_middle: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::Cut { after: 120_000, end: End::Reset });
    row_08_reset_before_the_answer: Then::Right, |server, blob|
        server.fault(On::blobs().times(2), Fault::Hangup);
    row_08_always_reset_before_the_answer: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.fault(On::blobs(), Fault::Hangup);
    row_09_nobody_listens: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.down();
    row_10_tokens_live_a_moment: Then::Right, |server, blob|
        guarded(server, Auth { life: Duration::from_millis(700), ..Auth::bearer() });
    row_10_a_stale_token_is_answered_by_a_basic_challenge: Then::Right, |server, blob|
        guarded(server, Auth { life: Duration::from_millis(700), harbor: true, ..Auth::bearer() });
    row_10_the_password_is_wrong: Then::Fails(ErrorKind::Unauthorized), |server, blob|
        guarded(server, Auth { password: "another".into(), ..Auth::bearer() });
    row_10_the_token_covers_less: Then::Fails(ErrorKind::Unauthorized), |server, blob|
        guarded(server, Auth { narrow: true, ..Auth::bearer() });
    row_10_no_token_to_be_had: Then::Fails(ErrorKind::Unavailable), |server, blob| {
        guarded(server, Auth::bearer());
        server.fault(On::tokens(), Fault::status(503));
    };
    row_11_the_password_is_twelve_hours_old: Then::RightOrFails, |server, blob|
        server.fault(On::blobs().times(1), Fault::ecr_expired());
    row_12_a_fresh_token_is_refused_once: Then::Right, |server, blob|
        guarded(server, Auth { refuse_fresh: 1, ..Auth::bearer() });
    row_13_urls_work_once: Then::Right, |server, blob|
        redirecting(server, Redirect { uses: Some(1), ..Redirect::default() });
    row_13_an_expired_url_is_a_bad_request: Then::Right, |server, blob|
        redirecting(server, Redirect { uses: Some(1), expired: 400, ..Redirect::default() });
    row_13_an_expired_url_is_not_found: Then::Right, |server, blob|
        redirecting(server, Redirect { uses: Some(1), expired: 404, status: 302, ..Redirect::default() });
    row_13_urls_never_work: Then::Fails(ErrorKind::Unavailable), |server, blob|
        redirecting(server, Redirect { uses: Some(0), ..Redirect::default() });
    row_14_tokens_say_they_are_over_at_once: Then::Right, |server, blob|
        guarded(server, Auth { expires_in: Some(0), ..Auth::bearer() });
    row_15_storage_takes_no_credentials_and_no_head: Then::Right, |server, blob| {
        guarded(server, Auth::basic());
        redirecting(server, Redirect { head: true, ..Redirect::default() });
    };
    row_16_redirects_go_round: Then::RightOrFails, |server, blob| {
        let itself = format!("http://{}/v2/{REPOSITORY}/blobs/{}", server.host(), blob.digest);
        server.fault(On::blobs(), Fault::redirect(&itself));
    };
    row_16_a_redirect_to_the_metadata_service: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::redirect("http://169.254.169.254/latest/meta-data"));
    row_16_a_redirect_to_nowhere: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::Answer(307, vec![], String::new()));
    row_16_a_redirect_to_a_file: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::redirect("file:///etc/passwd"));
    row_17_the_blob_is_gone: Then::Fails(ErrorKind::NotFound), |server, blob|
        server.fault(On::blobs(), Fault::status(404));
    row_21_a_page_to_log_in: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::html());
    row_21_no_content_type: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::NoHeader("content-type"));
    row_22_slow_down_a_second: Then::Right, |server, blob|
        server.fault(On::blobs().times(1), Fault::too_many(Some("1")));
    row_22_slow_down_until_a_date_gone_by: Then::Right, |server, blob|
        server.fault(On::blobs().times(1), Fault::too_many(Some("Wed, 21 Oct 2015 07:28:00 GMT")));
    row_22_slow_down_nobody_knows_how_long: Then::Right, |server, blob|
        server.fault(On::blobs().times(2), Fault::too_many(None));
    row_22_slow_down_for_a_day: Then::FailsFor(ErrorKind::RateLimited), |server, blob|
        server.fault(On::blobs(), Fault::too_many(Some("86400")));
    row_22_slow_down_for_ever: Then::Fails(ErrorKind::RateLimited), |server, blob|
        server.fault(On::blobs(), Fault::too_many(None));
    row_23_a_burst_of_errors: Then::Right, |server, blob| {
        for status in [503, 502] {
            server.fault(On::blobs().times(1), Fault::status(status));
        }
        server.fault(On::blobs().after(3).times(1), Fault::status(504));
    };
    row_23_errors_for_ever: Then::Fails(ErrorKind::Unavailable), |server, blob|
        server.fault(On::blobs(), Fault::status(503));
    row_23_storage_has_a_burst: Then::Right, |server, blob| {
        redirecting(server, Redirect::default());
        server.fault(On::storage().times(2), Fault::status(500));
    };
    row_36_compressed_on_the_way: Then::RightOrFails, |server, blob|
        server.fault(On::blobs(), Fault::Gzip);
    row_36_compressed_on_the_way_once: Then::Right, |server, blob|
        server.fault(On::blobs().times(1), Fault::Gzip);
    length_missing: Then::Right, |server, blob|
        server.fault(On::blobs(), Fault::NoHeader("content-length"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_23_every_passing_status_is_tried_again() {
    for status in [408, 429, 499, 500, 502, 503, 504, 522] {
        survives(Then::Right, |server, _| server.fault(On::blobs().times(1), Fault::status(status))).await;
    }
}

/// What is here goes on being read while nobody answers (promise 4).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_09_what_is_cached_is_served_while_the_registry_is_gone() {
    let scene = Scene::new();
    let reader = scene.open();
    assert!(reader.read(0..300_000).await.unwrap() == scene.content.read(0..300_000));
    scene.server.down();
    assert!(reader.read(0..300_000).await.unwrap() == scene.content.read(0..300_000));
    let far = reader.read(SIZE - 100..SIZE).await.unwrap_err();
    assert_eq!(far.kind(), ErrorKind::Unavailable, "{far}");
    assert!(scene.open().read(5..200_000).await.unwrap() == scene.content.read(5..200_000));
    scene.server.up();
    assert!(reader.read(SIZE - 100..SIZE).await.unwrap() == scene.content.read(SIZE - 100..SIZE));
}

/// A deleted blob says so; the chunks that were read stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_a_blob_deleted_under_its_reader() {
    let scene = Scene::new();
    let reader = scene.open();
    reader.read(0..1000).await.unwrap();
    scene.server.delete(REPOSITORY, &scene.blob.digest);
    assert_eq!(reader.read(SIZE - 10..SIZE).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(reader.read(0..1000).await.unwrap() == scene.content.read(0..1000));
}

/// The tag moves; who has resolved it keeps what it resolved to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_a_tag_moves() {
    let scene = Scene::new();
    let tag: Name = "v1".parse().unwrap();
    let old = Artifact::new().file("f", "old").tag("v1").push(&scene.server, REPOSITORY);
    assert_eq!(scene.source.manifest(&tag, MANIFEST_LIMIT).await.unwrap().0.digest, old.digest);
    let new = Artifact::new().file("f", "new").tag("v1").push(&scene.server, REPOSITORY);
    assert_eq!(scene.source.manifest(&tag, MANIFEST_LIMIT).await.unwrap().0.digest, new.digest);
    let pinned = scene.source.manifest(&Name::Digest(old.digest.clone()), MANIFEST_LIMIT).await.unwrap();
    assert_eq!(Digest::of(&pinned.1), old.digest);
}

/// The faults of manifests: what is said, the tag's answer, the digest's answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_19_to_21_manifests_that_are_not_what_they_say() {
    let digest_lie = || Fault::Header("docker-content-digest", Digest::ZERO.into());
    let right = (None, None);
    for (what, fault, (by_tag, by_digest)) in [
        ("19: the body is another", Fault::Flip { at: 20 }, (None, Some(ErrorKind::Corrupt))),
        ("20: the digest header lies", digest_lie(), right),
        ("20: the digest header is missing", Fault::NoHeader("docker-content-digest"), right),
        ("20: the digest header is no digest", Fault::Header("docker-content-digest", "x".into()), right),
        ("21: a page to log in", Fault::html(), (Some(ErrorKind::Invalid), Some(ErrorKind::Invalid))),
        (
            "21: the type is plain text",
            Fault::Header("content-type", "text/plain; charset=utf-8".into()),
            right,
        ),
        ("21: the type is missing", Fault::NoHeader("content-type"), right),
        (
            "1: it is cut and nobody counts",
            Fault::Cut { after: 100, end: End::Clean },
            (Some(ErrorKind::Invalid), Some(ErrorKind::Corrupt)),
        ),
        ("17: it is gone", Fault::status(404), (Some(ErrorKind::NotFound), Some(ErrorKind::NotFound))),
    ] {
        let scene = Scene::new();
        let pushed = Artifact::new().file("f", "content").tag("v1").push(&scene.server, REPOSITORY);
        scene.server.fault(On::manifests(), fault);
        let tag: Name = "v1".parse().unwrap();
        for (name, expected) in [(tag, by_tag), (Name::Digest(pushed.digest.clone()), by_digest)] {
            use artifs::store::SourceExt as _;
            let found = tokio::time::timeout(HUNG, scene.source.fetch_manifest(&name)).await.expect(what);
            match (found, expected) {
                (Ok((described, manifest)), _) => {
                    assert_eq!(described.digest, Digest::of(manifest.raw()), "{what}: {name}");
                    assert!(expected.is_none(), "{what}: {name} was read");
                    assert!(matches!(name, Name::Tag(_)) || described.digest == pushed.digest, "{what}");
                }
                // A flipped bit may make it no manifest at all.
                (Err(error), None) => {
                    assert!(what.starts_with("19"), "{what}: {name}: {error}");
                }
                (Err(error), Some(kind)) => {
                    let close =
                        [ErrorKind::Invalid, ErrorKind::Corrupt, ErrorKind::Unavailable, ErrorKind::NotFound];
                    assert!(
                        error.kind() == kind
                            || (kind != ErrorKind::NotFound && close.contains(&error.kind())),
                        "{what}: {name}: {error:?}"
                    );
                }
            }
        }
        scene.server.heal();
        let healed = scene.source.manifest(&"v1".parse().unwrap(), MANIFEST_LIMIT).await.unwrap();
        assert_eq!(healed.0.digest, pushed.digest, "{what}: it stays broken");
    }
}

/// Lists that never end, that are null, that lead elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_lists_end_whatever_their_links_say() {
    for links in [Links::Proper, Links::Absolute, Links::Bare, Links::Loop, Links::Elsewhere] {
        let scene = Scene::new();
        scene.server.behave(|behaviour| {
            behaviour.links = links;
            behaviour.page = Some(2);
        });
        let subject = Artifact::new().tag("t0").tag("t1").tag("t2").tag("t3").tag("t4");
        let subject = subject.push(&scene.server, REPOSITORY);
        for number in 0..5 {
            Artifact::new()
                .annotation("n", &number.to_string())
                .about(&subject)
                .push(&scene.server, REPOSITORY);
        }
        let tags = tokio::time::timeout(HUNG, scene.source.tags()).await.expect("tags go round");
        let about = tokio::time::timeout(HUNG, scene.source.referrers(&subject, None))
            .await
            .expect("referrers go round");
        match links {
            Links::Proper | Links::Absolute | Links::Bare => {
                assert_eq!((tags.unwrap().len(), about.unwrap().len()), (5, 5), "{links:?}");
            }
            Links::Loop | Links::Elsewhere => {}
        }
        let elsewhere =
            scene.server.count(|request| request.endpoint == support::registry::Endpoint::Storage);
        assert_eq!(elsewhere, 0, "a link led to another host");
    }
    let scene = Scene::new();
    scene.server.behave(|behaviour| behaviour.null_tags = true);
    assert_eq!(scene.source.tags().await.unwrap(), []);
}

/// More than anybody should send.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_34_an_oversized_manifest_is_refused() {
    let scene = Scene::new();
    let big = format!(r#"{{"schemaVersion":2,"layers":[],"annotations":{{"a":"{}"}}}}"#, "x".repeat(5 << 20));
    let pushed = scene.server.put_manifest(REPOSITORY, media_type::IMAGE_MANIFEST, big, Some("big"));
    for chunked in [false, true] {
        if chunked {
            scene.server.fault(On::manifests(), Fault::NoHeader("content-length"));
        }
        for name in ["big".parse().unwrap(), Name::Digest(pushed.digest.clone())] {
            let refused = scene.source.manifest(&name, MANIFEST_LIMIT).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::TooLarge, "{refused}");
        }
        let sent = scene.server.requests().iter().map(support::registry::Request::sent).max().unwrap();
        assert!(sent <= 6 << 20, "{sent} bytes were read");
    }
}
