//! Two who publish under one tag.

use std::sync::Arc;

use artifs::ErrorKind;
use artifs::oci::Tag;
use artifs::ops::push::SETTLE;
use artifs::ops::{self, Expected, PushOptions};
use artifs::store::{Memory, Source as _, Target};
use support::registry::{Fault, On, Registry};

use crate::{draft, repository};

fn tag() -> Tag {
    "v1".parse().unwrap()
}

async fn based(
    target: &dyn Target,
    text: &str,
    base: Option<&artifs::oci::Digest>,
) -> artifs::Result<ops::Pushed> {
    let options = PushOptions { expected: Expected::Base(base.cloned()), ..PushOptions::default() };
    ops::push(draft(text), target, &[tag()], &options, &()).await
}

#[tokio::test]
async fn a_tag_that_moved_is_left_alone() {
    let target = Memory::new();
    let first = based(&target, "first", None).await.unwrap();
    assert_eq!(first.blind, None);
    let theirs = based(&target, "theirs", Some(&first.descriptor.digest)).await.unwrap();
    let error = based(&target, "ours", Some(&first.descriptor.digest)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let said = error.to_string();
    assert!(said.contains(first.descriptor.digest.as_str()), "{said}");
    assert!(said.contains(theirs.descriptor.digest.as_str()), "{said}");
    assert_eq!(target.tags().await.unwrap(), [tag()]);
    let now = target.resolve(&"v1".parse().unwrap()).await.unwrap();
    assert_eq!(now.digest, theirs.descriptor.digest);
    assert_eq!(based(&target, "new", None).await.unwrap_err().kind(), ErrorKind::Conflict);
    // The same again is no conflict: what was published is what was to be.
    based(&target, "theirs", Some(&first.descriptor.digest)).await.unwrap();
}

/// All start from the same base: one may win, each of the others must hear that it did not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_lost_update_goes_unreported() {
    let rounds = (0..25).map(|round| {
        tokio::spawn(async move {
            let target: Arc<dyn Target> = Arc::new(Memory::new());
            let writers = (0..4).map(|writer| {
                let target = Arc::clone(&target);
                tokio::spawn(async move { based(target.as_ref(), &format!("{round}-{writer}"), None).await })
            });
            let mut won = Vec::new();
            for writer in writers.collect::<Vec<_>>() {
                match writer.await.unwrap() {
                    Ok(pushed) => won.push(pushed.descriptor.digest),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
                }
            }
            let now = target.resolve(&"v1".parse().unwrap()).await.unwrap().digest;
            assert_eq!(won, [now]);
        })
    });
    for round in rounds.collect::<Vec<_>>() {
        round.await.unwrap();
    }
}

#[tokio::test]
async fn who_lost_finds_the_manifest_under_a_tag_of_its_own() {
    let registry = Registry::start();
    let target = repository(&registry);
    let first = based(target.as_ref(), "first", None).await.unwrap().descriptor.digest;
    let winner = artifs::artifact::pack::Packed::clone(&draft("winner").seal().unwrap());
    registry.put_manifest("r", &winner.descriptor.media_type, winner.bytes, None);
    // Somebody's tag comes between our putting and our looking again.
    let (mine, theirs) = (repository(&registry), winner.descriptor.clone());
    let racing = tokio::spawn({
        let target = repository(&registry);
        async move {
            tokio::time::sleep(SETTLE / 2).await;
            target.tag(&theirs, &tag()).await.unwrap();
        }
    });
    let error = based(mine.as_ref(), "loser", Some(&first)).await.unwrap_err();
    racing.await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    let loser = draft("loser").seal().unwrap().descriptor.digest;
    let kept = format!("v1-{}", loser.short());
    assert!(error.to_string().contains(&kept), "{error}");
    assert_eq!(target.resolve(&kept.parse().unwrap()).await.unwrap().digest, loser);
}

#[tokio::test]
async fn who_was_too_slow_to_be_sure_says_so() {
    let registry = Registry::start();
    let target = repository(&registry);
    let slow = On::manifests().method("PUT").times(1);
    registry.fault(slow, Fault::too_many(Some("2")));
    let pushed = based(target.as_ref(), "slow", None).await.unwrap();
    assert!(pushed.blind.is_some_and(|blind| blind > SETTLE), "{:?}", pushed.blind);
}

/// A layout looks and moves under its lock: of many who start from the same base exactly one wins, and no manifest
/// needs a tag of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_writer_wins_in_a_layout() {
    for round in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let layout = Arc::new(artifs::store::Layout::create(folder.path()).unwrap());
        let writers = (0..4).map(|writer| {
            let target = Arc::clone(&layout);
            tokio::spawn(async move { based(target.as_ref(), &format!("{round}-{writer}"), None).await })
        });
        let mut won = Vec::new();
        for writer in writers.collect::<Vec<_>>() {
            match writer.await.unwrap() {
                Ok(pushed) => won.push(pushed.descriptor.digest),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Conflict, "{error}"),
            }
        }
        let now = layout.resolve(&"v1".parse().unwrap()).await.unwrap().digest;
        assert_eq!(won, [now]);
        assert_eq!(layout.tags().await.unwrap(), [tag()]);
    }
}
