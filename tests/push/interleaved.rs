//! Two who publish under one tag, step by step, in every order their steps can have.
//!
//! A step is one request for the tag. Whose turn it is a plan says; everything else happens when it likes.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use artifs::oci::{Descriptor, Digest, Name, Tag};
use artifs::ops::{self, Expected, PushOptions, Pushed};
use artifs::store::{Blob, Body, ByteStream, Memory, Source, SourceExt as _, Target};
use artifs::{ErrorKind, Result, registry};
use async_trait::async_trait;
use support::registry::Registry;
use tokio::sync::Notify;

use crate::{draft, settings};

/// What a push asks of its tag: look, look again, put, look, and look once more.
const STEPS: usize = 5;

fn tag() -> Tag {
    "v1".parse().unwrap()
}

fn tagged() -> Name {
    Name::Tag(tag())
}

/// Whose turn it is.
struct Plan {
    turns: Mutex<VecDeque<usize>>,
    moved: Notify,
}

impl Plan {
    fn new(turns: impl IntoIterator<Item = usize>) -> Arc<Self> {
        Arc::new(Self { turns: Mutex::new(turns.into_iter().collect()), moved: Notify::new() })
    }

    /// Waits for a turn of `who`. Whoever takes more steps than planned takes them at once.
    async fn turn(&self, who: usize) {
        loop {
            let moved = self.moved.notified();
            {
                let turns = self.turns.lock().unwrap();
                if turns.front() == Some(&who) || !turns.contains(&who) {
                    return;
                }
            }
            moved.await;
        }
    }

    fn step_done(&self, who: usize) {
        let mut turns = self.turns.lock().unwrap();
        if turns.front() == Some(&who) {
            turns.pop_front();
        }
        self.moved.notify_waiters();
    }

    /// Nobody waits for one who has finished.
    fn leave(&self, who: usize) {
        self.turns.lock().unwrap().retain(|turn| *turn != who);
        self.moved.notify_waiters();
    }
}

/// The target as one writer has it.
struct InTurn {
    target: Arc<dyn Target>,
    plan: Arc<Plan>,
    who: usize,
    /// Whether it put its manifest under the tag.
    has_put: Mutex<bool>,
}

#[async_trait]
impl Source for InTurn {
    async fn resolve(&self, name: &Name) -> Result<Descriptor> {
        if *name != tagged() {
            return self.target.resolve(name).await;
        }
        self.plan.turn(self.who).await;
        let found = self.target.resolve(name).await;
        self.plan.step_done(self.who);
        found
    }

    async fn fetch(&self, descriptor: &Descriptor, range: Range<u64>) -> Result<ByteStream> {
        self.target.fetch(descriptor, range).await
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Arc::clone(&self.target).open(blob)
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        self.target.tags().await
    }

    async fn referrers(&self, subject: &Descriptor, kind: Option<&str>) -> Result<Vec<Descriptor>> {
        self.target.referrers(subject, kind).await
    }
}

#[async_trait]
impl Target for InTurn {
    async fn contains(&self, descriptor: &Descriptor) -> Result<bool> {
        self.target.contains(descriptor).await
    }

    async fn push(&self, descriptor: &Descriptor, body: &Body) -> Result<()> {
        self.target.push(descriptor, body).await
    }

    async fn tag(&self, descriptor: &Descriptor, tag: &Tag) -> Result<()> {
        self.target.tag(descriptor, tag).await
    }

    async fn publish(&self, manifest: &Descriptor, body: &Body, under: &Tag) -> Result<()> {
        assert_eq!(*under, tag());
        self.plan.turn(self.who).await;
        let done = self.target.publish(manifest, body, under).await;
        *self.has_put.lock().unwrap() = done.is_ok();
        self.plan.step_done(self.who);
        done
    }

    async fn untag(&self, tag: &Tag) -> Result<()> {
        self.target.untag(tag).await
    }

    async fn delete(&self, descriptor: &Descriptor) -> Result<()> {
        self.target.delete(descriptor).await
    }
}

/// What a writer was told, and whether it had put its manifest.
struct Told {
    digest: Digest,
    outcome: Result<Pushed>,
    has_put: bool,
}

