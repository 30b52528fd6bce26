//! Debian's `docker-registry` (distribution 2.8): a real registry without a Referrers API.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use artifs::oci::Descriptor;
use artifs::oci::reference::Host;
use bytes::Bytes;

use crate::content::Content;
use crate::http::Client;
use crate::seed::Destination;

/// A running `docker-registry` with its storage in a folder of its own. Dropping it ends and removes both.
pub struct Distribution(Server);

impl Distribution {
    /// Starts one. `None`, with a word on stderr, if it is not installed; where `CI` is set that is a failure.
    pub fn start() -> Option<Self> {
        let binary = installed("docker-registry")?;
        Some(Self(Server::start("docker-registry", |folder, port| {
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

impl Destination for Distribution {
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content) {
        self.client().blob(repository, descriptor, content);
    }

    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        self.client().manifest(repository, descriptor, bytes, tag);
    }
}

/// Where a program is, by `PATH`.
pub(crate) fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn installed(name: &str) -> Option<PathBuf> {
    let found = on_path(name);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none(), "{name} is not installed, and CI is set");
        eprintln!("skipped: {name} is not installed (apt-get install {name})");
    }
    found
}

/// A registry process.
pub(crate) struct Server {
    process: Child,
    port: u16,
    _folder: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` makes of a folder and a port, until one answers.
    pub(crate) fn start(name: &str, command: impl Fn(&Path, u16) -> Command) -> Self {
        // Another program may take the port between our asking and its listening, hence the attempts.
        let mut said = String::new();
        for _ in 0..5 {
            let folder = tempfile::tempdir().expect("a folder");
            let port = free_port();
            let log = folder.path().join("log");
            let process = command(folder.path(), port)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(std::fs::File::create(&log).expect("a log"))
                .spawn()
                .expect("the registry starts");
            let mut server = Self { process, port, _folder: folder };
            if server.answers() {
                return server;
            }
            said = std::fs::read_to_string(&log).unwrap_or_default();
        }
        panic!("{name} does not answer: {said}");
    }

    pub(crate) fn host(&self) -> Host {
        format!("127.0.0.1:{}", self.port).parse().expect("an address is a host")
    }

    fn answers(&mut self) -> bool {
        let client = Client::new(self.host());
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(20) {
            if !matches!(self.process.try_wait(), Ok(None)) {
                return false;
            }
            if client.request("GET", "/v2/", &[], &"".into()).is_ok_and(|response| response.status == 200) {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
