//! What goes wrong for one reader goes wrong for nobody else.

use std::time::Duration;

use support::noise;
use support::store::Store;

use crate::mounted::Mounted;

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_registry_holds_up_nobody_else_and_ends_in_an_error() {
    let store = Store::new();
    store.artifact("v1", &[("a.bin", &noise(4096)), ("b.bin", &noise(5000))]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    assert_eq!(std::fs::read(mounted.path("b.bin")).unwrap().len(), 5000);
    store.stall(true);
    let waiting: Vec<_> = (0..16)
        .map(|_| {
            let path = mounted.path("a.bin");
            std::thread::spawn(move || std::fs::read(path).unwrap_err().raw_os_error())
        })
        .collect();
    while store.fetches() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // All of these ask the daemon, and are answered while 16 readers wait.
    assert!(!std::fs::exists(mounted.path("not there")).unwrap());
    assert_eq!(std::fs::read(mounted.path("b.bin")).unwrap().len(), 5000);
    assert!(!std::fs::read(mounted.path(".oci/manifest.json")).unwrap().is_empty());
    assert!(waiting.iter().all(|reader| !reader.is_finished()), "the deadline has not passed yet");
    for reader in waiting {
        assert_eq!(reader.join().unwrap(), Some(libc::EIO));
    }
    let status = mounted.mount.status();
    assert!(status.failures > 0);
    assert!(status.last_failure.unwrap().contains("no answer within 2 s"));
    store.stall(false);
    let healed = || std::fs::read(mounted.path("a.bin")).is_ok();
    for _ in (0..500).take_while(|_| !healed()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(std::fs::read(mounted.path("a.bin")).unwrap().len(), 4096, "it heals by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_panic_is_an_error_for_one_reader_only() {
    let store = Store::new();
    store.artifact("v1", &[("a.bin", &noise(4096))]).await;
    let mounted = Mounted::artifact(&store, "v1").await;
    store.panic(true);
    let error = std::fs::read(mounted.path("a.bin")).map(drop).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EIO));
    store.panic(false);
    assert_eq!(std::fs::read(mounted.path("a.bin")).unwrap().len(), 4096);
}
