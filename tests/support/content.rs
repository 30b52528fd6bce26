//! Content that tests serve: bytes, or gigabytes computed from where they lie.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use artifs::oci::{Descriptor, Digest, Hasher};
use bytes::{Bytes, BytesMut};

/// A prime close to 1 MiB: tiles never line up with chunks, pages or powers of two.
const TILE: u64 = 1_048_573;

/// A blob of any size, made up from a seed. Cloning is shallow; it holds one tile of memory.
///
/// Incompressible, and no two aligned pieces are alike: every tile begins with its own number.
#[derive(Clone)]
pub struct Big(Arc<Inner>);

struct Inner {
    size: u64,
    tile: Vec<u8>,
    digest: OnceLock<Digest>,
}

impl Big {
    /// `size` bytes determined by `seed`.
    pub fn new(size: u64, seed: u64) -> Self {
        let mut state = seed;
        let mut word = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut tile: Vec<u8> =
            (0..TILE.min(size.max(8)).div_ceil(8)).flat_map(|_| word().to_le_bytes()).collect();
        tile.truncate(TILE as usize);
        Self(Arc::new(Inner { size, tile, digest: OnceLock::new() }))
    }

    /// How long it is.
    pub fn size(&self) -> u64 {
        self.0.size
    }

    /// The bytes `range`, cut at the end.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.0.size);
        let mut bytes = BytesMut::with_capacity(end.saturating_sub(range.start) as usize);
        let mut at = range.start;
        while at < end {
            let (number, inside) = (at / TILE, (at % TILE) as usize);
            let mark = (number ^ 0x5a5a_5a5a).to_le_bytes();
            let take = (end - at).min(TILE - inside as u64) as usize;
            let start = bytes.len();
            bytes.extend_from_slice(&self.0.tile[inside..inside + take]);
            for (offset, byte) in mark.iter().enumerate().skip(inside) {
                if let Some(place) = bytes[start..].get_mut(offset - inside) {
                    *place ^= byte;
                }
            }
            at += take as u64;
        }
        bytes.freeze()
    }

    /// The sha256 digest, computed the first time it is asked for.
    pub fn digest(&self) -> Digest {
        self.0
            .digest
            .get_or_init(|| {
                let mut hasher = Hasher::for_algorithm("sha256").expect("sha256 is there");
                let mut at = 0;
                while at < self.0.size {
                    hasher.update(&self.read(at..at + (1 << 20)));
                    at += 1 << 20;
                }
                hasher.finish()
            })
            .clone()
    }
}

/// What is served or pushed.
#[derive(Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// Made up on the way.
    Big(Big),
}

impl Content {
    /// How long it is.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Big(big) => big.size(),
        }
    }

    /// The bytes `range`, cut at the end.
    pub fn read(&self, range: Range<u64>) -> Bytes {
        match self {
            Self::Bytes(bytes) => {
                let end = range.end.min(bytes.len() as u64);
                bytes.slice(range.start.min(end) as usize..end as usize)
            }
            Self::Big(big) => big.read(range),
        }
    }

    /// Its sha256 digest.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Bytes(bytes) => Digest::of(bytes),
            Self::Big(big) => big.digest(),
        }
    }

    /// A descriptor of it.
    pub fn descriptor(&self, media_type: &str) -> Descriptor {
        Descriptor::new(media_type, self.digest(), self.size())
    }
}

impl From<Big> for Content {
    fn from(big: Big) -> Self {
        Self::Big(big)
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(Bytes::copy_from_slice(bytes))
    }
}

/// Bytes without a pattern a mistake could hide in.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(length)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_part_of_the_whole() {
        let big = Big::new(3 * TILE + 17, 1);
        let whole = big.read(0..big.size());
        assert_eq!(whole.len() as u64, big.size());
        for range in [0..1, 5..9, TILE - 3..TILE + 12, TILE + 2..2 * TILE + 1, 3 * TILE..3 * TILE + 17] {
            assert_eq!(big.read(range.clone()), whole.slice(range.start as usize..range.end as usize));
        }
        assert_eq!(big.digest(), Digest::of(&whole));
        assert_ne!(big.read(0..64), big.read(TILE..TILE + 64));
    }
}
