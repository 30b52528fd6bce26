//! What a program sees of a folder.

use std::path::Path;

/// The names in it, in order.
///
/// # Panics
/// When it cannot be listed.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name in UTF-8"))
        .collect();
    names.sort();
    names
}

/// An extended attribute.
pub fn xattr(path: &Path, name: &str) -> std::io::Result<Vec<u8>> {
    let mut value = vec![0; 4096];
    let length = rustix::fs::getxattr(path, name, &mut value)?;
    value.truncate(length);
    Ok(value)
}
