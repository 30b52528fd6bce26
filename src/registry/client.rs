//! One request to a registry, with everything it takes to have it answered: credentials, redirects, retries.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::auth::{Auth, Scope, Turns};
use super::http::{
    Answer, Call, HeaderMap, HeaderName, HeaderValue, Http, Method, Payload, StatusCode, To, header, host_of,
};
use super::origin::Origin;
use super::outgoing::Sending;
use super::profile::Profile;
use super::redirect::{self, MOST_HOPS};
use super::retry::{Again, Failure, Gates, Patience, retry_after};
use super::settings::Settings;
use super::tls::Tls;
use super::wire_error::Complaint;
use crate::error::{Error, ErrorKind, Result};
use crate::oci::reference::Host;
use url::Url;

/// How long a host that wants fewer requests is left alone when it does not say.
const UNNAMED_PAUSE: Duration = Duration::from_millis(500);

/// What is asked of the registry.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// Path and query, beginning with `/v2/`.
    pub(super) path: &'a str,
    pub(super) accept: Option<&'static str>,
    pub(super) range: Option<Range<u64>>,
    /// What it takes to be allowed to.
    pub(super) scope: &'a Scope,
    /// Asked here instead of at `path`: an address the registry gave out. Only the registry's own origin sees
    /// our credentials.
    pub(super) at: Option<&'a Url>,
    pub(super) sending: Option<Sending<'a>>,
}

impl<'a> Ask<'a> {
    /// A plain GET.
    pub(super) fn get(path: &'a str, scope: &'a Scope) -> Self {
        Self { method: Method::GET, path, accept: None, range: None, scope, at: None, sending: None }
    }
}

/// What goes out at one address after another.
struct Journey<'a> {
    method: Method,
    accept: Option<&'static str>,
    range: Option<Range<u64>>,
    /// Goes to the first address's origin, and no further.
    authorization: Option<HeaderValue>,
    form: Option<&'a [(&'a str, &'a str)]>,
    sending: Option<&'a Sending<'a>>,
}

/// One registry's connections and everything learnt about it.
pub(super) struct Client {
    host: Host,
    origin: Origin,
    http: Http,
    /// The person's own headers, for the registry's origin only.
    headers: HeaderMap,
    pub(super) auth: Auth,
    pub(super) insecure: bool,
    gates: Gates,
    deadline: Duration,
    pub(super) profile: Profile,
}

impl Client {
    pub(super) fn new(host: &Host, settings: &Settings) -> Result<Self> {
        let profile = Profile::default();
        if let Some(works) = settings.referrers_api {
            profile.referrers.seen(works);
        }
        Ok(Self {
            host: host.clone(),
            origin: Origin::new(host, settings.plain_http)?,
            http: Http::new(Tls::load(host, settings)?, addresses(settings)),
            headers: own_headers(settings)?,
            auth: Auth::new(host, settings),
            insecure: settings.insecure,
            gates: Gates::default(),
            deadline: settings.deadline,
            profile,
        })
    }

