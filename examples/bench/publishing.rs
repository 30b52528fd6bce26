//! Commits, from the command to the tag that is put, against `curl -T` of the same files to the same server.
//!
//! `curl` is told the digests, so it hashes nothing, and publishes no manifest; what it sends is new to the registry
//! each time, as ours is.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use artifs::oci::{Digest, Hasher};
use support::Big;

use crate::nginx::Nginx;
use crate::report::Report;
use crate::run::{self, Mounted, Server};
use crate::workload::{Cost, measured};
use crate::{BIG, GIB};

/// What is committed: how it is called, how many files, how long each.
const LARGE: [(&str, u64, u64); 2] = [("one file of 2 GiB", 1, BIG), ("16 files of 128 MiB", 16, GIB / 8)];
const MANY: (&str, u64, u64) = ("1,000 files of 4 KiB", 1000, 4096);

pub(crate) fn all(
    registry: &support::server::Server,
    server: &Server,
    work: &Path,
    rounds: usize,
    report: &mut Report,
) {
    run::touch_free_memory();
    let nginx = Nginx::for_uploads(&server.host, "write", work);
    let forget = || {
        let big = server.big.trim_start_matches("sha256:");
        registry.forget_blobs(1 << 20, |digest| digest == big);
        if let Some(nginx) = &nginx {
            let _ = std::fs::remove_dir_all(nginx.incoming());
            let _ = std::fs::create_dir(nginx.incoming());
        }
        rustix::fs::sync();
    };
    let mut hosts = vec![("docker-registry", server.host.clone())];
    hosts.extend(nginx.as_ref().map(|nginx| ("nginx", nginx.host())));
    for (name, host) in hosts {
        let server = Server { host, big: server.big.clone() };
        for what in LARGE {
            let peers = commits(&server, work, rounds, what, &forget);
            report.compare(&format!("commit of {} ÷ curl -T, {name}", what.0), &peers);
        }
    }
    let peers = commits(server, work, rounds, MANY, &forget);
    report.compare(&format!("commit of {} ÷ curl -T, docker-registry", MANY.0), &peers);
    edited(server, work, rounds, report, &forget);
}

fn commits(
    server: &Server,
    work: &Path,
    rounds: usize,
    (_, count, size): (&str, u64, u64),
    forget: &dyn Fn(),
) -> Vec<(Cost, Cost)> {
    let local = work.join("committed");
    let mounted = Mounted::fresh(work, &server.write_reference(), "commit", &["--rw"]);
    for place in [&local, mounted.folder()] {
        let _ = std::fs::create_dir(place);
        (0..count).for_each(|number| fill(&place.join(number.to_string()), size, number));
    }
    let peers = (0..rounds)
        .map(|round| {
            let mark = |place: &Path, salt: u64| {
                for number in 0..count {
                    let bytes = [round as u64, salt, number, count].map(u64::to_le_bytes).concat();
                    let file = File::options().write(true).open(place.join(number.to_string()));
                    file.and_then(|file| file.write_all_at(&bytes, 0)).expect("write a mark");
                }
            };
            mark(&local, 1);
            mark(mounted.folder(), 2);
            let files: Vec<_> = (0..count).map(|number| local.join(number.to_string())).collect();
            let files = files.into_iter().map(|file| (digest(&file), file)).collect::<Vec<_>>();
            forget();
            let native = curl(server, "bench/curl", work, &files);
            forget();
            let ours = mounted.commit(&format!("commit-{count}-{round}"));
            forget();
            (native, ours)
        })
        .collect();
    mounted.remove();
    std::fs::remove_dir_all(&local).expect("remove the local files");
    peers
}

/// One byte of a large file nobody has read before.
fn edited(server: &Server, work: &Path, rounds: usize, report: &mut Report, forget: &dyn Fn()) {
    let peers: Vec<_> = (0..rounds)
        .map(|round| {
            let local = work.join("edited");
            let edit = |path: &Path, salt: u64| {
                let file = File::options().write(true).open(path).expect("open for writing");
                file.write_all_at(&[round as u8 + 1, salt as u8], BIG / 2).expect("write two bytes");
            };
            // What the digest is has to be known before.
            server.curl(&local);
            edit(&local, 1);
            let digest = digest(&local);
            std::fs::remove_file(&local).expect("remove it again");
            forget();
            let down = server.curl(&local);
            edit(&local, 1);
            let up = curl(server, "bench/curl", work, &[(digest, local.clone())]);
            let _ = std::fs::remove_file(&local);
            forget();
            let mounted = Mounted::fresh(work, &server.big_reference(), "edited", &["--rw"]);
            edit(&mounted.path("big.bin"), 2);
            let ours = mounted.commit(&format!("edited-{round}"));
            report.note(format!(
                "edited {round}: {:.3} × the file's bytes fetched, peak memory of the mount {} MiB",
                mounted.status_number("fetched") as f64 / BIG as f64,
                mounted.peak_memory() >> 20
            ));
            mounted.remove();
            forget();
            (Cost { seconds: down.seconds + up.seconds, cpu: down.cpu + up.cpu }, ours)
        })
        .collect();
    report.compare("2 bytes of 2 GiB edited, commit ÷ curl -o, -T", &peers);
}

/// Writes a file no two pages of which are alike.
fn fill(path: &Path, size: u64, seed: u64) {
    let content = Big::new(size, seed);
    let file = File::create(path).expect("create");
    for at in (0..size).step_by(1 << 20) {
        file.write_all_at(&content.read(at..at + (1 << 20)), at).expect("write");
    }
}

fn digest(path: &Path) -> Digest {
    let mut file = File::open(path).expect("open");
    let mut hasher = Hasher::for_algorithm("sha256").expect("sha256 is there");
    let mut buffer = vec![0; 1 << 18];
    loop {
        match std::io::Read::read(&mut file, &mut buffer).expect("read") {
            0 => return hasher.finish(),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Uploads files as blobs of the repository, several at a time, as we do.
fn curl(server: &Server, repository: &str, work: &Path, files: &[(Digest, PathBuf)]) -> Cost {
    let (sessions, uploads) = (work.join("sessions.curl"), work.join("uploads.curl"));
    let home = format!("http://{}", server.host);
    let session = format!("url = \"{home}/v2/{repository}/blobs/uploads/\"\noutput = \"/dev/null\"\n");
    std::fs::write(&sessions, session.repeat(files.len())).expect("write what to ask for");
    measured(None, || {
        let mut begin = Command::new("curl");
        begin.args(["-sf", "-X", "POST", "-w", "%header{location}\n", "-K"]).arg(&sessions);
        let said = begin.output().expect("curl runs");
        assert!(said.status.success(), "curl -X POST failed");
        let said = String::from_utf8(said.stdout).expect("addresses are text");
        let upload = |(address, (digest, file)): (&str, &(Digest, PathBuf))| {
            let address = address.strip_prefix(&home).unwrap_or(address);
            let mark = if address.contains('?') { '&' } else { '?' };
            let (url, file) = (format!("{home}{address}{mark}digest={digest}"), file.display());
            format!("url = \"{url}\"\nupload-file = \"{file}\"\noutput = \"/dev/null\"\n")
        };
        let each: String = said.lines().zip(files).map(upload).collect();
        std::fs::write(&uploads, each).expect("write what to upload");
        let mut upload = Command::new("curl");
        upload.args([
            "-sf",
            "-Z",
            "--parallel-max",
            "5",
            "-H",
            "Content-Type: application/octet-stream",
            "-K",
        ]);
        let status = upload.arg(&uploads).stderr(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "curl -T failed");
    })
}
