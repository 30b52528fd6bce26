//! Bytes by range: right bytes or an error, whatever happens on the way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use artifs::error::ErrorKind;
use artifs::oci::Descriptor;
use artifs::registry::Settings;
use artifs::store::{Source as _, SourceExt as _};
use bytes::Bytes;
use support::Big;
use support::registry::{Auth, End, Fault, On, Redirect, Registry};

use crate::{read, repository, repository_with, settings};

const SIZE: u64 = 300_000;

fn with_blob(registry: &Registry) -> (Descriptor, Big) {
    let content = Big::new(SIZE, 1);
    (registry.put_blob("r", content.clone()), content)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_one_request_for_exactly_its_bytes() {
    let registry = Registry::start();
    let (blob, content) = with_blob(&registry);
    let repository = repository(&registry);
    for range in [0..10, 1000..200_000, SIZE - 1..SIZE, 0..SIZE] {
        assert_eq!(read(&repository, &blob, range.clone()).await.unwrap(), content.read(range));
    }
    let requests = registry.requests();
    let ranges: Vec<Option<&str>> = requests.iter().map(|request| request.range()).collect();
    assert_eq!(ranges, [Some("bytes=0-9"), Some("bytes=1000-199999"), Some("bytes=299999-299999"), None]);
    for request in &requests {
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert!(request.header("user-agent").unwrap().starts_with("artifs/"), "{request}");
    }
    assert!(read(&repository, &blob, 5..5).await.unwrap().is_empty());
    assert_eq!(read(&repository, &blob, 0..SIZE + 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(registry.requests().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_server_makes_of_ranges_the_bytes_are_right() {
    let faults: Vec<(&str, Fault, u32)> = vec![
        ("200", Fault::IgnoreRange, 99),
        ("short", Fault::ShortRange(70_000), 99),
        ("another range once", Fault::OtherRange(7), 1),
        ("another range", Fault::OtherRange(7), 99),
        ("multipart once", Fault::Multipart, 1),
        ("no Content-Range", Fault::NoHeader("content-range"), 99),
        ("nonsense in Content-Range", Fault::Header("content-range", "bytes x".into()), 99),
        ("Nexus", Fault::Header("content-range", format!("1000-249999/{SIZE}")), 1),
        ("unknown total", Fault::Header("content-range", "bytes 1000-249999/*".into()), 1),
        ("no length", Fault::NoHeader("content-length"), 99),
        ("compressed once", Fault::Gzip, 1),
        ("416 once", Fault::status(416), 1),
        ("cut and closed", Fault::Cut { after: 100_000, end: End::Close }, 99),
        ("cut and reset", Fault::Cut { after: 100_000, end: End::Reset }, 99),
        ("cut as if that were all", Fault::Cut { after: 100_000, end: End::Clean }, 99),
        ("cut and said so", Fault::Cut { after: 100_000, end: End::Short }, 2),
        ("reset before an answer", Fault::Hangup, 3),
        ("500 and 503", Fault::status(503), 2),
        ("429", Fault::too_many(Some("0")), 2),
    ];
    for (what, fault, times) in faults {
        let registry = Registry::start();
        let (blob, content) = with_blob(&registry);
        registry.fault(On::blobs().times(times), fault);
        let repository = repository(&registry);
        for range in [1000..250_000, 1000..250_000, 299_990..SIZE] {
            let found = read(&repository, &blob, range.clone()).await;
            assert!(
                found.as_ref().is_ok_and(|found| *found == content.read(range.clone())),
                "{what}: {range:?} {:?}",
                found.err()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_off_is_taken_up_where_it_ended() {
    let registry = Registry::start();
    let (blob, content) = with_blob(&registry);
    registry.fault(On::blobs().times(2), Fault::Cut { after: 70_000, end: End::Close });
    assert_eq!(read(&repository(&registry), &blob, 0..SIZE).await.unwrap(), content.read(0..SIZE));
    let requests = registry.requests();
    let ranges: Vec<Option<&str>> = requests.iter().map(|request| request.range()).collect();
    assert_eq!(ranges, [None, Some("bytes=70000-299999"), Some("bytes=140000-299999")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_the_blob_is_an_error() {
    let whole = 0..SIZE;
    let part = 10..20;
    for (what, fault, range, kind) in [
        ("longer", Fault::Extra(5), whole.clone(), ErrorKind::Corrupt),
        (
            "longer",
            Fault::Header("content-range", "bytes 10-19/300001".into()),
            part.clone(),
            ErrorKind::Corrupt,
        ),
        ("compressed", Fault::Gzip, whole.clone(), ErrorKind::Unsupported),
        ("compressed", Fault::Gzip, part.clone(), ErrorKind::Unsupported),
        ("no such range", Fault::status(416), part.clone(), ErrorKind::Unsupported),
        ("a login page", Fault::html(), part.clone(), ErrorKind::Corrupt),
        ("gone", Fault::status(404), part.clone(), ErrorKind::NotFound),
        ("forbidden", Fault::status(403), part.clone(), ErrorKind::Denied),
        ("a circle", Fault::redirect("/v2/r/blobs/x"), part.clone(), ErrorKind::Unavailable),
        (
            "somewhere else",
            Fault::redirect("http://169.254.169.254/latest/meta-data"),
            part.clone(),
            ErrorKind::Unavailable,
        ),
    ] {
        let registry = Registry::start();
        let (blob, _) = with_blob(&registry);
        registry.fault(On::blobs(), fault);
        let error = read(&repository(&registry), &blob, range).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}: {error}");
        assert!(registry.requests().len() <= 12, "{what}: {} requests", registry.requests().len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_skipped_again_and_again_is_no_progress() {
    let registry = Registry::start();
    let (blob, _) = with_blob(&registry);
    registry.fault(On::blobs(), Fault::IgnoreRange);
    registry.fault(On::blobs(), Fault::Cut { after: 200_000, end: End::Close });
    let error = read(&repository(&registry), &blob, 250_000..SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(registry.requests().len() <= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_byte_too_many_is_noticed_even_where_nothing_says_how_long_it_is() {
    let registry = Registry::start();
    let (blob, _) = with_blob(&registry);
    registry.fault(On::blobs(), Fault::Extra(1));
    registry.fault(On::blobs(), Fault::NoHeader("content-length"));
    let error = read(&repository(&registry), &blob, 0..SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_do_not_pass_for_the_whole() {
    let registry = Registry::start();
    let (blob, _) = with_blob(&registry);
    registry.fault(On::blobs(), Fault::Flip { at: 12_345 });
    let error = repository(&registry).fetch_all(&blob, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_gets_anywhere_is_given_up() {
    let faults = [
        Fault::Silent,
        Fault::Stall { after: 100 },
        Fault::Drip { piece: 1, pause: Duration::from_millis(50) },
        Fault::status(500),
        Fault::Hangup,
        Fault::too_many(Some("3600")),
    ];
    let work = faults.into_iter().map(|fault| async move {
        let registry = Registry::start();
        let (blob, _) = with_blob(&registry);
        registry.fault(On::blobs(), fault.clone());
        let settings = Settings { deadline: Duration::from_secs(2), ..settings() };
        let reading = read(&repository_with(&registry, &settings), &blob, 0..SIZE).await;
        let error = reading.map(|_| ()).unwrap_err();
        assert!(error.is_retryable(), "{fault:?}: {error}");
        assert!(error.to_string().contains(registry.host().as_str()), "{fault:?}: {error}");
    });
    futures_util::future::join_all(work).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_is_down_is_an_error_and_one_that_comes_back_is_used_again() {
    let registry = Registry::start();
    let (blob, content) = with_blob(&registry);
    let repository = repository(&registry);
    assert!(read(&repository, &blob, 0..10).await.is_ok());
    registry.down();
    let error = read(&repository, &blob, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(&format!("cannot reach {}", registry.host())), "{error}");
    registry.up();
    assert_eq!(read(&repository, &blob, 0..10).await.unwrap(), content.read(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_is_asked_directly_and_told_nothing() {
    let registry = Registry::with(|behaviour| {
        behaviour.redirect = Some(Redirect::default());
        behaviour.auth = Some(Auth::bearer());
    });
    let (blob, content) = with_blob(&registry);
    let settings = Settings {
        username: Some("user".into()),
        password: Some("secret".into()),
        headers: vec![("X-Mine".into(), "mine".into())],
        ..settings()
    };
    let repository = repository_with(&registry, &settings);
    for start in [0, 100, 200] {
        let range = start..start + 50;
        assert_eq!(read(&repository, &blob, range.clone()).await.unwrap(), content.read(range));
    }
    let (storage, own): (Vec<_>, Vec<_>) = registry
        .requests()
        .into_iter()
        .filter(support::registry::Request::is_for_blob_bytes)
        .partition(|request| request.endpoint == support::registry::Endpoint::Storage);
    // The registry was asked twice (401, then the address); storage once for each range.
    assert_eq!((own.len(), storage.len()), (2, 3));
    for request in storage {
        assert_eq!(request.header("authorization"), None);
        assert_eq!(request.header("x-mine"), None);
        assert!(request.range().is_some());
    }
    assert_eq!(own[1].header("x-mine"), Some("mine"));
    assert!(own[1].header("authorization").unwrap().starts_with("Bearer "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storage_address_that_ran_out_is_asked_for_again() {
    for expired in [400, 401, 403, 404, 410] {
        let registry = Registry::with(|behaviour| {
            behaviour.redirect = Some(Redirect { uses: Some(2), expired, ..Redirect::default() });
        });
        let (blob, content) = with_blob(&registry);
        let repository = repository(&registry);
        for start in 0..5 {
            let range = start..start + 50;
            assert_eq!(
                read(&repository, &blob, range.clone()).await.unwrap(),
                content.read(range),
                "{expired}"
            );
        }
        let asked = registry.count(|request| request.endpoint == support::registry::Endpoint::Blob);
        assert_eq!(asked, 3, "{expired}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_that_refuses_fresh_addresses_is_an_error_of_the_storage() {
    let registry = Registry::with(|behaviour| {
        behaviour.redirect = Some(Redirect { uses: Some(0), ..Redirect::default() });
    });
    let (blob, _) = with_blob(&registry);
    let error = read(&repository(&registry), &blob, 0..10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains(registry.storage_host().as_str()), "{error}");
    for request in registry.requests() {
        assert!(request.query.is_empty() || !error.to_string().contains(&request.query), "{error}");
    }
    assert!(registry.requests().len() <= 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_hands_on_what_arrived_without_joining_it() {
    let registry = Registry::start();
    let (blob, content) = with_blob(&registry);
    let repository = Arc::new(repository(&registry));
    let reader = repository.open(&blob).unwrap();
    let read: Bytes = reader.read(5..105).await.unwrap();
    assert_eq!(read, content.read(5..105));
    reader.complete().await.unwrap();
}

/// A server that only counts its connections and serves ranges of zeros. Ends with the test program.
fn counting_server(size: u64) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = count.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let (mut line, mut range) = (String::new(), (0, 0));
                while stream.read_line(&mut line).is_ok_and(|read| read > 0) {
                    if let Some(text) = line.to_lowercase().trim().strip_prefix("range: bytes=") {
                        let (first, last) = text.split_once('-').unwrap();
                        range = (first.parse().unwrap(), last.parse().unwrap());
                    }
                    if line == "\r\n" {
                        let length = range.1 - range.0 + 1;
                        let head = format!(
                            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {}-{}/{size}\r\nContent-Length: {length}\r\n\r\n",
                            range.0, range.1
                        );
                        let stream = stream.get_mut();
                        let _ = stream.write_all(head.as_bytes());
                        let _ = stream.write_all(&vec![0; length as usize]);
                    }
                    line.clear();
                }
            });
        }
    });
    (host, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_reader_needs_one_connection() {
    let (host, connections) = counting_server(10 << 20);
    let registry = artifs::registry::Registry::new(&host.parse().unwrap(), &settings()).unwrap();
    let repository = registry.repository("r").unwrap();
    let blob = Descriptor::new("a/b", artifs::oci::Digest::of(b"zeros"), 10 << 20);
    for piece in 0..20_u64 {
        let start = piece * 300_000;
        assert_eq!(read(&repository, &blob, start..start + 300_000).await.unwrap().len(), 300_000);
        // The connection is free as soon as its task has seen the answer's end.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(connections.load(Ordering::SeqCst) <= 2, "{connections:?}");
}
