//! A web server that plays a registry: it costs the processors so little that what is measured is the clients.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::run::Server;

/// A running `nginx` with a folder of its own. Dropping it ends it.
pub(crate) struct Nginx {
    child: Child,
    port: u16,
    root: PathBuf,
}

impl Nginx {
    /// One with the big artifact laid out as a registry would serve it. `None` where there is no nginx.
    pub(crate) fn with_big(from: &Server, work: &Path) -> Option<Self> {
        let root = work.join("nginx");
        let repository = root.join("v2/bench/big");
        std::fs::create_dir_all(repository.join("blobs")).ok()?;
        std::fs::create_dir_all(repository.join("manifests")).ok()?;
        from.curl(&repository.join("blobs").join(&from.big));
        fetch_manifest(&from.host, "bench/big", &repository)?;
        Self::start(root)
    }

    /// One that takes uploads, with `bench/<name>:v1` copied from the registry at `host`.
    pub(crate) fn for_uploads(host: &str, name: &str, work: &Path) -> Option<Self> {
        let root = work.join("nginx-uploads");
        let repository = root.join("v2/bench").join(name);
        std::fs::create_dir_all(repository.join("manifests")).ok()?;
        fetch_manifest(host, &format!("bench/{name}"), &repository)?;
        Self::start(root)
    }

    fn start(root: PathBuf) -> Option<Self> {
        std::fs::create_dir_all(root.join("incoming")).ok()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port();
        let at = root.display();
        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {at}/temporary;"))
            .concat();
        let manifests = "application/vnd.oci.image.manifest.v1+json";
        let text = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/errors; events {{}}
             http {{ access_log off; sendfile on; {temporary}
               client_max_body_size 0; client_body_buffer_size 1m;
               server {{ listen 127.0.0.1:{port}; root {at};
                 location ~ /uploads/$ {{ add_header Location /incoming/$request_id always; return 202; }}
                 location /incoming/ {{ dav_methods PUT; }}
                 location ~ /manifests/ {{ default_type {manifests}; dav_methods PUT; }}
                 location / {{ default_type application/octet-stream; }} }} }}"
        );
        let file = root.join("nginx.conf");
        std::fs::write(&file, text).ok()?;
        let child = Command::new("nginx").arg("-c").arg(file).stderr(Stdio::null()).spawn().ok()?;
        let nginx = Self { child, port, root };
        for _ in 0..100 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(nginx);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where uploads come to lie.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The manifest `v1` of a repository, as a file.
fn fetch_manifest(host: &str, name: &str, repository: &Path) -> Option<()> {
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
    let url = format!("http://{host}/v2/{name}/manifests/v1");
    let to = repository.join("manifests/v1");
    Command::new("curl").args(["-sf", "-H", accept, "-o"]).arg(to).arg(url).status().ok().map(drop)
}
