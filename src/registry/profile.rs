//! What this registry can do, as far as it has shown.
//!
//! No table of vendors: what a registry answers is surer than what its name promises, and changes with it.

use std::sync::atomic::{AtomicU8, Ordering};

/// Something a registry may be able to do.
#[derive(Default)]
pub(super) struct Ability(AtomicU8);

const YES: u8 = 1;
const NO: u8 = 2;

impl Ability {
    /// `None` until it has been seen.
    pub(super) fn known(&self) -> Option<bool> {
        match self.0.load(Ordering::Relaxed) {
            YES => Some(true),
            NO => Some(false),
            _ => None,
        }
    }

    /// It has been seen to work, or not to.
    pub(super) fn seen(&self, works: bool) {
        self.0.store(if works { YES } else { NO }, Ordering::Relaxed);
    }
}

/// One registry's abilities.
#[derive(Default)]
pub(super) struct Profile {
    /// Answers that say which range they carry, and carry it. One that ignores ranges (200) is not against it.
    pub(super) ranges: Ability,
    /// The referrers API of distribution-spec 1.1.
    pub(super) referrers: Ability,
    /// Blobs of any size in one request.
    pub(super) whole_uploads: Ability,
}
