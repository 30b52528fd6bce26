//! Artifacts as trees, and pulled from them.

mod packing;
mod pull;
mod trees;
