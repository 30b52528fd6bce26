//! What is done to files while it is measured.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::run::Mounted;

/// What something took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cost {
    pub(crate) seconds: f64,
    /// Of this process and its children, and of the mount if there is one.
    pub(crate) cpu: f64,
}

type Workload = fn(&Path, Option<&Mounted>) -> Cost;

/// The workloads on a file that is in the cache.
pub(crate) const WARM: [(&str, Workload); 4] = [
    ("warm sequential, 1 MiB reads", sequential),
    ("warm random 4 KiB reads", random),
    ("warm mmap, every page in order", mapped_in_order),
    ("warm mmap, random pages", mapped_at_random),
];

const RANDOM_READS: u64 = 400_000;

/// Runs `work` and says what it took.
pub(crate) fn measured(mount: Option<&Mounted>, work: impl FnOnce()) -> Cost {
    let pid = mount.map(Mounted::pid);
    let cpu = || own_cpu() + pid.map_or(0.0, cpu_of);
    let (before, begun) = (cpu(), Instant::now());
    work();
    let seconds = begun.elapsed().as_secs_f64();
    Cost { seconds, cpu: cpu() - before }
}

/// Runs a pair of measurements once for nothing, then `rounds` times.
pub(crate) fn repeat(rounds: usize, mut pair: impl FnMut() -> (Cost, Cost)) -> Vec<(Cost, Cost)> {
    pair();
    (0..rounds).map(|_| pair()).collect()
}

/// Reads a file once from the start, as `cat` does.
pub(crate) fn cold(path: &Path, mount: &Mounted) -> Cost {
    sequential(path, Some(mount))
}

pub(crate) fn lists(folder: &Path, mount: Option<&Mounted>) -> Cost {
    measured(mount, || {
        let status = Command::new("ls").arg("-lR").arg(folder).stdout(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "ls failed");
    })
}

pub(crate) fn first_byte(path: &Path) -> Cost {
    measured(None, || {
        let mut byte = [0];
        File::open(path).and_then(|mut file| file.read_exact(&mut byte)).expect("read a byte");
    })
}

fn sequential(path: &Path, mount: Option<&Mounted>) -> Cost {
    measured(mount, || {
        let mut file = File::open(path).expect("open");
        let mut buffer = vec![0; 1 << 20];
        while file.read(&mut buffer).expect("read") > 0 {}
    })
}

fn random(path: &Path, mount: Option<&Mounted>) -> Cost {
    measured(mount, || {
        let file = File::open(path).expect("open");
        let pages = file.metadata().expect("stat").len() / 4096;
        let mut buffer = [0; 4096];
        for page in scattered(pages) {
            file.read_exact_at(&mut buffer, page * 4096).expect("read");
        }
    })
}

fn mapped_in_order(path: &Path, mount: Option<&Mounted>) -> Cost {
    mapped(path, mount, |pages| Box::new(0..pages))
}

fn mapped_at_random(path: &Path, mount: Option<&Mounted>) -> Cost {
    mapped(path, mount, |pages| Box::new(scattered(pages)))
}

fn mapped(path: &Path, mount: Option<&Mounted>, pages: fn(u64) -> Box<dyn Iterator<Item = u64>>) -> Cost {
    use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    measured(mount, || {
        let file = File::open(path).expect("open");
        let length = file.metadata().expect("stat").len() as usize;
        // SAFETY: a fresh private mapping at an address of the kernel's choice.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::PRIVATE, file.as_fd(), 0)
                .expect("mmap")
        };
        let mut sum = 0_u64;
        for page in pages(length as u64 / 4096) {
            // SAFETY: the page lies inside the mapping, which lives until `munmap` below.
            sum += u64::from(unsafe { start.cast::<u8>().add(page as usize * 4096).read_volatile() });
        }
        std::hint::black_box(sum);
        // SAFETY: the mapping made above, which nothing refers to any more.
        unsafe { munmap(start, length).expect("munmap") };
    })
}

/// Page numbers all over the file, the same each time.
fn scattered(pages: u64) -> impl Iterator<Item = u64> {
    (0..RANDOM_READS).scan(0x9E37_79B9_7F4A_7C15_u64, move |state, _| {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        Some(*state % pages)
    })
}

fn own_cpu() -> f64 {
    [libc::RUSAGE_SELF, libc::RUSAGE_CHILDREN].into_iter().map(usage).sum()
}

fn usage(who: libc::c_int) -> f64 {
    // SAFETY: all-zero is a valid `rusage`, which the kernel fills.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: `usage` outlives the call.
    unsafe { libc::getrusage(who, &raw mut usage) };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

/// User and system time of another process, in seconds.
fn cpu_of(pid: u64) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15, counted from behind the name in parentheses.
    let after = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}
