//! Lists of tags and of repositories.

use serde::Deserialize;
use url::form_urlencoded;

use super::auth::Scope;
use super::client::Client;
use super::http::StatusCode;
use super::manifests::Shelf;
use super::paging::Pages;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::Tag;

#[derive(Deserialize)]
struct TagPage {
    /// `null` for an empty repository, at some registries.
    tags: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct CatalogPage {
    repositories: Option<Vec<String>>,
}

/// No `n` is sent: some registries refuse large ones, and what they think best is good enough (registry.md §2.4).
fn after(path: String, last: Option<&str>) -> String {
    match last {
        Some(last) => {
            let last: String = form_urlencoded::byte_serialize(last.as_bytes()).collect();
            format!("{path}?last={last}")
        }
        None => path,
    }
}

impl Shelf {
    /// The tags after `last`, in the registry's order, each once.
    pub(super) async fn tags(&self, last: Option<&str>) -> Result<Vec<Tag>> {
        self.tag_pages(last).await.doing(|| format!("list the tags of {}", self.name()))
    }

    async fn tag_pages(&self, last: Option<&str>) -> Result<Vec<Tag>> {
        let mut pages =
            Pages::new(self.client(), after(self.path("tags/list"), last), None, self.scope().clone());
        let mut tags = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some(page) = pages.next::<TagPage>().await? {
            let (_, page) = page.map_err(|complaint| self.client().advise(complaint))?;
            let before = tags.len();
            for text in page.tags.unwrap_or_default() {
                // What cannot be a tag cannot be asked for either.
                if let Ok(tag) = text.parse::<Tag>()
                    && seen.insert(text)
                {
                    tags.push(tag);
                }
            }
            if tags.len() == before {
                break;
            }
        }
        Ok(tags)
    }
}

/// The repositories after `last`, in the registry's order, each once.
pub(super) async fn repositories(client: &Client, last: Option<&str>) -> Result<Vec<String>> {
    let listed = catalog(client, last).await.map_err(|error| match error.kind() {
        // Public registries refuse everybody here: they list nothing, whoever asks.
        ErrorKind::Unauthorized => Error::with_source(ErrorKind::Denied, "not allowed", error),
        _ => error,
    });
    listed.doing(|| format!("list the repositories of {}", client.host()))
}

async fn catalog(client: &Client, last: Option<&str>) -> Result<Vec<String>> {
    let mut pages = Pages::new(client, after("/v2/_catalog".into(), last), None, Scope::Catalog);
    let mut repositories = Vec::new();
    let mut seen = std::collections::HashSet::new();
    while let Some(page) = pages.next::<CatalogPage>().await? {
        let page = match page {
            Ok((_, page)) => page,
            Err(complaint)
                if matches!(complaint.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED) =>
            {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    format!("{} does not list its repositories", client.host()),
                ));
            }
            Err(complaint) => return Err(client.advise(complaint)),
        };
        let before = repositories.len();
        for path in page.repositories.unwrap_or_default() {
            if seen.insert(path.clone()) {
                repositories.push(path);
            }
        }
        if repositories.len() == before {
            break;
        }
    }
    Ok(repositories)
}
