//! Layers that are described as models are: by a path and a file's metadata (formats.md §2.2–2.6).

use super::names;
use super::tree::FileName;
use crate::oci::{Descriptor, media_type};

/// Where a layer's file is, in the words of `ModelPack` and of what it was called before.
pub(crate) const FILE_PATHS: [&str; 2] = ["org.cncf.model.filepath", "org.cnai.model.filepath"];
/// What a layer's file is, as JSON in a string.
pub(crate) const FILE_METADATA: [&str; 2] =
    ["org.cncf.model.file.metadata+json", "org.cnai.model.file.metadata+json"];

/// The path a layer says, if it is that file byte for byte. Of archives and compressed files it says something else.
pub(crate) fn file_path(layer: &Descriptor) -> Option<Vec<FileName>> {
    let kind = media_type::essence(&layer.media_type);
    let packed = [".tar", "+gzip", "+zstd"].iter().any(|end| kind.contains(end));
    let path = FILE_PATHS.iter().find_map(|key| layer.annotation(key)).filter(|_| !packed)?;
    names::clean(path.as_bytes()).ok().map(|clean| clean.components).filter(|path| !path.is_empty())
}

/// Permission bits and modification time a layer's metadata says, each if it does.
pub(crate) fn told(layer: &Descriptor) -> (Option<u32>, Option<(i64, u32)>) {
    let text = FILE_METADATA.iter().find_map(|key| layer.annotation(key));
    let Some(told) = text.and_then(|text| serde_json::from_str::<serde_json::Value>(text).ok()) else {
        return (None, None);
    };
    let mode = told["mode"].as_u64().map(|mode| mode as u32 & 0o777 | 0o400);
    let time = told["mtime"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
    let time = time.map(|time| (time.as_second(), time.subsec_nanosecond().max(0).unsigned_abs()));
    (mode, time.filter(|time| time.0 > 0))
}
