//! A layer that is a folder: entered, it is indexed once, whoever and however many come.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use super::Warnings;
use super::archive::tar::Member;
use super::archive::{Archive, scan};
use super::attributes::OWNERS;
use super::members::Members;
use super::tree::{Attributes, FileName};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Descriptor, Digest};
use crate::store::Source;

/// How long a layer that turned out bad is not fetched again: every `ls` would download it whole.
const HOLD_OFF: Duration = Duration::from_secs(10);

/// The digest of the decompressed layer (oras.md §2.3).
const CONTENT_DIGEST: &str = "io.deis.oras.content.digest";

/// A layer to be unpacked at a path.
pub(super) struct Directory {
    pub(super) source: Arc<dyn Source>,
    pub(super) layer: Arc<Descriptor>,
    /// The title, cleaned: where it is shown, and what its members' paths begin with.
    pub(super) title: Vec<FileName>,
    /// Its place among the layers: of two things under one name the later one is shown.
    pub(super) position: usize,
    /// The time of members that have none.
    pub(super) modified: (i64, u32),
    pub(super) warnings: Arc<Warnings>,
    done: OnceLock<Arc<Members>>,
    state: Mutex<State>,
}

type Running = Shared<BoxFuture<'static, Result<Arc<Members>>>>;

enum State {
    Idle,
    Running(Running),
    Failed(Instant, Error),
}

impl Directory {
    pub(super) fn new(
        source: &Arc<dyn Source>,
        layer: &Arc<Descriptor>,
        title: Vec<FileName>,
        position: usize,
        modified: (i64, u32),
        warnings: &Arc<Warnings>,
    ) -> Self {
        Self {
            source: Arc::clone(source),
            layer: Arc::clone(layer),
            title,
            position,
            modified,
            warnings: Arc::clone(warnings),
            done: OnceLock::new(),
            state: Mutex::new(State::Idle),
        }
    }

    /// What is in it. Asked for by many at once, it is found out once; given up by all, it is still finished.
    pub(super) async fn members(self: &Arc<Self>) -> Result<Arc<Members>> {
        if let Some(done) = self.done.get() {
            return Ok(Arc::clone(done));
        }
        let running = self.run()?;
        running.await
    }

    fn run(self: &Arc<Self>) -> Result<Running> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            State::Running(running) => return Ok(running.clone()),
            State::Failed(when, error) if when.elapsed() < HOLD_OFF => return Err(error.clone()),
            State::Failed(..) | State::Idle => {}
        }
        let this = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = this.build().await.map(Arc::new);
            this.settle(&result);
            result
        });
        let running = async move {
            task.await.unwrap_or_else(|error| {
                Err(Error::with_source(ErrorKind::Io, "looking into the layer ended early", error))
            })
        };
        let running = running.boxed().shared();
        *state = State::Running(running.clone());
        Ok(running)
    }

    fn settle(&self, result: &Result<Arc<Members>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        *state = match result {
            Ok(members) => {
                let _ = self.done.set(Arc::clone(members));
                State::Idle
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::TooLarge) => {
                self.warnings.add("R6", self.shown(), error.to_string());
                State::Failed(Instant::now(), error.clone())
            }
            Err(_) => State::Idle,
        };
    }

    async fn build(self: &Arc<Self>) -> Result<Members> {
        let expected = match self.layer.annotation(CONTENT_DIGEST).map(str::parse::<Digest>) {
            Some(Ok(digest)) => Some(digest),
            Some(Err(_)) => {
                self.warnings.add("R6", self.shown(), "its content digest is malformed and was not checked");
                None
            }
            None => None,
        };
        let mut index = scan::index(&self.source, &self.layer, expected.as_ref())
            .await
            .map_err(|error| error.context(format!("look into {}", self.shown())))?;
        let listed = index.members.take();
        let archive = Arc::new(Archive::new(Arc::clone(&self.source), Arc::clone(&self.layer), index));
        let this = Arc::clone(self);
        // A million members take a moment to put in order.
        tokio::task::spawn_blocking(move || Members::place(&this, &archive, listed))
            .await
            .map_err(|error| Error::with_source(ErrorKind::Io, "looking into the layer ended early", error))
    }

    /// Its path, for people.
    pub(super) fn shown(&self) -> String {
        if self.title.is_empty() { ".".to_owned() } else { shown(&self.title) }
    }

    /// Whose a member is, if its layer says that this counts: ORAS makes everything root's.
    pub(super) fn owner(&self, member: &Member) -> Option<(u32, u32)> {
        (self.layer.annotation(OWNERS) == Some("true")).then_some(member.owner)
    }

    /// What members that say nothing themselves are given.
    pub(super) fn attributes(&self, mode: u32, modified: (i64, u32)) -> Attributes {
        let modified = if modified.0 > 0 { modified } else { self.modified };
        Attributes { mode: mode & 0o777, modified, owner: None }
    }
}

/// A path, for people.
pub(super) fn shown(path: &[FileName]) -> String {
    String::from_utf8_lossy(&path.join(&b'/')).into_owned()
}
