//! OCI layout folders: what other tools leave, what parallel writers leave, what is no layout.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use artifs::ErrorKind;
use artifs::oci::{Descriptor, Digest, Name, Tag, media_type};
use artifs::store::{Body, Layout, Source as _, SourceExt as _, Target as _};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

fn manifest(number: usize) -> (Descriptor, Body) {
    let text = format!(r#"{{"schemaVersion":2,"layers":[],"annotations":{{"number":"{number}"}}}}"#);
    (Descriptor::of(media_type::IMAGE_MANIFEST, text.as_bytes()), Body::Bytes(text.into()))
}

fn put(folder: &std::path::Path, content: &str) -> String {
    let digest = Digest::of(content.as_bytes());
    let path = folder.join("blobs/sha256");
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join(digest.encoded()), content).unwrap();
    digest.to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn parallel_writers_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layout");
    let writers = (0..8).map(|writer| {
        let path = path.clone();
        tokio::spawn(async move {
            // Each its own, as separate processes would have.
            let layout = Layout::create(&path).unwrap();
            for number in (0..5).map(|number| writer * 5 + number) {
                let (descriptor, body) = manifest(number);
                layout.push(&descriptor, &body).await.unwrap();
                layout.tag(&descriptor, &format!("v{number}").parse().unwrap()).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let layout = Layout::open(&path).unwrap();
    assert_eq!(layout.tags().await.unwrap().len(), 40);
    assert_eq!(layout.entries().unwrap().len(), 40);
    for number in 0..40 {
        let tag = Name::Tag(format!("v{number}").parse().unwrap());
        assert_eq!(layout.resolve(&tag).await.unwrap(), manifest(number).0);
    }
    let mut left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["blobs", "index.json", "oci-layout"]);
}

#[tokio::test]
async fn content_that_does_not_match_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let right = Descriptor::of("a/b", b"right");
    for wrong in ["wrong", "righ", "right and more"] {
        let error = layout.push(&right, &Body::Bytes(wrong.into())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(!layout.contains(&right).await.unwrap());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "something was left behind");

    layout.push(&right, &Body::Bytes("right".into())).await.unwrap();
    let path = folder.path().join("blobs/sha256").join(right.digest.encoded());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o444);
}

#[tokio::test]
async fn a_damaged_blob_is_refused_and_put_right_by_the_next_push() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::create(folder.path()).unwrap();
    let blob = Descriptor::of("a/b", b"content");
    layout.push(&blob, &Body::Bytes("content".into())).await.unwrap();
    let path = folder.path().join("blobs/sha256").join(blob.digest.encoded());

    fs::remove_file(&path).unwrap();
    fs::write(&path, "cont").unwrap();
    assert_eq!(layout.fetch(&blob, 0..2).await.err().unwrap().kind(), ErrorKind::Corrupt);
    layout.push(&blob, &Body::Bytes("content".into())).await.unwrap();
    assert_eq!(layout.fetch_all(&blob, 100).await.unwrap(), "content");

    fs::remove_file(&path).unwrap();
    fs::write(&path, "CONTENT").unwrap();
    assert_eq!(layout.fetch_all(&blob, 100).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let reader = Arc::new(layout).open(&blob).unwrap();
    assert_eq!(reader.complete().await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(reader.file().is_none(), "an unverified file was handed out");
}

#[tokio::test]
async fn a_whole_file_is_handed_out_only_once_it_is_checked() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::create(folder.path()).unwrap());
    let blob = Descriptor::of("a/b", b"content");
    layout.push(&blob, &Body::Bytes("content".into())).await.unwrap();
    let reader = layout.open(&blob).unwrap();
    assert!(reader.file().is_none());
    reader.complete().await.unwrap();
    assert!(reader.file().is_some());
    assert_eq!(reader.read(3..7).await.unwrap(), "tent");
}

/// A tag in an index that lists nothing else, children unlisted, one child with a referrer beside it:
/// what buildx, skopeo and crane write.
#[tokio::test]
async fn other_tools_layouts_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    let child = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","layers":[]}"#;
    let child_digest = put(root, child);
    let subject = format!(
        r#"{{"mediaType":"{}","digest":"{child_digest}","size":{}}}"#,
        media_type::IMAGE_MANIFEST,
        child.len()
    );
    let about = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"a/sig","layers":[],"subject":{subject},"annotations":{{"k":"v"}}}}"#,
        media_type::IMAGE_MANIFEST
    );
    let about_digest = put(root, &about);
    let entry = |kind: &str, digest: &str, size: usize| {
        format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#)
    };
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{},{}]}}"#,
        entry(media_type::IMAGE_MANIFEST, &child_digest, child.len()),
        entry(media_type::IMAGE_MANIFEST, &about_digest, about.len()),
    );
    let index_digest = put(root, &index);
    let listed = entry(media_type::IMAGE_INDEX, &index_digest, index.len());
    fs::write(root.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(root.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{listed}]}}"#)).unwrap();

    let layout = Layout::open(root).unwrap();
    assert!(layout.tags().await.unwrap().is_empty());
    assert_eq!(layout.only_root().unwrap().unwrap().digest.as_str(), index_digest);
    let child = layout.resolve(&child_digest.parse().unwrap()).await.unwrap();
    assert_eq!(child.media_type, media_type::IMAGE_MANIFEST);
    let referrers = layout.referrers(&child, None).await.unwrap();
    assert_eq!(referrers.len(), 1);
    assert_eq!(referrers[0].artifact_type.as_deref(), Some("a/sig"));
    assert_eq!(referrers[0].annotations["k"], "v");

    // Writers that only append leave a name twice: the last one counts.
    let tagged = |digest: &str, size: usize| {
        let annotations = format!(r#","annotations":{{"{REF_NAME}":"host/any text:1"}}}}"#);
        entry(media_type::IMAGE_MANIFEST, digest, size).replace('}', &annotations)
    };
    let twice =
        format!("{},{}", tagged(&about_digest, about.len()), tagged(&child_digest, child.size as usize));
    fs::write(root.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{twice}]}}"#)).unwrap();
    let tag = Tag::of_layout("host/any text:1").unwrap();
    assert_eq!(layout.tags().await.unwrap(), std::slice::from_ref(&tag));
    assert_eq!(layout.resolve(&Name::Tag(tag)).await.unwrap().digest.as_str(), child_digest);
}

