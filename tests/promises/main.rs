//! What a mount that can be written to promises, held against kills, ends of every kind, power cuts, and the
//! programs people use.
//!
//! Needs `/dev/fuse` and root, who may use passthrough and unmount what is stuck.

mod ends;
mod home;
mod killed;
mod mapped;
mod power;
mod programs;
mod trouble;
