//! What every `Source` promises.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use artifs::oci::{Descriptor, Digest, Manifest, Name, media_type};
use artifs::store::{MANIFEST_LIMIT, Source, SourceExt as _, Trust};
use artifs::{ErrorKind, Result};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use crate::stands::{Stand, absent};

async fn fetch(source: &dyn Source, blob: &Descriptor, range: Range<u64>) -> Result<Bytes> {
    let pieces: Vec<Bytes> = source.fetch(blob, range).await?.try_collect().await?;
    Ok(pieces.concat().into())
}

fn tag(text: &str) -> Name {
    Name::Tag(text.parse().unwrap())
}

fn kind<T>(result: Result<T>) -> ErrorKind {
    result.err().expect("it should have failed").kind()
}

/// Ranges worth asking for: ends, single bytes, across what chunks and tiles may be.
fn ranges(size: u64) -> Vec<Range<u64>> {
    let mut ranges =
        vec![0..1, size - 1..size, 0..size, 100..100, 0..0, size..size, 7..4096, size - 5000..size];
    for edge in [4096, 128 << 10, 256 << 10, 1 << 20, 1_048_573, 4 << 20] {
        ranges.extend([
            edge - 1..edge + 1,
            edge..edge + 1,
            edge - 100..edge,
            edge - 70_000.min(edge)..edge + 70_000,
        ]);
    }
    ranges
}

pub(crate) async fn a_name_leads_to_its_manifest(stand: &Stand) {
    let source = &stand.source;
    for (name, pushed) in
        [("v1", &stand.filled.app), ("latest", &stand.filled.app), ("multi", &stand.filled.index)]
    {
        for name in [tag(name), Name::Digest(pushed.digest.clone())] {
            let found = source.resolve(&name).await.unwrap();
            assert_eq!(
                (&found.digest, found.size, &found.media_type),
                (&pushed.digest, pushed.size, &pushed.media_type)
            );
            let (described, bytes) = source.manifest(&name, MANIFEST_LIMIT).await.unwrap();
            assert_eq!((&described.digest, described.size), (&pushed.digest, bytes.len() as u64));
            assert_eq!(Digest::of(&bytes), pushed.digest, "{name}");
            assert!(media_type::same(&described.media_type, &pushed.media_type), "{described:?}");
        }
        // A manifest is content like any other.
        let whole = fetch(&**source, pushed, 0..pushed.size).await.unwrap();
        assert_eq!(Digest::of(&whole), pushed.digest);
        assert_eq!(fetch(&**source, pushed, 3..9).await.unwrap(), whole.slice(3..9));
    }
    let (_, manifest) = source.fetch_manifest(&tag("multi")).await.unwrap();
    let Manifest::Index(index) = manifest else { panic!("an index is no image") };
    assert_eq!(index.manifests.len(), 2);
}

pub(crate) async fn what_is_missing_is_not_found(stand: &Stand) {
    let source = &stand.source;
    let absent = absent();
    for name in [tag("absent"), Name::Digest(absent.digest.clone())] {
        assert_eq!(kind(source.resolve(&name).await), ErrorKind::NotFound, "{name}");
        assert_eq!(kind(source.manifest(&name, MANIFEST_LIMIT).await), ErrorKind::NotFound, "{name}");
    }
    let blob = Descriptor::of(media_type::OCTET_STREAM, b"nobody has this either");
    assert_eq!(kind(fetch(&**source, &blob, 0..5).await), ErrorKind::NotFound);
    assert_eq!(kind(fetch(&**source, &absent, 0..5).await), ErrorKind::NotFound);
    let read = match Arc::clone(source).open(&blob) {
        Ok(reader) => reader.read(0..5).await,
        Err(error) => Err(error),
    };
    assert_eq!(kind(read), ErrorKind::NotFound);
}

