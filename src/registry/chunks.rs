//! A blob in chunks: taken up where it broke off, as far as the registry says where that is (registry.md §4.4).

use std::ops::Range;

use super::client::Ask;
use super::http::{Answer, Method, header};
use super::outgoing::Sending;
use super::retry::Again;
use super::uploads::{MOST_LOST, Outcome, Session, Uploading, upload_address, with_digest};
use super::wire_error::Complaint;
use crate::error::{Error, ErrorKind, Result};

/// GHCR takes no larger ones.
const SMALL_CHUNK: u64 = 4 << 20;

impl Uploading<'_> {
    /// Sends the blob in chunks of this size, or what the registry makes of it.
    pub(super) async fn in_chunks(&mut self, mut session: Session, chunk: u64) -> Result<Outcome> {
        let size = self.blob.size;
        let chunk = chunk.min(session.largest.unwrap_or(u64::MAX)).max(session.smallest).max(1);
        let mut at = 0;
        while at < size {
            let part = at..size.min(at + chunk);
            let url = session.url.clone();
            let ask = Ask {
                method: Method::PATCH,
                at: Some(&url),
                sending: Some(Sending::part(self.body, part.clone())),
                ..Ask::get("", &self.scope)
            };
            let answer = match self.shelf.client().attempt(&ask, &mut self.patience).await {
                Ok(answer) => answer,
                Err(failure) if failure.again == Again::No => return Err(self.shelf.explain(failure.error)),
                Err(failure) => {
                    self.patience.pause(failure).await.map_err(|error| self.shelf.explain(error))?;
                    match self.arrived(&mut session, &part).await? {
                        Some(arrived) => at = arrived,
                        None => return self.lost_count(),
                    }
                    continue;
                }
            };
            match answer.status().as_u16() {
                // ECR answers 201 (registry.md §4.4).
                200 | 201 | 202 | 204 => {
                    self.move_on(&mut session, &answer)?;
                    at = part.end;
                    self.patience.advanced(part.end - part.start);
                    self.lost = 0;
                }
                413 => return self.too_large(answer, &session).await,
                416 => {
                    let complaint = Complaint::read(answer, &mut self.patience).await;
                    match self.arrived(&mut session, &part).await? {
                        Some(arrived) if arrived != at => at = arrived,
                        _ => {
                            // What says "wrong offset" may mean "too large" (GHCR).
                            if at == 0 && chunk > SMALL_CHUNK && session.smallest <= SMALL_CHUNK {
                                self.chunk = Some(SMALL_CHUNK);
                            }
                            return self.over_or_refused(complaint);
                        }
                    }
                }
                _ => {
                    let complaint = Complaint::read(answer, &mut self.patience).await;
                    return self.over_or_refused(complaint);
                }
            }
        }
        self.close(session).await
    }

    /// The last request after the chunks.
    async fn close(&mut self, session: Session) -> Result<Outcome> {
        let url = with_digest(&session.url, &self.blob.digest);
        loop {
            let ask = Ask {
                method: Method::PUT,
                at: Some(&url),
                sending: Some(Sending::nothing()),
                ..Ask::get("", &self.scope)
            };
            match self.shelf.client().attempt(&ask, &mut self.patience).await {
                Ok(answer) => return self.after_put(answer, &session).await,
                Err(failure) => {
                    if let Some(outcome) = self.after_failure(failure).await? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    /// How much the registry has after `part` went out and was not acknowledged; `None` if that cannot be told.
    async fn arrived(&mut self, session: &mut Session, part: &Range<u64>) -> Result<Option<u64>> {
        let url = session.url.clone();
        let ask = Ask { at: Some(&url), ..Ask::get("", &self.scope) };
        let answer = self.shelf.client().send(&ask, &mut self.patience).await?;
        if !answer.status().is_success() {
            return Ok(None);
        }
        let range = answer.header(header::RANGE).map(str::to_owned);
        self.move_on(session, &answer)?;
        Ok(range.and_then(|range| arrived(&range, part)))
    }

    fn lost_count(&mut self) -> Result<Outcome> {
        let host = &self.shelf.name().host;
        let error =
            Error::new(ErrorKind::Unavailable, format!("{host} does not know how much of the upload it has"));
        self.lost += 1;
        if self.lost > MOST_LOST { Err(error) } else { Ok(Outcome::Over(error)) }
    }

    /// Each answer may say where to go on.
    fn move_on(&self, session: &mut Session, answer: &Answer) -> Result<()> {
        if let Some(location) = answer.header(header::LOCATION) {
            session.url = upload_address(answer.url(), location, self.shelf.client().insecure)?;
        }
        Ok(())
    }
}

/// What `Range: 0-<last>` says of a part that was sent: only what lies within it can be true. Quay and Gitea give the
/// count in place of the last byte, and some prefix the unit.
fn arrived(range: &str, part: &Range<u64>) -> Option<u64> {
    let range = range.trim().trim_start_matches("bytes").trim_start_matches(['=', ' ', ':']);
    let (first, last) = range.split_once('-')?;
    let last: u64 = last.trim().parse().ok()?;
    if first.trim() != "0" {
        return None;
    }
    match last {
        // Nothing, or one byte: `0-0` is both.
        0 if part.start <= 1 => (part.start == 0).then_some(0),
        last if last == part.start || last + 1 == part.start => Some(part.start),
        last if last == part.end || last + 1 == part.end => Some(part.end),
        last if part.contains(&last) => Some(last + 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_arrived_is_read_as_registries_say_it() {
        let part = 100..200;
        for (said, arrived) in [
            ("0-149", Some(150)),
            ("bytes=0-149", Some(150)),
            ("0-99", Some(100)),
            ("0-100", Some(100)),
            ("0-199", Some(200)),
            ("0-200", Some(200)),
            ("0-0", None),
            ("0-98", None),
            ("0-201", None),
            ("5-149", None),
            ("0--1", None),
            ("", None),
        ] {
            assert_eq!(super::arrived(said, &part), arrived, "{said}");
        }
        assert_eq!(super::arrived("0-0", &(0..10)), Some(0));
        assert_eq!(super::arrived("bytes=0--1", &(0..10)), None);
    }
}
