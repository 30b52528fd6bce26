//! `artifs version`.

use std::io::{self, Write as _};

use clap::Args;

use super::failure::Result;

/// Show the version.
#[derive(Args)]
pub(crate) struct Version {}

pub(crate) fn run() -> Result<()> {
    let platform = artifs::oci::Platform::host();
    let mut out = io::stdout().lock();
    writeln!(out, "Version:    {}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "OS/Arch:    {platform}")?;
    Ok(())
}
