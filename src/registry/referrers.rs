//! Manifests about a manifest: the referrers API, and the tag that stands in for it.

use std::collections::HashSet;

use super::http::{HeaderMap, StatusCode, header};
use super::manifests::Shelf;
use super::paging::Pages;
use crate::error::{Context as _, ErrorKind, Result};
use crate::oci::{Descriptor, Digest, Manifest, Name, Tag, media_type};
use crate::store::MANIFEST_LIMIT;

/// Descriptors of the stand-in tag that lack a type are looked up; a hostile list must not make us ask forever.
const MOST_LOOKED_UP: usize = 256;

impl Shelf {
    /// What both ways of listing know, each once: what was pushed while a registry had no API stays in the tag only.
    pub(super) async fn referrers(
        &self,
        subject: &Descriptor,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let doing = || format!("list the referrers of {}@{}", self.name(), subject.digest);
        let mut all = self.listed_by_api(&subject.digest, artifact_type).await.doing(doing)?;
        all.extend(self.listed_by_tag(&subject.digest).await.doing(doing)?);
        let mut seen = HashSet::new();
        all.retain(|referrer| {
            seen.insert(referrer.digest.clone())
                && artifact_type.is_none_or(|wanted| referrer.artifact_type.as_deref() == Some(wanted))
        });
        Ok(all)
    }

    /// Whether the registry itself knows who refers to whom; asked once.
    pub(super) async fn has_referrers_api(&self, subject: &Digest) -> Result<bool> {
        let ability = &self.client().profile.referrers;
        if ability.known().is_none() {
            self.listed_by_api(subject, None).await?;
        }
        Ok(ability.known() == Some(true))
    }

    async fn listed_by_api(&self, subject: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>> {
        let ability = &self.client().profile.referrers;
        if ability.known() == Some(false) {
            return Ok(Vec::new());
        }
        let mut path = self.path(&format!("referrers/{subject}"));
        if let Some(wanted) = artifact_type {
            let wanted: String = url::form_urlencoded::byte_serialize(wanted.as_bytes()).collect();
            path = format!("{path}?artifactType={wanted}");
        }
        let mut pages = Pages::new(self.client(), path, Some(media_type::IMAGE_INDEX), self.scope().clone());
        let mut referrers = Vec::new();
        loop {
            let (headers, page) = match pages.next::<serde_json::Value>().await {
                Ok(Some(Ok(page))) => page,
                Ok(None) => return Ok(referrers),
                // 400 and 406 are how older Artifactory and Nexus say that there is no such API (registry.md §3.2).
                Ok(Some(Err(complaint)))
                    if matches!(complaint.status.as_u16(), 400 | 404 | 405 | 406 | 501) =>
                {
                    let repository_unknown =
                        complaint.status == StatusCode::NOT_FOUND && complaint.has_code("NAME_UNKNOWN");
                    if !repository_unknown && ability.known().is_none() {
                        ability.seen(false);
                    }
                    return Ok(referrers);
                }
                Ok(Some(Err(complaint))) => return Err(self.client().advise(complaint)),
                // 200 with a page of HTML: a registry that answers so to everything it does not know.
                Err(error) if error.kind() == ErrorKind::Invalid && ability.known().is_none() => {
                    ability.seen(false);
                    return Ok(referrers);
                }
                Err(error) => return Err(error),
            };
            let listed = page
                .get("manifests")
                .map(|list| serde_json::from_value::<Option<Vec<Descriptor>>>(list.clone()));
            match listed {
                Some(Ok(list)) if is_index(&headers) => {
                    ability.seen(true);
                    referrers.extend(list.unwrap_or_default());
                }
                _ => {
                    if ability.known().is_none() {
                        ability.seen(false);
                    }
                    return Ok(referrers);
                }
            }
        }
    }

    async fn listed_by_tag(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let Ok(tag) = fallback_tag(subject).parse::<Tag>() else { return Ok(Vec::new()) };
        let (descriptor, body) = match self.manifest(&Name::Tag(tag), MANIFEST_LIMIT).await {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let Ok(Manifest::Index(index)) = Manifest::parse(body, Some(&descriptor.media_type)) else {
            return Ok(Vec::new());
        };
        let mut referrers = index.manifests;
        let bare = referrers.iter_mut().filter(|referrer| referrer.artifact_type.is_none());
        for referrer in bare.take(MOST_LOOKED_UP) {
            self.complete(referrer).await?;
        }
        Ok(referrers)
    }

    /// Some writers of the stand-in tag leave out artifact types and annotations (registry.md §3.1).
    async fn complete(&self, referrer: &mut Descriptor) -> Result<()> {
        let name = Name::Digest(referrer.digest.clone());
        let (descriptor, body) = match self.manifest(&name, MANIFEST_LIMIT).await {
            Ok(found) => found,
            Err(error) if error.is_retryable() => return Err(error),
            // A list may name what was deleted since; that it was there is all there is to say.
            Err(_) => return Ok(()),
        };
        if let Ok(manifest) = Manifest::parse(body, Some(&descriptor.media_type)) {
            referrer.artifact_type = manifest.artifact_type().map(str::to_owned);
            for (key, value) in manifest.annotations() {
                referrer.annotations.entry(key.clone()).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }
}

fn is_index(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|told| media_type::same(told, media_type::IMAGE_INDEX))
}

/// `algorithm-encoded`, cut to 32 and 64 characters, what no tag may hold replaced (distribution-spec, "Referrers Tag Schema").
pub(super) fn fallback_tag(subject: &Digest) -> String {
    let algorithm: String = subject.algorithm().chars().take(32).collect();
    let encoded: String = subject.encoded().chars().take(64).collect();
    format!("{algorithm}-{encoded}")
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fallback_tags_are_cut_to_what_a_tag_may_be() {
        let sha512: Digest = format!("sha512:{}", "ab".repeat(64)).parse().unwrap();
        assert_eq!(fallback_tag(&sha512), format!("sha512-{}", "ab".repeat(32)));
        let odd: Digest = "a+b:x=y".parse().unwrap();
        assert_eq!(fallback_tag(&odd), "a-b-x-y");
    }
}
