//! The words of the field: plain data, no I/O.
//!
//! What comes from outside is parsed here once; above this module there are no strings where a
//! digest, a tag or a reference is meant.

pub mod descriptor;
pub mod digest;
pub mod go_json;
pub mod manifest;
pub mod media_type;
pub mod platform;
pub mod reference;
pub mod splice;

pub use descriptor::Descriptor;
pub use digest::{Digest, Hasher};
pub use go_json::go_json;
pub use manifest::{ImageManifest, Index, Manifest};
pub use platform::Platform;
pub use reference::{Name, Reference, Repository, Tag};
pub use splice::Spliced;
