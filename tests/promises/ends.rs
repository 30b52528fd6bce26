//! However a mount ends, what was changed is published, or staged and said to be.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use artifs::mount::is_mounted;
use rustix::process::Signal;
use support::registry::{Fault, On, Registry};
use support::seed::Artifact;

use crate::home::{Home, STUCK};

fn begin() -> (Registry, Home) {
    let registry = Registry::start();
    Artifact::new().file("a", "before").file("b", "as it was").tag("v1").push(&registry, "r");
    let home = Home::new(format!("{}/r:v1", registry.host()));
    (registry, home)
}

/// The file `a` as it is published.
fn published(home: &Home) -> String {
    home.works(&["cat", "--plain-http", home.reference(), "a"])
}

/// What everybody hears who asks after work stayed behind, and how it goes on.
fn expect_staged_and_go_on(home: &Home) {
    assert_eq!(published(home), "before");
    let status = home.works(&["status"]);
    assert!(status.contains("work that is not published") && status.contains(home.reference()), "{status}");
    let mounted = home.mount(&[]);
    assert_eq!(fs::read_to_string(home.path("a")).unwrap(), "after");
    let said = home.unmount();
    assert!(said.contains("Published"), "{said}");
    assert!(mounted.ended().success());
    assert_eq!(published(home), "after");
    assert_eq!(home.works(&["status"]), "");
}

fn until(what: impl Fn() -> bool) {
    let begun = Instant::now();
    while !what() {
        assert!(begun.elapsed() < STUCK, "it does not come to pass");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn fusermount(home: &Home) {
    until(|| {
        let done = Command::new("fusermount3").arg("-u").arg(home.at()).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() || said.contains("busy"), "{said}");
        done.status.success()
    });
    assert!(!is_mounted(&home.at()));
}

#[test]
fn unmounted_by_the_systems_own_command_it_publishes_and_then_ends() {
    let (registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    fusermount(&home);
    assert!(mounted.ended().success(), "{}", home.said());
    assert_eq!(published(&home), "after");
    assert_eq!(home.works(&["status"]), "");

    // Nothing changed: nothing is sent.
    let mounted = home.mount(&[]);
    fs::read(home.path("a")).unwrap();
    registry.forget_requests();
    fusermount(&home);
    assert!(mounted.ended().success());
    assert_eq!(registry.count(|request| !matches!(request.method.as_str(), "GET" | "HEAD")), 0);
}

#[test]
fn unmounted_by_the_systems_own_command_without_a_registry_it_fails_and_says_so() {
    let (registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    registry.down();
    fusermount(&home);
    let ended = mounted.ended();
    assert_eq!(ended.code(), Some(1), "{}", home.said());
    assert!(
        home.said().contains("not published") && home.said().contains(home.reference()),
        "{}",
        home.said()
    );
    registry.up();
    expect_staged_and_go_on(&home);
}

#[test]
fn asked_to_end_it_publishes_and_then_ends() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        let (_registry, home) = begin();
        let mounted = home.mount(&[]);
        fs::write(home.path("a"), "after").unwrap();
        assert!(mounted.asked_to_end(signal).success(), "{signal:?}: {}", home.said());
        assert!(!is_mounted(&home.at()));
        assert_eq!(published(&home), "after");
        assert_eq!(home.works(&["status"]), "");
    }
}

#[test]
fn asked_to_end_while_it_is_in_use_it_publishes_and_stays() {
    let (_registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    let user = fs::File::open(home.path("b")).unwrap();
    mounted.signal(Signal::TERM);
    until(|| published(&home) == "after");
    assert!(is_mounted(&home.at()));
    fs::write(home.path("a"), "and after that").unwrap();
    drop(user);
    home.unmount();
    assert!(mounted.ended().success(), "{}", home.said());
    assert_eq!(published(&home), "and after that");
}

/// A system that goes down waits a while, and no longer.
#[test]
fn given_too_little_time_it_stays_staged() {
    let (registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    registry.fault(On::uploads(), Fault::Silent);
    mounted.signal(Signal::TERM);
    until(|| registry.count(|request| request.method == "POST") > 0);
    mounted.kill();
    registry.heal();
    if is_mounted(&home.at()) {
        home.unmount();
    }
    expect_staged_and_go_on(&home);
}

#[test]
fn whoever_waits_for_the_end_hears_that_it_was_killed() {
    let (registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    registry.fault(On::uploads(), Fault::Silent);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| home.fails(&["unmount", "mnt"]));
        until(|| registry.count(|request| request.method == "POST") > 0);
        mounted.kill();
        let said = waiting.join().unwrap();
        assert!(said.contains("what was staged is kept"), "{said}");
    });
    registry.heal();
    expect_staged_and_go_on(&home);
}

#[test]
fn a_dead_mount_is_taken_away_and_the_next_one_goes_on() {
    let (_registry, home) = begin();
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    mounted.kill();
    assert!(is_mounted(&home.at()), "the kernel keeps the mount of a dead process");
    let said = home.fails(&["mount", "--rw", "--plain-http", home.reference(), "mnt"]);
    assert!(said.contains("artifs unmount"), "{said}");
    home.unmount();
    assert!(!is_mounted(&home.at()));
    expect_staged_and_go_on(&home);
}
