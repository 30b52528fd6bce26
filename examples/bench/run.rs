//! Servers, mounts and files that are measured.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use support::seed::{Artifact, Folder};

use crate::workload::{Cost, measured};

/// Where the registry is and what is in it.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) big: String,
}

impl Server {
    pub(crate) fn big_reference(&self) -> String {
        format!("{}/bench/big:v1", self.host)
    }

    pub(crate) fn small_reference(&self) -> String {
        format!("{}/bench/small:v1", self.host)
    }

    pub(crate) fn write_reference(&self) -> String {
        format!("{}/bench/write:v1", self.host)
    }

    /// Downloads the big file as everybody would.
    pub(crate) fn curl(&self, to: &Path) -> Cost {
        let url = format!("http://{}/v2/bench/big/blobs/{}", self.host, self.big);
        measured(None, || {
            let status = Command::new("curl").args(["-sf", "-o"]).arg(to).arg(url).status();
            assert!(status.is_ok_and(|status| status.success()), "curl failed");
        })
    }
}

/// Touches most of the memory that is free: on a virtual machine the first touch of a page costs many times what
/// every later one does, and whoever happens to come first would pay for everybody.
pub(crate) fn touch_free_memory() {
    let about = std::fs::read_to_string("/proc/meminfo").expect("Linux tells what is free");
    let line =
        about.lines().find_map(|line| line.strip_prefix("MemAvailable:")).expect("it tells MemAvailable");
    let free: usize = line.trim().trim_end_matches(" kB").parse().expect("a number");
    let part = 256 << 20;
    println!("touching {} GiB of memory …", (free * 3 / 4) >> 20);
    let touched: Vec<_> = (0..(free << 10) / 4 * 3 / part).map(|_| vec![1_u8; part]).collect();
    std::hint::black_box(&touched);
}

/// A folder of many small files, and some to walk through.
pub(crate) fn small_files(count: usize) -> Artifact {
    let folder = (0..count)
        .fold(Folder::new(), |folder, number| folder.file(&name(number), 0o644, format!("{number}\n")));
    Artifact::new().folder("files", folder)
}

/// The same on the local disk.
pub(crate) fn write_small_files(root: &Path, count: usize) {
    for number in 0..count {
        let path = root.join("files").join(name(number));
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("make a folder");
        std::fs::write(path, format!("{number}\n")).expect("write a file");
    }
}

/// Where the small file of this number is.
pub(crate) fn name(number: usize) -> String {
    format!("{:02}/file-{number:05}.txt", number % 100)
}

/// A mount with a cache of its own, and a place of its own for what is written.
pub(crate) struct Mounted {
    mountpoint: PathBuf,
    cache: PathBuf,
    state: PathBuf,
}

impl Mounted {
    pub(crate) fn fresh(work: &Path, reference: &str, name: &str, options: &[&str]) -> Self {
        let place = |what| work.join(format!("{what}-{name}"));
        let (mountpoint, cache, state) = (place("mnt"), place("cache"), place("state"));
        std::fs::create_dir_all(&mountpoint).expect("make the mount point");
        let mut command = Command::new(artifs());
        command.arg("mount").args(options).arg("--cache-dir").arg(&cache).arg(reference).arg(&mountpoint);
        let status = command.env("ARTIFS_STATE", &state).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "artifs mount failed");
        Self { mountpoint, cache, state }
    }

    /// Publishes what was written under this tag.
    pub(crate) fn commit(&self, tag: &str) -> Cost {
        measured(Some(self), || {
            let mut command = Command::new(artifs());
            let status =
                command.args(["commit", "--tag", tag]).arg(&self.mountpoint).stdout(Stdio::null()).status();
            assert!(status.is_ok_and(|status| status.success()), "artifs commit failed");
        })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.mountpoint
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.mountpoint.join(name)
    }

    /// What `artifs status` says of this mount.
    fn status(&self) -> Value {
        let output =
            Command::new(artifs()).args(["status", "--format", "json"]).arg(&self.mountpoint).output();
        let status: Value =
            serde_json::from_slice(&output.expect("artifs status runs").stdout).expect("it is JSON");
        status["mounts"][0].clone()
    }

    /// A figure of the status, wherever in it.
    pub(crate) fn status_number(&self, name: &str) -> u64 {
        find(&self.status(), name).unwrap_or_else(|| panic!("artifs status says no {name}"))
    }

    pub(crate) fn pid(&self) -> u64 {
        self.status_number("pid")
    }

    /// The most memory the mount's process has had, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the mount runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux tells VmHWM");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Waits until a file's whole blob was checked.
    pub(crate) fn wait_until_verified(&self, name: &str, patience: Duration) {
        let until = Instant::now() + patience;
        loop {
            let mut value = [0; 16];
            let length = rustix::fs::getxattr(self.path(name), "user.oci.verified", &mut value)
                .expect("the attribute");
            if &value[..length] == b"blob" {
                return;
            }
            assert!(Instant::now() < until, "{name} was not verified in time");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Unmounts, and removes the cache and what was written.
    pub(crate) fn remove(self) {
        drop(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut unmount = Command::new(artifs());
        let _ = unmount.args(["unmount", "--discard"]).arg(&self.mountpoint).stdout(Stdio::null()).status();
        let _ = std::fs::remove_dir_all(&self.cache);
        let _ = std::fs::remove_dir_all(&self.state);
    }
}

fn find(value: &Value, name: &str) -> Option<u64> {
    let map = value.as_object()?;
    map.get(name).and_then(Value::as_u64).or_else(|| map.values().find_map(|inner| find(inner, name)))
}

/// The release binary, beside this program's folder.
fn artifs() -> PathBuf {
    let me = std::env::current_exe().expect("a program has a path");
    me.ancestors().nth(2).expect("target/release/examples/bench").join("artifs")
}
