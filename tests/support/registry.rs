//! A registry in the test's own process that records every request and misbehaves on request.
//!
//! It serves what was put into it (or pushed by HTTP): manifests, blobs with ranges, tags, the catalog and
//! referrers. [`Behaviour`] is how it is made; [`Registry::fault`] is what goes wrong with single requests.

mod answer;
mod auth;
mod body;
mod faults;
mod record;
mod server;
mod uploads;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use artifs::oci::reference::Host;
use artifs::oci::{Descriptor, Digest};
use bytes::Bytes;

pub use self::auth::Auth;
use self::auth::Tokens;
pub use self::faults::{End, Fault, On};
pub use self::record::{Endpoint, Request};
use self::server::Command;
pub use self::uploads::Uploads;
use crate::content::Content;

/// How a registry is made, apart from single faults.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Who may read; `None` is everybody.
    pub auth: Option<Auth>,
    /// Where blobs come from; `None` is the registry itself.
    pub redirect: Option<Redirect>,
    /// Whether referrers have an API.
    pub referrers: Referrers,
    /// Whether `?artifactType=` is obeyed (and said so).
    pub filters: bool,
    /// At most so many tags, repositories or referrers at once.
    pub page: Option<usize>,
    /// How the next page is pointed at.
    pub links: Links,
    /// `"tags": null` in place of an empty or any list.
    pub null_tags: bool,
    /// Artifactory: a range whose end lies beyond the blob is 416 rather than cut.
    pub strict_end: bool,
    /// HEAD of manifests is answered 405.
    pub no_head: bool,
    /// Requests for the catalog are refused.
    pub no_catalog: bool,
    /// Waits before every answer: a network that is far away.
    pub latency: Duration,
    /// At most so many body bytes a second, for each answer.
    pub bandwidth: Option<u64>,
    /// What becomes of what is pushed.
    pub uploads: Uploads,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            auth: None,
            redirect: None,
            referrers: Referrers::Api,
            filters: true,
            page: None,
            links: Links::Proper,
            null_tags: false,
            strict_end: false,
            no_head: false,
            no_catalog: false,
            latency: Duration::ZERO,
            bandwidth: None,
            uploads: Uploads::default(),
        }
    }
}

/// Blobs are at a second host (another port), by signed URLs. It refuses any Authorization (400, as S3),
/// the wrong method (403) and what has expired (`expired`).
#[derive(Clone, Debug)]
pub struct Redirect {
    /// 307, or 302.
    pub status: u16,
    /// A URL works so many times.
    pub uses: Option<u32>,
    /// A URL works so long.
    pub life: Option<Duration>,
    /// What an expired URL is answered with.
    pub expired: u16,
    /// HEAD is redirected too, to a URL signed for GET.
    pub head: bool,
}

impl Default for Redirect {
    fn default() -> Self {
        Self { status: 307, uses: None, life: None, expired: 403, head: false }
    }
}

/// What `/referrers/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Referrers {
    /// As the specification says.
    Api,
    /// 404: the fallback tag is the only way.
    Missing,
    /// 200 with a page of HTML.
    Html,
}

/// How a next page is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// `</v2/…?last=x&n=2>; rel="next"`.
    Proper,
    /// With scheme and host.
    Absolute,
    /// Without `<>` and quotes.
    Bare,
    /// Always to the first page.
    Loop,
    /// To another host.
    Elsewhere,
}

/// A running registry. Dropping it ends it.
pub struct Registry {
    state: Arc<State>,
    commands: tokio::sync::mpsc::UnboundedSender<(Command, mpsc::Sender<()>)>,
    thread: Option<JoinHandle<()>>,
}

/// What the server and the handle share.
pub(crate) struct State {
    address: SocketAddr,
    storage: SocketAddr,
    behaviour: Mutex<Behaviour>,
    faults: Mutex<Vec<(On, Fault)>>,
    repositories: Mutex<BTreeMap<String, Stored>>,
    requests: Mutex<Vec<Request>>,
    tokens: Mutex<Tokens>,
    signed: Mutex<HashMap<u64, Signed>>,
}

#[derive(Default)]
struct Stored {
    blobs: HashMap<Digest, Content>,
    manifests: BTreeMap<Digest, (String, Bytes)>,
    tags: BTreeMap<String, Digest>,
    uploads: HashMap<u64, Vec<u8>>,
    begun: u64,
}

/// A signed URL given out.
struct Signed {
    left: Option<u32>,
    until: Option<Instant>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// A well-behaved registry on a free loopback port.
    pub fn start() -> Self {
        Self::with(|_| ())
    }

