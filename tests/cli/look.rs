//! Looking without a mount: resolve, repo, ls, cat.

use std::process::Stdio;

use artifs::oci::Digest;
use artifs::store::Layout;
use support::registry::Registry;
use support::seed::{Artifact, Index};

use crate::{Person, everywhere, model};

#[test]
fn names_are_resolved_and_listed_as_oras_does() {
    everywhere(|host, push| {
        let digest = push(&Artifact::new().file("hi.txt", "hi").tag("v1").tag("v2"), "t/a");
        let other = push(&Artifact::new().file("x", "x").tag("w"), "t/a");
        push(&Artifact::new().file("x", "x").tag("w"), "u/b/c");
        let person = Person::new();
        let reference = format!("{host}/t/a:v1");
        person.run(&["resolve", &reference]).printed(&format!("{digest}\n"));
        person.run(&["resolve", "-l", &reference]).printed(&format!("{host}/t/a@{digest}\n"));
        person.run(&["resolve", &format!("{host}/t/a@{other}")]).printed(&format!("{other}\n"));
        person.run(&["resolve", "--platform", "linux/amd64", &reference]).failed(
            "Error: failed to resolve digest: fail to recognize platform from unknown config \
             application/vnd.oci.empty.v1+json: expect application/vnd.oci.image.config.v1+json: unsupported\n",
        );
        person.run(&["repo", "ls", host]).printed("t/a\nu/b/c\n");
        person.run(&["repo", "ls", "--last", "t/a", host]).printed("u/b/c\n");
        person.run(&["repo", "ls", &format!("{host}/u")]).printed("b/c\n");
        person.run(&["repo", "ls", "--format", "json", &format!("{host}/t/")]).printed(&format!(
            "{{\n  \"registry\": \"{host}\",\n  \"repositories\": [\n    \"t/a\"\n  ]\n}}\n"
        ));
        // In the registry's own order, which the real one does not promise.
        for (last, tags) in [("", &["v1", "v2", "w"][..]), ("v1", &["v2", "w"])] {
            let done = person.run(&["repo", "tags", "--last", last, &format!("{host}/t/a")]);
            let mut listed: Vec<&str> = done.out.lines().collect();
            listed.sort_unstable();
            assert_eq!(listed, tags, "{}", done.err);
        }
        person
            .run(&["repo", "tags", "--format", "json", "--last", "v2", &format!("{host}/t/a")])
            .printed("{\n  \"tags\": [\n    \"w\"\n  ]\n}\n");
        let done = person.run(&["repo", "tags", &reference]);
        assert_eq!((done.code, done.out.as_str()), (Some(0), "v1\nv2\n"));
        let warning = format!(
            "[WARNING]: [Experimental] querying tags associated to {digest}, it may take a while...\n"
        );
        assert!(done.err.contains(&warning), "{}", done.err);
        person.run(&["repo", "tags", &format!("{host}/none")]).code.filter(|code| *code == 1).unwrap();
    });
}

#[test]
fn digest_like_tags_can_be_left_out() {
    let registry = Registry::start();
    let tag = format!("sha256-{}", "a".repeat(64));
    Artifact::new().file("x", "x").tag("v1").tag(&tag).push(&registry, "a");
    let person = Person::new();
    let repository = format!("{}/a", registry.host());
    person.run(&["repo", "tags", &repository]).printed(&format!("{tag}\nv1\n"));
    person.run(&["repo", "tags", "--exclude-digest-tags", &repository]).printed("v1\n");
    // A folder of tags shows what people put there.
    person.run(&["ls", &repository]).printed("v1/\n");
}

#[test]
fn ls_lists_at_every_height() {
    everywhere(|host, push| {
        push(&model().tag("v1"), "team/m");
        push(&Artifact::new().file("x", "x").tag("w"), "team/sub/n");
        let person = Person::new();
        let reference = format!("{host}/team/m:v1");
        person.run(&["ls", host]).printed("team/m/\nteam/sub/n/\n");
        person.run(&["ls", &format!("{host}/team/")]).printed("m/\nsub/n/\n");
        person.run(&["ls", &format!("{host}/team/m")]).printed("v1/\n");
        person.run(&["ls", &reference]).printed("d/\ndocs/\nhi.txt\n");
        person.run(&["ls", &reference, "d"]).printed("a\nl\nsub/\n");
        person.run(&["ls", "-R", &reference, "d"]).printed("d/a\nd/l\nd/sub/\nd/sub/b\n");
        person
            .run(&["ls", "-R", &reference])
            .printed("d/\nd/a\nd/l\nd/sub/\nd/sub/b\ndocs/\ndocs/same.txt\nhi.txt\n");
        person.run(&["ls", &format!("{host}/team/m"), "v1/d/sub"]).printed("b\n");
        let long = person.run(&["ls", "-l", &reference, "d"]).out;
        let ends: Vec<&str> = long.lines().map(|line| &line[..10]).collect();
        assert_eq!(ends, ["-rw-r-----", "lrwxrwxrwx", "drwxr-xr-x"], "{long}");
        assert!(long.contains("l -> sub/b\n"), "{long}");
        let json: serde_json::Value =
            serde_json::from_str(&person.run(&["ls", "--format", "json", &reference, "hi.txt"]).out).unwrap();
        assert_eq!(json["entries"][0]["size"], 2);
        assert_eq!(json["entries"][0]["digest"], Digest::of(b"hi").as_str());
        person.run(&["ls", &reference, "nope"]).failed("Error: \"nope\": no such file or directory\n");
    });
}

