//! `push`, `attach` and `tag` as people and scripts meet them. Texts and digests are ORAS 1.3.3's.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::registry::Registry;
use support::server::Server;

const CREATED: &str = "org.opencontainers.image.created=2020-01-01T00:00:00Z";

/// A folder to work in, and nothing of the machine's own configuration.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Self {
        let desk = Self(tempfile::tempdir().unwrap());
        desk.write("hi.txt", "hi");
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, content: &str) {
        std::fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        std::fs::write(self.path(name), content).unwrap();
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifs"));
        command.env_clear().env("HOME", self.0.path()).env("TMPDIR", self.0.path());
        command.current_dir(self.0.path()).args(line).stdin(Stdio::null());
        command
    }

    /// Whether it went well, and what it said.
    fn run(&self, line: &[&str]) -> (bool, String) {
        let output = self.command(line).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn succeed(&self, line: &[&str]) -> String {
        let (good, said) = self.run(line);
        assert!(good, "{line:?}: {said}");
        said
    }

    fn fail(&self, line: &[&str]) -> String {
        let (good, said) = self.run(line);
        assert!(!good, "{line:?}: {said}");
        said
    }
}

/// Scripts written for older versions of ORAS say `-v`; it is taken, and said to be old.
#[test]
fn the_old_verbose_flag_is_taken() {
    let desk = Desk::new();
    let old = "Flag --verbose has been deprecated, and will be removed in a future release.\n";
    let quiet = desk.succeed(&["push", "--verbose=false", "--oci-layout", "layout:v1", "hi.txt"]);
    assert!(quiet.contains("Uploaded  8f434346648f hi.txt\n") && quiet.ends_with(old), "{quiet}");
    assert!(!quiet.contains("application/vnd.oci.image.manifest.v1+json"), "{quiet}");
    let full = desk.succeed(&["pull", "-v", "--oci-layout", "layout:v1", "-o", "out"]);
    assert!(full.contains("application/vnd.oci.image.manifest.v1+json") && full.ends_with(old), "{full}");
    for verb in ["resolve -v --oci-layout layout:v1", "repo tags --verbose --oci-layout layout"] {
        let line: Vec<&str> = verb.split(' ').collect();
        assert!(desk.succeed(&line).ends_with(old), "{verb}");
    }
    assert!(!desk.succeed(&["push", "--help"]).contains("verbose"));
}

#[test]
fn a_push_reads_as_in_oras() {
    let (desk, registry) = (Desk::new(), Registry::start());
    let reference = format!("{}/t/a:v1,v2", registry.host());
    let said = desk.succeed(&["push", "--concurrency", "1", &reference, "hi.txt", "-a", CREATED]);
    let expected = format!(
        "Preparing hi.txt
Uploading 8f434346648f hi.txt
Uploaded  8f434346648f hi.txt
Uploading 44136fa355b3 application/vnd.oci.empty.v1+json
Uploaded  44136fa355b3 application/vnd.oci.empty.v1+json
Uploading 441939cd7305 application/vnd.oci.image.manifest.v1+json
Uploaded  441939cd7305 application/vnd.oci.image.manifest.v1+json
Pushed [registry] {}/t/a:v1
Tagged v2
ArtifactType: application/vnd.unknown.artifact.v1
Digest: sha256:441939cd73050ccd5a10c828ca6393f2a8f3cdecac49c747ecf34583a07b04da
",
        registry.host()
    );
    assert_eq!(said, expected);
    // Once more: all of it is there, and a registry's manifest is not told of.
    let said = desk.succeed(&["push", &reference, "hi.txt", "-a", CREATED]);
    assert_eq!(
        said.lines().take(2).collect::<Vec<_>>(),
        ["Preparing hi.txt", &format!("Pushed [registry] {}/t/a:v1", registry.host())]
    );
    let json = desk.succeed(&["push", &reference, "hi.txt", "-a", CREATED, "-a", "k=v", "--format", "json"]);
    let host = registry.host();
    let digest = "sha256:82a5c59708d5489cc07096b529e1722fe3584e8de38377a30f9be64d3a1c57b4";
    assert_eq!(
        json,
        format!(
            r#"{{
  "reference": "{host}/t/a@{digest}",
  "mediaType": "application/vnd.oci.image.manifest.v1+json",
  "digest": "{digest}",
  "size": 592,
  "annotations": {{
    "k": "v",
    "org.opencontainers.image.created": "2020-01-01T00:00:00Z"
  }},
  "artifactType": "application/vnd.unknown.artifact.v1",
  "referenceAsTags": [
    "{host}/t/a:v1",
    "{host}/t/a:v2"
  ]
}}
"#
        )
    );
}

