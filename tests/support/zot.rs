//! `zot`, a real registry with a Referrers API, where it is installed.

use std::process::Command;

use artifs::oci::Descriptor;
use artifs::oci::reference::Host;
use bytes::Bytes;
use serde_json::json;

use crate::content::Content;
use crate::distribution::{Server, on_path};
use crate::http::Client;
use crate::seed::Destination;

/// A running `zot` with its storage in a folder of its own. Dropping it ends and removes both.
pub struct Zot(Server);

impl Zot {
    /// Starts one; `None` if `zot` is not on `PATH`.
    pub fn start() -> Option<Self> {
        let binary = on_path("zot")?;
        Some(Self(Server::start("zot", |folder, port| {
            let config = json!({
                "storage": {"rootDirectory": folder.join("storage"), "gc": false},
                "http": {"address": "127.0.0.1", "port": port.to_string()},
                "log": {"level": "error"}
            });
            let path = folder.join("config.json");
            std::fs::write(&path, config.to_string()).expect("write a config");
            let mut command = Command::new(&binary);
            command.arg("serve").arg(path);
            command
        })))
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> Host {
        self.0.host()
    }

    /// To speak to it by hand.
    pub fn client(&self) -> Client {
        Client::new(self.0.host())
    }
}

impl Destination for Zot {
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content) {
        self.client().blob(repository, descriptor, content);
    }

    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        self.client().manifest(repository, descriptor, bytes, tag);
    }
}
