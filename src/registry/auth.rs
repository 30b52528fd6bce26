//! Who may ask: answering 401s, and remembering the answers.
//!
//! Requests go out with what worked last time, or bare. A 401 is answered once per request: with the registry's own
//! credential (Basic) or with a token from the service it names (Bearer), fetched once however many requests
//! wait for it. A second 401 after that is final, but for the two cases where waiting or asking again is known
//! to help: a token so fresh that the registry's clock has not reached it yet, and a credential whose
//! program or file has a newer one by now.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use url::Url;

use super::challenge::{self, Challenge};
use super::client::{Ask, Client};
use super::credentials::{self, Credential, Found};
use super::http::{Answer, HeaderMap, HeaderValue, StatusCode};
use super::retry::{Failure, Patience};
use super::settings::Settings;
use super::token::{self, Service, Token};
use super::wire_error::Complaint;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::reference::Host;

/// How far the clocks of a token service and its registry are apart, where they are (registry.md §1.4).
const CLOCK_SKEW: Duration = Duration::from_secs(1);
/// Waiting for somebody else's token ends with one's own patience, whatever becomes of theirs.
const LONGEST_WAIT: Duration = Duration::MAX;

/// What a request is about. One token each: a registry's header space is limited (registry.md §1.3).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Scope {
    /// The registry as such.
    Registry,
    /// Its list of repositories.
    Catalog,
    /// Reading one repository.
    Pull(Arc<str>),
    /// Writing to one repository.
    Push(Arc<str>),
    /// Writing to the first, with blobs of the second.
    Mount(Arc<str>, Arc<str>),
    /// Deleting in one repository.
    Delete(Arc<str>),
}

impl Scope {
    fn text(&self) -> Option<String> {
        match self {
            Self::Catalog => Some("registry:catalog:*".into()),
            Self::Pull(path) => Some(format!("repository:{path}:pull")),
            Self::Push(path) => Some(format!("repository:{path}:pull,push")),
            Self::Mount(to, from) => Some(format!("repository:{to}:pull,push repository:{from}:pull")),
            // Quay refuses tokens for an action it does not know (registry.md §1.3): the challenge says what to ask for
            // before something is deleted.
            Self::Registry | Self::Delete(_) => None,
        }
    }

    fn path(&self) -> Option<&str> {
        match self {
            Self::Pull(path) | Self::Push(path) | Self::Mount(path, _) | Self::Delete(path) => Some(path),
            Self::Registry | Self::Catalog => None,
        }
    }
}

/// How this registry wants to be asked.
#[derive(Clone)]
enum Way {
    Basic,
    Bearer(Service),
}

#[derive(Default)]
struct State {
    way: Option<Way>,
    tokens: HashMap<Scope, Token>,
    /// What the registry called a scope in its challenge; its word is better than our guess.
    named: HashMap<Scope, String>,
    /// Whether it has called one as we would have: then tokens can be had before the first 401.
    guessed_right: bool,
    credentials: HashMap<Option<String>, Option<Found>>,
    per_repository: Option<bool>,
}

/// Everything known about getting into one registry.
pub(super) struct Auth {
    host: Host,
    settings: Settings,
    state: Mutex<State>,
    /// Held while a token is fetched, per scope: those who wait find it in `state`.
    flights: Mutex<HashMap<Scope, Arc<tokio::sync::Mutex<()>>>>,
}

/// What has been tried for one request.
#[derive(Default)]
pub(super) struct Turns {
    answered: bool,
    bare: bool,
    delayed: bool,
    asked_anew: bool,
}

impl Auth {
    pub(super) fn new(host: &Host, settings: &Settings) -> Self {
        Self {
            host: host.clone(),
            settings: settings.clone(),
            state: Mutex::default(),
            flights: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn flight(&self, scope: &Scope) -> Arc<tokio::sync::Mutex<()>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).entry(scope.clone()).or_default().clone()
    }

    /// The credential for a scope, looked up once and kept until it is refused.
    async fn credential(&self, scope: &Scope) -> Result<Option<Found>> {
        let known = self.state().per_repository;
        let per_repository = if let Some(known) = known {
            known
        } else {
            let found = credentials::are_per_repository(&self.host, &self.settings)?;
            self.state().per_repository = Some(found);
            found
        };
        let key = scope.path().filter(|_| per_repository).map(str::to_owned);
        if let Some(known) = self.state().credentials.get(&key) {
            return Ok(known.clone());
        }
        let found = credentials::find(&self.host, key.as_deref(), &self.settings).await?;
        self.state().credentials.insert(key, found.clone());
        Ok(found)
    }

