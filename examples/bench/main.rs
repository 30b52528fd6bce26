//! Compares reading and writing through the mount with a local file and with `curl`, in one run.
//!
//! Every figure is a ratio to a figure of the same run: machines differ, and this one may be shared. Run it by
//! `scripts/bench`, which builds the release binary and finds it.

mod nginx;
mod publishing;
mod report;
mod run;
mod workload;
mod writing;

use std::path::Path;
use std::time::Duration;

use nginx::Nginx;
use report::Report;
use run::{Mounted, Server};
use support::seed::Artifact;
use support::{Big, server};
use workload::{Cost, cold, lists, repeat};

/// The large file: more than any cache of the processor, and what a shard of a model has.
const BIG: u64 = 2 << 30;
/// What is written.
const GIB: u64 = 1 << 30;
/// The many small files.
const FILES: usize = 10_000;

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    let rounds = arguments.next_if(|text| text.parse::<usize>().is_ok());
    let rounds = rounds.and_then(|text| text.parse().ok()).unwrap_or(3);
    let parts: Vec<String> = arguments.collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|wanted| wanted == part);
    let Some(registry) = server::Server::distribution() else {
        eprintln!("scripts/bench needs docker-registry: apt-get install docker-registry");
        std::process::exit(1);
    };
    let work =
        tempfile::Builder::new().prefix("artifs-bench-").tempdir_in("/var/tmp").expect("a work folder");
    let mut report = Report::default();
    println!("pushing what is to be read to {} …", registry.host());
    let mut server = Server { host: registry.host().to_string(), big: String::new() };
    if wanted("reading") || wanted("publishing") {
        let big = Artifact::new().file("big.bin", Big::new(BIG, 7)).tag("v1");
        big.push(&registry, "bench/big");
        server.big = big.layers().next().expect("one layer").digest.to_string();
    }
    if wanted("listing") {
        run::small_files(FILES).tag("v1").push(&registry, "bench/small");
    }
    Artifact::new().file("README", Big::new(100, 1)).tag("v1").push(&registry, "bench/write");

    if wanted("reading") {
        reading(&server, work.path(), rounds, &mut report);
    }
    if wanted("listing") {
        listings(&server, work.path(), rounds, &mut report);
        first_byte(work.path(), &mut report);
    }
    if wanted("writing") {
        writing::all(&server, work.path(), rounds, &mut report);
    }
    if wanted("publishing") {
        publishing::all(&registry, &server, work.path(), rounds, &mut report);
    }
    report.print();
}

fn reading(server: &Server, work: &Path, rounds: usize, report: &mut Report) {
    let nginx = Nginx::with_big(server, work);
    let host = nginx.as_ref().map_or_else(|| server.host.clone(), Nginx::host);
    if nginx.is_none() {
        report.note("no nginx on PATH: docker-registry served, and took half of both processors".into());
    }
    let server = Server { host, big: server.big.clone() };
    cold_reads(&server, work, rounds, report);
    warm_reads(&server, work, rounds, report);
}

/// A file nobody has read before: `curl -o` against the mount, its cache written and its digest checked.
fn cold_reads(server: &Server, work: &Path, rounds: usize, report: &mut Report) {
    server.curl(&work.join("warm-up"));
    let _ = std::fs::remove_file(work.join("warm-up"));
    run::touch_free_memory();
    let peers: Vec<_> = (0..rounds)
        .map(|round| {
            let native = server.curl(&work.join("curl"));
            let _ = std::fs::remove_file(work.join("curl"));
            let mounted = Mounted::fresh(work, &server.big_reference(), &format!("cold-{round}"), &[]);
            let begun = std::time::Instant::now();
            let ours = cold(&mounted.path("big.bin"), &mounted);
            mounted.wait_until_verified("big.bin", Duration::from_secs(60));
            report.note(format!(
                "cold read {round}: read in {:.2} s, its digest checked and synced to disk {:.2} s after the start; {} requests, {:.3} × the file's bytes, peak memory of the mount {} MiB",
                ours.seconds,
                begun.elapsed().as_secs_f64(),
                mounted.status_number("requests"),
                mounted.status_number("fetched") as f64 / BIG as f64,
                mounted.peak_memory() >> 20,
            ));
            mounted.remove();
            (native, ours)
        })
        .collect();
    report.compare("cold sequential 2 GiB ÷ curl -o", &peers);
}

/// A file that is in the cache, in the two ways the kernel may serve it.
fn warm_reads(server: &Server, work: &Path, rounds: usize, report: &mut Report) {
    let local = work.join("local.bin");
    server.curl(&local);
    for (how, options) in [("passthrough", &[][..]), ("keep-cache", &["--no-passthrough"][..])] {
        let mounted = Mounted::fresh(work, &server.big_reference(), how, options);
        let file = mounted.path("big.bin");
        cold(&file, &mounted);
        mounted.wait_until_verified("big.bin", Duration::from_secs(60));
        for (name, workload) in workload::WARM {
            let peers = repeat(rounds, || (workload(&local, None), workload(&file, Some(&mounted))));
            report.compare(&format!("{name}, {how}"), &peers);
        }
        mounted.remove();
    }
}

/// `ls -lR` over many files, against a copy on the local disk.
fn listings(server: &Server, work: &Path, rounds: usize, report: &mut Report) {
    let local = work.join("small");
    run::write_small_files(&local, FILES);
    let mut first = Vec::new();
    let mut again = Vec::new();
    for round in 0..rounds {
        let mounted = Mounted::fresh(work, &server.small_reference(), &format!("small-{round}"), &[]);
        first.push((lists(&local, None), lists(mounted.folder(), Some(&mounted))));
        again.push((lists(&local, None), lists(mounted.folder(), Some(&mounted))));
        mounted.remove();
    }
    report.compare("ls -lR of 10,000 files, first", &first);
    report.compare("ls -lR of 10,000 files, again", &again);
}

/// How soon the first byte is there, and what it takes, counted by a registry in this process.
fn first_byte(work: &Path, report: &mut Report) {
    let registry = support::registry::Registry::start();
    Artifact::new().file("big.bin", Big::new(64 << 20, 7)).tag("v1").push(&registry, "bench/first");
    registry.forget_requests();
    let before = std::time::Instant::now();
    let reference = format!("{}/bench/first:v1", registry.host());
    let mounted = Mounted::fresh(work, &reference, "first", &[]);
    let mount = before.elapsed();
    let Cost { seconds, .. } = workload::first_byte(&mounted.path("big.bin"));
    report.note(format!(
        "first byte: mounted in {:.0} ms, the byte {:.1} ms after; {} requests, {} KiB of the blob",
        mount.as_secs_f64() * 1e3,
        seconds * 1e3,
        registry.requests().len(),
        registry.blob_bytes() >> 10,
    ));
    mounted.remove();
}
