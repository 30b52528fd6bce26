//! Writing through a mount, in the two ways the kernel may do it, against the same on the local disk.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use crate::report::Report;
use crate::run::{self, Mounted, Server};
use crate::workload::{Cost, measured, repeat};
use crate::{FILES, GIB};

/// How long a small file is.
const SMALL: usize = 4096;

/// The two ways the kernel may write.
const WAYS: [(&str, &[&str]); 2] =
    [("passthrough", &["--rw"]), ("write-back cache", &["--rw", "--no-passthrough"])];

pub(crate) fn all(server: &Server, work: &Path, rounds: usize, report: &mut Report) {
    run::touch_free_memory();
    let local = work.join("written");
    let archive = work.join("files.tar");
    make_files(&local, None);
    let packed = Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(&local).arg("files").status();
    assert!(packed.is_ok_and(|status| status.success()), "tar failed");
    let mut mounts = Vec::new();
    for (how, options) in WAYS {
        let reference = server.write_reference();
        let mounted = Mounted::fresh(work, &reference, &how.replace(' ', "-"), options);
        let there = mounted.folder();
        let mut number = 0;
        // ext4 takes a detour around the inodes of files removed in the last minutes, so the small ones stay.
        let mut pair = |work: &dyn Fn(&Path, Option<&Mounted>) -> Cost| {
            repeat(rounds, || {
                number += 1;
                let [here, there] = [local.as_path(), there].map(|place| place.join(number.to_string()));
                for place in [&here, &there] {
                    std::fs::create_dir_all(place).expect("make a folder");
                }
                let both = (work(&here, None), work(&there, Some(&mounted)));
                for place in [&here, &there] {
                    let _ = std::fs::remove_file(place.join("big"));
                }
                rustix::fs::sync();
                both
            })
        };
        let peers = pair(&|place, mount| write(&place.join("big"), mount));
        report.compare(&format!("write 1 GiB and fsync, {how}"), &peers);
        let peers = pair(&make_files);
        report.compare(&format!("make 10,000 files of 4 KiB, {how}"), &peers);
        let peers = pair(&|place, mount| unpack(&archive, place, mount));
        report.compare(&format!("tar x of 10,000 files of 4 KiB, {how}"), &peers);
        // Removed when all is measured, for the same reason.
        mounts.push(mounted);
    }
    mounts.into_iter().for_each(Mounted::remove);
}

fn write(path: &Path, mount: Option<&Mounted>) -> Cost {
    let buffer: Vec<u8> = (0..1_u32 << 20).map(|at| (at * 7) as u8).collect();
    measured(mount, || {
        let mut file = File::create(path).expect("create");
        for _ in 0..GIB >> 20 {
            file.write_all(&buffer).expect("write");
        }
        file.sync_all().expect("fsync");
    })
}

fn make_files(root: &Path, mount: Option<&Mounted>) -> Cost {
    let bytes = [7; SMALL];
    measured(mount, || {
        for folder in 0..100 {
            let folder = root.join("files").join(format!("{folder:02}"));
            std::fs::create_dir_all(folder).expect("make a folder");
        }
        for number in 0..FILES {
            std::fs::write(root.join("files").join(run::name(number)), bytes).expect("write a file");
        }
    })
}

fn unpack(archive: &Path, into: &Path, mount: Option<&Mounted>) -> Cost {
    measured(mount, || {
        let status = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(into).status();
        assert!(status.is_ok_and(|status| status.success()), "tar failed");
    })
}