    /// Whether the place a credential came from has a different one by now. Programs for clouds hand out credentials of
    /// hours, a mount lives for weeks.
    async fn has_newer(&self, scope: &Scope) -> Result<bool> {
        let old = self.credential(scope).await?;
        {
            let mut state = self.state();
            state.credentials.clear();
            state.per_repository = None;
        }
        Ok(self.credential(scope).await? != old)
    }

    fn forget(&self, scope: &Scope, used: &HeaderValue) {
        let mut state = self.state();
        // Only this value: another request may have fetched a newer one meanwhile.
        if state.tokens.get(scope).is_some_and(|token| token.header == *used) {
            state.tokens.remove(scope);
        }
    }

    fn fresh(&self, scope: &Scope) -> Option<HeaderValue> {
        let state = self.state();
        let token = state.tokens.get(scope).filter(|token| token.until > Instant::now())?;
        Some(token.header.clone())
    }
}

impl Client {
    /// What to send along with a request that has not been refused yet.
    pub(super) async fn authorization(
        &self,
        scope: &Scope,
        patience: &mut Patience,
    ) -> Result<Option<HeaderValue>, Failure> {
        let (way, worth_asking) = {
            let state = self.auth.state();
            (state.way.clone(), state.guessed_right || state.tokens.contains_key(scope))
        };
        match way {
            None => Ok(None),
            Some(Way::Basic) => match self.auth.credential(scope).await? {
                Some(Found { credential: Credential::Password { username, password }, .. }) => {
                    Ok(Some(token::basic(&username, &password)?))
                }
                _ => Ok(None),
            },
            Some(Way::Bearer(service)) => {
                if let Some(header) = self.auth.fresh(scope) {
                    return Ok(Some(header));
                }
                let known = scope.text().is_some() || self.auth.state().named.contains_key(scope);
                if !worth_asking || !known {
                    return Ok(None);
                }
                self.fetch_token(&service, scope, None, patience).await.map(Some)
            }
        }
    }

    /// What to do after a 401 or 403 of the registry itself: the authorization of the next try, or the final error.
    pub(super) async fn answer_refusal(
        &self,
        scope: &Scope,
        answer: Answer,
        used: Option<HeaderValue>,
        turns: &mut Turns,
        patience: &mut Patience,
    ) -> Result<Option<HeaderValue>, Failure> {
        let forbidden = answer.status() == StatusCode::FORBIDDEN;
        let asked = answer.url().clone();
        let challenges = challenge::parse(answer.headers());
        let complaint = Complaint::read(answer, patience).await;
        if forbidden {
            return self.answer_expiry(scope, complaint, turns, patience).await;
        }
        if let Some(used) = used.as_ref().filter(|used| used.as_bytes().starts_with(b"Bearer ")) {
            let bearer_error = challenges.iter().find_map(Challenge::bearer_error);
            if turns.answered && !turns.delayed && bearer_error == Some("invalid_token") {
                turns.delayed = true;
                patience.rest(CLOCK_SKEW).await;
                return Ok(Some(used.clone()));
            }
            self.auth.forget(scope, used);
            // Harbor asks for Basic when a token is stale; what it really wants it says to a bare request.
            if bearer_error.is_none() && !turns.bare && !turns.answered {
                turns.bare = true;
                return Ok(None);
            }
        }
        let first = !std::mem::replace(&mut turns.answered, true);
        let challenges = if challenges.is_empty() && first {
            self.challenges_of_the_root(patience).await?
        } else {
            challenges
        };
        let mut error = complaint.into_error();
        if first && !challenges.is_empty() {
            match self.answer(scope, &asked, &challenges, used.as_ref(), patience).await {
                // The very same again could only be refused again.
                Ok(header) if used.as_ref() == Some(&header) => {}
                Ok(header) => return Ok(Some(header)),
                Err(failure) if failure.error.kind() == ErrorKind::Unauthorized => error = failure.error,
                Err(failure) => return Err(failure),
            }
        }
        if !challenges.is_empty()
            && !std::mem::replace(&mut turns.asked_anew, true)
            && self.auth.has_newer(scope).await?
        {
            return self.answer(scope, &asked, &challenges, None, patience).await.map(Some);
        }
        Err(Failure::last(self.explain_refusal(scope, error).await))
    }

