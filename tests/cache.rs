//! The cache in front of a store that records what it is asked for.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use artifs::cache::{Cache, Kind, Settings};
use artifs::error::{Error, ErrorKind, Result};
use artifs::oci::{Descriptor, Digest, Name, Tag};
use artifs::store::{Blob, Body, ByteStream, Direct, Source, SourceExt as _, Target as _, Trust};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

const MIB: u64 = 1 << 20;

/// A blob made of its own offsets, so that no two places look alike.
fn pattern(range: Range<u64>) -> Vec<u8> {
    range.map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect()
}

/// One such blob, served in pieces of any size; it remembers every range it was asked for.
struct Recorded {
    blob: Descriptor,
    piece: usize,
    asked: Mutex<Vec<Range<u64>>>,
    under_way: AtomicUsize,
    most_under_way: AtomicUsize,
    fails: AtomicBool,
    lies: AtomicBool,
    slow: AtomicU64,
}

impl Recorded {
    fn new(size: u64, piece: usize) -> Arc<Self> {
        let blob = Descriptor::of("application/octet-stream", &pattern(0..size));
        Arc::new(Self {
            blob,
            piece,
            asked: Mutex::default(),
            under_way: AtomicUsize::new(0),
            most_under_way: AtomicUsize::new(0),
            fails: AtomicBool::new(false),
            lies: AtomicBool::new(false),
            slow: AtomicU64::new(0),
        })
    }

    fn bytes_asked(&self) -> u64 {
        self.asked.lock().unwrap().iter().map(|range| range.end - range.start).sum()
    }

    /// Whether any byte was asked for twice.
    fn asked_twice(&self) -> bool {
        let mut asked = self.asked.lock().unwrap().clone();
        asked.sort_by_key(|range| range.start);
        asked.windows(2).any(|pair| pair[0].end > pair[1].start)
    }
}

#[async_trait]
impl Source for Recorded {
    async fn resolve(&self, _: &Name) -> Result<Descriptor> {
        Err(Error::new(ErrorKind::NotFound, "no manifests here"))
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        assert!(range.end <= self.blob.size && descriptor.digest == self.blob.digest);
        self.asked.lock().unwrap().push(range.clone());
        let now = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(self.slow.load(Ordering::SeqCst))).await;
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        if self.fails.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Unavailable, "the registry is gone"));
        }
        let mut bytes = pattern(range);
        if self.lies.load(Ordering::SeqCst) {
            bytes[0] ^= 1;
        }
        let pieces: Vec<_> =
            bytes.chunks(self.piece).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Ok(stream::iter(pieces).boxed())
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(Arc::clone(&self) as Arc<dyn Source>, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Ok(Vec::new())
    }

    async fn referrers(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<Descriptor>> {
        Ok(Vec::new())
    }
}

fn cache_in(folder: &std::path::Path) -> Cache {
    Cache::open(&Settings { root: folder.to_owned(), budget: None }).unwrap()
}

fn reader(cache: &Cache, source: &Arc<Recorded>) -> Arc<dyn Blob> {
    let cached = cache.in_front_of(Some(Arc::clone(source) as Arc<dyn Source>), "host/repository");
    cached.open(&source.blob).unwrap()
}

