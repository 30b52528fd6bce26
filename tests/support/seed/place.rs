//! Where artifacts can be put.

use artifs::oci::Descriptor;
use artifs::store::{Body, Layout, Memory, Target};
use bytes::Bytes;

use super::{fallback_tag, with_referrer};
use crate::content::Content;
use crate::registry::{Referrers, Registry};

/// Something artifacts can be put into. Layouts and memories are one repository, whatever it is called.
pub trait Destination {
    /// Puts a blob.
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content);
    /// Puts a manifest, under a tag or under its digest alone.
    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>);
}

/// Directly, without a request; where there is no Referrers API, with the fallback tag.
impl Destination for Registry {
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content) {
        self.corrupt_blob(repository, &descriptor.digest, content.clone());
    }

    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        self.put_manifest(repository, &descriptor.media_type, bytes.clone(), tag);
        if self.behaviour().referrers == Referrers::Api {
            return;
        }
        if let Some(tag) = fallback_tag(descriptor, bytes) {
            let list = with_referrer(self.manifest_at(repository, &tag).as_ref(), descriptor, bytes);
            self.put_manifest(repository, artifs::oci::media_type::IMAGE_INDEX, list, Some(&tag));
        }
    }
}

impl Destination for Layout {
    fn blob(&self, _: &str, descriptor: &Descriptor, content: &Content) {
        push(self, descriptor, content, None);
    }

    fn manifest(&self, _: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        push(self, descriptor, &bytes.clone().into(), tag);
    }
}

impl Destination for Memory {
    fn blob(&self, _: &str, descriptor: &Descriptor, content: &Content) {
        push(self, descriptor, content, None);
    }

    fn manifest(&self, _: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        push(self, descriptor, &bytes.clone().into(), tag);
    }
}

/// Large content goes by way of a file: a store that kept it in memory would be no help to a test.
fn push(target: &dyn Target, descriptor: &Descriptor, content: &Content, tag: Option<&str>) {
    let file = matches!(content, Content::Big(_)).then(|| {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        let mut at = 0;
        while at < content.size() {
            let piece = content.read(at..at + (1 << 20));
            std::io::Write::write_all(&mut file, &piece).expect("room for a file");
            at += piece.len() as u64;
        }
        file
    });
    let body = file.as_ref().map_or_else(
        || Body::Bytes(content.read(0..content.size())),
        |file| Body::File(file.path().to_owned()),
    );
    wait(async {
        target.push(descriptor, &body).await.expect("it takes content");
        if let Some(tag) = tag {
            let tag = artifs::oci::Tag::of_layout(tag).expect("a tag");
            target.tag(descriptor, &tag).await.expect("it takes a tag");
        }
    });
}

/// Waits for `work` from anywhere, also from within a test's own runtime.
fn wait(work: impl Future<Output = ()> + Send) {
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(work);
        });
        waiter.join().expect("it works");
    });
}
