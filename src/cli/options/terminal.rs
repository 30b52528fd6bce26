//! `--no-tty`: progress bars or lines.

use std::io::IsTerminal as _;

use clap::Args;

use super::Debug;

/// The flag of verbs that show progress.
#[derive(Args, Clone)]
pub(crate) struct Terminal {
    /// [Preview] avoid using stdout as a terminal
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", value_name = "bool", hide_possible_values = true)]
    no_tty: Option<bool>,
}

impl Terminal {
    /// Whether to draw progress bars on stderr.
    pub(crate) fn draws(&self, debug: &Debug) -> bool {
        !debug.debug && !self.no_tty.unwrap_or(false) && std::io::stderr().is_terminal()
    }
}
