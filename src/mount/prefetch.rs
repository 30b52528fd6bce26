//! Everything, fetched in the background.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::artifact::tree::{Folder, Node};

/// Blobs under way at once: enough to hide the gap between two, few enough that what a program reads in the
/// meantime still gets most of the connection.
const AT_ONCE: usize = 2;

/// Completes every file below `root`. What fails is said in the log and left for its first reader.
pub(super) async fn everything(root: Arc<dyn Folder>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let mut under_way = tokio::task::JoinSet::new();
    let mut seen = HashSet::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        let listed = match folder.list().await {
            Ok(listed) => listed,
            Err(error) => {
                tracing::warn!(%error, "cannot prefetch a folder");
                continue;
            }
        };
        for node in listed.values() {
            match node {
                Node::Folder(below) => folders.push(Arc::clone(below)),
                Node::File(file) if seen.insert(file.id) => {
                    let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
                    let file = Arc::clone(file);
                    under_way.spawn(async move {
                        let _slot = slot;
                        let outcome = match file.reader() {
                            Ok(reader) => reader.complete().await,
                            Err(error) => Err(error),
                        };
                        if let Err(error) = outcome {
                            tracing::warn!(%error, "cannot prefetch a file");
                        }
                    });
                    while under_way.try_join_next().is_some() {}
                }
                Node::File(_) | Node::Link(_) => {}
            }
        }
    }
    while under_way.join_next().await.is_some() {}
}
