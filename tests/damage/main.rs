//! Damage, as tables: what goes wrong, and what must come of it.
//!
//! Everywhere the same promise: the right bytes or an error within the deadline, never wrong bytes, and once
//! the damage is gone everything reads again.

mod disk;
mod killed;
mod network;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use artifs::cache::{self, Cache};
use artifs::registry;
use artifs::store::Source;
use support::registry::Registry;

/// The repository everything is in.
const REPOSITORY: &str = "team/app";

/// The unit in which the cache fetches and remembers.
const CHUNK: u64 = 256 << 10;

fn cache(folder: &Path) -> Cache {
    Cache::open(&cache::Settings { root: folder.to_owned(), budget: None }).unwrap()
}

/// The server's repository, as a client with little patience and no credential files sees it.
fn client(server: &Registry, deadline: Duration) -> Arc<dyn Source> {
    let settings = registry::Settings {
        registry_configs: vec!["/dev/null".into()],
        plain_http: Some(true),
        deadline,
        username: Some("user".into()),
        password: Some("secret".into()),
        ..Default::default()
    };
    Arc::new(registry::Registry::new(&server.host(), &settings).unwrap().repository(REPOSITORY).unwrap())
}

/// Repeats `look` until it is satisfied. Fails after a time no healthy machine needs.
async fn until(what: &str, mut look: impl AsyncFnMut() -> bool) {
    for _ in 0..1500 {
        if look().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}
