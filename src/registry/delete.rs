//! Taking things out of a repository, where the registry allows it.

use super::auth::Scope;
use super::client::Ask;
use super::http::Method;
use super::manifests::Shelf;
use super::wire_error::Complaint;
use crate::error::{Context as _, Error, ErrorKind, Result};
use crate::oci::{Descriptor, Manifest, Name, Tag};
use crate::store::MANIFEST_LIMIT;

impl Shelf {
    /// Takes a tag away; the manifest stays.
    pub(super) async fn delete_tag(&self, tag: &Tag) -> Result<()> {
        let name = Name::Tag(tag.clone());
        self.delete(&format!("manifests/{name}"), &name).await
    }

    /// Deletes a manifest or a blob.
    pub(super) async fn delete_content(&self, what: &Descriptor) -> Result<()> {
        let name = Name::Digest(what.digest.clone());
        if !what.is_manifest() {
            return self.delete(&format!("blobs/{name}"), &name).await;
        }
        let (found, bytes) = self.manifest(&name, MANIFEST_LIMIT).await?;
        self.delete(&format!("manifests/{name}"), &name).await?;
        self.forget(&what.digest);
        let parsed = Manifest::parse(bytes, Some(&found.media_type)).ok();
        if let Some(subject) = parsed.as_ref().and_then(Manifest::subject) {
            self.unlist_referrer(&subject.digest, &what.digest)
                .await
                .doing(|| format!("take {} off the referrers of {}", what.digest, subject.digest))?;
        }
        Ok(())
    }

    async fn delete(&self, path: &str, name: &Name) -> Result<()> {
        let path = self.path(path);
        let scope = Scope::Delete(self.name().path.as_str().into());
        let mut patience = self.client().patience();
        let ask = Ask { method: Method::DELETE, ..Ask::get(&path, &scope) };
        let doing = || format!("delete {}", self.full_name(name));
        let answer = self.client().send(&ask, &mut patience).await.doing(doing)?;
        if matches!(answer.status().as_u16(), 200 | 202 | 204) {
            return Ok(());
        }
        let complaint = Complaint::read(answer, &mut patience).await;
        // Distribution 2 reads every name as a digest here.
        let unsupported = matches!(complaint.status.as_u16(), 405 | 501)
            || complaint.has_code("UNSUPPORTED")
            || matches!(name, Name::Tag(_)) && complaint.has_code("DIGEST_INVALID");
        let host = &self.name().host;
        let error = self.client().advise(complaint);
        if unsupported {
            let why = format!(
                "{}: {host} does not delete {} (some registries do after their administrator allowed it)",
                doing(),
                if matches!(name, Name::Tag(_)) { "tags" } else { "this" }
            );
            return Err(Error::with_source(ErrorKind::Unsupported, why, error));
        }
        Err(error.context(doing()))
    }
}
