//! `artifs completion`: what the shell offers on the tab key.

use std::io::{self, Write as _};

use clap::{Args, ValueEnum};
use clap_complete::Shell;

use super::failure::Result;

/// Generate the completion script of a shell.
#[derive(Args)]
#[command(after_help = "\
Example - Load completions into this bash:
  source <(artifs completion bash)

Example - Load completions into every new fish:
  artifs completion fish > ~/.config/fish/completions/artifs.fish")]
pub(crate) struct Completion {
    /// the shell to complete in
    #[arg(value_name = "shell")]
    shell: Language,
}

#[derive(Clone, Copy, ValueEnum)]
enum Language {
    Bash,
    Fish,
    #[value(name = "powershell")]
    PowerShell,
    Zsh,
}

impl Completion {
    pub(crate) fn run(&self) -> Result<()> {
        let shell = match self.shell {
            Language::Bash => Shell::Bash,
            Language::Fish => Shell::Fish,
            Language::PowerShell => Shell::PowerShell,
            Language::Zsh => Shell::Zsh,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut super::command(), "artifs", &mut script);
        io::stdout().write_all(&script)?;
        Ok(())
    }
}
