//! Mount what an OCI registry holds as files, and everything around it.
//!
//! # The map
//!
//! A module uses only those above it in this list (`tests/architecture.rs` reads the sources and holds it).
//!
//! - [`error`]: what went wrong, what was being done, why
//! - [`oci`]: the words: digests, references, descriptors, manifests
//! - [`store`]: where content lives: the two traits everything meets at, memory, OCI layout folders
//! - [`registry`]: a store over HTTP
//! - [`cache`]: a store in front of a store, remembering bytes by digest
//! - [`artifact`]: files ⇄ manifests: trees, archives
//! - [`ops`]: the verbs, free functions over stores
//! - [`mount`]: the filesystem
//! - [`location`]: from what a person typed to stacked stores

pub mod artifact;
pub mod cache;
pub mod error;
pub mod location;
pub mod mount;
pub mod oci;
pub mod ops;
pub mod registry;
pub mod store;

pub use error::{Error, ErrorKind, Result};
