//! The cache, looked at from outside.

use std::path::Path;

use artifs::oci::Digest;
use support::registry::Registry;
use support::seed::Artifact;

use crate::Person;

#[test]
fn the_cache_can_be_looked_at_checked_and_emptied() {
    let registry = Registry::start();
    Artifact::new().file("hi.txt", "hi").tag("v1").push(&registry, "a");
    let person = Person::new();
    let reference = format!("{}/a:v1", registry.host());
    person.run(&["cat", &reference, "hi.txt"]).printed("hi");
    let listed = person.run(&["cache", "ls"]).out;
    assert!(listed.contains(Digest::of(b"hi").as_str()), "{listed}");
    let json = person.run(&["cache", "ls", "--format", "json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), listed.lines().count());
    person.run(&["cache", "verify"]).printed("Verified 2 blobs, removed 0\n");

    let blob = person.path(".cache/artifs/blobs/sha256").join(Digest::of(b"hi").encoded());
    overwrite(&blob, b"ha");
    let done = person.run(&["cache", "verify"]);
    assert_eq!(done.code, Some(1));
    assert!(done.out.ends_with("Verified 2 blobs, removed 1\n"), "{}", done.out);
    person.run(&["cat", &reference, "hi.txt"]).printed("hi");

    assert_eq!(person.run(&["cache", "prune"]).code, Some(0));
    person.run(&["cache", "ls"]).printed("");
}

/// Damages a read-only file in place.
fn overwrite(path: &Path, bytes: &[u8]) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(path, bytes).unwrap();
}
