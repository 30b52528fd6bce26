//! What lies above the artifacts: a repository as a folder of tags, a registry as folders of repositories.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::follow::{FOLLOWED, Named, Slot, Slots};
use crate::artifact::View;
use crate::artifact::tree::{Attributes, Entries, FileName, Folder, Node, stable_id};
use crate::error::{Error, ErrorKind, Result};
use crate::oci::{Name, Repository, Tag};
use crate::store::{Catalog, Source};

/// How old a list of tags or repositories may be: new tags show up while somebody looks, and `ls` in a loop
/// does not become a request in a loop.
pub(super) const LIFETIME: Duration = Duration::from_secs(5);

/// A repository: its tags, and the repositories below it.
pub(super) struct Place {
    id: u64,
    /// The path in the registry; empty for the registry itself.
    path: String,
    /// Nothing above the repositories has tags.
    tags: Option<Tags>,
    /// Nothing is nested in a repository that is mounted by itself.
    nested: Option<Arc<Repositories>>,
}

/// All repositories of a registry.
pub(super) struct Repositories {
    catalog: Arc<dyn Catalog>,
    host: String,
    view: View,
    slots: Arc<Slots>,
    listed: Fresh<Listed>,
    places: Mutex<HashMap<String, Arc<Place>>>,
}

/// What the registry says there is.
struct Listed {
    paths: BTreeSet<String>,
    /// Many registries list nothing; then any path that is typed may be one.
    whole: bool,
}

/// The tags of a repository.
struct Tags {
    source: Arc<dyn Source>,
    /// `host/repository`.
    base: String,
    view: View,
    slots: Arc<Slots>,
    listed: Fresh<Vec<Tag>>,
    entered: Mutex<HashMap<Name, Arc<Slot>>>,
}

impl Place {
    /// One repository as the root of a mount. `base` is how references to it begin.
    pub(super) fn repository(source: Arc<dyn Source>, base: &str, view: View, slots: Arc<Slots>) -> Self {
        let id = stable_id(&[b"repository", base.as_bytes()]);
        Self { id, path: base.to_owned(), tags: Some(Tags::new(source, base, view, slots)), nested: None }
    }

    /// Asks for the listing, so that a mount nobody could enter fails before it is there.
    pub(super) async fn check(&self) -> Result<()> {
        match (&self.nested, &self.tags) {
            (Some(nested), _) => nested.listed().await.map(drop),
            (None, Some(tags)) => tags.names().await.map(drop),
            (None, None) => Ok(()),
        }
    }

    fn children(&self, listed: &Listed) -> BTreeSet<String> {
        let below = |path: &String| {
            let rest = if self.path.is_empty() {
                path.as_str()
            } else {
                path.strip_prefix(&self.path)?.strip_prefix('/')?
            };
            rest.split('/').next().filter(|first| !first.is_empty()).map(str::to_owned)
        };
        listed.paths.iter().filter_map(below).collect()
    }

    fn child(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}/{name}", self.path) }
    }
}

#[async_trait]
impl Folder for Place {
    fn attributes(&self) -> Attributes {
        Attributes::FOLDER
    }

    fn id(&self) -> u64 {
        self.id
    }

    fn lifetime(&self) -> Duration {
        let followed = self.tags.as_ref().is_some_and(|tags| tags.slots.are_followed());
        if followed { FOLLOWED } else { LIFETIME }
    }

    async fn lookup(&self, name: &[u8]) -> Result<Option<Node>> {
        let Ok(name) = std::str::from_utf8(name) else { return Ok(None) };
        let listed = match &self.nested {
            Some(nested) if !name.starts_with(':') => Some((nested, nested.listed().await?)),
            _ => None,
        };
        if let Some((nested, listed)) = &listed
            && self.children(listed).contains(name)
        {
            return nested.place(&self.child(name)).map(Some);
        }
        if let Some(tags) = &self.tags
            && let Some(node) = tags.find(name.strip_prefix(':').unwrap_or(name)).await?
        {
            return Ok(Some(node));
        }
        match listed {
            Some((nested, listed)) => {
                // Without a list nobody can say what is only on the way to a repository; below a repository
                // that is there, nothing is.
                let may_lead_on =
                    !listed.whole && self.tags.as_ref().is_none_or(|tags| !tags.listed.is_known());
                nested.unlisted(&self.child(name), may_lead_on).await
            }
            None => Ok(None),
        }
    }

