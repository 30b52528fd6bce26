//! Debian's `docker-registry` (distribution 2.8): a real registry without a Referrers API.

use std::process::Command;

use super::{Server, on_path};

impl Server {
    /// Starts `docker-registry`. `None`, with a word on stderr, if it is not installed; where `CI` is set
    /// that is a failure.
    pub fn distribution() -> Option<Self> {
        const NAME: &str = "docker-registry";
        let Some(binary) = on_path(NAME) else {
            assert!(std::env::var_os("CI").is_none(), "{NAME} is not installed, and CI is set");
            eprintln!("skipped: {NAME} is not installed (apt-get install {NAME})");
            return None;
        };
        Some(Self::start(NAME, |folder, port| {
            let config = format!(
                "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
                 storage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\n\
                 http:\n  addr: 127.0.0.1:{port}\n  secret: test\n",
                folder.join("storage").display()
            );
            let path = folder.join("config.yml");
            std::fs::write(&path, config).expect("write a config");
            let mut command = Command::new(&binary);
            command.arg("serve").arg(path);
            command
        }))
    }
}