#[test]
fn manifests_are_oras_s_to_the_byte() {
    let desk = Desk::new();
    desk.write("hi2.txt", "hi");
    desk.write("cfg.json", "{\"a\":1}\n");
    desk.write(
        "ann.json",
        r#"{"$manifest":{"org.opencontainers.image.created":"2020-01-01T00:00:00Z"},"./hi.txt":{"f":"<&>"}}"#,
    );
    for (line, digest) in [
        (
            vec!["hi.txt", "-a", CREATED, "--config", "cfg.json"],
            "83a467bd8edae5176ea53e1c0d3ca78f176df552316054d977f17cd8e78b07c6",
        ),
        (
            vec![
                "hi.txt",
                "-a",
                CREATED,
                "--config",
                "cfg.json:a/b",
                "--image-spec",
                "v1.1",
                "--artifact-type",
                "x/y",
            ],
            "baeaac3e07120831764edad43834e4caa1d821251fcd53c4492fd64f90590638",
        ),
        (
            vec!["hi.txt", "hi2.txt", "-a", CREATED],
            "f4de0c6d3e5f8e402367d7ef6f63fea61bbc03f1d6c725cf2fb26e053b1b5bf1",
        ),
        (vec!["-a", CREATED], "2f431c0a56b3eb2698d7aff50173f62f9063d92884587ab64642eb7b9d9f4f1e"),
        (
            vec!["-a", CREATED, "--artifact-platform", "linux/arm/v5"],
            "4d55cf95c567e20c4c9957488c299c7aba0c1930b05e452b719fc0b7c6ab502b",
        ),
    ] {
        let line: Vec<&str> = ["push", "--oci-layout", "lay:1"].into_iter().chain(line).collect();
        let said = desk.succeed(&line);
        assert_eq!(said.lines().last().unwrap(), format!("Digest: sha256:{digest}"), "{line:?}");
    }
    desk.succeed(&[
        "push",
        "--oci-layout",
        "lay:2",
        "./hi.txt",
        "--annotation-file",
        "ann.json",
        "--export-manifest",
        "m.json",
    ]);
    let manifest = std::fs::read_to_string(desk.path("m.json")).unwrap();
    let expected = r#""annotations":{"f":"\u003c\u0026\u003e","org.opencontainers.image.title":"hi.txt"}}]"#;
    assert!(manifest.contains(expected), "{manifest}");
}

#[test]
fn what_cannot_be_pushed_is_refused_in_oras_s_words() {
    let desk = Desk::new();
    desk.write("cfg.json", "{}");
    let absolute = desk.path("hi.txt");
    let missing = desk.path("nope.txt");
    for (line, words) in [
        (vec!["nope.txt"], format!("Preparing nope.txt\nError: stat {}: no such file or directory\n", missing.display())),
        (vec!["hi.txt", "./hi.txt"], "Preparing hi.txt\nPreparing hi.txt\nError: hi.txt: duplicate name\n".into()),
        (
            vec![absolute.to_str().unwrap()],
            format!(
                "Error: absolute file path detected. If it's intentional, use --disable-path-validation flag to skip this check: {}\n",
                absolute.display()
            ),
        ),
        (
            vec!["hi.txt", "-a", "k"],
            "Error: annotation value doesn't match the required format\nPlease use the correct format in the flag: --annotation \"key=value\"\n".into(),
        ),
        (vec!["hi.txt", "-a", "k=1", "-a", "k=2"], "Error: duplicate annotation key: k, \n".into()),
        (
            vec!["hi.txt", "--config", "cfg.json", "--image-spec", "v1.1"],
            "Error: missing artifact type for OCI image-spec v1.1 artifacts\nset an artifact type via `--artifact-type` or consider image spec v1.0\n".into(),
        ),
        (
            vec!["hi.txt", "--artifact-platform", "linux/arm", "--config", "cfg.json"],
            "Error: --config, --artifact-platform cannot be used at the same time\n".into(),
        ),
        (
            vec!["--artifact-type", "x"],
            "Uploading empty artifact\nError: invalid artifactType format: x: invalid media type\n".into(),
        ),
        (
            vec!["hi.txt", "--image-spec", "v2"],
            "Error: invalid argument \"v2\" for \"--image-spec\" flag: unknown image specification flag: v2\nAvailable options: v1.1, v1.0\n".into(),
        ),
    ] {
        let line: Vec<&str> = ["push", "--oci-layout", "lay:1"].into_iter().chain(line).collect();
        assert_eq!(desk.fail(&line), words, "{line:?}");
    }
    let said = desk.fail(&["attach", "--oci-layout", "lay:1", "--artifact-type", "a/b"]);
    assert!(
        said.starts_with("Error: neither file nor annotation provided in the command\nUsage: "),
        "{said}"
    );
    let said = desk.fail(&["attach", "--oci-layout", "lay:1", "hi.txt"]);
    assert_eq!(said, "Error: required flag(s) \"artifact-type\" not set\n");
}