    /// A registry made as `behave` says.
    pub fn with(behave: impl FnOnce(&mut Behaviour)) -> Self {
        let mut behaviour = Behaviour::default();
        behave(&mut behaviour);
        let (state, commands, thread) = server::start(behaviour);
        Self { state, commands, thread: Some(thread) }
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> Host {
        self.state.address.to_string().parse().expect("an address is a host")
    }

    /// The host that redirects lead to.
    pub fn storage_host(&self) -> Host {
        self.state.storage.to_string().parse().expect("an address is a host")
    }

    /// Changes how it is made, from the next request on.
    pub fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut lock(&self.state.behaviour));
    }

    /// How it is made now.
    pub fn behaviour(&self) -> Behaviour {
        lock(&self.state.behaviour).clone()
    }

    /// Lets `fault` happen to the requests `on` picks, until [`heal`](Self::heal).
    pub fn fault(&self, on: On, fault: Fault) {
        lock(&self.state.faults).push((on, fault));
    }

    /// Ends all faults.
    pub fn heal(&self) {
        lock(&self.state.faults).clear();
    }

    /// Makes every token given out so far invalid.
    pub fn expire_tokens(&self) {
        lock(&self.state.tokens).expire_all();
    }

    /// Makes every signed URL given out so far invalid.
    pub fn expire_urls(&self) {
        for signed in lock(&self.state.signed).values_mut() {
            signed.left = Some(0);
        }
    }

    /// Stops listening (connections are refused) and resets what is open, until [`up`](Self::up).
    pub fn down(&self) {
        self.command(Command::Down);
    }

    /// Listens again, on the same port.
    pub fn up(&self) {
        self.command(Command::Up);
    }

    fn command(&self, command: Command) {
        let (done, wait) = mpsc::channel();
        self.commands.send((command, done)).expect("the server runs");
        wait.recv().expect("the server answers");
    }

    /// Puts a blob in, without a request.
    pub fn put_blob(&self, repository: &str, content: impl Into<Content>) -> Descriptor {
        let content = content.into();
        let descriptor = content.descriptor(artifs::oci::media_type::OCTET_STREAM);
        let mut repositories = lock(&self.state.repositories);
        let stored = repositories.entry(repository.to_owned()).or_default();
        stored.blobs.insert(descriptor.digest.clone(), content);
        descriptor
    }

    /// Puts a manifest in, without a request and without looking at it.
    pub fn put_manifest(
        &self,
        repository: &str,
        media_type: &str,
        bytes: impl Into<Bytes>,
        tag: Option<&str>,
    ) -> Descriptor {
        let bytes = bytes.into();
        let descriptor = Descriptor::of(media_type, &bytes);
        let mut repositories = lock(&self.state.repositories);
        let stored = repositories.entry(repository.to_owned()).or_default();
        stored.manifests.insert(descriptor.digest.clone(), (media_type.to_owned(), bytes));
        if let Some(tag) = tag {
            stored.tags.insert(tag.to_owned(), descriptor.digest.clone());
        }
        descriptor
    }

    /// Whether a blob is in.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        lock(&self.state.repositories).get(repository).is_some_and(|stored| stored.blobs.contains_key(digest))
    }

    /// Forgets every upload that is not finished.
    pub fn lose_uploads(&self) {
        for stored in lock(&self.state.repositories).values_mut() {
            stored.uploads.clear();
        }
    }

    /// The bytes of the manifest under a tag.
    pub fn manifest_at(&self, repository: &str, tag: &str) -> Option<Bytes> {
        let repositories = lock(&self.state.repositories);
        let stored = repositories.get(repository)?;
        stored.manifests.get(stored.tags.get(tag)?).map(|(_, bytes)| bytes.clone())
    }

    /// The bytes of every manifest in a repository, with or without a tag.
    pub fn manifests(&self, repository: &str) -> Vec<Bytes> {
        let repositories = lock(&self.state.repositories);
        let stored = repositories.get(repository).into_iter().flat_map(|stored| stored.manifests.values());
        stored.map(|(_, bytes)| bytes.clone()).collect()
    }

    /// Replaces what is served under a digest, whatever it hashes to.
    pub fn corrupt_blob(&self, repository: &str, digest: &Digest, content: impl Into<Content>) {
        let mut repositories = lock(&self.state.repositories);
        let stored = repositories.entry(repository.to_owned()).or_default();
        stored.blobs.insert(digest.clone(), content.into());
    }

    /// Removes a blob or manifest, and the tags of the latter.
    pub fn delete(&self, repository: &str, digest: &Digest) {
        if let Some(stored) = lock(&self.state.repositories).get_mut(repository) {
            stored.blobs.remove(digest);
            stored.manifests.remove(digest);
            stored.tags.retain(|_, target| target != digest);
        }
    }

    /// Every request so far, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.state.requests).clone()
    }

    /// Starts the record anew.
    pub fn forget_requests(&self) {
        lock(&self.state.requests).clear();
    }

    /// How many requests were of this kind.
    pub fn count(&self, which: impl Fn(&Request) -> bool) -> usize {
        lock(&self.state.requests).iter().filter(|request| which(request)).count()
    }

    /// How many bytes of blobs were handed to connections, from wherever they came.
    pub fn blob_bytes(&self) -> u64 {
        lock(&self.state.requests)
            .iter()
            .filter(|request| request.is_for_blob_bytes())
            .map(Request::sent)
            .sum()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let (done, _wait) = mpsc::channel();
        let _ = self.commands.send((Command::End, done));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
