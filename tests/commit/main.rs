//! Commits, through the kernel: what is sent, what stays, what is refused, what comes back.

mod attributes;
mod person;
mod producers;
mod publishing;
mod stand;
