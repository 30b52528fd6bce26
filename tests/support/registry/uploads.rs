//! The side things are pushed to, as strict as the strictest registries and as odd as the oddest.

use artifs::oci::{Descriptor, Digest, Manifest, media_type};

use super::answer::{Asked, Reply, query};
use super::record::Endpoint;
use super::{Referrers, lock};

/// How uploads are taken.
#[derive(Clone, Debug, Default)]
pub struct Uploads {
    /// Larger request bodies are 413.
    pub largest: Option<u64>,
    /// And their connection is closed while they are still on their way.
    pub slams: bool,
    /// Said as OCI-Chunk-Min-Length; smaller chunks but the last are 400.
    pub smallest_chunk: Option<u64>,
    /// GHCR: larger chunks are 416.
    pub largest_chunk: Option<u64>,
    /// GAR: chunks are 405.
    pub no_chunks: bool,
    /// ECR: a chunk is answered 201, and its Range stays that of the first.
    pub created: bool,
    /// Quay and Gitea: what has arrived is said one too high.
    pub off_by_one: bool,
    /// Zot: an upload that broke off is gone.
    pub forgets: bool,
    /// Distribution: the address says how much there is, and is refused when it is stale.
    pub state: bool,
    /// Where an upload goes on; `{}` is the path.
    pub location: Option<String>,
    /// Blobs of other repositories are not taken from there: 202, and an upload begins.
    pub no_mounts: bool,
    /// A tag that is there stays where it is: this status and code.
    pub immutable: Option<(u16, &'static str)>,
    /// A manifest whose blobs are not there is refused.
    pub checks: bool,
}

impl Asked<'_> {
    /// `PUT /v2/<repository>/manifests/<name>`.
    pub(super) fn put_manifest(&self, repository: &str, name: &str) -> Reply {
        let kind = self.record.header("content-type").unwrap_or(media_type::IMAGE_MANIFEST).to_owned();
        let digest = Digest::of(self.body);
        let subject = Manifest::parse(self.body.clone(), Some(&kind))
            .ok()
            .and_then(|manifest| manifest.subject().map(|subject| subject.digest.clone()));
        let mut repositories = lock(&self.state.repositories);
        let stored = repositories.entry(repository.to_owned()).or_default();
        if let Some((status, code)) = self.behaviour.uploads.immutable
            && stored.tags.contains_key(name)
        {
            return Reply::error(status, code);
        }
        let missing = Manifest::parse(self.body.clone(), Some(&kind)).is_ok_and(|manifest| {
            let has = |part: &Descriptor| {
                stored.blobs.contains_key(&part.digest) || stored.manifests.contains_key(&part.digest)
            };
            !manifest.successors().into_iter().all(has)
        });
        if missing && self.behaviour.uploads.checks {
            return Reply::error(400, "MANIFEST_BLOB_UNKNOWN");
        }
        stored.manifests.insert(digest.clone(), (kind, self.body.clone()));
        if !name.contains(':') {
            stored.tags.insert(name.to_owned(), digest.clone());
        }
        let reply = Reply::new(201, "")
            .with("location", format!("/v2/{repository}/manifests/{digest}"))
            .with("docker-content-digest", digest.as_str());
        match subject {
            Some(subject) if self.behaviour.referrers == Referrers::Api => {
                reply.with("oci-subject", subject.as_str())
            }
            _ => reply,
        }
    }

    /// `DELETE` of a tag, manifest or blob.
    pub(super) fn delete(&self, repository: &str, name: &str) -> Reply {
        let mut repositories = lock(&self.state.repositories);
        let Some(stored) = repositories.get_mut(repository) else { return Reply::error(404, "NAME_UNKNOWN") };
        let found = match name.parse::<Digest>() {
            Err(_) => stored.tags.remove(name).is_some(),
            Ok(digest) if self.record.endpoint == Endpoint::Manifest => {
                stored.tags.retain(|_, target| *target != digest);
                stored.manifests.remove(&digest).is_some()
            }
            Ok(digest) => stored.blobs.remove(&digest).is_some(),
        };
        if found { Reply::new(202, "") } else { Reply::error(404, "MANIFEST_UNKNOWN") }
    }

