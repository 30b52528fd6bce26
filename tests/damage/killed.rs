//! `kill -9` in the middle: no claim outlives the process, nothing that was fetched is fetched again.

use std::process::{Command, Stdio};
use std::time::Duration;

use artifs::oci::Descriptor;
use artifs::oci::media_type::OCTET_STREAM;
use support::Big;
use support::registry::{Fault, On, Registry};

use crate::{CHUNK, REPOSITORY, cache, client, until};

const SIZE: u64 = 24 << 20;
const ROLE: &str = "ARTIFS_TEST_READER";

/// A process that reads until it is killed. This very test program, told so by its environment.
struct Reader(std::process::Child);

impl Reader {
    fn start(folder: &std::path::Path, host: &str, digest: &str) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "killed::the_reader_process", "--nocapture"]);
        command.env(ROLE, format!("{}|{host}|{digest}", folder.display()));
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: what [`Reader`] runs. Elsewhere it has nothing to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reader_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let parts: Vec<&str> = role.split('|').collect();
    let [folder, host, digest] = parts[..] else { panic!("{role}") };
    let settings = artifs::registry::Settings {
        registry_configs: vec!["/dev/null".into()],
        plain_http: Some(true),
        ..Default::default()
    };
    let registry = artifs::registry::Registry::new(&host.parse().unwrap(), &settings).unwrap();
    let source = std::sync::Arc::new(registry.repository(REPOSITORY).unwrap());
    let cached = cache(folder.as_ref()).in_front_of(Some(source), REPOSITORY);
    let blob = Descriptor::new(OCTET_STREAM, digest.parse().unwrap(), SIZE);
    let reader = artifs::store::Source::open(cached, &blob).unwrap();
    let _ = reader.read(0..SIZE).await;
    let _ = reader.complete().await;
}

async fn chunks_here(folder: &std::path::Path, blob: &Descriptor, content: &Big) -> u64 {
    let source = cache(folder).in_front_of(None, REPOSITORY);
    let reader = artifs::store::Source::open(source, blob).unwrap();
    let mut here = 0;
    for chunk in 0..SIZE / CHUNK {
        let range = chunk * CHUNK..(chunk + 1) * CHUNK;
        // A chunk another process is about to bring is waited for; here it counts as missing.
        let read = tokio::time::timeout(Duration::from_millis(100), reader.read(range.clone())).await;
        if let Ok(Ok(bytes)) = read {
            assert!(bytes == content.read(range), "wrong bytes in chunk {chunk}");
            here += 1;
        }
    }
    here
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_fetched_stays_and_what_was_claimed_is_free() {
    let (server, folder) = (Registry::start(), tempfile::tempdir().unwrap());
    let content = Big::new(SIZE, 23);
    let blob = server.put_blob(REPOSITORY, content.clone());
    // Every request gets somewhere and then stalls: the reader dies with claims in its hands.
    server.fault(On::blobs(), Fault::Stall { after: 3 << 20 });
    let reader = Reader::start(folder.path(), server.host().as_str(), blob.digest.as_str());
    until("the reader has read something", async || server.blob_bytes() >= 3 << 20).await;
    until("some of it is stored", async || chunks_here(folder.path(), &blob, &content).await >= 4).await;
    drop(reader);
    server.heal();
    server.forget_requests();

    let stored = chunks_here(folder.path(), &blob, &content).await;
    assert!(stored >= 4, "{stored} chunks survived");
    let cached = cache(folder.path()).in_front_of(Some(client(&server, Duration::from_secs(20))), REPOSITORY);
    let again = artifs::store::Source::open(cached, &blob).unwrap();
    assert!(again.read(0..SIZE).await.unwrap() == content.read(0..SIZE));
    again.complete().await.unwrap();
    // A hair more than what was missing may be on its way when a reader has enough.
    let missing = SIZE - stored * CHUNK;
    assert!(server.blob_bytes() <= missing + missing / 50 + CHUNK, "{} of {missing}", server.blob_bytes());
}

/// Two processes want the same blob at the same time: it crosses the network once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_fetch_it_once() {
    let (server, folder) = (Registry::start(), tempfile::tempdir().unwrap());
    server.behave(|behaviour| behaviour.bandwidth = Some(16 << 20));
    let content = Big::new(SIZE, 24);
    let blob = server.put_blob(REPOSITORY, content.clone());
    let _reader = Reader::start(folder.path(), server.host().as_str(), blob.digest.as_str());
    until("the other has begun", async || server.blob_bytes() > 0).await;
    let cached = cache(folder.path()).in_front_of(Some(client(&server, Duration::from_secs(20))), REPOSITORY);
    let reader = artifs::store::Source::open(cached, &blob).unwrap();
    assert!(reader.read(0..SIZE).await.unwrap() == content.read(0..SIZE));
    reader.complete().await.unwrap();
    assert!(server.blob_bytes() <= SIZE + SIZE / 50, "{} bytes of {SIZE}", server.blob_bytes());
}

/// The one that fetches is killed while another waits for it: the other takes over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_killed_process_takes_over() {
    let (server, folder) = (Registry::start(), tempfile::tempdir().unwrap());
    let content = Big::new(SIZE, 25);
    let blob = server.put_blob(REPOSITORY, content.clone());
    server.fault(On::blobs().times(4), Fault::Stall { after: 1000 });
    let other = Reader::start(folder.path(), server.host().as_str(), blob.digest.as_str());
    until("the other has claimed", async || server.blob_bytes() >= 1000).await;
    let cached = cache(folder.path()).in_front_of(Some(client(&server, Duration::from_secs(20))), REPOSITORY);
    let reader = artifs::store::Source::open(cached, &blob).unwrap();
    let waiting = tokio::spawn(async move { reader.read(0..SIZE).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    drop(other);
    server.heal();
    let bytes =
        tokio::time::timeout(Duration::from_secs(60), waiting).await.expect("it goes on").unwrap().unwrap();
    assert!(bytes == content.read(0..SIZE));
}
