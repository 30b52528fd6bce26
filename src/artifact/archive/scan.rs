//! The one pass over a layer that finds out what is in it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

use super::codec::{Decoder, Packing, Resume};
use super::tar::Walk;
use super::{Checkpoint, Index, cursor, saved};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Hasher};
use crate::store::{ByteStream, Source, expect_digest};

/// Output between checkpoints: what a random read decompresses at most, some ten milliseconds' worth.
const SPACING: u64 = 4 << 20;
/// So many checkpoints at most; beyond that they are spaced wider. 32 KiB each, before packing.
const MAX_CHECKPOINTS: usize = 1024;
/// Pieces on their way from the network to the decompressing thread.
const PIECES: usize = 8;
/// What is read of a plain tar at a time when its members' bytes are jumped over.
const GLANCE: u64 = 64 << 10;

/// What is in `layer`: remembered by the store, or found by reading all of it once.
///
/// `expected` is the digest the decompressed bytes must have, where something says one.
pub(in crate::artifact) async fn index(
    source: &Arc<dyn Source>,
    layer: &Arc<Descriptor>,
    expected: Option<&Digest>,
) -> Result<Index> {
    if let Some(bytes) = source.recall(&layer.digest, saved::KIND).await {
        match saved::parse(&bytes, layer) {
            Ok(index) if expected.is_none_or(|digest| index.digests.contains(digest)) => return Ok(index),
            Ok(_) => {}
            Err(error) => tracing::warn!(layer = %layer.digest, %error, "building the layer's index again"),
        }
    }
    let index = scan(source, layer, expected.cloned()).await?;
    let bytes = saved::serialize(&index, layer)?;
    source.keep(&layer.digest, saved::KIND, bytes).await;
    Ok(index)
}

