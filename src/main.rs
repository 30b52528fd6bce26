//! The `artifs` program: parse, run, say what went wrong.

mod cli;

use std::process::ExitCode;

use cli::failure::{Failure, Result};

fn main() -> ExitCode {
    run().map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

fn run() -> Result<()> {
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
