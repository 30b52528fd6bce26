//! The folder behind a name: resolved at first entry, then pinned; with `--follow`, pinned again when it moved.
//!
//! A pin never changes: who is inside keeps what he entered. Following replaces the pin in its slot, so
//! that the next lookup of the tag, a second later at most, enters the new tree.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::OnceCell;

use crate::artifact::tree::{Attributes, Entries, Folder, IMMUTABLE, Node, stable_id};
use crate::artifact::{Artifact, View};
use crate::error::Result;
use crate::oci::{Descriptor, Digest, Name};
use crate::store::Source;

/// How long the kernel may remember a name that may move: not at all, so that nobody sees a bit of both. It
/// is answered from memory.
pub(super) const FOLLOWED: Duration = Duration::ZERO;

/// What a name is looked up in, and how it is shown.
#[derive(Clone)]
pub(super) struct Named {
    pub(super) source: Arc<dyn Source>,
    pub(super) name: Name,
    /// The whole reference, for people.
    pub(super) reference: String,
    pub(super) view: View,
}

/// An artifact's root folder, opened when somebody enters.
pub(super) struct Pin {
    named: Named,
    id: u64,
    artifact: OnceCell<Artifact>,
}

impl Pin {
    pub(super) fn new(named: Named, moved_to: Option<&Digest>) -> Self {
        let moved_to = moved_to.map_or("", Digest::as_str);
        let id = stable_id(&[b"name", named.reference.as_bytes(), moved_to.as_bytes()]);
        Self { named, id, artifact: OnceCell::new() }
    }

    /// The artifact, opened now if nobody did before.
    pub(super) async fn artifact(&self) -> Result<&Artifact> {
        let Named { source, name, reference, view } = &self.named;
        self.artifact
            .get_or_try_init(|| crate::artifact::open(Arc::clone(source), name, reference, view))
            .await
    }

    /// The artifact, if somebody entered.
    pub(super) fn entered(&self) -> Option<&Artifact> {
        self.artifact.get()
    }
}

#[async_trait]
impl Folder for Pin {
    fn attributes(&self) -> Attributes {
        self.entered().map_or(Attributes::FOLDER, |artifact| artifact.root.attributes())
    }

    fn id(&self) -> u64 {
        self.id
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        self.artifact().await?.root.lookup(name).await
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        self.artifact().await?.root.list().await
    }

    fn lifetime(&self) -> Duration {
        self.entered().map_or(IMMUTABLE, |artifact| artifact.root.lifetime())
    }

    fn origin(&self) -> Option<&Descriptor> {
        self.entered().map(|artifact| artifact.root.origin().unwrap_or(&artifact.descriptor))
    }
}

/// Where the pin of a name is kept.
pub(super) struct Slot {
    current: Mutex<Arc<Pin>>,
    follows: bool,
}

impl Slot {
    fn new(named: Named, follows: bool) -> Self {
        Self { current: Mutex::new(Arc::new(Pin::new(named, None))), follows }
    }

    /// The pin as it is now.
    pub(super) fn pin(&self) -> Arc<Pin> {
        Arc::clone(&self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same, as a folder.
    pub(super) fn current(&self) -> Arc<dyn Folder> {
        self.pin()
    }

    /// How long the kernel may remember what is in it, where it is the root of a mount: the root's number
    /// cannot change when the tag moves, so its entries must be asked for again.
    pub(super) fn lifetime(&self) -> Duration {
        if self.follows { FOLLOWED } else { self.pin().lifetime() }
    }

    /// Resolves the name again; if it moved, opens what it points at now and pins that. A name nobody
    /// entered yet has nothing to move.
    async fn refresh(&self) -> Result<bool> {
        let pin = self.pin();
        let Some(entered) = pin.entered() else { return Ok(false) };
        let now = pin.named.source.resolve(&pin.named.name).await?;
        if now.digest == entered.named.digest {
            return Ok(false);
        }
        let moved = Pin::new(pin.named.clone(), Some(&now.digest));
        moved.artifact().await?;
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(moved);
        Ok(true)
    }
}

/// The slots of one mount.
pub(super) struct Slots {
    follow: Option<Duration>,
    followed: Mutex<Vec<Weak<Slot>>>,
}

impl Slots {
    /// `follow`: how often tags are resolved again.
    pub(super) fn new(follow: Option<Duration>) -> Arc<Self> {
        Arc::new(Self { follow, followed: Mutex::default() })
    }

    /// A slot for a name. Digests point at the same thing for ever.
    pub(super) fn slot(&self, named: Named) -> Arc<Slot> {
        let follows = self.follow.is_some() && matches!(named.name, Name::Tag(_));
        let slot = Arc::new(Slot::new(named, follows));
        if follows {
            self.followed.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&slot));
        }
        slot
    }

    /// Whether names may move under this mount.
    pub(super) fn are_followed(&self) -> bool {
        self.follow.is_some()
    }

    /// Resolves every entered tag again and again. Never ends by itself; what fails keeps its pin.
    pub(super) async fn keep_following(self: Arc<Self>, deadline: Duration) {
        let Some(every) = self.follow else { return };
        loop {
            tokio::time::sleep(every).await;
            let slots: Vec<Arc<Slot>> = {
                let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
                followed.retain(|slot| slot.strong_count() > 0);
                followed.iter().filter_map(Weak::upgrade).collect()
            };
            for slot in slots {
                let reference = slot.pin().named.reference.clone();
                match tokio::time::timeout(deadline, slot.refresh()).await {
                    Ok(Ok(true)) => {
                        tracing::info!(%reference, "the tag moved; new opens see the new content");
                    }
                    Ok(Ok(false)) => {}
                    Ok(Err(error)) => tracing::warn!(%reference, %error, "cannot follow the tag just now"),
                    Err(_) => tracing::warn!(%reference, "cannot follow the tag just now: no answer in time"),
                }
            }
        }
    }
}
