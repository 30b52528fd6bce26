//! The `artifs` program.

fn main() {}
