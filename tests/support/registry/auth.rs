//! Who may read: Basic, Bearer, and the ways registries deviate from both.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use base64::Engine as _;
use serde_json::json;

/// What a registry that asks for credentials accepts. `Auth::basic()` and `Auth::bearer()` are the sane ones.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Tokens from `/token` rather than the credentials themselves.
    pub bearer: bool,
    /// The one account.
    pub username: String,
    /// Its password.
    pub password: String,
    /// What `POST grant_type=refresh_token` accepts.
    pub identity_token: Option<String>,
    /// Whether a token is given to who has no credentials.
    pub anonymous: bool,
    /// How long a token works.
    pub life: Duration,
    /// What the token's answer says of it; `None` leaves it out.
    pub expires_in: Option<u64>,
    /// `token` or `access_token`.
    pub field: &'static str,
    /// What `POST /token` is answered with: 200 where it works, 404 or 405 where not.
    pub post: u16,
    /// Challenge lines before the real one (`Negotiate`, `Basic realm="x"`).
    pub before: Vec<String>,
    /// Challenge lines after the real one.
    pub after: Vec<String>,
    /// Harbor: whoever sends any Authorization that does not work is shown a Basic challenge.
    pub harbor: bool,
    /// The token never covers what was asked for.
    pub narrow: bool,
    /// How many requests with a good token are refused before the first is taken (clock skew, replication lag).
    pub refuse_fresh: u32,
    /// Where tokens are, if not here.
    pub realm: Option<String>,
    /// `service` in the challenge; `None` leaves it out.
    pub service: Option<String>,
}

impl Auth {
    /// The account "user" with the password "secret", asked for at every request.
    pub fn basic() -> Self {
        Self {
            bearer: false,
            username: "user".into(),
            password: "secret".into(),
            identity_token: None,
            anonymous: false,
            life: Duration::from_secs(3600),
            expires_in: Some(300),
            field: "token",
            post: 200,
            before: Vec::new(),
            after: Vec::new(),
            harbor: false,
            narrow: false,
            refuse_fresh: 0,
            realm: None,
            service: Some("registry.test".into()),
        }
    }

    /// The same account, by tokens.
    pub fn bearer() -> Self {
        Self { bearer: true, ..Self::basic() }
    }
}

/// The tokens given out.
#[derive(Default)]
pub(super) struct Tokens {
    known: HashMap<String, Token>,
    given: u64,
    refused: u32,
}

struct Token {
    until: Instant,
    scopes: String,
}

/// What a request without permission is answered with: challenge lines.
pub(super) type Challenges = Vec<String>;

impl Tokens {
    pub(super) fn expire_all(&mut self) {
        self.known.clear();
    }

    /// Whether this request may go on. `scope` is what it needs.
    pub(super) fn check(
        &mut self,
        auth: &Auth,
        host: &str,
        authorization: Option<&str>,
        scope: &str,
    ) -> Result<(), Challenges> {
        let mut error = None;
        if let Some((scheme, value)) = authorization.and_then(|text| text.split_once(' ')) {
            if scheme.eq_ignore_ascii_case("basic") {
                // Even where tokens are the way, real registries take the credentials themselves at `/token` only.
                if !auth.bearer && is_account(auth, value) {
                    return Ok(());
                }
            } else if auth.bearer {
                error = Some("invalid_token");
                if let Some(token) = self.known.get(value.trim())
                    && token.until > Instant::now()
                {
                    if self.refused < auth.refuse_fresh {
                        self.refused += 1;
                    } else if auth.narrow || !covers(&token.scopes, scope) {
                        error = Some("insufficient_scope");
                    } else {
                        return Ok(());
                    }
                }
            }
        }
        let real = if !auth.bearer {
            r#"Basic realm="test""#.to_owned()
        } else if auth.harbor && authorization.is_some() {
            r#"Basic realm="harbor""#.to_owned()
        } else {
            let realm = auth.realm.clone().unwrap_or_else(|| format!("http://{host}/token"));
            let mut challenge = format!(r#"Bearer realm="{realm}""#);
            if let Some(service) = &auth.service {
                challenge += &format!(r#",service="{service}""#);
            }
            if !scope.is_empty() {
                challenge += &format!(r#",scope="{scope}""#);
            }
            if let Some(error) = error {
                challenge += &format!(r#",error="{error}""#);
            }
            challenge
        };
        Err(auth.before.iter().cloned().chain([real]).chain(auth.after.iter().cloned()).collect())
    }

    /// The token endpoint: status and body.
    pub(super) fn give(
        &mut self,
        auth: &Auth,
        method: &str,
        authorization: Option<&str>,
        parameters: &[(String, String)],
    ) -> (u16, String) {
        let parameter =
            |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let denied = (
            401,
            r#"{"errors":[{"code":"UNAUTHORIZED","message":"incorrect username or password"}]}"#.to_owned(),
        );
        if method == "POST" {
            if auth.post != 200 {
                return (auth.post, String::new());
            }
            let granted = match parameter("grant_type") {
                Some("refresh_token") => {
                    auth.identity_token.is_some()
                        && parameter("refresh_token") == auth.identity_token.as_deref()
                }
                Some("password") => {
                    parameter("username") == Some(&auth.username)
                        && parameter("password") == Some(&auth.password)
                }
                _ => return (400, r#"{"error":"unsupported_grant_type"}"#.into()),
            };
            if !granted {
                return denied;
            }
        } else {
            match authorization.and_then(|text| text.split_once(' ')) {
                Some((_, value)) if is_account(auth, value) => {}
                None if auth.anonymous => {}
                _ => return denied,
            }
        }
        let scopes: Vec<&str> =
            parameters.iter().filter(|(key, _)| key == "scope").map(|(_, value)| value.as_str()).collect();
        self.given += 1;
        let token = format!("token-{}", self.given);
        self.known
            .insert(token.clone(), Token { until: Instant::now() + auth.life, scopes: scopes.join(" ") });
        let mut body = json!({ auth.field: token });
        if let Some(seconds) = auth.expires_in {
            body["expires_in"] = json!(seconds);
        }
        (200, body.to_string())
    }
}

fn is_account(auth: &Auth, encoded: &str) -> bool {
    let account = format!("{}:{}", auth.username, auth.password);
    encoded.trim() == base64::engine::general_purpose::STANDARD.encode(account)
}

/// Whether the given scopes contain every action of the one that is needed.
fn covers(given: &str, needed: &str) -> bool {
    let Some((what, actions)) = needed.rsplit_once(':') else { return true };
    actions.split(',').all(|action| {
        given.split(' ').filter_map(|scope| scope.rsplit_once(':')).any(|(have, may)| {
            have == what && may.split(',').any(|allowed| allowed == action || allowed == "*")
        })
    })
}
