//! A whole registry, or a part of one.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use artifs::artifact::View;
use artifs::mount::Root;
use artifs::oci::{Descriptor, Name, Tag};
use artifs::store::{Blob, ByteStream, Catalog, Direct, Source};
use artifs::{Error, ErrorKind, Result};
use async_trait::async_trait;
use support::seen::names;
use support::store::Store;

use crate::mounted::Mounted;

/// Repositories by path; may refuse to list them.
struct Repositories {
    stores: HashMap<&'static str, Arc<Store>>,
    lists: bool,
}

#[async_trait]
impl Catalog for Repositories {
    async fn repositories(&self) -> Result<Vec<String>> {
        if !self.lists {
            return Err(Error::new(ErrorKind::Unsupported, "this registry lists nothing"));
        }
        Ok(self.stores.keys().map(|path| (*path).to_owned()).filter(|path| path != "secret/one").collect())
    }

    fn repository(&self, path: &str) -> Result<Arc<dyn Source>> {
        match self.stores.get(path) {
            Some(store) => Ok(store.clone()),
            None => Ok(Arc::new(Missing)),
        }
    }
}

/// A repository that is not there.
struct Missing;

#[async_trait]
impl Source for Missing {
    async fn resolve(&self, _: &Name) -> Result<Descriptor> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    async fn fetch(&self, _: &Descriptor, _: Range<u64>) -> Result<ByteStream> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    fn open(self: Arc<Self>, blob: &Descriptor) -> Result<Arc<dyn Blob>> {
        Ok(Arc::new(Direct::new(self, blob)))
    }

    async fn tags(&self) -> Result<Vec<Tag>> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }

    async fn referrers(&self, _: &Descriptor, _: Option<&str>) -> Result<Vec<Descriptor>> {
        Err(Error::new(ErrorKind::NotFound, "no such repository"))
    }
}

async fn catalog(lists: bool) -> Arc<Repositories> {
    let mut stores = HashMap::new();
    for path in ["team/model", "team/model/small", "tools", "secret/one"] {
        let store = Store::new();
        store.artifact("v1", &[("name.txt", path.as_bytes())]).await;
        stores.insert(path, store);
    }
    stores["team/model"].artifact("small", &[("name.txt", b"the tag")]).await;
    Arc::new(Repositories { stores, lists })
}

async fn mount_catalog(catalog: &Arc<Repositories>, namespace: Option<&str>) -> Mounted {
    let root = Root::Catalog {
        catalog: catalog.clone(),
        namespace: namespace.map(Into::into),
        view: View::default(),
    };
    Mounted::new(root, |options| options.reference = "test.example".into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_is_folders_of_repositories_with_tags_inside() {
    let mounted = mount_catalog(&catalog(true).await, None).await;
    let read = |path: &str| std::fs::read_to_string(mounted.path(path)).unwrap();
    assert_eq!(names(&mounted.at), ["team", "tools"]);
    assert_eq!(names(&mounted.path("team")), ["model"]);
    assert_eq!(names(&mounted.path("team/model")), [":small", "small", "v1"]);
    assert_eq!(read("team/model/v1/name.txt"), "team/model");
    assert_eq!(read("team/model/small/v1/name.txt"), "team/model/small", "the repository wins");
    assert_eq!(read("team/model/:small/name.txt"), "the tag");
    assert_eq!(read("tools/v1/name.txt"), "tools");
    assert_eq!(read("tools/v1/.oci/ref").trim_end(), "test.example/tools:v1");
    for missing in ["nothing", "team/nothing", "team/model/v9", ".hidden", "Upper"] {
        assert!(!std::fs::exists(mounted.path(missing)).unwrap(), "{missing}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_is_the_part_of_a_registry_below_it() {
    let mounted = mount_catalog(&catalog(true).await, Some("team")).await;
    assert_eq!(names(&mounted.at), ["model"]);
    assert_eq!(std::fs::read(mounted.path("model/small/v1/name.txt")).unwrap(), b"team/model/small");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lists_nothing_can_be_entered_by_name() {
    let mounted = mount_catalog(&catalog(false).await, None).await;
    assert_eq!(names(&mounted.at), [""; 0]);
    assert_eq!(std::fs::read(mounted.path("secret/one/v1/name.txt")).unwrap(), b"secret/one");
    assert_eq!(names(&mounted.path("tools")), ["v1"]);
    assert!(!std::fs::exists(mounted.path("tools/v9")).unwrap());
    assert!(std::fs::read_dir(mounted.path("nothing")).is_err());
}
