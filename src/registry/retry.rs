//! When to try again, how long to wait before, and when to give up.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::error::{Error, ErrorKind, Result};

/// Tries after the first for a server that answers badly or breaks off.
const TRIES: u32 = 5;
/// Tries after the first for one that cannot be connected to: a name that does not resolve or a closed
/// port rarely changes within seconds, and a person is waiting.
const CONNECT_TRIES: u32 = 3;
/// After a pause kept connections may be dead; so many are tried before it counts as a failing server.
const STALE_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// An answer that comes slower than this is as good as none (registry.md §6, row 7).
const SLOWEST: f64 = 1024.0;
/// So much in one piece is progress enough to start counting tries anew.
const PROGRESS: u64 = 64 << 10;

/// Whether another try can help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It cannot.
    No,
    /// At once: the connection was stale, the request was not even seen.
    Now,
    /// A few times, after a short pause.
    Soon,
    /// After a pause, the one the server named if it did.
    Later(Option<Duration>),
}

impl Again {
    pub(super) fn later() -> Self {
        Self::Later(None)
    }
}

/// One try that failed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Error,
    pub(super) again: Again,
}

impl Failure {
    /// A failure that another try would only repeat.
    pub(super) fn last(error: Error) -> Self {
        Self { error, again: Again::No }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::last(error)
    }
}

/// How much longer one piece of work may wait without getting anywhere.
///
/// Only time spent waiting here counts, not the time its user takes between two pieces.
pub(super) struct Patience {
    deadline: Duration,
    waited: Duration,
    /// Whether bytes renew it.
    credit: bool,
    gained: u64,
    advanced: u64,
    tries: u32,
    stale: u32,
}

impl Patience {
    pub(super) fn new(deadline: Duration) -> Self {
        Self { deadline, waited: Duration::ZERO, credit: true, gained: 0, advanced: 0, tries: 0, stale: 0 }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.waited)
    }

    /// Waits for `work`, at most `limit` and never beyond the deadline.
    pub(super) async fn during<T>(
        &mut self,
        limit: Duration,
        host: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let start = Instant::now();
        let result = tokio::time::timeout(limit.min(self.left()), work).await;
        self.waited += start.elapsed();
        result.unwrap_or_else(|_| {
            Err(Failure {
                error: Error::new(
                    ErrorKind::Unavailable,
                    format!("{host} has not answered for {} s", start.elapsed().as_secs().max(1)),
                ),
                again: Again::later(),
            })
        })
    }

    /// What is left, for reading what is of no use: bytes do not renew it.
    pub(super) fn without_progress(&self) -> Self {
        Self {
            deadline: self.left(),
            waited: Duration::ZERO,
            credit: false,
            gained: 0,
            advanced: 0,
            tries: 0,
            stale: 0,
        }
    }

    /// Takes off what `other`, made of this by [`without_progress`](Self::without_progress), has waited.
    pub(super) fn spend(&mut self, other: &Self) {
        self.waited += other.waited;
    }

    /// Waits for a while because waiting is known to help.
    pub(super) async fn rest(&mut self, pause: Duration) {
        let pause = pause.min(self.left());
        self.waited += pause;
        tokio::time::sleep(pause).await;
    }

    /// Bytes arrived that will not be asked for again: enough of them, and the tries so far are forgiven.
    pub(super) fn advanced(&mut self, bytes: u64) {
        self.advanced += bytes;
    }

    /// Bytes arrived. Faster than the slowest rate we accept, they buy new patience.
    pub(super) fn gained(&mut self, bytes: u64) {
        self.gained += bytes;
        if self.credit && self.gained as f64 >= SLOWEST * self.waited.as_secs_f64() {
            self.waited = Duration::ZERO;
            self.gained = 0;
        }
    }

    /// Waits as long as the failure asks for before the next try, or gives up with its error.
    pub(super) async fn pause(&mut self, failure: Failure) -> Result<()> {
        let pause = self.pause_after(failure)?;
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    fn pause_after(&mut self, failure: Failure) -> Result<Duration> {
        if self.advanced >= PROGRESS {
            self.tries = 0;
            self.stale = 0;
        }
        self.advanced = 0;
        let (most, named) = match failure.again {
            Again::Now if self.stale < STALE_TRIES && !self.left().is_zero() => {
                self.stale += 1;
                return Ok(Duration::ZERO);
            }
            Again::No => return Err(failure.error),
            Again::Soon => (CONNECT_TRIES, None),
            Again::Now => (TRIES, None),
            Again::Later(named) => (TRIES, named),
        };
        let pause = named.unwrap_or_else(|| pause_before(self.tries));
        if self.tries >= most || self.left().is_zero() {
            return Err(failure.error);
        }
        if pause >= self.left() {
            let asked = named.map_or(String::new(), |named| {
                format!("; it asks to wait {} s, longer than the deadline allows", named.as_secs())
            });
            return Err(if asked.is_empty() {
                failure.error
            } else {
                Error::new(failure.error.kind(), format!("{}{asked}", failure.error))
            });
        }
        tracing::debug!(error = %failure.error, ?pause, "trying again");
        self.tries += 1;
        self.waited += pause;
        Ok(pause)
    }
}