    /// Everything at `/v2/<repository>/blobs/uploads/…`.
    pub(super) fn upload(&self, repository: &str) -> Reply {
        let how = &self.behaviour.uploads;
        let mut repositories = lock(&self.state.repositories);
        if let (Some(digest), Some(from)) = (query(self.record, "mount"), query(self.record, "from"))
            && !how.no_mounts
            && let Ok(digest) = digest.parse::<Digest>()
            && let Some(content) =
                repositories.get(&from).and_then(|stored| stored.blobs.get(&digest)).cloned()
        {
            repositories.entry(repository.to_owned()).or_default().blobs.insert(digest.clone(), content);
            return Reply::new(201, "").with("location", format!("/v2/{repository}/blobs/{digest}"));
        }
        let stored = repositories.entry(repository.to_owned()).or_default();
        if self.record.method == "POST" {
            stored.begun += 1;
            let number = stored.begun;
            stored.uploads.insert(number, Vec::new());
            let reply = Reply::new(202, "").with("location", self.address(repository, number, 0));
            return match how.smallest_chunk {
                Some(smallest) => reply.with("oci-chunk-min-length", smallest.to_string()),
                None => reply,
            };
        }
        let number = self.record.path.rsplit('/').next().and_then(|number| number.parse::<u64>().ok());
        let Some((number, upload)) =
            number.and_then(|number| Some((number, stored.uploads.get_mut(&number)?)))
        else {
            return Reply::error(404, "BLOB_UPLOAD_UNKNOWN");
        };
        let length = self.body.len() as u64;
        let announced = self.record.header("content-length").and_then(|text| text.parse::<u64>().ok());
        if how.largest.is_some_and(|largest| announced.unwrap_or(length) > largest) {
            return Reply::new(413, "<html>413 Request Entity Too Large</html>")
                .with("content-type", "text/html");
        }
        let at = upload.len() as u64;
        if how.state
            && self.record.method != "GET"
            && query(self.record, "_state") != Some(format!("{at}/+="))
        {
            return Reply::error(416, "RANGE_INVALID");
        }
        let said = |arrived: u64| {
            let last = if how.off_by_one { arrived } else { arrived.saturating_sub(1) };
            format!("0-{last}")
        };
        match self.record.method.as_str() {
            "GET" => {
                let reply = Reply::new(204, "").with("range", said(at));
                return reply.with("location", self.address(repository, number, at));
            }
            "PATCH" => {
                let range = self.record.header("content-range").unwrap_or_default();
                let first = range.split('-').next().and_then(|first| first.parse::<u64>().ok());
                if how.no_chunks {
                    return Reply::error(405, "UNSUPPORTED");
                }
                if first != Some(at) || how.largest_chunk.is_some_and(|largest| length > largest) {
                    return Reply::error(416, "RANGE_INVALID");
                }
                // A last chunk may be smaller; only a larger one after it shows which was the last.
                if how.smallest_chunk.is_some_and(|smallest| at > 0 && at % smallest != 0) {
                    return Reply::error(400, "SIZE_INVALID");
                }
                upload.extend_from_slice(self.body);
                if how.forgets && announced != Some(length) {
                    stored.uploads.remove(&number);
                    return Reply::error(500, "UNKNOWN");
                }
                let arrived = upload.len() as u64;
                let status = if how.created { 201 } else { 202 };
                let reply =
                    Reply::new(status, "").with("location", self.address(repository, number, arrived));
                return reply.with("range", if how.created { "0-0".into() } else { said(arrived) });
            }
            _ => upload.extend_from_slice(self.body),
        }
        let bytes = stored.uploads.remove(&number).unwrap_or_default();
        let digest = query(self.record, "digest").and_then(|digest| digest.parse::<Digest>().ok());
        let Some(digest) = digest.filter(|digest| digest.matches(&bytes)) else {
            return Reply::error(400, "DIGEST_INVALID");
        };
        stored.blobs.insert(digest.clone(), bytes.into());
        Reply::new(201, "").with("location", format!("/v2/{repository}/blobs/{digest}"))
    }

    fn address(&self, repository: &str, number: u64, at: u64) -> String {
        let how = &self.behaviour.uploads;
        let path = format!("/v2/{repository}/blobs/uploads/{number}");
        let path = match &how.location {
            Some(location) => location.replace("{}", &path).replace("{number}", &number.to_string()),
            None => path,
        };
        // Characters that whoever writes the query anew would write otherwise.
        if how.state { format!("{path}?_state={at}%2F%2B%3D") } else { path }
    }
}
