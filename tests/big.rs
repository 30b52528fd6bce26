//! What was promised for a large artifact, at its size: 2 GiB in Debian's `docker-registry`, through the
//! installed program and the kernel, with the bytes counted on the wire.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::seed::Artifact;
use support::server::Server;
use support::{Big, Content};
use tempfile::TempDir;

const SIZE: u64 = 2 << 30;
const HALF: u64 = 512 << 20;
const MIB: u64 = 1 << 20;

/// Passes connections on to a registry and counts what the registry answers.
struct Wire {
    port: u16,
    answered: Arc<AtomicU64>,
}

impl Wire {
    fn before(registry: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let answered = Arc::new(AtomicU64::new(0));
        let (to, counter) = (registry.host().to_string(), Arc::clone(&answered));
        // Ends with the test's process; each connection with its peers.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&to) else { continue };
                let (up, down) = ((client.try_clone(), server.try_clone()), (server, client));
                if let (Ok(client), Ok(server)) = up {
                    std::thread::spawn(move || pump(client, server, &AtomicU64::new(0)));
                }
                let counter = Arc::clone(&counter);
                std::thread::spawn(move || pump(down.0, down.1, &counter));
            }
        });
        Self { port, answered }
    }

    fn take(&self) -> u64 {
        self.answered.swap(0, Ordering::SeqCst)
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, count: &AtomicU64) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer) {
        count.fetch_add(length as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..length]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// A mount by the program, gone when dropped, panics included.
struct Mounted {
    at: PathBuf,
}

impl Mounted {
    fn new(folder: &TempDir, name: &str, wire: &Wire) -> Self {
        let at = folder.path().join(name);
        std::fs::create_dir_all(&at).unwrap();
        let reference = format!("127.0.0.1:{}/team/big:v1", wire.port);
        let cache = folder.path().join("cache");
        let status = artifs().arg("mount").arg("--cache-dir").arg(cache).arg(reference).arg(&at).status();
        assert!(status.unwrap().success());
        Self { at }
    }

    fn file(&self) -> File {
        File::open(self.at.join("big.bin")).unwrap()
    }

    fn pid(&self) -> i32 {
        let output = artifs().args(["status", "--format", "json"]).arg(&self.at).output().unwrap();
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        i32::try_from(status["mounts"][0]["pid"].as_i64().unwrap()).unwrap()
    }

    /// The most memory its process has had, in bytes.
    fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = artifs().args(["unmount", "--lazy"]).arg(&self.at).status();
    }
}

fn artifs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_artifs"))
}

fn check(file: &File, big: &Content, at: u64, length: u64) {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, at).unwrap();
    assert!(bytes == big.read(at..at + length), "wrong bytes at {at}");
}

/// Reads the whole file in order, comparing some of it.
fn read_whole(path: &Path, size: u64, big: &Content) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; MIB as usize];
    let mut at = 0;
    while at < size {
        file.read_exact(&mut buffer).unwrap();
        if at % (64 * MIB) == 0 {
            assert!(buffer == big.read(at..at + MIB), "wrong bytes at {at}");
        }
        at += MIB;
    }
}

/// Reads a file and kills the mount's process meanwhile. Answers how many bytes had come.
fn kill_while_reading(mounted: &Mounted, wire: &Wire) -> u64 {
    wire.take();
    let pid = rustix::process::Pid::from_raw(mounted.pid()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = vec![0; MIB as usize];
            let mut file = File::open(mounted.at.join("half.bin")).unwrap();
            while file.read(&mut buffer).is_ok_and(|length| length > 0) {}
        });
        let until = Instant::now() + Duration::from_secs(60);
        while wire.answered.load(Ordering::SeqCst) < 128 * MIB && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(2));
        }
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    });
    wire.take()
}

#[test]
fn two_gibibytes_are_fetched_as_far_as_they_are_touched_and_once() {
    let Some(registry) = Server::distribution() else { return };
    let content: Content = Big::new(SIZE, 11).into();
    let half: Content = Big::new(HALF, 12).into();
    let artifact = Artifact::new().file("big.bin", content.clone()).file("half.bin", half.clone());
    artifact.tag("v1").push(&registry, "team/big");
    let wire = Wire::before(&registry);
    let folder = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();

    // A mebibyte out of the middle, at an even and at an odd offset.
    let mounted = Mounted::new(&folder, "one", &wire);
    for at in [700 * MIB, 1_234_567_890] {
        wire.take();
        check(&mounted.file(), &content, at, MIB);
        let came = wire.take();
        assert!(came <= 2 * MIB, "1 MiB at {at} cost {came} bytes");
    }

    // Killed in the middle; a new mount goes on from there. What it had not written is all that is lost: the
    // ring and the ranges in flight.
    let killed = kill_while_reading(&mounted, &wire);
    drop(mounted);
    let (one, two) = (Mounted::new(&folder, "one", &wire), Mounted::new(&folder, "two", &wire));
    read_whole(&one.at.join("half.bin"), HALF, &half);
    let after = wire.take();
    assert!(killed < HALF / 2, "it was killed too late to show anything");
    assert!(killed + after <= HALF + 64 * MIB, "{after} bytes came after the kill, {killed} before it");

    // Eight readers of the whole, through two mounts that share the cache.
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let mounted = if reader % 4 == 3 { &two } else { &one };
            let path = mounted.at.join("big.bin");
            let content = &content;
            scope.spawn(move || read_whole(&path, SIZE, content));
        }
    });
    let came = wire.take();
    assert!(came <= SIZE + SIZE / 50, "the whole cost {came} bytes");
    for mounted in [&one, &two] {
        let peak = mounted.peak_memory();
        assert!(peak <= 100 * MIB, "a mount had {} MiB", peak / MIB);
    }

    // A third mount, in a process of its own, finds everything.
    let three = Mounted::new(&folder, "three", &wire);
    wire.take();
    read_whole(&three.at.join("big.bin"), SIZE, &content);
    let came = wire.take();
    assert!(came < MIB, "reading again cost {came} bytes");
}
