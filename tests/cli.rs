//! The program as people and scripts meet it: what it prints, where, and how it exits.
//!
//! Expected texts were printed by ORAS 1.3.3 for the same artifacts, with its name replaced by ours.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use artifs::oci::Digest;
use artifs::store::Layout;
use snapbox::assert_data_eq;
use support::distribution::Distribution;
use support::registry::{Auth, Registry};
use support::seed::{Artifact, Folder};

/// A person with a home of their own, and nothing of the machine's own configuration.
struct Person {
    home: tempfile::TempDir,
}

/// What a command did. In its texts the registry is `REG` and the home `HOME`.
struct Done {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Person {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_artifs"));
        command.env_clear().env("HOME", self.home.path()).env("PATH", std::env::var_os("PATH").unwrap());
        command.current_dir(self.home.path()).args(line).stdin(Stdio::null());
        command
    }

    fn run(&self, line: &[&str]) -> Done {
        let output = self.command(line).output().unwrap();
        self.done(output)
    }

    fn run_with_input(&self, line: &[&str], input: &str) -> Done {
        std::fs::write(self.path("input"), input).unwrap();
        let input = std::fs::File::open(self.path("input")).unwrap();
        self.done(self.command(line).stdin(input).output().unwrap())
    }

    fn done(&self, output: std::process::Output) -> Done {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).unwrap().replace(self.home.path().to_str().unwrap(), "HOME")
        };
        Done { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Done {
    /// It worked, and printed exactly this.
    #[track_caller]
    fn printed(self, out: &str) {
        assert_eq!(self.code, Some(0), "{}", self.err);
        assert_data_eq!(self.out, snapbox::Data::text(out));
        assert_eq!(self.err, "");
    }

    /// It failed with 1, and said exactly this on stderr.
    #[track_caller]
    fn failed(self, err: &str) {
        assert_data_eq!(self.err, snapbox::Data::text(err));
        assert_eq!(self.code, Some(1));
        assert_eq!(self.out, "");
    }
}

fn model() -> Artifact {
    Artifact::new()
        .file("hi.txt", "hi")
        .folder("d", Folder::new().file("a", 0o640, "A").file("sub/b", 0o755, "B").link("l", "sub/b"))
        .file("docs/same.txt", "hi")
}

fn hex12(digest: &Digest) -> &str {
    digest.short()
}

/// The registries a verb must say the same about.
fn everywhere(test: impl Fn(&str, &dyn Fn(&Artifact, &str) -> Digest)) {
    let registry = Registry::start();
    test(registry.host().as_str(), &|artifact, repository| artifact.push(&registry, repository).digest);
    if let Some(real) = Distribution::start() {
        test(real.host().as_str(), &|artifact, repository| artifact.push(&real, repository).digest);
    }
}

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
fn references_that_name_nothing_are_answered_in_oras_words() {
    everywhere(|host, push| {
        push(&Artifact::new().file("hi.txt", "hi").tag("v1"), "t/a");
        let person = Person::new();
        person
            .run(&["pull", &format!("{host}/t/a:nope")])
            .failed(&format!("Error response from registry: {host}/t/a:nope: not found\n"));
        person.run(&["resolve", &format!("{host}/t/a:nope")]).failed(&format!(
            "Error response from registry: failed to resolve digest: {host}/t/a:nope: not found\n"
        ));
        person
            .run(&["cat", &format!("{host}/t/a:v1"), "nope"])
            .failed("Error: \"nope\": no such file or directory\n");
    });
    let person = Person::new();
    let form = "Please make sure the provided reference is in the form of <registry>/<repo>[:tag|@digest]";
    person.run(&["pull", "h/a"]).failed(
        "Error: \"h/a\": no tag or digest specified\n\
         Usage: artifs pull [flags] <name>{:<tag>|@<digest>} [<path> ...]\n\
         Please specify a reference in the form of \"<name>:<tag>\" or \"<name>@<digest>\". \
         Run \"artifs pull -h\" for more options and examples\n",
    );
    person
        .run(&["pull", "h/T:v"])
        .failed(&format!("Error: \"h/T:v\": invalid reference: invalid repository \"T\"\n{form}\n"));
    person
        .run(&["pull", "hello"])
        .failed(&format!("Error: \"hello\": invalid reference: missing registry or repository\n{form}\n"));
    person.run(&["pull", "--oci-layout", "nolay:v1"]).failed(
        "Error: invalid argument \"nolay:v1\": failed to find path \"nolay\": no such file or directory\n",
    );
}

#[test]
fn mistakes_on_the_command_line_are_answered_in_oras_words() {
    let person = Person::new();
    for (line, message) in [
        ("bogus", "unknown command \"bogus\" for \"artifs\"\nRun 'artifs --help' for usage."),
        (
            "pul",
            "unknown command \"pul\" for \"artifs\"\n\nDid you mean this?\n\tpull\n\nRun 'artifs --help' for usage.",
        ),
        ("--nope", "unknown flag: --nope"),
        ("pull --nope", "unknown flag: --nope"),
        ("pull -z", "unknown shorthand flag: 'z' in -z"),
        ("pull --platform", "flag needs an argument: --platform"),
        ("pull -u", "flag needs an argument: 'u' in -u"),
        ("pull --insecure=foo x/y:z", "invalid argument \"foo\" for \"--insecure\" flag: invalid syntax"),
        (
            "pull --oci-layout --oci-layout-path x y",
            "--oci-layout-path, --oci-layout cannot be used at the same time",
        ),
        (
            "pull --password a --password-stdin x/y:z",
            "--password, --password-stdin cannot be used at the same time",
        ),
        (
            "resolve --identity-token b -u a x/y:z",
            "--username, --identity-token cannot be used at the same time",
        ),
        ("pull --cert-file x h/a:v", "--cert-file must be used in conjunction with --key-file"),
        ("pull -H x h/a:v", "invalid header: \"x\""),
        ("pull -H a:b ./x:v", "custom header flags cannot be used on an OCI image layout target"),
        (
            "pull --platform a/b/c/d h/a:v",
            "failed to parse platform \"a/b/c/d\": expected format os[/arch[/variant]]",
        ),
        ("repo ls h/a:v1", "could not parse repository path: tags or digests should not be provided"),
        (
            "resolve",
            "\"artifs resolve\" requires exactly 1 argument but got 0\n\
             Usage: artifs resolve [flags] <name>{:<tag>|@<digest>}\n\
             Please specify exactly 1 argument as the target artifact reference to resolve. \
             Run \"artifs resolve -h\" for more options and examples",
        ),
        (
            "repo tags a --last x b c",
            "\"artifs repo tags\" requires exactly 1 argument but got 3\n\
             Usage: artifs repo tags [flags] <name>\n\
             Please specify exactly 1 argument as the target repository to list tags from. \
             Run \"artifs repo tags -h\" for more options and examples",
        ),
        (
            "login",
            "\"artifs login\" requires exactly 1 argument but got 0\n\
             Usage: artifs login [flags] <registry>\n\
             Please specify exactly 1 argument as the registry to log in to. \
             Run \"artifs login -h\" for more options and examples",
        ),
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        person.run(&words).failed(&format!("Error: {message}\n"));
    }
}

#[test]
fn help_goes_to_stdout_and_is_no_failure() {
    let person = Person::new();
    for line in
        [&[][..], &["--help"], &["repo"], &["pull", "-h"], &["cache", "prune", "--help"], &["help", "cat"]]
    {
        let done = person.run(line);
        assert_eq!((done.code, done.err.as_str()), (Some(0), ""), "{line:?}");
        assert!(done.out.contains("Usage:\n  artifs"), "{}", done.out);
    }
    let done = person.run(&["pull", "--help"]);
    assert_eq!(done.out, person.run(&["pull", "-h"]).out);
    assert!(
        done.out.contains(
            "Example - Pull artifact files from a registry:\n  artifs pull localhost:5000/hello:v1"
        )
    );
}

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

#[test]
fn login_checks_and_keeps_and_logout_forgets() {
    let registry = Registry::with(|behaviour| {
        behaviour.auth = Some(Auth { username: "ann".into(), password: "secret".into(), ..Auth::basic() })
    });
    Artifact::new().file("hi.txt", "hi").tag("v1").push(&registry, "a");
    let host = registry.host();
    let host = host.as_str();
    let person = Person::new();
    let config = person.path(".docker/config.json");

    let refused = person.run_with_input(&["login", "-u", "ann", "--password-stdin", host], "wrong\n");
    assert_eq!(refused.code, Some(1));
    let begin = format!("Error response from registry: failed to validate the credentials for {host}: ");
    assert!(refused.err.starts_with(&begin), "{}", refused.err);
    assert!(!config.exists());

    person
        .run_with_input(&["login", "-u", "ann", "--password-stdin", host], "secret\r\n")
        .printed("Login Succeeded\n");
    let kept = std::fs::read_to_string(&config).unwrap();
    assert!(kept.contains(host) && kept.contains("YW5uOnNlY3JldA=="), "{kept}");
    person.run(&["cat", &format!("{host}/a:v1"), "hi.txt"]).printed("hi");

    person.run(&["logout", host]).printed("");
    assert!(!std::fs::read_to_string(&config).unwrap().contains(host));
    person.run_with_input(&["login", host], "ann\nsecret\n").printed("Username: Password: Login Succeeded\n");
    let warned = person.run(&["login", "-u", "ann", "-p", "secret", host]);
    assert_eq!((warned.code, warned.out.as_str()), (Some(0), "Login Succeeded\n"));
    assert_eq!(warned.err, "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n");
    person.run_with_input(&["login", host], "\n\n").code.filter(|code| *code == 1).unwrap();
}

#[test]
fn completions_and_manual_pages_know_every_verb() {
    let person = Person::new();
    for shell in ["bash", "fish", "zsh", "powershell"] {
        let script = person.run(&["completion", shell]).out;
        assert!(["pull", "resolve", "oci-layout"].iter().all(|word| script.contains(word)), "{shell}");
    }
    std::fs::create_dir(person.path("man")).unwrap();
    person.run(&["man", "man"]).printed("");
    for page in ["artifs.1", "artifs-pull.1", "artifs-repo-tags.1"] {
        assert!(person.path("man").join(page).exists(), "{page}");
    }
}