pub(crate) async fn what_was_never_seen_is_offline(stand: &Stand) {
    let source = &stand.source;
    let absent = absent();
    for name in [tag("absent"), Name::Digest(absent.digest.clone())] {
        assert_eq!(kind(source.resolve(&name).await), ErrorKind::Offline, "{name}");
        assert_eq!(kind(source.manifest(&name, MANIFEST_LIMIT).await), ErrorKind::Offline, "{name}");
    }
    let blob = Descriptor::of(media_type::OCTET_STREAM, b"nobody has this either");
    assert_eq!(kind(fetch(&**source, &blob, 0..5).await), ErrorKind::Offline);
    assert_eq!(kind(source.referrers(&stand.filled.app, None).await), ErrorKind::Offline);
}

pub(crate) async fn a_manifest_beyond_the_limit_is_too_large(stand: &Stand) {
    let app = &stand.filled.app;
    for name in [tag("v1"), Name::Digest(app.digest.clone())] {
        assert_eq!(kind(stand.source.manifest(&name, app.size - 1).await), ErrorKind::TooLarge, "{name}");
        assert!(stand.source.manifest(&name, app.size).await.is_ok(), "{name}");
    }
}

pub(crate) async fn a_blob_is_no_manifest(stand: &Stand) {
    let name = Name::Digest(stand.filled.big.digest.clone());
    assert!(stand.source.resolve(&name).await.is_err());
    assert!(stand.source.manifest(&name, 64 << 20).await.is_err());
}

pub(crate) async fn a_range_gives_exactly_its_bytes(stand: &Stand) {
    let (big, content) = (&stand.filled.big, &stand.filled.content);
    for range in ranges(big.size) {
        let bytes = fetch(&*stand.source, big, range.clone()).await.unwrap();
        assert!(bytes == content.read(range.clone()), "{range:?}: {} bytes", bytes.len());
    }
}

pub(crate) async fn no_bytes_are_no_bytes(stand: &Stand) {
    let empty = &stand.filled.empty;
    assert!(fetch(&*stand.source, empty, 0..0).await.unwrap().is_empty());
    assert!(stand.source.fetch_all(empty, 10).await.unwrap().is_empty());
    let reader = Arc::clone(&stand.source).open(empty).unwrap();
    assert!(reader.read(0..0).await.unwrap().is_empty());
    reader.complete().await.unwrap();
}

pub(crate) async fn what_lies_outside_is_refused(stand: &Stand) {
    let big = &stand.filled.big;
    let reader = Arc::clone(&stand.source).open(big).unwrap();
    let backwards = Range { start: 20, end: 10 };
    for range in
        [0..big.size + 1, big.size..big.size + 1, big.size + 10..big.size + 20, backwards, 0..u64::MAX]
    {
        assert_eq!(kind(fetch(&*stand.source, big, range.clone()).await), ErrorKind::Invalid, "{range:?}");
        assert!(reader.read(range.clone()).await.is_err(), "{range:?}");
    }
}

pub(crate) async fn a_forged_size_never_reads_as_content(stand: &Stand) {
    let big = &stand.filled.big;
    for size in [big.size + 1, big.size - 1, 10] {
        let forged = Descriptor { size, ..big.clone() };
        let read = stand.source.fetch_all(&forged, 64 << 20).await;
        assert!(read.is_err(), "a blob of {} bytes was read as one of {size}", big.size);
    }
    // And the honest one still reads.
    assert_eq!(stand.source.fetch_all(big, 64 << 20).await.unwrap().len() as u64, big.size);
}

pub(crate) async fn a_reader_reads_what_fetch_fetches(stand: &Stand) {
    let (big, content) = (&stand.filled.big, &stand.filled.content);
    let reader = Arc::clone(&stand.source).open(big).unwrap();
    for range in ranges(big.size).into_iter().rev() {
        assert!(reader.read(range.clone()).await.unwrap() == content.read(range.clone()), "{range:?}");
    }
}

