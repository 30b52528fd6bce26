//! Mounts that can be written to, through the real kernel.
//!
//! Needs `/dev/fuse`; run by root they use passthrough, else the writeback cache.

mod bytes;
mod killed;
mod model;
mod names;
mod staged;
mod stand;
