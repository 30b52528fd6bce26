//! Repositories mounted for writing, through the kernel: a folder is an artifact.

mod again;
mod model;
mod publishing;
mod stand;
