//! The `artifs` program: parse, run, say what went wrong.

mod cli;

use std::process::ExitCode;

use cli::failure::{Failure, Result};

fn main() -> ExitCode {
    run().map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Lets the allocator keep the buffers of connections instead of returning and fetching their pages for each
/// piece that comes: a page fault for every 4 KiB that is read from the network.
fn keep_buffers() {
    #[cfg(target_env = "gnu")]
    for (option, value) in
        [(libc::M_MMAP_THRESHOLD, 8 << 20), (libc::M_TRIM_THRESHOLD, 32 << 20), (libc::M_ARENA_MAX, 2)]
    {
        // SAFETY: called before there is another thread; an option that is refused changes nothing.
        unsafe { libc::mallopt(option, value) };
    }
}

fn run() -> Result<()> {
    keep_buffers();
    let Some(command) = cli::parse(std::env::args_os())? else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::from(error).doing("start the runtime"))?;
    let outcome = runtime.block_on(command.run());
    // What is still running belongs to nobody any more; waiting for it would hold up a finished command.
    runtime.shutdown_background();
    outcome
}
