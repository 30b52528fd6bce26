//! Real registries, each a process with its storage in a folder of its own.

mod distribution;
mod zot;

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

/// A running registry. Dropping it ends the process and removes its storage.
pub struct Server {
    process: Child,
    port: u16,
    folder: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` makes of a folder and a port, until one answers.
    fn start(name: &str, command: impl Fn(&Path, u16) -> Command) -> Self {
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
            let mut server = Self { process, port, folder };
            if server.answers() {
                return server;
            }
            said = std::fs::read_to_string(&log).unwrap_or_default();
        }
        panic!("{name} does not answer: {said}");
    }

    /// `127.0.0.1:<port>`.
    pub fn host(&self) -> Host {
        format!("127.0.0.1:{}", self.port).parse().expect("an address is a host")
    }

    /// To speak to it by hand.
    pub fn client(&self) -> Client {
        Client::new(self.host())
    }

    /// Removes the content of all blobs of at least so many bytes, but for those `keep` says; what storage a
    /// `docker-registry` has is known here.
    pub fn forget_blobs(&self, at_least: u64, keep: impl Fn(&str) -> bool) {
        let blobs = self.folder.path().join("storage/docker/registry/v2/blobs/sha256");
        for blob in entries(&blobs).into_iter().flat_map(|part| entries(&part)) {
            let name = blob.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let large = std::fs::metadata(blob.join("data")).is_ok_and(|data| data.len() >= at_least);
            if large && !keep(&name) {
                std::fs::remove_dir_all(&blob).expect("remove a blob");
            }
        }
    }

    fn answers(&mut self) -> bool {
        let client = self.client();
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

impl Destination for Server {
    fn blob(&self, repository: &str, descriptor: &Descriptor, content: &Content) {
        self.client().blob(repository, descriptor, content);
    }

    fn manifest(&self, repository: &str, descriptor: &Descriptor, bytes: &Bytes, tag: Option<&str>) {
        self.client().manifest(repository, descriptor, bytes, tag);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Where a program is, by `PATH`.
fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(folder).into_iter().flatten();
    found.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
