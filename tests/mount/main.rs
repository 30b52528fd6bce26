//! Mounts through the real kernel.
//!
//! Needs `/dev/fuse`, and root for what only root may have (passthrough, the read-ahead knob).

mod life;
mod mounted;
mod names;
mod passthrough;
mod program;
mod reading;
mod registry;
mod tags;
mod trouble;
mod user;
