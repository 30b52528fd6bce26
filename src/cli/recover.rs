//! `artifs recover` and `artifs discard`: staged work no mount has.

use std::io::{self, Write as _};

use artifs::mount::{self, Work};
use clap::Args;

use super::failure::Result;
use super::options::Debug;

/// List staged work that no mount has
#[derive(Args)]
#[command(override_usage = "artifs recover [flags]")]
#[command(after_help = "\
Example - Find what was changed before the machine went down:
  artifs recover")]
pub(crate) struct Recover {
    #[command(flatten)]
    pub(crate) debug: Debug,
}

/// Throw staged work away
#[derive(Args)]
#[command(override_usage = "artifs discard [flags] <name>:<tag>...")]
#[command(after_help = "\
Example - Throw away what was changed in a mount of localhost:5000/notes:v1 and never published:
  artifs discard localhost:5000/notes:v1")]
pub(crate) struct Discard {
    /// what was mounted
    #[arg(value_name = "name", required = true)]
    references: Vec<String>,
    #[command(flatten)]
    pub(crate) debug: Debug,
}

/// `artifs recover`.
pub(crate) fn run() -> Result<()> {
    let mut out = io::stdout().lock();
    for work in orphans()? {
        show(&mut out, &work)?;
    }
    Ok(())
}

impl Discard {
    pub(crate) fn run(self) -> Result<()> {
        for reference in &self.references {
            mount::discard(&mount::place()?, reference)?;
            writeln!(io::stdout(), "Discarded {reference}")?;
        }
        Ok(())
    }
}

/// Work that waits and that no mount has.
pub(super) fn orphans() -> Result<Vec<Work>> {
    let mut works = mount::works(&mount::place()?)?;
    works.retain(|work| !work.in_use && work.records > 0);
    Ok(works)
}

/// What is staged, and what can be done with it.
pub(super) fn show(out: &mut impl io::Write, work: &Work) -> Result<()> {
    let Work { reference, base, folder, .. } = work;
    writeln!(out, "{reference}: work that is not published")?;
    if let Some(base) = base {
        writeln!(out, "  builds on  {base}")?;
    }
    writeln!(out, "  staged in  {}", folder.display())?;
    writeln!(
        out,
        "  to go on: artifs mount --rw {reference} FOLDER; to throw it away: artifs discard {reference}"
    )?;
    Ok(())
}
