//! Artifacts made for the tests of trees and pulls, in a store that counts and misbehaves.

use std::collections::HashMap;
use std::io::Write as _;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use artifs::artifact::{self, Artifact, View};
use artifs::oci::{Descriptor, Digest, Name, Tag, media_type};
use artifs::store::{Blob, Body, ByteStream, Direct, Memory, Source, Target as _};
use artifs::{Error, ErrorKind, Result};
use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt as _;

pub(crate) const TITLE: &str = "org.opencontainers.image.title";

/// A memory store that remembers indexes, counts bytes, and cuts streams off on request.
#[derive(Default)]
pub(crate) struct Store {
    pub(crate) memory: Arc<Memory>,
    pub(crate) kept: Mutex<HashMap<(Digest, String), Bytes>>,
    pub(crate) fetched: AtomicU64,
    pub(crate) fetches: AtomicUsize,
    /// Every fetch ends with an error after so many bytes, if not 0.
    pub(crate) cut_after: AtomicU64,
    /// The first byte of every fetch is wrong.
    pub(crate) lie: AtomicBool,
}

#[async_trait]
impl Source for Store {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        self.memory.resolve(name).await
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        self.fetched.fetch_add(range.end - range.start, Ordering::SeqCst);
        let stream = self.memory.fetch(descriptor, range).await?;
        let mut lie = self.lie.load(Ordering::SeqCst);
        let stream = stream.map(move |piece| {
            let mut piece = piece?.to_vec();
            if std::mem::take(&mut lie)
                && let Some(first) = piece.first_mut()
            {
                *first ^= 1;
            }
            Ok::<_, Error>(Bytes::from(piece))
        });
        // In small pieces, as they come over a network.
        let pieces = stream.flat_map(|piece| {
            let pieces: Vec<Result<Bytes>> = match piece {
                Ok(piece) => piece.chunks(7000).map(|part| Ok(Bytes::copy_from_slice(part))).collect(),
                Err(error) => vec![Err(error)],
            };
            futures_util::stream::iter(pieces)
        });
        let cut = self.cut_after.load(Ordering::SeqCst);
        if cut == 0 {
            return Ok(Box::pin(pieces));
        }
        let mut left = cut;
        Ok(Box::pin(pieces.map(move |piece| {
            let piece = piece?;
            if piece.len() as u64 > left {
                return Err(Error::new(ErrorKind::Unavailable, "the line was cut"));
            }
            left -= piece.len() as u64;
            Ok(piece)
        })))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        self.memory.tags().await
    }

    async fn referrers(&self, subject: &Descriptor, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        self.memory.referrers(subject, artifact_type).await
    }

    async fn recall(&self, blob: &Digest, kind: &str) -> Option<Bytes> {
        self.kept.lock().unwrap().get(&(blob.clone(), kind.to_owned())).cloned()
    }

    async fn keep(&self, blob: &Digest, kind: &str, knowledge: Bytes) {
        self.kept.lock().unwrap().insert((blob.clone(), kind.to_owned()), knowledge);
    }
}

impl Store {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    pub(crate) async fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let descriptor = Descriptor::of(media_type, bytes);
        let body = Body::Bytes(Bytes::copy_from_slice(bytes));
        self.memory.push(&descriptor, &body).await.unwrap();
        descriptor
    }

    pub(crate) async fn file(&self, title: &str, bytes: &[u8]) -> Descriptor {
        titled(self.blob(media_type::IMAGE_LAYER, bytes).await, title)
    }

    pub(crate) async fn folder(&self, title: &str, packed: &[u8]) -> Descriptor {
        let mut layer = titled(self.blob(media_type::IMAGE_LAYER_GZIP, packed).await, title);
        layer.annotations.insert("io.deis.oras.content.unpack".into(), "true".into());
        layer
    }

    /// Pushes a manifest of these layers under a tag.
    pub(crate) async fn manifest(&self, tag: &str, layers: &[Descriptor]) -> Descriptor {
        self.manifest_about(tag, layers, None).await
    }

    pub(crate) async fn manifest_about(
        &self,
        tag: &str,
        layers: &[Descriptor],
        subject: Option<&Descriptor>,
    ) -> Descriptor {
        let config = self.blob(media_type::EMPTY_JSON, b"{}").await;
        let mut manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": media_type::IMAGE_MANIFEST,
            "artifactType": "application/vnd.test",
            "config": config,
            "layers": layers,
            "annotations": {"org.opencontainers.image.created": "2026-08-01T10:00:00Z"},
        });
        if let Some(subject) = subject {
            manifest["subject"] = serde_json::to_value(subject).unwrap();
        }
        self.raw(tag, media_type::IMAGE_MANIFEST, &manifest).await
    }

    pub(crate) async fn raw(&self, tag: &str, media_type: &str, manifest: &serde_json::Value) -> Descriptor {
        let descriptor = self.blob(media_type, &serde_json::to_vec(manifest).unwrap()).await;
        self.memory.tag(&descriptor, &tag.parse().unwrap()).await.unwrap();
        descriptor
    }

    pub(crate) async fn open_with(self: &Arc<Self>, tag: &str, view: &View) -> Result<Artifact> {
        let source = Arc::clone(self) as Arc<dyn Source>;
        artifact::open(source, &Name::Tag(tag.parse().unwrap()), tag, view).await
    }

    pub(crate) async fn open_tag(self: &Arc<Self>, tag: &str) -> Artifact {
        self.open_with(tag, &View::default()).await.unwrap()
    }
}

pub(crate) fn titled(mut layer: Descriptor, title: &str) -> Descriptor {
    layer.annotations.insert(TITLE.into(), title.into());
    layer
}

/// A tar with these files (a name that ends in `/` is a folder).
pub(crate) fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = header(bytes.len() as u64, 0o640);
        if name.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(0o750);
        }
        tar.append_data(&mut header, name, *bytes).unwrap();
    }
    tar.into_inner().unwrap()
}

pub(crate) fn header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(1_700_000_000);
    header
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Bytes that compress, but not to nothing, and differ everywhere.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 60) as u8 + b'a'
        })
        .collect()
}
