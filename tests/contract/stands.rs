//! The stores under test, each filled with the same content.

use std::any::Any;
use std::path::Path;
use std::sync::Arc;

use artifs::cache::{self, Cache};
use artifs::oci::reference::Host;
use artifs::oci::{Descriptor, media_type};
use artifs::registry;
use artifs::store::{Layout, Memory, Source, SourceExt as _, Target};
use support::Big;
use support::registry::{Auth, Links, Redirect, Referrers, Registry};
use support::seed::{Artifact, Destination, Index};
use support::server::Server;

/// The repository everything is in.
const REPOSITORY: &str = "team/app";

/// A filled store, and what must stay alive (and is removed) with it.
pub(crate) struct Stand {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) target: Option<Arc<dyn Target>>,
    pub(crate) filled: Filled,
    alive: Vec<Box<dyn Any + Send + Sync>>,
}

/// What every stand holds.
#[derive(Clone)]
pub(crate) struct Filled {
    /// Tags `v1` and `latest`.
    pub(crate) app: Descriptor,
    /// Tag `multi`: for linux/amd64 and linux/arm64.
    pub(crate) index: Descriptor,
    pub(crate) content: Big,
    pub(crate) big: Descriptor,
    pub(crate) empty: Descriptor,
    /// About `app`: two `a/sig` (annotation `n`), one `a/sbom`, which has an `a/sig` about itself.
    pub(crate) sbom: Descriptor,
}

impl Filled {
    fn fill(to: &impl Destination) -> Self {
        let content = Big::new((5 << 20) + 123, 42);
        let app =
            Artifact::new().file("hello.txt", "hello").file("empty", "").file("d/big.bin", content.clone());
        let app = app.tag("v1").tag("latest");
        let (big, empty) = (app.layers().nth(2).cloned(), app.layers().nth(1).cloned());
        let app = app.push(to, REPOSITORY);
        for number in ["1", "2"] {
            Artifact::new().kind("a/sig").annotation("n", number).about(&app).push(to, REPOSITORY);
        }
        let sbom = Artifact::new().kind("a/sbom").file("s.json", "{}").about(&app).push(to, REPOSITORY);
        Artifact::new().kind("a/sig").annotation("n", "3").about(&sbom).push(to, REPOSITORY);
        let image = |name: &str| Artifact::new().file(name, name);
        let index = Index::new().image("linux/amd64", image("amd")).image("linux/arm64", image("arm"));
        let index = index.tag("multi").push(to, REPOSITORY);
        Self { app, index, content, big: big.unwrap(), empty: empty.unwrap(), sbom }
    }
}

/// A manifest no stand holds.
pub(crate) fn absent() -> Descriptor {
    Descriptor::of(media_type::IMAGE_MANIFEST, b"nobody has this")
}

pub(crate) fn memory() -> Stand {
    let store = Arc::new(Memory::new());
    let filled = Filled::fill(&*store);
    Stand { source: store.clone(), target: Some(store), filled, alive: vec![] }
}

pub(crate) fn layout() -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(Layout::create(folder.path()).unwrap());
    let filled = Filled::fill(&*store);
    Stand { source: store.clone(), target: Some(store), filled, alive: vec![Box::new(folder)] }
}

pub(crate) fn in_process() -> Stand {
    of_registry(Registry::start(), &registry::Settings::default())
}

pub(crate) fn in_process_redirecting() -> Stand {
    let redirect = Redirect { uses: Some(3), head: true, ..Redirect::default() };
    let server = Registry::with(|behaviour| behaviour.redirect = Some(redirect));
    of_registry(server, &registry::Settings::default())
}

pub(crate) fn in_process_paged_and_guarded() -> Stand {
    let server = Registry::with(|behaviour| {
        behaviour.auth = Some(Auth { harbor: true, ..Auth::bearer() });
        behaviour.page = Some(1);
        behaviour.links = Links::Bare;
        behaviour.filters = false;
    });
    let account = Some(("user".to_owned(), "secret".to_owned())).unzip();
    let settings = registry::Settings { username: account.0, password: account.1, ..Default::default() };
    of_registry(server, &settings)
}

pub(crate) fn in_process_with_shy_tokens() -> Stand {
    let server = Registry::with(|behaviour| {
        behaviour.auth = Some(Auth { anonymous: true, refuse_fresh: 1, expires_in: None, ..Auth::bearer() });
        behaviour.no_head = true;
        behaviour.strict_end = true;
    });
    of_registry(server, &registry::Settings::default())
}

pub(crate) fn in_process_without_referrers() -> Stand {
    let server = Registry::with(|behaviour| behaviour.referrers = Referrers::Html);
    of_registry(server, &registry::Settings::default())
}

fn of_registry(server: Registry, settings: &registry::Settings) -> Stand {
    let filled = Filled::fill(&server);
    let store = repository(&server.host(), settings);
    Stand { source: store.clone(), target: Some(store), filled, alive: vec![Box::new(server)] }
}

pub(crate) fn distribution() -> Option<Stand> {
    let server = Server::distribution()?;
    let filled = Filled::fill(&server);
    let store = repository(&server.host(), &registry::Settings::default());
    Some(Stand { source: store.clone(), target: Some(store), filled, alive: vec![Box::new(server)] })
}

pub(crate) fn zot() -> Option<Stand> {
    let server = Server::zot()?;
    let filled = Filled::fill(&server);
    let store = repository(&server.host(), &registry::Settings::default());
    Some(Stand { source: store.clone(), target: Some(store), filled, alive: vec![Box::new(server)] })
}

fn repository(host: &Host, settings: &registry::Settings) -> Arc<registry::Repository> {
    // No credential file of whoever runs the tests.
    let settings = registry::Settings { registry_configs: vec!["/dev/null".into()], ..settings.clone() };
    Arc::new(registry::Registry::new(host, &settings).unwrap().repository(REPOSITORY).unwrap())
}

pub(crate) fn cached_memory() -> Stand {
    cached(memory())
}

pub(crate) fn cached_layout() -> Stand {
    cached(layout())
}

pub(crate) fn cached_in_process() -> Stand {
    cached(in_process())
}

pub(crate) fn cached_distribution() -> Option<Stand> {
    distribution().map(cached)
}

pub(crate) fn cached_zot() -> Option<Stand> {
    zot().map(cached)
}

fn cached(stand: Stand) -> Stand {
    let folder = tempfile::tempdir().unwrap();
    let source: Arc<dyn Source> = open(folder.path()).in_front_of(Some(stand.source), REPOSITORY);
    let mut alive = stand.alive;
    alive.push(Box::new(folder));
    Stand { source, target: None, filled: stand.filled, alive }
}

fn open(folder: &Path) -> Cache {
    Cache::open(&cache::Settings { root: folder.to_owned(), budget: None }).unwrap()
}

/// A cache that has seen all of it, and nothing behind it.
pub(crate) fn offline() -> Stand {
    let stand = cached(memory());
    let online = Arc::clone(&stand.source);
    let filled = stand.filled.clone();
    let everything = async move {
        for name in ["v1", "latest", "multi"] {
            online.fetch_manifest(&name.parse().unwrap()).await.unwrap();
        }
        for blob in [&filled.big, &filled.empty] {
            Arc::clone(&online).open(blob).unwrap().complete().await.unwrap();
        }
    };
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(everything);
    })
    .join()
    .unwrap();
    let folder = stand.alive.iter().find_map(|thing| thing.downcast_ref::<tempfile::TempDir>()).unwrap();
    let source = open(folder.path()).in_front_of(None, REPOSITORY);
    Stand { source, ..stand }
}