#[test]
fn what_is_no_layout_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let make = |name: &str, marker: Option<&str>, index: Option<&str>| {
        let path = folder.path().join(name);
        fs::create_dir(&path).unwrap();
        for (file, text) in [("oci-layout", marker), ("index.json", index)] {
            if let Some(text) = text {
                fs::write(path.join(file), text).unwrap();
            }
        }
    };
    let good = r#"{"imageLayoutVersion":"1.0.0"}"#;
    make("empty", None, None);
    make("words", Some("hello"), None);
    make("new", Some(r#"{"imageLayoutVersion":"2.0.0"}"#), Some(r#"{"manifests":[]}"#));
    make("unlisted", Some(good), None);
    make("torn", Some(good), Some(r#"{"manif"#));
    make("odd", Some(good), Some(r#"{"manifests":[{"digest":"sha256:../../x"}]}"#));
    fs::write(folder.path().join("hi.txt"), "hi").unwrap();
    for (name, kind, says) in [
        ("absent", ErrorKind::NotFound, "failed to find path"),
        ("hi.txt", ErrorKind::Invalid, "is not a folder"),
        ("empty", ErrorKind::Invalid, "invalid OCI Image Layout: "),
        ("words", ErrorKind::Invalid, "invalid OCI Image Layout: "),
        ("new", ErrorKind::Unsupported, "\"2.0.0\""),
        ("unlisted", ErrorKind::NotFound, "invalid OCI Image Index: "),
        ("torn", ErrorKind::Invalid, "invalid OCI Image Index: "),
        ("odd", ErrorKind::Invalid, "invalid OCI Image Index: "),
    ] {
        let error = Layout::open(format!("{root}/{name}")).err().unwrap_or_else(|| panic!("{name} opens"));
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(error.to_string().contains(says), "{name}: {error}");
    }
}