    async fn list(&self) -> Result<Arc<Entries>> {
        let mut entries = Entries::new();
        let listed = match &self.nested {
            Some(nested) => Some((nested, nested.listed().await?)),
            None => None,
        };
        let children = listed.as_ref().map(|(_, listed)| self.children(listed)).unwrap_or_default();
        // A folder that is only on the way to repositories has no tags to ask for.
        let only_on_the_way =
            listed.as_ref().is_some_and(|(_, listed)| listed.whole && !listed.paths.contains(&self.path));
        if let Some(tags) = self.tags.as_ref().filter(|_| !only_on_the_way || children.is_empty()) {
            match tags.names().await {
                Ok(names) => {
                    for tag in names.iter().filter(|tag| !tag.is_for_tools()) {
                        let Some(name) = file_name(tag) else { continue };
                        let name =
                            if children.contains(tag.as_str()) { [b":", &name[..]].concat() } else { name };
                        entries.insert(name, tags.node(Name::Tag(tag.clone())));
                    }
                }
                Err(error) if is_absence(&error) && !children.is_empty() => {}
                Err(error) => return Err(error),
            }
        }
        if let Some((nested, _)) = &listed {
            for child in &children {
                entries.insert(child.as_bytes().to_vec(), nested.place(&self.child(child))?);
            }
        }
        Ok(Arc::new(entries))
    }
}

impl Repositories {
    /// A registry, or one namespace of it, as the root of a mount.
    pub(super) fn root(
        catalog: Arc<dyn Catalog>,
        host: &str,
        namespace: Option<&str>,
        view: View,
        slots: Arc<Slots>,
    ) -> Result<Arc<Place>> {
        let nested = Arc::new(Self {
            catalog,
            host: host.to_owned(),
            view,
            slots,
            listed: Fresh::default(),
            places: Mutex::default(),
        });
        match namespace {
            None => Ok(Arc::new(Place {
                id: stable_id(&[b"registry", host.as_bytes()]),
                path: String::new(),
                tags: None,
                nested: Some(nested),
            })),
            Some(path) => nested.make(path),
        }
    }

    async fn listed(&self) -> Result<Arc<Listed>> {
        let ask = async {
            match self.catalog.repositories().await {
                Ok(paths) => Ok(Listed { paths: paths.into_iter().collect(), whole: true }),
                Err(error) if is_absence(&error) => {
                    tracing::debug!(%error, "this registry does not list its repositories");
                    Ok(Listed { paths: BTreeSet::new(), whole: false })
                }
                Err(error) => Err(error),
            }
        };
        self.listed.get(ask).await
    }

    /// The folder of a repository, the same one each time.
    fn place(self: &Arc<Self>, path: &str) -> Result<Node> {
        if let Some(place) = self.known(path) {
            return Ok(Node::Folder(place));
        }
        let made = self.make(path)?;
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = Arc::clone(places.entry(path.to_owned()).or_insert(made));
        Ok(Node::Folder(place))
    }

