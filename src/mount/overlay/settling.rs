//! Settling: before a tree is frozen to be published, what was written so far is told from what comes later.
//!
//! A file that changes afterwards must not look like the one that was published. Two things could hide a change: a page
//! that is mapped and dirty takes further bytes without anybody hearing of it, until it was written back; and the clock
//! times are taken from ticks, so that two changes in one tick have one time.

use std::sync::Arc;

use super::Overlay;
use super::refusal::Answer;
use crate::mount::staging::{Contents, TICK};

impl Overlay {
    /// Writes back what the kernel writes by itself, and lets the clock go on. For a thread that may wait.
    pub(in crate::mount) fn settle(&self) -> Answer<()> {
        let open: Vec<Arc<Contents>> = {
            let tree = self.tree();
            let passed = tree.inodes.values().filter(|inode| inode.backing.is_some());
            passed.filter_map(|inode| inode.contents().ok().map(Arc::clone)).collect()
        };
        for contents in open {
            contents.sync(true)?;
        }
        std::thread::sleep(TICK);
        Ok(())
    }
}