    /// A 403 is final, but where it says that the password is over: ECR's lives for twelve hours (registry.md §1.4).
    async fn answer_expiry(
        &self,
        scope: &Scope,
        complaint: Complaint,
        turns: &mut Turns,
        patience: &mut Patience,
    ) -> Result<Option<HeaderValue>, Failure> {
        let worth_it = complaint.says_expired() && !std::mem::replace(&mut turns.asked_anew, true);
        if worth_it && self.auth.has_newer(scope).await? {
            return self.authorization(scope, patience).await;
        }
        Err(Failure::last(self.advise(complaint)))
    }

    /// An answer to the best of these challenges: a token rather than the password itself.
    async fn answer(
        &self,
        scope: &Scope,
        asked: &Url,
        challenges: &[Challenge],
        used: Option<&HeaderValue>,
        patience: &mut Patience,
    ) -> Result<HeaderValue, Failure> {
        for challenge in challenges {
            let Challenge::Bearer { realm, service, scope: named, .. } = challenge else { continue };
            let service = token::service(asked, realm, service.clone(), self.insecure)?;
            {
                let mut state = self.auth.state();
                state.guessed_right |= named.is_some() && *named == scope.text();
                if let Some(named) = named {
                    state.named.insert(scope.clone(), named.clone());
                }
                state.way = Some(Way::Bearer(service.clone()));
            }
            return self.fetch_token(&service, scope, used, patience).await;
        }
        if challenges.contains(&Challenge::Basic) {
            let header = match self.auth.credential(scope).await? {
                Some(Found { credential: Credential::Password { username, password }, .. }) => {
                    token::basic(&username, &password)?
                }
                Some(Found { credential: Credential::AccessToken(token), .. }) => token::bearer(&token)?,
                Some(Found { place, .. }) => {
                    return Err(Failure::last(Error::new(
                        ErrorKind::Unauthorized,
                        format!(
                            "{} wants a name and a password, and {place} has an identity token",
                            self.host()
                        ),
                    )));
                }
                None => {
                    return Err(Failure::last(Error::new(
                        ErrorKind::Unauthorized,
                        "basic credential not found",
                    )));
                }
            };
            self.auth.state().way = Some(Way::Basic);
            return Ok(header);
        }
        let schemes: Vec<String> = challenges.iter().map(|challenge| format!("{challenge:?}")).collect();
        Err(Failure::last(Error::new(
            ErrorKind::Unsupported,
            format!("{} wants authentication we do not know: {}", self.host(), schemes.join(", ")),
        )))
    }

    /// A token for the scope, other than `refused`. Whoever comes while it is being fetched waits and shares it.
    async fn fetch_token(
        &self,
        service: &Service,
        scope: &Scope,
        refused: Option<&HeaderValue>,
        patience: &mut Patience,
    ) -> Result<HeaderValue, Failure> {
        let flight = self.auth.flight(scope);
        let host = self.host().as_str();
        let _alone = patience.during(LONGEST_WAIT, host, async { Ok(flight.lock().await) }).await?;
        if let Some(header) = self.auth.fresh(scope).filter(|header| Some(header) != refused) {
            return Ok(header);
        }
        let named = self.auth.state().named.get(scope).cloned().or_else(|| scope.text()).unwrap_or_default();
        let scopes: Vec<&str> = named.split_whitespace().collect();
        let found = self.auth.credential(scope).await?;
        let token =
            self.token(service, &scopes, found.as_ref().map(|found| &found.credential), patience).await?;
        let header = token.header.clone();
        self.auth.state().tokens.insert(scope.clone(), token);
        Ok(header)
    }

    /// What `/v2/` asks for, when a 401 does not say (gcr.io, registry.md §1.1).
    async fn challenges_of_the_root(&self, patience: &mut Patience) -> Result<Vec<Challenge>, Failure> {
        let ask = Ask::get("/v2/", &Scope::Registry);
        let answer = self.bare(&ask, patience).await?;
        let headers: HeaderMap = answer.headers().clone();
        let is_refusal = answer.status() == StatusCode::UNAUTHORIZED && answer.is_from_registry();
        let _ = answer.complaint(patience).await;
        Ok(if is_refusal { challenge::parse(&headers) } else { Vec::new() })
    }

    /// The next thing to do for somebody who was not let in.
    async fn explain_refusal(&self, scope: &Scope, error: Error) -> Error {
        let host = self.host();
        match self.auth.credential(scope).await {
            Ok(Some(found)) => error.context(format!(
                "{host} refuses the credential from {}; log in again with \"artifs login {host}\"",
                found.place
            )),
            _ => error.context(format!("{host} does not let us in; log in with \"artifs login {host}\"")),
        }
    }
}
