//! What ends a command early: one message, what to do about it, an exit code.

use std::fmt;
use std::io::{self, Write as _};
use std::process::ExitCode;

/// A command's result.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a command failed, as the person at the terminal reads it.
#[derive(Debug)]
pub(crate) struct Failure {
    message: String,
    help: Vec<String>,
    /// Whether a registry said so: ORAS begins these with words of their own.
    answered: bool,
    silent: bool,
}

impl Failure {
    /// A failure that is wholly said by `message`.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: Vec::new(), answered: false, silent: false }
    }

    /// What a registry answered.
    pub(crate) fn answered(message: impl Into<String>) -> Self {
        Self { answered: true, ..Self::new(message) }
    }

    /// Whoever read our output has gone: nothing to say, and nobody to say it to.
    fn unheard() -> Self {
        Self { message: String::new(), help: Vec::new(), answered: false, silent: true }
    }

    /// Another line below the message: a usage line, the next command.
    #[must_use]
    pub(crate) fn help(mut self, line: impl Into<String>) -> Self {
        self.help.push(line.into());
        self
    }

    /// The same failure with what was being done in front.
    #[must_use]
    pub(crate) fn doing(mut self, doing: &str) -> Self {
        self.message = format!("{doing}: {}", self.message);
        self
    }

    /// Prints the failure on stderr and says how to exit: 1, or what a shell reports for a closed pipe.
    pub(crate) fn report(&self) -> ExitCode {
        if self.silent {
            return ExitCode::from(128 + libc::SIGPIPE as u8);
        }
        // Nobody is left to tell if stderr is gone too.
        let _ = writeln!(io::stderr(), "{self}");
        ExitCode::FAILURE
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = if self.answered { "Error response from registry" } else { "Error" };
        write!(f, "{prefix}: {}", self.message)?;
        self.help.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl From<artifs::Error> for Failure {
    fn from(error: artifs::Error) -> Self {
        Self::new(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::unheard() } else { Self::new(error.to_string()) }
    }
}