async fn write(target: Arc<dyn Target>, plan: Arc<Plan>, who: usize, base: Digest) -> Told {
    let draft = draft(&format!("writer {who}"));
    let digest = draft.clone().seal().unwrap().descriptor.digest;
    let target = InTurn { target, plan, who, has_put: Mutex::new(false) };
    let options = PushOptions { expected: Expected::Base(Some(base)), ..PushOptions::default() };
    let outcome = ops::push(draft, &target, &[tag()], &options, &()).await;
    target.plan.leave(who);
    let has_put = *target.has_put.lock().unwrap();
    Told { digest, outcome, has_put }
}

/// Lets so many writers write as `turns` says, all from the same base.
///
/// Who was told that it succeeded has its content under the tag, unless another one was told that it may have
/// overwritten somebody. Everybody else heard of a conflict, and finds what it put under a tag of its own.
async fn race(target: Arc<dyn Target>, writers: usize, turns: Vec<usize>) {
    let base = ops::push(draft("base"), target.as_ref(), &[tag()], &PushOptions::default(), &()).await;
    let base = base.unwrap().descriptor.digest;
    let plan = Plan::new(turns.iter().copied());
    let writing: Vec<_> = (0..writers)
        .map(|who| tokio::spawn(write(Arc::clone(&target), Arc::clone(&plan), who, base.clone())))
        .collect();
    let mut told = Vec::new();
    for writer in writing {
        told.push(writer.await.unwrap());
    }

    let now = target.resolve(&tagged()).await.unwrap().digest;
    let blind = |one: &Told| one.outcome.as_ref().is_ok_and(|pushed| pushed.blind.is_some());
    assert!(told.iter().any(|one| one.digest == now), "{turns:?}: nobody's content is there");
    for one in &told {
        match &one.outcome {
            Ok(_) if one.digest == now => {}
            Ok(_) => {
                let by = told.iter().find(|other| other.digest == now);
                assert!(by.is_some_and(blind), "{turns:?}: an update was lost and nobody told");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Conflict, "{turns:?}: {error}");
                assert!(one.digest != now, "{turns:?}: told of a conflict, and it won");
                if one.has_put {
                    let kept = format!("v1-{}", one.digest.short()).parse().unwrap();
                    assert_eq!(target.resolve(&kept).await.unwrap().digest, one.digest, "{turns:?}");
                    target.fetch_manifest(&kept).await.unwrap();
                }
            }
        }
    }
}

/// Every order of two times five steps: 252.
fn orders() -> Vec<Vec<usize>> {
    let all = 0_u32..1 << (2 * STEPS);
    let even = all.filter(|bits| bits.count_ones() as usize == STEPS);
    even.map(|bits| (0..2 * STEPS).map(|step| (bits >> step & 1) as usize).collect()).collect()
}

async fn all_of(races: impl Iterator<Item = impl Future<Output = ()> + Send + 'static>) {
    let races: Vec<_> = races.map(tokio::spawn).collect();
    assert!(races.len() >= 200);
    for race in races {
        race.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_every_order_of_two_writers_steps_a_lost_update_is_reported() {
    assert_eq!(orders().len(), 252);
    all_of(orders().into_iter().map(|turns| race(Arc::new(Memory::new()), 2, turns))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_over_http() {
    let server = Registry::start();
    let client = registry::Registry::new(&server.host(), &settings()).unwrap();
    let races = orders()
        .into_iter()
        .enumerate()
        .map(|(number, turns)| race(Arc::new(client.repository(&format!("r{number}")).unwrap()), 2, turns));
    all_of(races).await;
}

/// Three at once, in orders drawn by lot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_it_is_with_three() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut draw = move |from: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % from as u64) as usize
    };
    let races = (0..200).map(move |_| {
        let mut turns: Vec<usize> = (0..3 * STEPS).map(|step| step % 3).collect();
        for at in (1..turns.len()).rev() {
            turns.swap(at, draw(at + 1));
        }
        race(Arc::new(Memory::new()), 3, turns)
    });
    all_of(races).await;
}
