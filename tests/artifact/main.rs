//! Artifacts as trees, and pulled from them.

mod archives;
mod hostile;
mod look;
mod packing;
mod pull;
mod trees;