    fn known(&self, path: &str) -> Option<Arc<Place>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).get(path).cloned()
    }

    fn make(self: &Arc<Self>, path: &str) -> Result<Arc<Place>> {
        let base = format!("{}/{path}", self.host);
        let source = self.catalog.repository(path)?;
        Ok(Arc::new(Place {
            id: stable_id(&[b"repository", base.as_bytes()]),
            path: path.to_owned(),
            tags: Some(Tags::new(source, &base, self.view.clone(), Arc::clone(&self.slots))),
            nested: Some(Arc::clone(self)),
        }))
    }

    /// A path that is not listed: private repositories often are not, and some registries list nothing.
    async fn unlisted(self: &Arc<Self>, path: &str, may_lead_on: bool) -> Result<Option<Node>> {
        if let Some(place) = self.known(path) {
            return Ok(Some(Node::Folder(place)));
        }
        let Ok(host) = self.host.parse() else { return Ok(None) };
        if Repository::new(host, path).is_err() {
            return Ok(None);
        }
        match self.catalog.repository(path)?.tags().await {
            Ok(_) => self.place(path).map(Some),
            Err(error) if is_absence(&error) && may_lead_on => {
                self.make(path).map(|place| Some(Node::Folder(place)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Tags {
    fn new(source: Arc<dyn Source>, base: &str, view: View, slots: Arc<Slots>) -> Self {
        Self {
            source,
            base: base.to_owned(),
            view,
            slots,
            listed: Fresh::default(),
            entered: Mutex::default(),
        }
    }

    async fn names(&self) -> Result<Arc<Vec<Tag>>> {
        self.listed.get(self.source.tags()).await
    }

    /// The artifact called `text`: a digest, a tag that is listed, or one that is not (they are hidden from
    /// lists by some registries, and a list may be seconds old).
    async fn find(&self, text: &str) -> Result<Option<Node>> {
        let name = match text.parse::<Name>() {
            Ok(name) => name,
            Err(_) if text.contains('%') || !text.contains(':') => match tag_of(text) {
                Some(tag) => Name::Tag(tag),
                None => return Ok(None),
            },
            Err(_) => return Ok(None),
        };
        if self.known(&name).is_some() {
            return Ok(Some(self.node(name)));
        }
        if let Name::Tag(tag) = &name {
            match self.names().await {
                Ok(names) if names.contains(tag) => return Ok(Some(self.node(name))),
                Ok(_) => {}
                Err(error) if is_absence(&error) => {}
                Err(error) => return Err(error),
            }
        }
        match self.source.resolve(&name).await {
            Ok(_) => Ok(Some(self.node(name))),
            Err(error) if is_absence(&error) || error.kind() == ErrorKind::Invalid => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn known(&self, name: &Name) -> Option<Arc<Slot>> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// The artifact's folder, to be opened when somebody enters.
    fn node(&self, name: Name) -> Node {
        let mut entered = self.entered.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = entered.entry(name).or_insert_with_key(|name| {
            let separator = if matches!(name, Name::Tag(_)) { ':' } else { '@' };
            self.slots.slot(Named {
                source: Arc::clone(&self.source),
                name: name.clone(),
                reference: format!("{}{separator}{name}", self.base),
                view: self.view.clone(),
            })
        });
        Node::Folder(slot.current())
    }
}

/// Whether an error says "not there, or not for you to see": registries use these for one another.
pub(super) fn is_absence(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NotFound | ErrorKind::Unauthorized | ErrorKind::Denied | ErrorKind::Unsupported
    )
}

/// A tag as a file name. A layout's tag may be any text: `/` and `%` are written as in a URL.
pub(super) fn file_name(tag: &Tag) -> Option<FileName> {
    let name = tag.as_str().replace('%', "%25").replace('/', "%2F");
    let fits = name.len() <= 255 && !name.contains('\0') && name != "." && name != "..";
    fits.then(|| name.into_bytes())
}

/// The tag a file name means.
pub(super) fn tag_of(name: &str) -> Option<Tag> {
    Tag::of_layout(&name.replace("%2F", "/").replace("%25", "%")).ok()
}

/// A value asked for again when it has become old, once however many want it.
pub(super) struct Fresh<T> {
    value: tokio::sync::Mutex<Option<(Instant, Arc<T>)>>,
}

impl<T> Default for Fresh<T> {
    fn default() -> Self {
        Self { value: tokio::sync::Mutex::default() }
    }
}

impl<T> Fresh<T> {
    /// Whether it was ever answered.
    fn is_known(&self) -> bool {
        // Whoever holds the lock is asking: not answered yet, or known to be.
        self.value.try_lock().is_ok_and(|value| value.is_some())
    }

    /// The value, asked for if it is older than [`LIFETIME`]. While the registry is gone or slow, the old one
    /// goes on being served.
    pub(super) async fn get(&self, ask: impl Future<Output = Result<T>>) -> Result<Arc<T>> {
        let mut value = self.value.lock().await;
        let Some((since, old)) = value.clone() else {
            let first = Arc::new(ask.await?);
            *value = Some((Instant::now(), Arc::clone(&first)));
            return Ok(first);
        };
        if since.elapsed() < LIFETIME {
            return Ok(old);
        }
        let fresh = match tokio::time::timeout(LIFETIME, ask).await {
            Ok(Ok(fresh)) => Arc::new(fresh),
            Ok(Err(error)) if !error.is_retryable() && error.kind() != ErrorKind::Offline => {
                return Err(error);
            }
            Ok(Err(_)) | Err(_) => old,
        };
        *value = Some((Instant::now(), Arc::clone(&fresh)));
        Ok(fresh)
    }
}
