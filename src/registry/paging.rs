//! Lists that come in pages: `Link` headers, read leniently and followed safely.

use std::collections::HashSet;

use serde::de::DeserializeOwned;
use url::Url;

use super::auth::Scope;
use super::client::{Ask, Client};
use super::http::{HeaderMap, header};
use super::wire_error::Complaint;
use crate::error::{Error, ErrorKind, Result};

/// One page's largest body: a registry that knows no pages sends a hundred thousand tags in some MiB.
const PAGE_LIMIT: u64 = 32 << 20;
/// All pages together: beyond it a list is an attack on our memory.
const PAGES: usize = 10_000;

/// Where a walk over pages is.
pub(super) struct Pages<'a> {
    client: &'a Client,
    next: Option<String>,
    seen: HashSet<String>,
    accept: Option<&'static str>,
    scope: Scope,
}

impl<'a> Pages<'a> {
    /// A walk that begins at `path`.
    pub(super) fn new(client: &'a Client, path: String, accept: Option<&'static str>, scope: Scope) -> Self {
        Self { client, next: Some(path), seen: HashSet::new(), accept, scope }
    }

    /// The next page, or the registry's complaint; `None` at the end.
    pub(super) async fn next<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<Result<(HeaderMap, T), Complaint>>> {
        let Some(path) = self.next.take() else { return Ok(None) };
        if self.seen.len() >= PAGES {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!("{} sends more than {PAGES} pages of one list", self.client.host()),
            ));
        }
        self.seen.insert(path.clone());
        let ask = Ask { accept: self.accept, ..Ask::get(&path, &self.scope) };
        let mut patience = self.client.patience();
        let (headers, body) = match self.client.send_for_body(&ask, PAGE_LIMIT, &mut patience).await? {
            Ok(page) => page,
            Err(complaint) => return Ok(Some(Err(complaint))),
        };
        self.next = headers
            .get_all(header::LINK)
            .iter()
            .filter_map(|value| next_link(value.to_str().ok()?))
            .find_map(|link| same_origin(&path, link))
            // A registry that links a page to itself has no more to say.
            .filter(|next| !self.seen.contains(next));
        let page = serde_json::from_slice(&body).map_err(|error| {
            let start: String = String::from_utf8_lossy(&body[..body.len().min(200)])
                .chars()
                .map(|c| if c.is_control() { ' ' } else { c })
                .collect();
            Error::with_source(
                ErrorKind::Invalid,
                format!("{} did not answer with the list asked for, but with {start:?}", self.client.host()),
                error,
            )
        })?;
        Ok(Some(Ok((headers, page))))
    }
}

/// The target of `rel="next"` in a `Link` header; brackets and quotes may be missing (registry.md §2.4).
fn next_link(value: &str) -> Option<&str> {
    let mut rest = value.trim();
    while !rest.is_empty() {
        let (target, after) = if let Some(inside) = rest.strip_prefix('<') {
            inside.split_once('>')?
        } else {
            rest.find(';').map(|at| rest.split_at(at))?
        };
        // Parameters go on to the comma that begins the next link.
        let end = after.find(", <").or_else(|| after.find(",<")).unwrap_or(after.len());
        let (parameters, more) = after.split_at(end);
        let is_next = parameters.split(';').any(|parameter| {
            parameter.split_once('=').is_some_and(|(name, value)| {
                name.trim().eq_ignore_ascii_case("rel")
                    && value.trim().trim_matches('"').split(' ').any(|word| word.eq_ignore_ascii_case("next"))
            })
        });
        if is_next {
            return Some(target.trim());
        }
        rest = more.trim_start_matches([',', ' ']);
    }
    None
}

/// Path and query of `link` as seen from `path`; `None` for one that leads to another place than this API.
/// Only host and scheme are dropped, never followed: registries behind proxies often get theirs wrong.
fn same_origin(path: &str, link: &str) -> Option<String> {
    let base = Url::parse("http://registry.invalid").ok()?.join(path).ok()?;
    let to = base.join(link).ok()?;
    if !to.path().starts_with("/v2/") {
        return None;
    }
    let absolute = to.origin() != base.origin();
    // An absolute link counts only if it means this very list.
    if absolute && to.path() != base.path() {
        return None;
    }
    Some(to.query().map_or_else(|| to.path().to_owned(), |query| format!("{}?{query}", to.path())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_read_as_registries_write_them() {
        for (value, target) in [
            ("</v2/a/tags/list?last=b&n=2>; rel=\"next\"", Some("/v2/a/tags/list?last=b&n=2")),
            ("/v2/_catalog?last=x; rel=next", Some("/v2/_catalog?last=x")),
            ("</first>; rel=\"first\", </next>; title=\"a;b\"; REL=\"last NEXT\"", Some("/next")),
            ("</first>; rel=\"first\"", None),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(next_link(value), target, "{value}");
        }
    }

    #[test]
    fn links_never_lead_to_another_host() {
        let path = "/v2/a/tags/list";
        let to = |link| same_origin(path, link);
        assert_eq!(to("/v2/a/tags/list?last=b").as_deref(), Some("/v2/a/tags/list?last=b"));
        assert_eq!(to("?last=b").as_deref(), Some("/v2/a/tags/list?last=b"));
        assert_eq!(to("https://other/v2/a/tags/list?last=b").as_deref(), Some("/v2/a/tags/list?last=b"));
        assert_eq!(to("https://169.254.169.254/latest"), None);
        assert_eq!(to("https://other/v2/secret/tags/list"), None);
        assert_eq!(to("/admin"), None);
    }
}
