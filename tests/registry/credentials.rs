//! Where credentials are found, and how they are kept.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use artifs::error::ErrorKind;
use artifs::oci::reference::Host;
use artifs::registry::Settings;
use artifs::registry::credentials::{Credential, erase, find, store};
use serde_json::{Value, json};

fn host(text: &str) -> Host {
    text.parse().unwrap()
}

fn password(username: &str, password: &str) -> Credential {
    Credential::Password { username: username.into(), password: password.into() }
}

fn in_file(path: &Path) -> Settings {
    Settings { registry_configs: vec![path.to_owned()], ..Settings::default() }
}

/// What a file of this content has for a host and a repository.
async fn found(content: &Value, at: &str, path: Option<&str>) -> Option<Credential> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), content.to_string()).unwrap();
    find(&host(at), path, &in_file(file.path())).await.unwrap().map(|found| found.credential)
}

#[tokio::test]
async fn keys_are_understood_as_tools_write_them() {
    // "u:p", padded and not; "<NUL>" at the end.
    let entry = json!({"auth": "dTpw"});
    for (key, at) in [
        ("reg.example", "reg.example"),
        ("reg.example:5000", "reg.example:5000"),
        ("https://reg.example", "reg.example"),
        ("https://reg.example/v1/", "reg.example"),
        ("http://REG.example/v2/", "reg.example"),
        ("https://index.docker.io/v1/", "docker.io"),
        ("docker.io", "registry-1.docker.io"),
    ] {
        assert_eq!(found(&json!({"auths": {key: entry}}), at, None).await, Some(password("u", "p")), "{key}");
    }
    for (key, at) in [
        ("reg.example", "reg.example:5000"),
        ("reg.example:5000", "reg.example"),
        ("x.reg.example", "reg.example"),
    ] {
        assert_eq!(found(&json!({"auths": {key: entry}}), at, None).await, None, "{key}");
    }
}

