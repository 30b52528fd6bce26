//! What is said about the command line itself.

use support::seed::Artifact;

use crate::{Person, everywhere};

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
            "unknown command \"pul\" for \"artifs\"\n\nDid you mean this?\n\tpull\n\tpush\n\nRun 'artifs --help' for usage.",
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
