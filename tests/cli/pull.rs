//! Pull: lines, JSON, templates, parts.

use std::process::Stdio;

use artifs::oci::Digest;
use support::registry::Registry;
use support::seed::Artifact;

use crate::{Person, everywhere, hex12, model};

#[test]
fn pull_says_what_oras_says() {
    everywhere(|host, push| {
        let person = Person::new();
        let digest = push(&Artifact::new().file("hi.txt", "hi").tag("v1"), "t/a");
        let reference = format!("{host}/t/a:v1");
        let m = hex12(&digest);
        person.run(&["pull", &reference]).printed(&format!(
            "Downloading {m} application/vnd.oci.image.manifest.v1+json\n\
             Processing  {m} application/vnd.oci.image.manifest.v1+json\n\
             Downloading 8f434346648f hi.txt\n\
             Downloaded  8f434346648f hi.txt\n\
             Downloaded  {m} application/vnd.oci.image.manifest.v1+json\n\
             Pulled [registry] {host}/t/a:v1\n\
             Digest: {digest}\n"
        ));
        assert_eq!(std::fs::read(person.path("hi.txt")).unwrap(), b"hi");
        // What ORAS would fetch again is not.
        let again = person.run(&["pull", &reference]);
        assert!(again.out.contains("Skipped     8f434346648f hi.txt\n"), "{}", again.out);
        person
            .run(&["pull", "-k", &reference])
            .code
            .filter(|code| *code == 1)
            .expect("-k refuses to replace");
    });
}

#[test]
fn pull_gives_json_and_templates_as_oras_does() {
    let registry = Registry::start();
    let host = registry.host();
    let digest = Artifact::new().file("hi.txt", "hi").tag("v1").push(&registry, "t/a").digest;
    let person = Person::new();
    let layer = "sha256:8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4";
    let reference = format!("{host}/t/a:v1");
    person.run(&["pull", "-o", "out", "--format", "json", &reference]).printed(&format!(
        r#"{{
  "reference": "{host}/t/a@{digest}",
  "files": [
    {{
      "path": "HOME/out/hi.txt",
      "reference": "{host}/t/a@{layer}",
      "mediaType": "application/vnd.oci.image.layer.v1.tar",
      "digest": "{layer}",
      "size": 2,
      "annotations": {{
        "org.opencontainers.image.title": "hi.txt"
      }}
    }}
  ]
}}
"#
    ));
    let template = "go-template={{range .files}}{{.path}} {{.size}}{{end}}";
    person.run(&["pull", "-o", "out", "--format", template, &reference]).printed("HOME/out/hi.txt 2");
    person
        .run(&["pull", "--format", "go-template={{x}}", &reference])
        .code
        .filter(|code| *code == 1)
        .unwrap();
    for (flags, message) in [
        (&["--format", "bad"][..], "invalid format type: \"bad\"\nsupported types: json, go-template, text"),
        (&["--template", "x"], "--template must be used with --format go-template"),
        (
            &["--format", "go-template"],
            "\"go-template\" format specified but no template given\n\
             use `--format go-template=TEMPLATE` to specify the template",
        ),
    ] {
        person.run(&[&["pull"], flags, &[&reference]].concat()).failed(&format!("Error: {message}\n"));
    }
}

#[test]
fn pull_leaves_what_has_no_name_and_says_so() {
    let registry = Registry::start();
    let host = registry.host();
    let artifact = Artifact::new().config("application/x.y", "12345678").file("hi.txt", "hi").tag("v1");
    let digest = artifact.push(&registry, "cfg").digest;
    let m = hex12(&digest);
    let config = Digest::of(b"12345678");
    let person = Person::new();
    person.run(&["pull", &format!("{host}/cfg:v1")]).printed(&format!(
        "Downloading {m} application/vnd.oci.image.manifest.v1+json\n\
         Processing  {m} application/vnd.oci.image.manifest.v1+json\n\
         Downloading 8f434346648f hi.txt\n\
         Downloaded  8f434346648f hi.txt\n\
         Skipped     {} application/x.y\n\
         Downloaded  {m} application/vnd.oci.image.manifest.v1+json\n\
         Skipped pulling layers without file name in \"org.opencontainers.image.title\"\n\
         Use 'artifs ls {host}/cfg:v1 .oci/layers' to see all layers.\n",
        hex12(&config)
    ));
    let done = person.run(&["pull", "--config", "c.json:application/x.y", &format!("{host}/cfg:v1")]);
    assert!(
        done.out.ends_with(&format!("Pulled [registry] {host}/cfg:v1\nDigest: {digest}\n")),
        "{}",
        done.out
    );
    assert_eq!(std::fs::read(person.path("c.json")).unwrap(), b"12345678");
}

#[test]
fn a_part_of_an_artifact_can_be_pulled() {
    let registry = Registry::start();
    model().tag("v1").push(&registry, "m");
    let person = Person::new();
    let reference = format!("{}/m:v1", registry.host());
    let done = person.run(&["pull", "-o", "out", &reference, "d/sub", "docs/same.txt"]);
    assert_eq!(done.code, Some(0), "{}", done.err);
    assert_eq!(std::fs::read(person.path("out/d/sub/b")).unwrap(), b"B");
    assert_eq!(std::fs::read(person.path("out/docs/same.txt")).unwrap(), b"hi");
    assert!(!person.path("out/d/a").exists() && !person.path("out/hi.txt").exists());
}

#[test]
fn an_interrupted_pull_says_so_and_the_next_one_goes_on() {
    let registry = Registry::with(|behaviour| behaviour.bandwidth = Some(1 << 20));
    let big = support::Big::new(32 << 20, 3);
    let digest = Artifact::new().file("big", big.clone()).tag("v1").push(&registry, "a").digest;
    let reference = format!("{}/a:v1", registry.host());
    let person = Person::new();
    let pull =
        person.command(&["pull", &reference]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let enough = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while registry.blob_bytes() < 2 << 20 {
        assert!(std::time::Instant::now() < enough, "nothing is pulled");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let interrupted =
        std::process::Command::new("kill").args(["-INT", &pull.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let output = pull.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "Error: interrupted\n");
    assert_eq!(output.status.code(), Some(1));
    assert!(!person.path("big").exists(), "a part has no name");

    registry.behave(|behaviour| behaviour.bandwidth = None);
    let done = person.run(&["pull", &reference]);
    assert!(done.out.ends_with(&format!("Digest: {digest}\n")), "{}{}", done.out, done.err);
    assert_eq!(Digest::of(&std::fs::read(person.path("big")).unwrap()), big.digest());
}