#[test]
fn attaching_and_tagging_read_as_in_oras() {
    let desk = Desk::new();
    let check = |place: &[&str], name: &str, shown: &str| {
        let line = |verb: &'static str, rest: &[&'static str]| {
            let whole: Vec<String> =
                [verb].iter().chain(place).chain(&[name]).chain(rest).map(ToString::to_string).collect();
            whole
        };
        let run = |line: Vec<String>| desk.succeed(&line.iter().map(String::as_str).collect::<Vec<_>>());
        run(line("push", &["hi.txt", "-a", CREATED]));
        let said = run(line("attach", &["hi.txt", "--artifact-type", "doc/example", "-a", CREATED]));
        let said: Vec<&str> = said.lines().collect();
        let subject = "sha256:441939cd73050ccd5a10c828ca6393f2a8f3cdecac49c747ecf34583a07b04da";
        assert_eq!(said[said.len() - 2], format!("Attached to {shown}@{subject}"));
        let attached = said[said.len() - 1];
        assert_eq!(
            run(line("attach", &["hi.txt", "--artifact-type", "doc/example", "-a", CREATED])).lines().last(),
            Some(attached)
        );
        assert_eq!(run(line("tag", &["v8"])), format!("Tagging {shown}@{subject}\nTagged v8\n"));
    };
    check(&["--oci-layout"], "lay:1", "[oci-layout] lay");
    let registry = Registry::start();
    check(&[], &format!("{}/t:1", registry.host()), &format!("[registry] {}/t", registry.host()));
    registry.forget_requests();
    desk.succeed(&["tag", &format!("{}/t:1", registry.host()), "v9"]);
    let asked: Vec<String> =
        registry.requests().iter().map(|request| format!("{} {}", request.method, request.path)).collect();
    assert_eq!(asked, ["GET /v2/t/manifests/1", "PUT /v2/t/manifests/v9"]);
    if let Some(distribution) = Server::distribution() {
        check(&[], &format!("{}/t:1", distribution.host()), &format!("[registry] {}/t", distribution.host()));
    }
    let said = desk.fail(&["tag", "list", "x"]);
    assert!(
        said.starts_with("Error: there is no \"list\" sub-command for \"artifs tag\" command\n"),
        "{said}"
    );
}

/// A folder with everything a tar can say.
fn plant(root: &Path) {
    let long = "n".repeat(90);
    std::fs::create_dir_all(root.join(&long).join(&long).join("é")).unwrap();
    std::fs::create_dir(root.join("empty")).unwrap();
    std::fs::write(root.join(&long).join(&long).join("é/ü"), "deep").unwrap();
    std::fs::write(root.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(root.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(root.join("large"), vec![5; 3 << 20]).unwrap();
    std::os::unix::fs::symlink("run", root.join("link")).unwrap();
}

fn same(one: &Path, other: &Path) {
    let output = Command::new("diff").args(["-r", "--no-dereference"]).args([one, other]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn what_is_pushed_comes_back_and_has_the_same_digest_again() {
    let desk = Desk::new();
    std::fs::create_dir(desk.path("d")).unwrap();
    plant(&desk.path("d"));
    let registry = Registry::start();
    let distribution = Server::distribution();
    let mut places = vec![registry.host().to_string()];
    places.extend(distribution.iter().map(|distribution| distribution.host().to_string()));
    let mut digests = Vec::new();
    for (number, host) in places.iter().enumerate() {
        for round in 0..2 {
            let reference = format!("{host}/t/{round}:v1");
            let said = desk.succeed(&["push", &reference, "d", "hi.txt:text/plain", "-a", CREATED]);
            digests.push(said.lines().last().unwrap().to_owned());
            let out = format!("out-{number}-{round}");
            desk.succeed(&["pull", "-o", &out, &reference]);
            same(&desk.path("d"), &desk.path(&out).join("d"));
            assert_eq!(std::fs::read_to_string(desk.path(&out).join("hi.txt")).unwrap(), "hi");
        }
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    // No archive is left behind.
    let left = std::fs::read_dir(desk.0.path()).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_string_lossy().starts_with(".tmp") || name.to_string_lossy().starts_with("artifs-")
    });
    assert_eq!(left.count(), 0);
}

#[test]
fn the_clock_can_be_told() {
    let desk = Desk::new();
    let push = |epoch: &str| {
        let output = desk
            .command(&["push", "--oci-layout", "lay:1", "hi.txt"])
            .env("SOURCE_DATE_EPOCH", epoch)
            .output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let digest = "Digest: sha256:441939cd73050ccd5a10c828ca6393f2a8f3cdecac49c747ecf34583a07b04da";
    assert_eq!(push("1577836800").lines().last(), Some(digest));
    assert!(!push("soon").contains("Digest"));
}
