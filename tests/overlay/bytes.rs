//! Bytes: the base's where nobody wrote, ours where somebody did.

use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use rustix::fs::{FallocateFlags, fallocate};
use support::noise;

use crate::stand::Stand;

const BIG: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_first_write_to_a_big_file_downloads_nothing_and_the_rest_stays_the_bases() {
    let mut expected = noise(BIG);
    let mut stand = Stand::new(&[("big", &expected)]).await;
    let file = File::options().write(true).open(stand.path("big")).unwrap();
    // Whole pages: a part of a page is the kernel's to read first.
    let edit = vec![7; 8192];
    for at in [0, 1 << 20, BIG - 8192] {
        file.write_all_at(&edit, at as u64).unwrap();
        expected[at..at + 8192].copy_from_slice(&edit);
    }
    file.sync_all().unwrap();
    drop(file);
    assert_eq!(stand.store.file_bytes(), 0, "nothing was fetched to write");
    for again in [false, true] {
        if again {
            stand.remount().await;
        }
        assert!(fs::read(stand.path("big")).unwrap() == expected, "mounted again: {again}");
        assert_eq!(stand.changes(), ["big Modified"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_cuts_and_ends_are_ours_after_they_were_made() {
    for passthrough in [true, false] {
        let mut expected = noise(1 << 20);
        let base = expected.clone();
        let mut stand = if passthrough {
            Stand::new(&[("f", &base)]).await
        } else {
            Stand::without_passthrough(&[("f", &base)]).await
        };
        let mut file = File::options().read(true).write(true).open(stand.path("f")).unwrap();
        fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 100_000, 50_000).unwrap();
        expected[100_000..150_000].fill(0);
        fallocate(&file, FallocateFlags::ZERO_RANGE, 10, 20).unwrap();
        expected[10..30].fill(0);
        file.set_len(500_000).unwrap();
        expected.truncate(500_000);
        file.set_len(600_000).unwrap();
        expected.resize(600_000, 0);
        fallocate(&file, FallocateFlags::empty(), 0, 700_000).unwrap();
        expected.resize(700_000, 0);
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"the end").unwrap();
        expected.extend_from_slice(b"the end");
        drop(file);
        let mut appended = File::options().append(true).open(stand.path("f")).unwrap();
        appended.write_all(b", and more").unwrap();
        expected.extend_from_slice(b", and more");
        drop(appended);
        for again in [false, true] {
            if again {
                stand.remount().await;
            }
            let found = fs::read(stand.path("f")).unwrap();
            assert_eq!(found.len(), expected.len(), "passthrough {passthrough}, again {again}");
            assert!(found == expected, "passthrough {passthrough}, again {again}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_and_holes_can_be_sought() {
    let stand = Stand::new(&[("f", &noise(1 << 20))]).await;
    let file = File::options().read(true).write(true).open(stand.path("f")).unwrap();
    fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 1 << 16, 1 << 16).unwrap();
    file.set_len(2 << 20).unwrap();
    let sought = |from| rustix::fs::seek(&file, from);
    assert_eq!(sought(rustix::fs::SeekFrom::Hole(0)), Ok(1 << 16));
    assert_eq!(sought(rustix::fs::SeekFrom::Data(1 << 16)), Ok(1 << 17));
    assert_eq!(sought(rustix::fs::SeekFrom::Hole(1 << 17)), Ok(1 << 20));
    assert_eq!(sought(rustix::fs::SeekFrom::Data(1 << 20)), Err(rustix::io::Errno::NXIO));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mapping_writes_what_every_other_reader_sees() {
    for name in ["base", "new"] {
        let bytes = noise(64 << 10);
        let mut stand = Stand::new(&[("base", &bytes)]).await;
        if name == "new" {
            fs::write(stand.path("new"), &bytes).unwrap();
        }
        let file = File::options().read(true).write(true).open(stand.path(name)).unwrap();
        let (protection, flags) =
            (rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE, rustix::mm::MapFlags::SHARED);
        // SAFETY: a fresh mapping of the whole file, which nobody makes shorter, unmapped once.
        unsafe {
            let at =
                rustix::mm::mmap(std::ptr::null_mut(), bytes.len(), protection, flags, &file, 0).unwrap();
            std::slice::from_raw_parts_mut(at.cast::<u8>(), bytes.len())[5000..5005]
                .copy_from_slice(b"hello");
            rustix::mm::msync(at, bytes.len(), rustix::mm::MsyncFlags::SYNC).unwrap();
            rustix::mm::munmap(at, bytes.len()).unwrap();
        }
        drop(file);
        let mut expected = bytes;
        expected[5000..5005].copy_from_slice(b"hello");
        assert!(fs::read(stand.path(name)).unwrap() == expected, "{name}");
        stand.remount().await;
        assert!(fs::read(stand.path(name)).unwrap() == expected, "{name}, mounted again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_need_no_registry() {
    let stand = Stand::new(&[("remote", &noise(1 << 20))]).await;
    fs::metadata(stand.path("remote")).unwrap();
    stand.store.stall(true);
    fs::write(stand.path("local"), noise(300_000)).unwrap();
    assert!(fs::read(stand.path("local")).unwrap() == noise(300_000));
    let refused = fs::read(stand.path("remote")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EIO));
    fs::write(stand.path("remote"), "replaced").unwrap();
    assert_eq!(fs::read_to_string(stand.path("remote")).unwrap(), "replaced");
}