#[test]
fn cat_prints_bytes_and_remembers_them() {
    everywhere(|host, push| {
        push(&model().tag("v1"), "m");
        let person = Person::new();
        let reference = format!("{host}/m:v1");
        person.run(&["cat", &reference, "hi.txt", "d/l", "/d/../d/a"]).printed("hiBA");
        person.run(&["cat", &reference, "d"]).failed("Error: \"d\": is a directory\n");
        // What was read once needs no registry any more.
        person.run(&["cat", "--offline", &reference, "hi.txt"]).printed("hi");
        let done = person.run(&["cat", "--offline", &format!("{host}/m:other"), "hi.txt"]);
        assert_eq!(done.code, Some(1));
        assert!(done.err.contains("--offline"), "{}", done.err);
    });
}

#[test]
fn cat_of_damaged_content_fails() {
    let registry = Registry::start();
    Artifact::new().file("hi.txt", "right").tag("v1").push(&registry, "a");
    registry.corrupt_blob("a", &Digest::of(b"right"), "wrong");
    let person = Person::new();
    let done = person.run(&["cat", &format!("{}/a:v1", registry.host()), "hi.txt"]);
    assert_eq!(done.code, Some(1), "{}", done.out);
    assert!(done.err.contains("does not match its digest"), "{}", done.err);
}

#[test]
fn a_reader_that_goes_away_is_no_error_worth_a_word() {
    let registry = Registry::start();
    let big = support::Big::new(8 << 20, 1);
    Artifact::new().file("big", big).tag("v1").push(&registry, "a");
    let person = Person::new();
    let mut command = person.command(&["cat", &format!("{}/a:v1", registry.host()), "big"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(output.status.code(), Some(141));
}

#[test]
fn layouts_need_no_registry_and_no_cache() {
    let person = Person::new();
    let layout = Layout::create(person.path("lay")).unwrap();
    let digest = model().tag("v1").push(&layout, "").digest;
    person.run(&["ls", "./lay:v1"]).printed("d/\ndocs/\nhi.txt\n");
    person.run(&["ls", "./lay"]).printed("v1/\n");
    person.run(&["cat", "--oci-layout", "lay:v1", "d/sub/b"]).printed("B");
    person.run(&["cat", "--oci-layout-path", "lay", "v1", "hi.txt"]).printed("hi");
    person.run(&["resolve", "-l", "--oci-layout", "lay:v1"]).printed(&format!("lay@{digest}\n"));
    person.run(&["repo", "tags", "--oci-layout", "lay"]).printed("v1\n");
    let done = person.run(&["pull", "-o", "out", "--oci-layout", "lay:v1"]);
    assert!(done.out.ends_with(&format!("Pulled [oci-layout] lay:v1\nDigest: {digest}\n")), "{}", done.out);
    assert_eq!(std::fs::read(person.path("out/d/sub/b")).unwrap(), b"B");
    assert!(!person.path(".cache").exists());
}

#[test]
fn a_platform_is_chosen_from_an_index() {
    let registry = Registry::start();
    let (arm, amd) = (Artifact::new().file("which", "arm"), Artifact::new().file("which", "amd"));
    let index = Index::new().image("linux/arm64/v8", arm.clone()).image("linux/amd64", amd).tag("i");
    let whole = index.push(&registry, "a").digest;
    let reference = format!("{}/a:i", registry.host());
    let person = Person::new();
    person.run(&["resolve", &reference]).printed(&format!("{whole}\n"));
    let chosen = arm.manifest().0.digest;
    person.run(&["resolve", "--platform", "linux/arm64", &reference]).printed(&format!("{chosen}\n"));
    person.run(&["cat", "--platform", "linux/arm64", &reference, "which"]).printed("arm");
    person.run(&["resolve", "--platform", "linux/s390x", &reference]).failed(&format!(
        "Error response from registry: failed to resolve digest: \
         {whole}: not found: no matching manifest was found in the manifest list\n"
    ));
    let done = person.run(&["pull", "--platform", "linux/arm64", &reference]);
    assert!(done.out.ends_with(&format!("Digest: {chosen}\n")), "{}{}", done.out, done.err);
}