/// Doubling, with a quarter of jitter to either side, so that many who failed together do not return together.
fn pause_before(tries: u32) -> Duration {
    let pause = (FIRST_PAUSE * 2u32.saturating_pow(tries.min(16))).min(LONGEST_PAUSE);
    pause.mul_f64(0.75 + rand::random::<f64>() * 0.5)
}

/// What a `Retry-After` header asks for: seconds or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(value).ok()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(u64::try_from(date.as_second()).ok()?.saturating_sub(now.as_secs())))
}

/// Until when each host asked not to be asked. One request that is told to wait holds back all others.
#[derive(Default)]
pub(super) struct Gates(Mutex<HashMap<String, Instant>>);

impl Gates {
    /// Nobody asks `host` for as long as `pause`.
    pub(super) fn close(&self, host: &str, pause: Duration) {
        let until = Instant::now() + pause.min(Duration::from_secs(3600));
        let mut gates = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let gate = gates.entry(host.to_owned()).or_insert(until);
        *gate = until.max(*gate);
    }

    /// Waits until `host` may be asked again, or fails when that is beyond the deadline.
    pub(super) async fn pass(&self, host: &str, patience: &mut Patience) -> Result<(), Failure> {
        let until = {
            let mut gates = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match gates.get(host) {
                Some(until) if *until > Instant::now() => *until,
                Some(_) => {
                    gates.remove(host);
                    return Ok(());
                }
                None => return Ok(()),
            }
        };
        let pause = until.saturating_duration_since(Instant::now());
        if pause >= patience.left() {
            return Err(Failure::last(Error::new(
                ErrorKind::RateLimited,
                format!("{host} asked to be left alone for another {} s", pause.as_secs().max(1)),
            )));
        }
        patience.waited += pause;
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        assert!(
            retry_after("Wed, 21 Oct 2099 07:28:00 GMT").is_some_and(|pause| pause.as_secs() > 1_000_000)
        );
        assert_eq!(retry_after("soon"), None);
        assert_eq!(retry_after("-1"), None);
    }

    #[test]
    fn a_trickle_is_not_progress_and_a_stream_is() {
        let mut patience = Patience::new(Duration::from_secs(10));
        for _ in 0..100 {
            patience.waited += Duration::from_secs(1);
            patience.gained(2048);
        }
        assert_eq!(patience.left(), Duration::from_secs(10));
        for _ in 0..10 {
            patience.waited += Duration::from_secs(1);
            patience.gained(1);
        }
        assert_eq!(patience.left(), Duration::ZERO);
    }

    #[test]
    fn tries_are_counted_and_progress_forgives_them() {
        let failure = || Failure { error: Error::new(ErrorKind::Unavailable, "x"), again: Again::later() };
        let mut patience = Patience::new(Duration::from_secs(3600));
        for _ in 0..TRIES {
            patience.pause_after(failure()).unwrap();
        }
        patience.gained(PROGRESS);
        assert!(patience.pause_after(failure()).is_err());
        patience.advanced(PROGRESS);
        patience.pause_after(failure()).unwrap();
        for _ in 1..TRIES {
            patience.pause_after(failure()).unwrap();
        }
        assert!(patience.pause_after(failure()).is_err());
    }

    #[test]
    fn a_wait_beyond_the_deadline_is_refused_at_once() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let failure = Failure {
            error: Error::new(ErrorKind::RateLimited, "too many requests"),
            again: Again::Later(Some(Duration::from_secs(3600))),
        };
        let error = patience.pause_after(failure).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        assert!(error.to_string().contains("3600 s"), "{error}");
    }
}
