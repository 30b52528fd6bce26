//! `zot`, a real registry with a Referrers API, where it is installed.

use std::process::Command;

use serde_json::json;

use super::{Server, on_path};

impl Server {
    /// Starts `zot`; `None` if it is not on `PATH`.
    pub fn zot() -> Option<Self> {
        let binary = on_path("zot")?;
        Some(Self::start("zot", |folder, port| {
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
        }))
    }
}
