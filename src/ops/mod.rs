//! The verbs: free functions over stores.
//!
//! They speak to whoever watches only through [`Progress`].

mod output;
pub mod pull;
pub mod push;
pub mod tag;
mod transfer;
mod untag;
mod upload;

use crate::oci::Descriptor;

pub use pull::{PullOptions, Pulled, PulledFile, pull};
pub use push::{Expected, PushOptions, Pushed, push, push_within};
pub use untag::untag;

/// Who watches a verb at work. Called from several tasks at once; must be quick. `()` watches nothing.
pub trait Progress: Send + Sync {
    /// A local file of so many bytes is read for its digest.
    fn preparing(&self, _name: &str, _size: u64) {}
    /// So many more bytes of it are.
    fn prepared(&self, _name: &str, _bytes: u64) {}
    /// The transfer of `what` begins; `name` is its path or media type.
    fn started(&self, _what: &Descriptor, _name: &str) {}
    /// So many more bytes of it are here.
    fn advanced(&self, _what: &Descriptor, _bytes: u64) {}
    /// It is being looked into: a manifest read, a folder unpacked.
    fn processing(&self, _what: &Descriptor, _name: &str) {}
    /// It is here, whole and checked.
    fn finished(&self, _what: &Descriptor, _name: &str) {}
    /// The same content came under another name and was copied from there.
    fn restored(&self, _what: &Descriptor, _name: &str) {}
    /// The target has it now from another place of its own; nothing was sent.
    fn mounted(&self, _what: &Descriptor, _name: &str) {}
    /// It was here already, or is not wanted.
    fn skipped(&self, _what: &Descriptor, _name: &str) {}
}

impl Progress for () {}