#[tokio::test]
async fn entries_are_understood_as_tools_write_them() {
    for (entry, credential) in [
        (json!({"auth": "dTpwOnE="}), Some(password("u", "p:q"))),
        (json!({"auth": "dTpwOnE"}), Some(password("u", "p:q"))),
        (json!({"auth": "dTpwAA=="}), Some(password("u", "p"))),
        (json!({"username": "u", "password": "p"}), Some(password("u", "p"))),
        (json!({"auth": "dTpw", "identitytoken": "t"}), Some(Credential::IdentityToken("t".into()))),
        (json!({"registrytoken": "t"}), Some(Credential::AccessToken("t".into()))),
        (json!({}), None),
    ] {
        assert_eq!(found(&json!({"auths": {"h.x": entry}}), "h.x", None).await, credential, "{entry}");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    for damaged in
        [r#"{"auths":{"h.x":{"auth":"secret!"}}}"#, r#"{"auths":{"h.x":{"auth":"c2VjcmV0"}}}"#, "{secret"]
    {
        std::fs::write(file.path(), damaged).unwrap();
        let error = find(&host("h.x"), None, &in_file(file.path())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(!error.to_string().contains("secret"), "{error}");
        assert!(error.to_string().contains(file.path().to_str().unwrap()), "{error}");
    }
}

#[tokio::test]
async fn the_longest_namespace_counts() {
    let content = json!({"auths": {
        "h.x": {"auth": "YTph"},
        "h.x/ns": {"auth": "Yjpi"},
        "h.x/ns/deep": {"auth": "Yzpj"},
    }});
    for (path, user) in [
        (None, "a"),
        (Some("other"), "a"),
        (Some("ns"), "b"),
        (Some("ns/x"), "b"),
        (Some("nsx"), "a"),
        (Some("ns/deep/er"), "c"),
    ] {
        assert_eq!(found(&content, "h.x", path).await, Some(password(user, user)), "{path:?}");
    }
}

#[tokio::test]
async fn what_is_kept_is_found_and_everything_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("new/real.json");
    let link = folder.path().join("config.json");
    let settings = in_file(&real);
    store(&host("h.x"), &password("u", "p"), &settings).await.unwrap();
    std::os::unix::fs::symlink(&real, &link).unwrap();
    let text = r#"{"psFormat":"x","auths":{"https://h.x/v1/":{"auth":"b2xkOm9sZA=="},"other.x":{"auth":"bzpv","email":"e"}},"HttpHeaders":{"b":1,"a":2}}"#;
    std::fs::write(&link, text).unwrap();
    let settings = in_file(&link);
    store(&host("h.x"), &password("u", "p:q"), &settings).await.unwrap();
    store(&host("i.x"), &Credential::IdentityToken("t".into()), &settings).await.unwrap();
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(std::fs::metadata(&real).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(real.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    for (at, credential) in [
        ("h.x", password("u", "p:q")),
        ("i.x", Credential::IdentityToken("t".into())),
        ("other.x", password("o", "o")),
    ] {
        let found = find(&host(at), None, &settings).await.unwrap().unwrap();
        assert_eq!(found.credential, credential);
        assert_eq!(found.place, link.display().to_string());
    }
    erase(&host("h.x"), &settings).await.unwrap();
    erase(&host("h.x"), &settings).await.unwrap();
    assert_eq!(find(&host("h.x"), None, &settings).await.unwrap(), None);
    erase(&host("i.x"), &settings).await.unwrap();
    let left: Value = serde_json::from_slice(&std::fs::read(&link).unwrap()).unwrap();
    assert_eq!(
        left.to_string(),
        r#"{"psFormat":"x","auths":{"other.x":{"auth":"bzpv","email":"e"}},"HttpHeaders":{"b":1,"a":2}}"#
    );
}

#[tokio::test]
async fn the_command_line_goes_first() {
    let settings = |username: Option<&str>, password: Option<&str>, token: Option<&str>| Settings {
        username: username.map(Into::into),
        password: password.map(Into::into),
        identity_token: token.map(Into::into),
        ..Settings::default()
    };
    for (settings, credential) in [
        (settings(Some("u"), Some("p"), None), password("u", "p")),
        (settings(None, Some("t"), None), Credential::IdentityToken("t".into())),
        (settings(None, None, Some("t")), Credential::IdentityToken("t".into())),
    ] {
        assert_eq!(find(&host("h.x"), None, &settings).await.unwrap().unwrap().credential, credential);
    }
    assert!(!format!("{:?}", password("u", "hidden")).contains("hidden"));
}

/// Says what is found (or done) in the environment it is run in. Run by [`Home::ask`] in a process of its own.
#[test]
#[ignore = "run by others, in an environment of theirs"]
fn in_this_environment() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (at, work) = (host("h.x"), std::env::var("WORK").unwrap());
    let settings = Settings::default();
    let said = runtime.block_on(async {
        match work.as_str() {
            "find" => find(&at, None, &settings).await.map(|found| format!("{found:?}")),
            "store" => store(&at, &password("u", "stored"), &settings).await,
            _ => erase(&at, &settings).await.map(|()| "erased".into()),
        }
    });
    println!("SAID {}", said.unwrap_or_else(|error| format!("error: {error}")));
}

/// A home folder with credential programs in it.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, path: &str, content: &str) -> &Self {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    /// A file with the user `user` for h.x.
    fn login(&self, path: &str, user: &str) -> &Self {
        self.write(path, &json!({"auths": {"h.x": {"username": user, "password": "p"}}}).to_string())
    }

    fn ask(&self, work: &str, environment: &[(&str, &str)]) -> String {
        let home = self.0.path();
        let path = format!("{}:/usr/bin:/bin", home.join("bin").display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["credentials::in_this_environment", "--exact", "--ignored", "--nocapture"])
            .env_clear()
            .env("HOME", home)
            .env("XDG_RUNTIME_DIR", home.join("run"))
            .env("PATH", path)
            .env("WORK", work);
        for (name, value) in environment {
            command.env(name, value.replace('~', home.to_str().unwrap()));
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let said = text.lines().find_map(|line| Some(line.split_once("SAID ")?.1.to_owned()));
        said.unwrap_or_else(|| panic!("it said nothing: {text}"))
    }
}

#[test]
fn places_are_searched_in_their_order() {
    let home = Home::new();
    assert_eq!(home.ask("find", &[]), "None");
    let named = [("REGISTRY_AUTH_FILE", "~/named.json")];
    let given =
        [("DOCKER_AUTH_CONFIG", r#"{"auths":{"h.x":{"username":"given","password":"p"}}}"#), named[0]];
    for (path, user, environment) in [
        (".dockercfg", "", &[][..]),
        (".config/containers/auth.json", "podman-config", &[][..]),
        ("run/containers/auth.json", "podman-run", &[][..]),
        (".docker/config.json", "docker", &[][..]),
        ("elsewhere/config.json", "elsewhere", &[("DOCKER_CONFIG", "~/elsewhere")][..]),
        ("named.json", "named", &named[..]),
        ("unused", "given", &given[..]),
    ] {
        if user.is_empty() {
            home.write(path, r#"{"h.x":{"username":"ancient","password":"p"}}"#);
            assert!(home.ask("find", environment).contains("ancient"));
            continue;
        }
        home.login(path, user);
        let said = home.ask("find", environment);
        assert!(said.contains(&format!("Password({user:?})")), "{path}: {said}");
    }
}

const PROGRAM: &str = r#"#!/bin/sh
input=$(cat)
case "$1" in
get) test "$input" = h.x && cat "$HOME/kept" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
store) printf %s "$input" > "$HOME/kept" ;;
erase) rm -f "$HOME/kept" ;;
esac
"#;

#[test]
fn programs_keep_credentials() {
    for (config, finds) in [
        (r#"{"credsStore":"test","auths":{"h.x":{}}}"#, true),
        (r#"{"credHelpers":{"https://h.x":"test"},"auths":{"h.x":{"auth":"dTpw"}}}"#, true),
        (r#"{"credHelpers":{"other.x":"missing"},"credsStore":"test"}"#, true),
        (r#"{"credHelpers":{"other.x":"test"}}"#, false),
    ] {
        let home = Home::new();
        home.write("bin/docker-credential-test", PROGRAM).write(".docker/config.json", config);
        assert_eq!(home.ask("find", &[]), "None", "{config}");
        let place = home.ask("store", &[]);
        assert_eq!(place == "docker-credential-test", finds, "{config}: {place}");
        let said = home.ask("find", &[]);
        assert!(said.contains(r#"Password("u")"#), "{config}: {said}");
        if finds {
            assert_eq!(std::fs::read_to_string(home.0.path().join(".docker/config.json")).unwrap(), config);
            home.write("kept", r#"{"ServerURL":"h.x","Username":"<token>","Secret":"t"}"#);
            assert!(home.ask("find", &[]).contains("IdentityToken"));
        }
        assert_eq!(home.ask("erase", &[]), "erased");
        assert_eq!(home.ask("find", &[]), "None", "{config}");
    }
}

#[test]
fn a_program_that_fails_is_an_error_and_not_nobody() {
    let home = Home::new();
    for (config, program, why) in [
        (r#"{"credsStore":"absent"}"#, "", "cannot run docker-credential-absent"),
        (r#"{"credsStore":"../../bin/sh"}"#, "", "cannot be the name of a credential program"),
        (
            r#"{"credsStore":"bad"}"#,
            "#!/bin/sh\necho the keyring is locked >&2\nexit 1\n",
            "the keyring is locked",
        ),
        (r#"{"credsStore":"bad"}"#, "#!/bin/sh\necho hello\n", "did not answer with a credential"),
    ] {
        home.write(".docker/config.json", config).write("bin/docker-credential-bad", program);
        let said = home.ask("find", &[]);
        assert!(said.starts_with("error: ") && said.contains(why), "{said}");
    }
}