async fn scan(source: &Arc<dyn Source>, layer: &Arc<Descriptor>, expected: Option<Digest>) -> Result<Index> {
    let mut stream = whole(source, layer).await?;
    let mut start = BytesMut::new();
    while start.len() < 4
        && let Some(piece) = stream.next().await
    {
        start.extend_from_slice(&piece?);
    }
    let packing = Packing::of(&start);
    if packing == Packing::Plain && expected.is_none() && layer.inline().is_none() && layer.size > GLANCE {
        drop(stream);
        return glance(source, layer).await;
    }
    let (pieces, mut arriving) = mpsc::channel::<Bytes>(PIECES);
    let mut pass = Pass::new(packing, layer, expected)?;
    let worker = tokio::task::spawn_blocking(move || -> Result<Index> {
        while let Some(piece) = arriving.blocking_recv() {
            pass.feed(&piece)?;
        }
        pass.finish()
    });
    let mut failed = None;
    let _ = pieces.send(start.freeze()).await;
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => {
                // Nobody takes it any more: the worker failed, and says why.
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    drop(pieces);
    let found = worker
        .await
        .map_err(|error| Error::with_source(ErrorKind::Io, "reading the archive ended early", error))?;
    failed.map_or(found, Err)
}

async fn whole(source: &Arc<dyn Source>, layer: &Arc<Descriptor>) -> Result<ByteStream> {
    if let Some(bytes) = layer.inline() {
        return Ok(Box::pin(futures_util::stream::iter([Ok(bytes)])));
    }
    if layer.size == 0 {
        return Ok(Box::pin(futures_util::stream::empty()));
    }
    source.fetch(layer, 0..layer.size).await
}

/// A plain tar of which only the headers are read.
async fn glance(source: &Arc<dyn Source>, layer: &Arc<Descriptor>) -> Result<Index> {
    let blob = Arc::clone(source).open(layer)?;
    let mut walk = Walk::new();
    let mut at = 0;
    while at < layer.size && !walk.is_over() {
        let end = (at + GLANCE).min(layer.size);
        walk.feed(&blob.read(at..end).await?)?;
        at = end.saturating_add(walk.jump());
    }
    if at > layer.size {
        return Err(Error::new(ErrorKind::Corrupt, "not a sound tar archive: its last member is cut off"));
    }
    Ok(Index {
        packing: Packing::Plain,
        length: layer.size,
        checkpoints: Vec::new(),
        digests: Vec::new(),
        members: walk.finish()?,
    })
}

/// The pass itself, on a thread of its own.
struct Pass {
    packing: Packing,
    decoder: Option<Decoder>,
    walk: Walk,
    layer: Arc<Descriptor>,
    layer_hash: Hasher,
    content_hash: Option<(Hasher, Digest)>,
    input: u64,
    output: u64,
    checkpoints: Vec<Checkpoint>,
    spacing: u64,
}

impl Pass {
    fn new(packing: Packing, layer: &Arc<Descriptor>, expected: Option<Digest>) -> Result<Self> {
        let decoder = match packing {
            Packing::Plain => None,
            _ => Some(Decoder::new(packing, &Resume::Fresh)?),
        };
        let content_hash = match expected {
            Some(digest) => Some((digest.hasher()?, digest)),
            None => None,
        };
        Ok(Self {
            packing,
            checkpoints: Vec::from_iter(decoder.as_ref().map(|_| Checkpoint {
                input: 0,
                output: 0,
                resume: Resume::Fresh,
            })),
            decoder,
            walk: Walk::new(),
            layer_hash: layer.digest.hasher()?,
            layer: Arc::clone(layer),
            content_hash,
            input: 0,
            output: 0,
            spacing: SPACING,
        })
    }

    fn feed(&mut self, piece: &[u8]) -> Result<()> {
        self.layer_hash.update(piece);
        let Some(decoder) = &mut self.decoder else {
            self.input += piece.len() as u64;
            self.output = self.input;
            if let Some((hasher, _)) = &mut self.content_hash {
                hasher.update(piece);
            }
            return self.walk.feed(piece);
        };
        let mut left = piece;
        loop {
            let step = decoder.step(left)?;
            let fresh = decoder.fresh();
            left = left.get(step.consumed..).unwrap_or_default();
            self.input += step.consumed as u64;
            self.output += fresh.len() as u64;
            if let Some((hasher, _)) = &mut self.content_hash {
                hasher.update(fresh);
            }
            self.walk.feed(fresh)?;
            if step.consumed == 0 && fresh.is_empty() {
                return Ok(());
            }
            let due = self.checkpoints.last().is_none_or(|last| self.output >= last.output + self.spacing);
            if step.boundary
                && due
                && let Some(resume) = decoder.place()
            {
                let resume = cursor::pack(resume);
                self.checkpoints.push(Checkpoint { input: self.input, output: self.output, resume });
                thin_out(&mut self.checkpoints, &mut self.spacing);
            }
        }
    }

    fn finish(self) -> Result<Index> {
        // First the layer's own digest: what is wrong with bytes that are not the right ones says nothing.
        expect_digest(self.layer_hash, &self.layer.digest)?;
        if self.decoder.is_some_and(|decoder| !decoder.may_end()) {
            return Err(Error::new(ErrorKind::Corrupt, "the compressed layer ends early"));
        }
        let mut digests = Vec::new();
        if let Some((hasher, digest)) = self.content_hash {
            expect_digest(hasher, &digest)?;
            digests.push(digest);
        }
        Ok(Index {
            packing: self.packing,
            length: self.output,
            checkpoints: self.checkpoints,
            digests,
            members: self.walk.finish()?,
        })
    }
}

/// Half as many checkpoints, twice as far apart, once there are too many.
fn thin_out(checkpoints: &mut Vec<Checkpoint>, spacing: &mut u64) {
    if checkpoints.len() <= MAX_CHECKPOINTS {
        return;
    }
    let mut number = 0;
    checkpoints.retain(|_| {
        number += 1;
        number % 2 == 1
    });
    *spacing *= 2;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write as _;

    fn tar() -> Vec<u8> {
        let mut tar = ::tar::Builder::new(Vec::new());
        for i in 0..20_u64 {
            let bytes: Vec<u8> = (0..i * 777).map(|n| ((n * n * (i + 1)) >> 5) as u8).collect();
            let mut header = ::tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            let name = format!("d/{}/{i}", "long".repeat(i as usize * 3));
            tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap()
    }

    fn packed(packing: Packing) -> Vec<u8> {
        match packing {
            Packing::Plain => tar(),
            Packing::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                encoder.write_all(&tar()).unwrap();
                encoder.finish().unwrap()
            }
            Packing::Zstd => ::zstd::bulk::compress(&tar(), 3).unwrap(),
        }
    }

    fn index(bytes: &[u8], pieces: &[usize]) -> Result<Index> {
        let layer = Arc::new(Descriptor::of("a/b", bytes));
        let mut pass = Pass::new(Packing::of(bytes), &layer, None)?;
        let mut rest = bytes;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let length = pieces.next().copied().unwrap_or(1).clamp(1, rest.len());
            pass.feed(&rest[..length])?;
            rest = &rest[length..];
        }
        pass.finish()
    }

    fn packing() -> impl Strategy<Value = Packing> {
        prop_oneof![Just(Packing::Plain), Just(Packing::Gzip), Just(Packing::Zstd)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn how_the_bytes_are_cut_does_not_matter(
            packing in packing(),
            pieces in proptest::collection::vec(1_usize..5000, 1..20),
        ) {
            let bytes = packed(packing);
            let (whole, cut) = (index(&bytes, &[bytes.len()]).unwrap(), index(&bytes, &pieces).unwrap());
            prop_assert_eq!(whole.members.as_ref().map(Vec::len), Some(20));
            prop_assert_eq!(whole.members, cut.members);
            prop_assert_eq!(whole.length, tar().len() as u64);
        }

        #[test]
        fn damaged_bytes_are_an_error_or_an_index_and_nothing_else(
            packing in packing(),
            damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
            pieces in proptest::collection::vec(1_usize..600, 1..20),
        ) {
            let mut bytes = packed(packing);
            for (place, byte) in damage {
                let place = place.index(bytes.len());
                bytes[place] = byte;
            }
            if let Ok(index) = index(&bytes, &pieces) {
                for member in index.members.iter().flatten() {
                    prop_assert!(member.offset + member.size <= index.length);
                }
            }
        }
    }
}
