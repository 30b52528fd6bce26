//! Getting in.

use artifs::error::ErrorKind;
use artifs::registry::credentials::{self, Credential};
use artifs::registry::{self, Settings};
use artifs::store::Source as _;
use support::registry::{Auth, Endpoint, Fault, On, Registry};
use support::seed::Artifact;

use crate::{name, repository, repository_with, settings};

fn guarded(auth: Auth) -> Registry {
    let registry = Registry::with(|behaviour| behaviour.auth = Some(auth));
    Artifact::new().file("a", "a").tag("v1").push(&registry, "r");
    registry
}

fn user() -> Settings {
    Settings { username: Some("user".into()), password: Some("secret".into()), ..settings() }
}

fn tokens(registry: &Registry) -> usize {
    registry.count(|request| request.endpoint == Endpoint::Token)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_in_works() {
    let bearer = Auth::bearer;
    let negotiate = vec!["Negotiate".to_owned(), "=broken=".to_owned()];
    for (what, auth) in [
        ("basic", Auth::basic()),
        ("bearer", bearer()),
        ("access_token", Auth { field: "access_token", ..bearer() }),
        ("no expires_in", Auth { expires_in: None, ..bearer() }),
        ("no service", Auth { service: None, ..bearer() }),
        ("Kerberos first", Auth { before: negotiate, ..bearer() }),
        ("two lines", Auth { after: vec![r#"Basic realm="x""#.into()], ..bearer() }),
        ("two lines, the other way round", Auth { before: vec![r#"Basic realm="x""#.into()], ..bearer() }),
        ("a skewed clock", Auth { refuse_fresh: 1, ..bearer() }),
        ("a life of no length", Auth { expires_in: Some(0), ..bearer() }),
    ] {
        let registry = guarded(auth);
        let repository = repository_with(&registry, &user());
        let found = repository.manifest(&name("v1"), 1 << 20).await;
        assert!(found.is_ok(), "{what}: {:?}", found.err());
        assert!(repository.tags().await.is_ok(), "{what}");
        assert!(tokens(&registry) <= 1, "{what}");
        assert!(registry::Registry::new(&registry.host(), &user()).unwrap().ping().await.is_ok(), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_in_particular_gets_a_token_too() {
    let registry = guarded(Auth { anonymous: true, ..Auth::bearer() });
    assert!(repository(&registry).tags().await.is_ok());
    let token = registry.requests().into_iter().find(|request| request.endpoint == Endpoint::Token).unwrap();
    assert_eq!(token.header("authorization"), None);
    assert!(token.query.contains("scope=repository%3Ar%3Apull"), "{}", token.query);
    assert!(token.query.contains("service=registry.test"), "{}", token.query);
}

#[tokio::test(flavor = "multi_thread")]
async fn identity_tokens_are_exchanged_by_post_and_by_get_where_post_is_unknown() {
    let identity = Settings { identity_token: Some("secret".into()), ..settings() };
    let registry = guarded(Auth { identity_token: Some("secret".into()), ..Auth::bearer() });
    assert!(repository_with(&registry, &identity).tags().await.is_ok());
    let token = registry.requests().into_iter().find(|request| request.endpoint == Endpoint::Token).unwrap();
    assert_eq!(token.method, "POST");
    assert!(token.body.contains("grant_type=refresh_token"), "{}", token.body);
    for status in [404, 405] {
        let registry = guarded(Auth { post: status, username: "<token>".into(), ..Auth::bearer() });
        assert!(repository_with(&registry, &identity).tags().await.is_ok(), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_fetch_one_token() {
    let registry = guarded(Auth::bearer());
    let repository = repository_with(&registry, &user());
    let work = (0..16).map(|_| async { repository.resolve(&name("v1")).await.unwrap() });
    futures_util::future::join_all(work).await;
    assert_eq!(tokens(&registry), 1);
    registry.expire_tokens();
    let work = (0..16).map(|_| async { repository.resolve(&name("v1")).await.unwrap() });
    futures_util::future::join_all(work).await;
    assert_eq!(tokens(&registry), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_token_is_dropped_even_where_that_hides_the_real_challenge() {
    let registry = guarded(Auth { harbor: true, ..Auth::bearer() });
    let repository = repository_with(&registry, &user());
    assert!(repository.tags().await.is_ok());
    registry.expire_tokens();
    assert!(repository.tags().await.is_ok());
    for request in registry.requests().iter().filter(|request| request.endpoint != Endpoint::Token) {
        let sent = request.header("authorization").unwrap_or_default();
        assert!(!sent.starts_with("Basic"), "the password went to {request}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_refusal_is_final_and_says_what_to_do() {
    let wrong = Settings { password: Some("wrong".into()), ..user() };
    let narrow = Auth { narrow: true, ..Auth::bearer() };
    for (what, auth, settings) in [
        ("basic, wrong", Auth::basic(), wrong.clone()),
        ("bearer, wrong", Auth::bearer(), wrong),
        ("basic, none", Auth::basic(), settings()),
        ("bearer, none", Auth::bearer(), settings()),
        ("less than asked for", narrow, user()),
    ] {
        let registry = guarded(auth);
        let repository = repository_with(&registry, &settings);
        let error = repository.tags().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthorized, "{what}: {error}");
        assert!(error.to_string().contains(&format!("artifs login {}", registry.host())), "{what}: {error}");
        assert!(!error.to_string().contains("secret"), "{what}: {error}");
        assert!(registry.requests().len() <= 5, "{what}: {:?}", crate::lines(&registry));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_without_a_challenge_is_asked_about_at_the_root() {
    let registry = guarded(Auth::bearer());
    registry.fault(On::tags().times(1), Fault::Answer(401, Vec::new(), String::new()));
    assert!(repository_with(&registry, &user()).tags().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_not_fetched_from_where_a_registry_has_no_business() {
    for realm in ["http://169.254.169.254/token", "file:///etc/passwd"] {
        let registry = guarded(Auth { realm: Some(realm.into()), ..Auth::bearer() });
        let error = repository_with(&registry, &user()).tags().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert_eq!(tokens(&registry), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_credential_is_found_without_starting_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.json");
    let settings = Settings { registry_configs: vec![file], ..settings() };
    let password = |text: &str| Credential::Password { username: "user".into(), password: text.into() };
    for auth in [Auth::basic(), Auth::bearer()] {
        let registry = guarded(auth);
        let host = registry.host();
        credentials::store(&host, &password("secret"), &settings).await.unwrap();
        let repository = repository_with(&registry, &settings);
        assert!(repository.tags().await.is_ok());
        registry.behave(|behaviour| behaviour.auth.as_mut().unwrap().password = "new".into());
        registry.expire_tokens();
        credentials::store(&host, &password("new"), &settings).await.unwrap();
        assert!(repository.tags().await.is_ok());
        // ECR tells of an expired password by 403.
        credentials::store(&host, &password("newer"), &settings).await.unwrap();
        registry.behave(|behaviour| behaviour.auth.as_mut().unwrap().password = "newer".into());
        registry.expire_tokens();
        registry.fault(On::tags().times(1), Fault::ecr_expired());
        assert!(repository.tags().await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_service_that_fails_for_a_moment_is_asked_again() {
    let registry = guarded(Auth::bearer());
    registry.fault(On::tokens().times(2), Fault::status(503));
    assert!(repository_with(&registry, &user()).tags().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_token_that_never_comes_waits_no_longer_than_who_asked() {
    let registry = guarded(Auth::bearer());
    registry.fault(On::tokens(), Fault::Silent);
    let impatient = Settings { deadline: std::time::Duration::from_secs(1), ..user() };
    let repository = repository_with(&registry, &impatient);
    let work = (0..32).map(|_| async { repository.tags().await.unwrap_err() });
    // One after another they would take half a minute.
    let errors =
        tokio::time::timeout(std::time::Duration::from_secs(15), futures_util::future::join_all(work));
    for error in errors.await.expect("all give up by themselves") {
        assert!(error.is_retryable(), "{error}");
    }
}