async fn read_all(blob: &Arc<dyn Blob>, size: u64, step: u64) {
    let mut at = 0;
    while at < size {
        let end = (at + step).min(size);
        assert_eq!(blob.read(at..end).await.unwrap(), pattern(at..end), "at {at}");
        at = end;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_mebibyte_at_an_offset_costs_at_most_two() {
    let folder = tempfile::tempdir().unwrap();
    let source = Recorded::new(24 * MIB, 60_000);
    let blob = reader(&cache_in(folder.path()), &source);
    let range = 9 * MIB + 4097..10 * MIB + 4097;
    assert_eq!(blob.read(range.clone()).await.unwrap(), pattern(range));
    assert!(source.bytes_asked() <= 3 * MIB / 2, "{}", source.bytes_asked());
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_readers_of_the_whole_fetch_it_once_and_then_it_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache_in(folder.path());
    let source = Recorded::new(40 * MIB + 12_345, 77_777);
    source.slow.store(3, Ordering::SeqCst);
    let mut readers = Vec::new();
    for number in 0..8 {
        let blob = reader(&cache, &source);
        let size = source.blob.size;
        readers.push(tokio::spawn(async move { read_all(&blob, size, 100_000 + 50_000 * number).await }));
    }
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(source.bytes_asked(), source.blob.size);
    assert!(!source.asked_twice());
    assert!(source.most_under_way.load(Ordering::SeqCst) > 1, "nothing was fetched in parallel");
    cache.settle().await;
    let blob = reader(&cache, &source);
    assert_eq!(blob.trust(), Trust::Blob);
    assert!(blob.file().is_some());
    assert_eq!(cache.list().unwrap().iter().map(|stored| stored.kind).collect::<Vec<_>>(), [Kind::Blob]);
    assert_eq!(cache.stats().fetched, source.blob.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_opening_of_the_folder_fetches_only_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let source = Recorded::new(20 * MIB, 1 << 16);
    let first = cache_in(folder.path());
    reader(&first, &source).read(5 * MIB..6 * MIB).await.unwrap();
    // The write follows the reply; another process sees what the map says.
    let second = cache_in(folder.path());
    let blob = reader(&second, &source);
    read_all(&blob, source.blob.size, MIB).await;
    assert_eq!(source.bytes_asked(), source.blob.size, "{:?}", source.asked.lock().unwrap());
    blob.complete().await.unwrap();
    assert_eq!(blob.trust(), Trust::Blob);
    read_all(&reader(&first, &source), source.blob.size, MIB).await;
    assert_eq!(source.bytes_asked(), source.blob.size);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_caches_on_one_folder_share_the_work_of_one_blob() {
    let folder = tempfile::tempdir().unwrap();
    let source = Recorded::new(30 * MIB, 1 << 15);
    source.slow.store(5, Ordering::SeqCst);
    let readers = (0..2).map(|_| {
        let (cache, source) = (cache_in(folder.path()), Arc::clone(&source));
        tokio::spawn(async move { read_all(&reader(&cache, &source), source.blob.size, MIB).await })
    });
    for reader in readers.collect::<Vec<_>>() {
        reader.await.unwrap();
    }
    assert_eq!(source.bytes_asked(), source.blob.size, "{:?}", source.asked.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_match_its_digest_is_thrown_away_and_fetched_again_later() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache_in(folder.path());
    let source = Recorded::new(3 * MIB, 1 << 16);
    source.lies.store(true, Ordering::SeqCst);
    let blob = reader(&cache, &source);
    assert_eq!(blob.complete().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(blob.read(0..10).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(cache.list().unwrap().is_empty());
    source.lies.store(false, Ordering::SeqCst);
    let blob = reader(&cache, &source);
    blob.complete().await.unwrap();
    read_all(&blob, source.blob.size, MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_source_is_an_error_and_what_is_here_stays_readable() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache_in(folder.path());
    let source = Recorded::new(8 * MIB, 1 << 16);
    let blob = reader(&cache, &source);
    blob.read(MIB..2 * MIB).await.unwrap();
    source.fails.store(true, Ordering::SeqCst);
    assert_eq!(blob.read(5 * MIB..6 * MIB).await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(blob.read(MIB..2 * MIB).await.unwrap(), pattern(MIB..2 * MIB));
    assert_eq!(cache.stats().failures, 1);
    source.fails.store(false, Ordering::SeqCst);
    blob.read(5 * MIB..6 * MIB).await.unwrap();
    let offline = cache.in_front_of(None, "host/repository").open(&source.blob).unwrap();
    assert_eq!(offline.read(MIB..2 * MIB).await.unwrap(), pattern(MIB..2 * MIB));
    assert_eq!(offline.read(3 * MIB..4 * MIB).await.unwrap_err().kind(), ErrorKind::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn single_bytes_from_the_network_do_not_cost_more_than_they_carry() {
    let folder = tempfile::tempdir().unwrap();
    let source = Recorded::new(300_000, 1);
    let blob = reader(&cache_in(folder.path()), &source);
    read_all(&blob, source.blob.size, 999).await;
    assert_eq!(source.asked.lock().unwrap().len(), 1, "a small blob comes whole");
    blob.complete().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pruning_takes_the_least_recently_used_and_never_what_is_open() {
    let folder = tempfile::tempdir().unwrap();
    let sources: Vec<_> = (1..=3).map(|number| Recorded::new(number * MIB, 1 << 16)).collect();
    for source in &sources {
        let cache = cache_in(folder.path());
        reader(&cache, source).complete().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cache = cache_in(folder.path());
    let oldest = reader(&cache, &sources[0]);
    // Opening made it the newest; it is open besides. The second is the oldest now.
    let freed = cache.prune(4 * MIB).unwrap();
    assert_eq!((freed.things, freed.bytes), (1, 2 * MIB));
    let freed = cache.prune(0).unwrap();
    assert_eq!((freed.things, freed.left), (1, MIB));
    read_all(&oldest, MIB, MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_and_tags_are_remembered_for_offline() {
    let folder = tempfile::tempdir().unwrap();
    let cache = cache_in(folder.path());
    let memory = artifs::store::Memory::new();
    let text = br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
    let descriptor = Descriptor::of(artifs::oci::media_type::IMAGE_MANIFEST, text);
    memory.push(&descriptor, &Body::Bytes(Bytes::from_static(text))).await.unwrap();
    let tag: Tag = "v1".parse().unwrap();
    memory.tag(&descriptor, &tag).await.unwrap();
    let online = cache.in_front_of(Some(Arc::new(memory)), "host/a/b");
    let (_, manifest) = online.fetch_manifest(&Name::Tag(tag.clone())).await.unwrap();
    let offline = cache.in_front_of(None, "host/a/b");
    let (found, again) = offline.fetch_manifest(&Name::Tag(tag.clone())).await.unwrap();
    assert_eq!((found, again.raw()), (descriptor.clone(), manifest.raw()));
    assert_eq!(offline.tags().await.unwrap(), [tag]);
    let by_digest = offline.resolve(&Name::Digest(descriptor.digest.clone())).await.unwrap();
    assert_eq!(by_digest, descriptor);
    let unknown = Name::Digest(Digest::of(b"unknown"));
    assert_eq!(offline.resolve(&unknown).await.unwrap_err().kind(), ErrorKind::Offline);
}

#[test]
fn another_format_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("version"), "99\n").unwrap();
    let error = Cache::open(&Settings { root: folder.path().to_owned(), budget: None }).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
