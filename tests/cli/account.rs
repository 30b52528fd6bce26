//! Login, logout, and secrets that stay secret.

use support::registry::{Auth, Registry};
use support::seed::Artifact;

use crate::Person;

#[test]
fn login_checks_and_keeps_and_logout_forgets() {
    let registry = Registry::with(|behaviour| {
        behaviour.auth = Some(Auth { username: "ann".into(), password: "secret".into(), ..Auth::basic() });
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
fn no_log_tells_a_secret() {
    for auth in [Auth::basic(), Auth::bearer()] {
        let registry = Registry::with(|behaviour| behaviour.auth = Some(auth));
        Artifact::new().file("hi.txt", "hi").tag("v1").push(&registry, "a");
        let person = Person::new();
        let reference = format!("{}/a:v1", registry.host());
        let line = [
            "cat",
            "--debug",
            "-u",
            "user",
            "--password-stdin",
            "-H",
            "X-Key: t0psecret",
            &reference,
            "hi.txt",
        ];
        let done = person.run_with_input(&line, "secret");
        assert_eq!((done.code, done.out.as_str()), (Some(0), "hi"), "{}", done.err);
        assert!(done.err.contains("[DEBUG]: "), "{}", done.err);
        let told: Vec<String> = registry
            .requests()
            .iter()
            .filter_map(|request| request.header("authorization"))
            .filter_map(|header| header.split(' ').nth(1).map(str::to_owned))
            .collect();
        assert!(!told.is_empty());
        for secret in told.iter().map(String::as_str).chain(["secret"]) {
            assert!(!done.err.contains(secret), "{secret} in {}", done.err);
        }
    }
}
