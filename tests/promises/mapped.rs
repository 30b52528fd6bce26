//! What a program writes into memory it has mapped is published, also what it writes after a commit.

use std::fs::File;

use rustix::mm::{MapFlags, ProtFlags};

use crate::home::Home;

/// The first page of a file, shared with whoever reads it.
struct Mapped(*mut u8);

const PAGE: usize = 4096;

impl Mapped {
    fn new(file: &File) -> Self {
        let (both, shared) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at an address of the kernel's choosing.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, both, shared, file, 0) };
        Self(page.unwrap().cast())
    }

    fn write(&self, byte: u8) {
        // SAFETY: the page is mapped for writing until this is dropped; files in these tests are longer than it.
        unsafe { self.0.write_volatile(byte) };
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nobody holds on to it.
        let _ = unsafe { rustix::mm::munmap(self.0.cast(), PAGE) };
    }
}

fn publish(name: &str, flags: &[&str]) {
    let home = Home::new("./layout:v1".to_owned());
    std::fs::write(home.folder().join("old"), vec![b'o'; 10_000]).unwrap();
    home.works(&["push", "--oci-layout", "layout:v1", "old"]);
    let mounted = home.mount(flags);
    std::fs::write(home.path("new"), vec![b'n'; 10_000]).unwrap();
    let file = File::options().read(true).write(true).open(home.path(name)).unwrap();
    let page = Mapped::new(&file);
    page.write(b'1');
    home.works(&["commit", "mnt"]);
    // No fault: the page may well be writable as it is.
    page.write(b'2');
    drop((page, file));
    let said = home.unmount();
    assert!(said.contains("Published"), "{name} {flags:?}: {said}");
    assert!(mounted.ended().success());
    home.works(&["pull", home.reference(), "-o", "out"]);
    let bytes = std::fs::read(home.folder().join("out").join(name)).unwrap();
    assert_eq!((bytes[0], bytes.len()), (b'2', 10_000), "{name} {flags:?}");
}

#[test]
fn a_page_that_was_dirty_at_a_commit_and_is_written_again_is_published() {
    for flags in [&[][..], &["--no-passthrough"]] {
        for name in ["new", "old"] {
            publish(name, flags);
        }
    }
}