    /// The registry as people name it.
    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Patience for one piece of work.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.deadline)
    }

    /// Whether this is a registry that lets us in.
    pub(super) async fn ping(&self) -> Result<()> {
        let mut patience = self.patience();
        let answer = self.send(&Ask::get("/v2/", &Scope::Registry), &mut patience).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        Err(self.error(answer, &mut patience).await)
    }

    /// Sends until there is an answer that another try would not change, or patience ends.
    pub(super) async fn send(&self, ask: &Ask<'_>, patience: &mut Patience) -> Result<Answer> {
        loop {
            match self.attempt(ask, patience).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => patience.pause(failure).await?,
            }
        }
    }

    /// Like [`send`](Self::send), and reads a successful answer's whole body.
    pub(super) async fn send_for_body(
        &self,
        ask: &Ask<'_>,
        limit: u64,
        patience: &mut Patience,
    ) -> Result<Result<(HeaderMap, bytes::Bytes), Complaint>> {
        loop {
            let answer = self.send(ask, patience).await?;
            if answer.status() != StatusCode::OK {
                return Ok(Err(Complaint::read(answer, patience).await));
            }
            let headers = answer.headers().clone();
            match answer.body(limit, patience).await {
                Ok(body) => return Ok(Ok((headers, body))),
                Err(failure) => patience.pause(failure).await?,
            }
        }
    }

    /// One try: refusals are answered, redirects followed; passing trouble is a failure to be tried again.
    pub(super) async fn attempt(&self, ask: &Ask<'_>, patience: &mut Patience) -> Result<Answer, Failure> {
        let start = match ask.at {
            Some(url) => url.clone(),
            None => self.url(ask.path).await?,
        };
        if start.origin() != self.origin.url().await?.origin() {
            let answer = self.travel(start, &journey(ask, None), patience).await?;
            return self.unless_passing(answer, patience).await;
        }
        let mut authorization = self.authorization(ask.scope, patience).await?;
        let mut turns = Turns::default();
        loop {
            let used = authorization.take();
            let answer = self.travel(start.clone(), &journey(ask, used.clone()), patience).await?;
            let refused = matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            if !refused || !answer.is_from_registry() {
                return self.unless_passing(answer, patience).await;
            }
            authorization = self.answer_refusal(ask.scope, answer, used, &mut turns, patience).await?;
        }
    }

    /// One try without credentials; a refusal is an answer.
    pub(super) async fn bare(&self, ask: &Ask<'_>, patience: &mut Patience) -> Result<Answer, Failure> {
        let answer = self.travel(self.url(ask.path).await?, &journey(ask, None), patience).await?;
        self.unless_passing(answer, patience).await
    }

    /// One try at an address the registry redirected to earlier.
    pub(super) async fn attempt_at(
        &self,
        url: &Url,
        range: Option<Range<u64>>,
        patience: &mut Patience,
    ) -> Result<Answer, Failure> {
        let journey = Journey {
            method: Method::GET,
            accept: None,
            range,
            authorization: None,
            form: None,
            sending: None,
        };
        let answer = self.travel(url.clone(), &journey, patience).await?;
        self.unless_passing(answer, patience).await
    }

    /// One try at a token service.
    pub(super) async fn ask_token_service(
        &self,
        url: Url,
        authorization: Option<HeaderValue>,
        form: Option<&[(&str, &str)]>,
        patience: &mut Patience,
    ) -> Result<Answer, Failure> {
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let journey = Journey { method, accept: None, range: None, authorization, form, sending: None };
        let answer = self.travel(url, &journey, patience).await?;
        self.unless_passing(answer, patience).await
    }

    async fn url(&self, path: &str) -> Result<Url, Failure> {
        let invalid = |error| Error::with_source(ErrorKind::Invalid, format!("{path:?}"), error);
        Ok(self.origin.url().await?.join(path).map_err(invalid)?)
    }

    /// Follows redirects to the answer at their end. The authorization goes to the origin of the start only, what else is
    /// the registry's own (the person's headers, the client certificate) to the registry's origin only.
    async fn travel(
        &self,
        start: Url,
        journey: &Journey<'_>,
        patience: &mut Patience,
    ) -> Result<Answer, Failure> {
        let registry = self.origin.url().await?.origin();
        let home = start.origin();
        let mut url = start;
        for hop in 0..=MOST_HOPS {
            let to = if url.origin() == registry { To::Registry } else { To::Elsewhere };
            self.gates.pass(&host_of(&url), patience).await?;
            let mut headers = self.headers_for(journey, to);
            if let Some(authorization) = journey.authorization.as_ref().filter(|_| url.origin() == home) {
                headers.insert(header::AUTHORIZATION, authorization.clone());
            }
            // What a form holds is secret: it is never sent on.
            let form = journey.form.filter(|_| hop == 0);
            let method = if journey.form.is_some() && hop > 0 { Method::GET } else { journey.method.clone() };
            let payload = match (form, journey.sending) {
                (Some(form), _) => Payload::Form(form),
                (None, Some(sending)) => sending.open().await?,
                (None, None) => Payload::Nothing,
            };
            let answer = self.http.call(Call { to, method, url: &url, headers, payload }, patience).await?;
            let location = match answer.status().as_u16() {
                301 | 302 | 303 | 307 | 308 => answer.header(header::LOCATION).map(str::to_owned),
                _ => None,
            };
            let Some(location) = location else { return Ok(answer) };
            let next = redirect::follow(&url, &location, self.insecure)?;
            let _ = answer.complaint(patience).await;
            url = next;
        }
        Err(Failure::last(Error::new(
            ErrorKind::Unavailable,
            format!("{} redirects in a circle (more than {MOST_HOPS} times)", self.host),
        )))
    }

    fn headers_for(&self, journey: &Journey<'_>, to: To) -> HeaderMap {
        let mut headers = if to == To::Registry { self.headers.clone() } else { HeaderMap::new() };
        // Ranges of a compressed form would be ranges of something else.
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(accept) = journey.accept {
            headers.insert(header::ACCEPT, HeaderValue::from_static(accept));
        }
        if let Some(range) = &journey.range
            && let Ok(value) =
                HeaderValue::try_from(format!("bytes={}-{}", range.start, range.end.saturating_sub(1)))
        {
            headers.insert(header::RANGE, value);
        }
        if let Some(sending) = journey.sending {
            sending.describe(&mut headers);
        }
        headers
    }

    /// The answer, unless it only says that now is a bad time.
    async fn unless_passing(&self, answer: Answer, patience: &mut Patience) -> Result<Answer, Failure> {
        let status = answer.status().as_u16();
        if !matches!(status, 408 | 425 | 429 | 499 | 500 | 502 | 503 | 504 | 520..=524) {
            return Ok(answer);
        }
        let host = host_of(answer.url());
        let named = answer.header(header::RETRY_AFTER).and_then(retry_after);
        let remaining = answer.header(HeaderName::from_static("ratelimit-remaining")).map(str::to_owned);
        if status == 429 {
            self.gates.close(&host, named.unwrap_or(UNNAMED_PAUSE));
        }
        let mut error = Complaint::read(answer, patience).await.into_error();
        if let Some(remaining) = remaining {
            error = error.context(format!("{host} limits requests (ratelimit-remaining: {remaining})"));
        }
        // A closed gate does the waiting for everybody; without one the pause is ours alone.
        Err(Failure { error, again: Again::Later(named) })
    }

    /// The error an unwanted answer amounts to, with what a person can do about it.
    pub(super) async fn error(&self, answer: Answer, patience: &mut Patience) -> Error {
        let complaint = Complaint::read(answer, patience).await;
        self.advise(complaint)
    }

    /// The error a complaint amounts to, with what a person can do about it.
    pub(super) fn advise(&self, complaint: Complaint) -> Error {
        let error = complaint.into_error();
        match error.kind() {
            ErrorKind::Denied => error.context(format!("{} denies access", self.host)),
            _ => error,
        }
    }
}

fn journey<'a>(ask: &'a Ask<'a>, authorization: Option<HeaderValue>) -> Journey<'a> {
    Journey {
        method: ask.method.clone(),
        accept: ask.accept,
        range: ask.range.clone(),
        authorization,
        form: None,
        sending: ask.sending.as_ref(),
    }
}

/// `--resolve` by domain. The port an address is asked for is the URL's, so a rule that changes it only
/// reaches hosts named without one; rules for another port of the same name come second.
fn addresses(settings: &Settings) -> Vec<(String, SocketAddr)> {
    let mut addresses: Vec<(String, SocketAddr)> = Vec::new();
    for rule in &settings.resolve {
        if !addresses.iter().any(|(host, _)| *host == rule.host) {
            addresses.push((rule.host.clone(), rule.address));
        }
    }
    addresses
}

fn own_headers(settings: &Settings) -> Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.headers {
        let invalid = || Error::new(ErrorKind::Invalid, format!("invalid header: {name:?}"));
        let name = HeaderName::try_from(name.trim()).map_err(|_| invalid())?;
        let mut value = HeaderValue::try_from(value.as_str()).map_err(|_| invalid())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}
