//! What every `Target` promises.

use std::sync::Arc;

use artifs::ErrorKind;
use artifs::oci::{Descriptor, Digest, Name, media_type};
use artifs::store::{Body, Memory, SourceExt as _, Target};
use bytes::Bytes;

use crate::stands::{Stand, absent};

fn target(stand: &Stand) -> &Arc<dyn Target> {
    stand.target.as_ref().expect("a target")
}

fn manifest(text: &str) -> (Descriptor, Body) {
    let (image, empty, digest) = (media_type::IMAGE_MANIFEST, media_type::EMPTY_JSON, Digest::EMPTY_JSON);
    let bytes = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{image}","config":{{"mediaType":"{empty}","digest":"{digest}","size":2}},"layers":[],"annotations":{{"a":"{text}"}}}}"#
    ));
    (Descriptor::of(image, &bytes), Body::Bytes(bytes))
}

/// The tags people made: the stand-in for a referrers API is one more.
async fn tags(target: &Arc<dyn Target>) -> usize {
    target.tags().await.unwrap().into_iter().filter(|tag| !tag.is_for_tools()).count()
}

/// What every manifest here names.
async fn push_config(target: &Arc<dyn Target>) {
    let config = Descriptor::of(media_type::EMPTY_JSON, b"{}");
    target.push(&config, &Body::Bytes("{}".into())).await.unwrap();
}

pub(crate) async fn what_was_pushed_is_there(stand: &Stand) {
    let target = target(stand);
    push_config(target).await;
    let blob = Descriptor::of(media_type::OCTET_STREAM, b"new content");
    assert!(!target.contains(&blob).await.unwrap());
    for _ in 0..2 {
        target.push(&blob, &Body::Bytes("new content".into())).await.unwrap();
        assert!(target.contains(&blob).await.unwrap());
    }
    assert_eq!(target.fetch_all(&blob, 100).await.unwrap(), "new content");

    let (descriptor, body) = manifest("new");
    target.push(&descriptor, &body).await.unwrap();
    let found = target.resolve(&Name::Digest(descriptor.digest.clone())).await.unwrap();
    assert_eq!(found, descriptor);
    assert_eq!(tags(target).await, 3, "a push makes no tag");
}

pub(crate) async fn every_kind_of_body_can_be_pushed(stand: &Stand) {
    let target = target(stand);
    let content = support::Big::new((3 << 20) + 1, 9).read(0..(3 << 20) + 1);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, &content).unwrap();
    let other = Memory::new();
    let blob = Descriptor::of("a/b", &content);
    other.push(&blob, &Body::Bytes(content.clone())).await.unwrap();
    let other: Arc<dyn artifs::store::Source> = Arc::new(other);
    for (suffix, body) in [("file", Body::File(path)), ("source", Body::Source(other, blob.clone()))] {
        target.push(&blob, &body).await.unwrap();
        assert!(target.fetch_all(&blob, 64 << 20).await.unwrap() == content, "{suffix}");
    }
    let empty = Descriptor::of("a/b", b"");
    target.push(&empty, &Body::Bytes(Bytes::new())).await.unwrap();
    assert!(target.contains(&empty).await.unwrap());
}

pub(crate) async fn what_does_not_match_is_refused_and_leaves_nothing(stand: &Stand) {
    let target = target(stand);
    let right = Descriptor::of("a/b", b"right");
    for wrong in ["wrong", "righ", "", "right and more"] {
        let refused = target.push(&right, &Body::Bytes(wrong.into())).await;
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt, "{wrong:?}");
        assert!(!target.contains(&right).await.unwrap());
        assert!(target.fetch_all(&right, 100).await.is_err());
    }
    let unknown: Digest = "blake3:abc".parse().unwrap();
    let refused = target.push(&Descriptor::new("a/b", unknown, 5), &Body::Bytes("right".into())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Unsupported);
    let long = "sha512:".to_owned() + &"0".repeat(128);
    let refused =
        target.push(&Descriptor::new("a/b", long.parse().unwrap(), 5), &Body::Bytes("right".into())).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Corrupt);
}

pub(crate) async fn a_tag_moves_and_nothing_else_does(stand: &Stand) {
    let target = target(stand);
    push_config(target).await;
    let (descriptor, body) = manifest("moved to");
    target.push(&descriptor, &body).await.unwrap();
    target.tag(&descriptor, &"v1".parse().unwrap()).await.unwrap();
    let at = async |name: &str| target.resolve(&name.parse().unwrap()).await.unwrap().digest;
    assert_eq!(at("v1").await, descriptor.digest);
    assert_eq!(at("latest").await, stand.filled.app.digest);
    assert_eq!(at("multi").await, stand.filled.index.digest);
    assert_eq!(tags(target).await, 3);
    // What the tag pointed at is there as before.
    let old = Name::Digest(stand.filled.app.digest.clone());
    assert_eq!(target.resolve(&old).await.unwrap().digest, stand.filled.app.digest);
    assert_eq!(target.referrers(&stand.filled.app, None).await.unwrap().len(), 3);
}

pub(crate) async fn a_tag_needs_its_manifest(stand: &Stand) {
    let target = target(stand);
    let refused = target.tag(&absent(), &"v2".parse().unwrap()).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(tags(target).await, 3);
}

pub(crate) async fn many_writers_lose_nothing(stand: &Stand) {
    push_config(target(stand)).await;
    let writers = (0..8).map(|writer| {
        let target = Arc::clone(target(stand));
        tokio::spawn(async move {
            for number in 0..4 {
                let (descriptor, body) = manifest(&format!("{writer}-{number}"));
                target.push(&descriptor, &body).await.unwrap();
                target.tag(&descriptor, &format!("t{writer}-{number}").parse().unwrap()).await.unwrap();
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    assert_eq!(tags(target(stand)).await, 3 + 32);
    let name: Name = "t7-3".parse().unwrap();
    assert_eq!(target(stand).resolve(&name).await.unwrap(), manifest("7-3").0);
}

pub(crate) async fn publishing_is_pushing_and_tagging(stand: &Stand) {
    let target = target(stand);
    push_config(target).await;
    let (descriptor, body) = manifest("published");
    target.publish(&descriptor, &body, &"v1".parse().unwrap()).await.unwrap();
    assert_eq!(target.resolve(&"v1".parse().unwrap()).await.unwrap(), descriptor);
    assert_eq!(target.resolve(&Name::Digest(descriptor.digest.clone())).await.unwrap(), descriptor);
}

pub(crate) async fn what_was_deleted_is_gone(stand: &Stand) {
    let target = target(stand);
    match target.untag(&"latest".parse().unwrap()).await {
        Ok(()) => {
            let gone = target.resolve(&"latest".parse().unwrap()).await.unwrap_err();
            assert_eq!(gone.kind(), ErrorKind::NotFound);
            assert_eq!(target.resolve(&"v1".parse().unwrap()).await.unwrap(), stand.filled.app);
        }
        // Debian's distribution takes no tags away; it says so.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
    assert!(target.untag(&"absent".parse().unwrap()).await.is_err());
    target.delete(&stand.filled.sbom).await.unwrap();
    let name = Name::Digest(stand.filled.sbom.digest.clone());
    assert_eq!(target.resolve(&name).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(target.referrers(&stand.filled.app, None).await.unwrap().len(), 2);
}