pub(crate) async fn a_completed_reader_is_right_as_a_file(stand: &Stand) {
    use std::os::unix::fs::FileExt as _;

    let big = &stand.filled.big;
    let reader = Arc::clone(&stand.source).open(big).unwrap();
    reader.complete().await.unwrap();
    assert!(reader.read(5..50_000).await.unwrap() == stand.filled.content.read(5..50_000));
    if let Some(file) = reader.file() {
        assert_eq!(reader.trust(), Trust::Blob, "a file without trust");
        let mut bytes = vec![0; big.size as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(Digest::of(&bytes), big.digest);
        assert_eq!(file.metadata().unwrap().len(), big.size);
    }
}

pub(crate) async fn many_at_once_each_get_their_own(stand: &Stand) {
    let size = stand.filled.big.size;
    let shared = Arc::clone(&stand.source).open(&stand.filled.big).unwrap();
    let tasks = (0..32_u64).map(|number| {
        let (source, shared, filled) = (Arc::clone(&stand.source), Arc::clone(&shared), stand.filled.clone());
        tokio::spawn(async move {
            for step in 0..8 {
                let start = (number * 7_919_317 + step * 3_331_873) % size;
                let range = start..size.min(start + 1 + (number * 40_009 + step * 77_777) % 300_000);
                let bytes = match step % 3 {
                    0 => fetch(&*source, &filled.big, range.clone()).await,
                    1 => shared.read(range.clone()).await,
                    _ => source.clone().open(&filled.big).unwrap().read(range.clone()).await,
                };
                assert!(bytes.unwrap() == filled.content.read(range.clone()), "task {number}: {range:?}");
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
}

pub(crate) async fn tags_are_all_there(stand: &Stand) {
    let tags = stand.source.tags().await.unwrap();
    // Where referrers have no API, their lists are tags too.
    let people: Vec<&str> =
        tags.iter().filter(|tag| !tag.is_for_tools()).map(artifs::oci::Tag::as_str).collect();
    let set: BTreeSet<&str> = people.iter().copied().collect();
    assert_eq!(set, BTreeSet::from(["latest", "multi", "v1"]));
    assert_eq!(people.len(), set.len(), "a tag came twice");
}

pub(crate) async fn referrers_are_all_there_once(stand: &Stand) {
    let referrers = stand.source.referrers(&stand.filled.app, None).await.unwrap();
    let mut kinds: Vec<_> =
        referrers.iter().map(|referrer| referrer.artifact_type.as_deref().unwrap()).collect();
    kinds.sort_unstable();
    assert_eq!(kinds, ["a/sbom", "a/sig", "a/sig"]);
    for referrer in &referrers {
        let (_, manifest) =
            stand.source.fetch_manifest(&Name::Digest(referrer.digest.clone())).await.unwrap();
        assert_eq!(manifest.subject().unwrap().digest, stand.filled.app.digest);
        assert_eq!(manifest.raw().len() as u64, referrer.size);
        assert_eq!(manifest.annotations(), &referrer.annotations);
    }
    let about_sbom = stand.source.referrers(&stand.filled.sbom, None).await.unwrap();
    assert_eq!(about_sbom.len(), 1);
    assert_eq!(about_sbom[0].annotations["n"], "3");
}

pub(crate) async fn referrers_can_be_filtered(stand: &Stand) {
    for (kind, count) in [("a/sig", 2), ("a/sbom", 1), ("a/other", 0)] {
        let referrers = stand.source.referrers(&stand.filled.app, Some(kind)).await.unwrap();
        assert_eq!(referrers.len(), count, "{kind}");
        assert!(referrers.iter().all(|referrer| referrer.artifact_type.as_deref() == Some(kind)));
    }
}

pub(crate) async fn nobody_about_it_is_no_error(stand: &Stand) {
    for subject in [&stand.filled.index, &absent()] {
        assert_eq!(stand.source.referrers(subject, None).await.unwrap(), []);
    }
}
