//! How a mount ends: what was changed is published, or stays staged.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, RwLock, watch};

use super::Running;
use super::commit::{CommitOptions, Committed};
use super::fuse::Served;
use crate::error::ErrorKind;

/// How long those who asked are given to hear the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What became of what was changed.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Nothing was changed since the last commit, or nothing could be.
    Clean,
    /// It was published.
    Published(Vec<Committed>),
    /// It was thrown away, as asked for.
    Discarded,
    /// It was not published and stays staged.
    Staged {
        /// The reference that was mounted.
        reference: String,
        /// Why.
        why: String,
        /// Whether somebody else moved the tag.
        conflict: bool,
    },
}

/// The end of one mount.
pub(super) struct Ending {
    became: watch::Sender<Option<Ended>>,
    discard: AtomicBool,
    answering: Arc<RwLock<()>>,
}

impl Default for Ending {
    fn default() -> Self {
        Self { became: watch::channel(None).0, discard: AtomicBool::new(false), answering: Arc::default() }
    }
}

impl Ending {
    /// Says whether changes are to be thrown away.
    pub(super) fn discard(&self, discard: bool) {
        self.discard.store(discard, Ordering::SeqCst);
    }

    /// Waits for the end, and says what became of the changes.
    pub(super) async fn outcome(&self) -> Ended {
        let mut became = self.became.subscribe();
        let ended = became.wait_for(Option::is_some).await;
        // The sender is ours: it cannot be gone.
        ended.ok().and_then(|ended| ended.clone()).unwrap_or(Ended::Clean)
    }

    /// Held while somebody is being answered.
    pub(super) async fn answering(&self) -> OwnedRwLockReadGuard<()> {
        Arc::clone(&self.answering).read_owned().await
    }

    /// Waits until everybody was answered, a while at most.
    pub(super) async fn answered(&self) {
        let _ = tokio::time::timeout(PATIENCE, self.answering.write()).await;
    }
}

/// Waits until the kernel asks no more, and sees to what was changed.
pub(super) async fn wait(running: Arc<Running>) {
    running.kernel_ended().await;
    let became = end(&running).await;
    running.ending.became.send_replace(Some(became));
}

async fn end(running: &Running) -> Ended {
    let Served::Writing(overlay) = &running.served else { return Ended::Clean };
    let became = publish(running).await;
    let publishes = running.publisher.as_ref().is_some_and(super::Publisher::has_target);
    let done = match &became {
        Ended::Discarded | Ended::Published(_) => true,
        Ended::Clean => publishes,
        Ended::Staged { .. } => false,
    };
    if done && let Err(error) = overlay.staging().clear() {
        tracing::error!(%error, "what is staged is published, and could not be removed");
    }
    overlay.close();
    became
}

async fn publish(running: &Running) -> Ended {
    if running.ending.discard.load(Ordering::SeqCst) {
        return Ended::Discarded;
    }
    if running.changes().is_empty() {
        return Ended::Clean;
    }
    let staged =
        |why: String, conflict: bool| Ended::Staged { reference: running.reference.clone(), why, conflict };
    match running.commit(&CommitOptions::from_environment(), running).await {
        Ok(committed) if committed.iter().any(|one| one.changed) => Ended::Published(committed),
        Ok(_) => Ended::Clean,
        Err(error) => staged(error.to_string(), error.kind() == ErrorKind::Conflict),
    }
}
