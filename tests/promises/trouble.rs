//! A registry that fails while changes are published (registry.md §6, rows 22–30, 38, 44): it is tried again, or refused
//! in words; what was changed stays staged, and goes out once the registry is well.

use std::fs;

use support::noise;
use support::registry::{Fault, On, Registry};
use support::seed::Artifact;

use crate::home::Home;

/// How a registry is made to fail, and what is said if it cannot be helped.
struct Trouble {
    what: &'static str,
    begin: fn(&Registry),
    end: fn(&Registry),
    says: Option<&'static str>,
}

fn refusal(status: u16, code: &str) -> Fault {
    let body = format!(r#"{{"errors":[{{"code":"{code}","message":"as you were told"}}]}}"#);
    Fault::Answer(status, vec![], body)
}

/// Something passing, which is waited for.
fn passing(what: &'static str, begin: fn(&Registry)) -> Trouble {
    Trouble { what, begin, end: Registry::heal, says: None }
}

/// Something that stays until it ends, and what a person is told.
fn lasting(what: &'static str, begin: fn(&Registry), says: &'static str) -> Trouble {
    Trouble { what, begin, end: Registry::heal, says: Some(says) }
}

fn troubles() -> Vec<Trouble> {
    vec![
        passing("22: too many requests, for a moment", |registry| {
            registry.fault(On::uploads().times(1), Fault::too_many(Some("1")));
            registry.fault(On::manifests().method("PUT").times(1), Fault::too_many(None));
        }),
        lasting(
            "22: too many requests, for good",
            |registry| registry.fault(On::uploads(), Fault::too_many(None)),
            "slow down",
        ),
        passing("23: a proxy without its registry, for a moment", |registry| {
            registry.fault(On::uploads().method("POST").times(2), Fault::status(503));
            registry.fault(On::uploads().method("PUT").times(1), Fault::status(502));
            registry.fault(On::manifests().method("PUT").times(2), Fault::status(500));
        }),
        lasting(
            "23: a proxy without its registry",
            |registry| registry.fault(On::manifests().method("PUT"), Fault::status(503)),
            "503",
        ),
        passing("24: the upload is lost", |registry| {
            registry.fault(On::uploads().method("PUT").times(2), Fault::Answer(404, vec![], String::new()));
        }),
        passing("24: an upload breaks off and is forgotten", |registry| {
            registry.behave(|behaviour| {
                behaviour.uploads.largest = Some(1 << 20);
                behaviour.uploads.forgets = true;
            });
            registry.fault(On::uploads().method("PATCH").after(1).times(1), Fault::Received(100_000));
        }),
        Trouble {
            what: "25: nothing is small enough",
            begin: |registry| registry.behave(|behaviour| behaviour.uploads.largest = Some(1000)),
            end: |registry| registry.behave(|behaviour| behaviour.uploads.largest = None),
            says: Some("client_max_body_size"),
        },
        passing("26: chunks are too large", |registry| {
            registry.behave(|behaviour| {
                behaviour.uploads.largest = Some(5 << 20);
                behaviour.uploads.largest_chunk = Some(4 << 20);
            });
        }),
        passing("27: done, and answered as if it were not", |registry| {
            registry.fault(On::uploads().method("PUT").times(1), Fault::Done(504));
            registry.fault(On::manifests().method("PUT").times(1), Fault::Done(502));
        }),
        passing("28: damaged on the way, once", |registry| {
            registry.fault(On::uploads().method("PUT").times(1), refusal(400, "DIGEST_INVALID"));
        }),
        lasting(
            "28: damaged on the way, always",
            |registry| registry.fault(On::uploads().method("PUT"), refusal(400, "DIGEST_INVALID")),
            "twice",
        ),
        passing("29: a machine that has not heard of the blobs yet", |registry| {
            registry.fault(On::manifests().method("PUT").times(2), refusal(400, "MANIFEST_BLOB_UNKNOWN"));
        }),
        Trouble {
            what: "30: tags never move",
            begin: |registry| registry.behave(|it| it.uploads.immutable = Some((409, "TAG_IMMUTABLE"))),
            end: |registry| registry.behave(|it| it.uploads.immutable = None),
            says: Some("another tag"),
        },
        passing("38: refused while it is on its way", |registry| {
            registry.behave(|behaviour| {
                behaviour.uploads.largest = Some(1 << 20);
                behaviour.uploads.slams = true;
            });
        }),
        lasting(
            "38: the password is good no more",
            |registry| registry.fault(On::uploads(), refusal(403, "DENIED")),
            "artifs login",
        ),
        passing("44: what was sent is lost before it is named", |registry| {
            registry.behave(|behaviour| behaviour.uploads.checks = true);
            registry.fault(On::uploads().method("PUT").times(1), Fault::Answer(201, vec![], String::new()));
        }),
    ]
}

fn survive(trouble: &Trouble) {
    let what = trouble.what;
    let registry = Registry::start();
    Artifact::new().file("a", "before").file("b", "as it was").tag("v1").push(&registry, "r");
    let before = registry.manifest_at("r", "v1");
    let home = Home::new(format!("{}/r:v1", registry.host()));
    let mounted = home.mount(&[]);
    fs::write(home.path("a"), "after").unwrap();
    fs::write(home.path("large"), noise(6_000_000)).unwrap();
    (trouble.begin)(&registry);
    if let Some(says) = trouble.says {
        let said = home.fails(&["commit", "mnt"]);
        assert!(said.contains(says), "{what}: {said}");
        assert!(said.contains("stays staged") && said.contains("artifs commit"), "{what}: {said}");
        assert_eq!(registry.manifest_at("r", "v1"), before, "{what}");
        let staged = home.works(&["diff", "mnt"]);
        assert!(staged.contains("modified:   a") && staged.contains("new file:   large"), "{what}: {staged}");
        (trouble.end)(&registry);
    }
    let said = home.unmount();
    assert!(said.contains("Published"), "{what}: {said}");
    assert!(mounted.ended().success(), "{what}");
    registry.heal();
    home.works(&["pull", "--plain-http", home.reference(), "-o", "out"]);
    let pulled = |name: &str| fs::read(home.folder().join("out").join(name)).unwrap();
    assert_eq!(pulled("a"), b"after", "{what}");
    assert_eq!(pulled("b"), b"as it was", "{what}");
    assert_eq!(pulled("large"), noise(6_000_000), "{what}");
    assert_eq!(home.works(&["status"]), "", "{what}");
}

#[test]
fn whatever_the_registry_does_what_was_changed_is_published_or_stays() {
    for troubles in troubles().chunks(8) {
        std::thread::scope(|scope| {
            for trouble in troubles {
                scope.spawn(move || survive(trouble));
            }
        });
    }
}
