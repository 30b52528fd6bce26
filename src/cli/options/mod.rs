//! Flag groups that several verbs share.

mod cache;
mod debug;
mod format;
mod packing;
mod platform;
mod remote;
mod target;
mod terminal;

pub(crate) use cache::{CacheOptions, bytes};
pub(crate) use debug::Debug;
pub(crate) use format::Format;
pub(crate) use packing::Packing;
pub(crate) use platform::PlatformOption;
pub(crate) use remote::Remote;
pub(crate) use target::{Place, Target};
pub(crate) use terminal::Terminal;
